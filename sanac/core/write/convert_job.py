"""`sanac convert`: the same model in another layout."""

from sanac.core.context import Context, Outcome
from sanac.core.write.convert import decide_convert, notices
from sanac.core.write.run import run_job
from sanac.core.write.settings import ConvertSettings


def run(word: str, settings: ConvertSettings, context: Context) -> Outcome:
    """Write the model in the layout that --to names."""
    opened = context.open(word).with_loras(settings.lora)
    reference = context.open(settings.pipeline) if settings.pipeline else None
    job = decide_convert(opened, settings.write_options(settings.to), reference)
    for notice in notices(job):
        context.reporter.note(notice)
    return run_job(word, job, settings, context)
