"""`sanac grow`: more blocks."""

from sanac.core.context import Context, Outcome
from sanac.core.write.run import run_job
from sanac.grow.depth import decide_growth, notices, warnings
from sanac.grow.settings import GrowSettings


def run(word: str | None, settings: GrowSettings, context: Context) -> Outcome:
    """Plan the new blocks and write the grown model."""
    word, opened = context.open_source(word, settings.workspace)
    opened = opened.with_loras(settings.lora)
    if "seed" in settings.typed and settings.init != "partial":
        context.reporter.warn(f"--seed has no effect with --init {settings.init}, which draws nothing")
    job = decide_growth(
        opened,
        settings.target_blocks,
        settings.write_options(),
        init=settings.init,
        preserve=settings.preserve,
        qk_norm=settings.qk_norm,
        seed=settings.seed,
    )
    for notice in notices(job):
        context.reporter.note(notice)
    for warning in warnings(job, qk_norm=settings.qk_norm):
        context.reporter.warn(warning)
    return run_job(word, job, settings, context)
