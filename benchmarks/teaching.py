"""What a recovery costs the teacher, and what it is worth: the default against ways that take more or fewer passes.

python benchmarks/teaching.py              (about 25 minutes on one core; docs/results/teaching.json)
python benchmarks/teaching.py --table      (the table only)

sanac:tiny pruned by block importance to 8 and to 6 blocks, then 100 steps of 64. Ways are looked at on 256 tuning
prompts; the default and the former one (2,048 finished latents) are opened to 2,048 test prompts, paired.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from judged import answers_of, scores_of
from measure import machine, workplace

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.finetune.plan import resolve_finetune
from sanac.finetune.settings import FinetuneSettings
from sanac.judge.intervals import paired_difference
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.generation import GenerationSettings
from sanac.prune.scoring import measured
from sanac.prune.selection import BlockSelection, plan_target
from sanac.runtime.pipeline import open_generator
from sanac.train.loop import Callbacks
from sanac.verify.shapes_suite import evaluate

RESULT = Path("docs/results/teaching.json")
DEPTHS = (8, 6)
DEFAULT, FORMER = "default: 60 latents, noised", "2,048 latents, noised"
WAYS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    FORMER: {"samples": 2048},
    "30 latents, noised": {"samples": 30},
    "160 latents, noised": {"samples": 160},
    "trajectories of 50 pictures": {"samples": 50, "targets": "trajectories"},
    "trajectories of 160 pictures": {"targets": "trajectories"},
    "default, first 2 blocks frozen": {"freeze_first": 2},
    "default, first 4 blocks frozen": {"freeze_first": 4},
    "intervals": {"intervals": True},
}
TUNED, TESTED = 256, 2048  # prompts


def pruned(tiny: Model, depth: int, work: Path) -> Model:
    """sanac:tiny with its most important blocks."""
    out = work / f"pruned-{depth}"
    if not (out / "sanac.json").is_file():
        scores = measured(tiny, CalibrationSettings(yes=True), work, NULL_REPORTER)
        write_partial(plan_target(tiny, BlockSelection("bi", depth), scores, WriteOptions()), out, NULL_REPORTER)
    return open_model(locate(str(out)))


def trained(tiny: Model, start: Model, options: Mapping[str, Any], work: Path) -> tuple[Model, int]:
    """The recovered model, and the forward passes of the teacher that it took."""
    plan = resolve_finetune(start, FinetuneSettings(**options), ConfinedPath(work), tiny)
    job = plan.prepare(NULL_REPORTER)
    surgery, out = job.artifact_job(WriteOptions()), work / "trained"
    shutil.rmtree(out, ignore_errors=True)
    write_partial(job.trained(surgery, NULL_REPORTER, Callbacks()), out, NULL_REPORTER)
    shutil.rmtree(job.folder(surgery))
    return open_model(locate(str(out))), plan.teacher_forwards


def judged(model: Model, split: str, images: int) -> dict[str, Any]:
    """Score and answers per prompt."""
    found = evaluate(open_generator(model, "cpu"), images, GenerationSettings(batch=32), 0, split, NULL_REPORTER)
    answers = {"answers": answers_of(found)} if split == "test" else {}
    return {"score": found.summary.overall.to_json(), "pictures": found.summary.pictures, **answers}


def fill(result: dict[str, Any], work: Path) -> None:
    """Compute the missing cells, writing each at once."""
    tiny = open_model(locate("sanac:tiny"))
    for depth in DEPTHS:
        start = pruned(tiny, depth, work)
        cells = result["depths"].setdefault(str(depth), {})
        for way, options in WAYS.items():
            if way in cells:
                continue
            model, forwards = trained(tiny, start, options, work)
            cells[way] = {"forwards": forwards, "tune": judged(model, "tune", TUNED)}
            if way in {DEFAULT, FORMER}:
                cells[way]["test"] = judged(model, "test", TESTED)
            RESULT.write_text(json.dumps(result) + "\n")
            click.echo(f"{depth} blocks, {way}: {cells[way]['tune']['score']['value']:.3f}", err=True)
        if DEFAULT in cells and FORMER in cells:
            pair = paired_difference(*(scores_of(cells[way]["test"]) for way in (DEFAULT, FORMER)))
            cells[DEFAULT]["ahead"] = pair.interval.to_json()
            RESULT.write_text(json.dumps(result) + "\n")


def show(result: Mapping[str, Any]) -> None:
    """A Markdown table per depth."""
    for depth, cells in result["depths"].items():
        titles = f"| way | forward passes of the teacher | score, {TUNED} tuning prompts |"
        click.echo(f"\n{depth} blocks\n\n{titles}\n|---|---|---|")
        for way, cell in cells.items():
            score = cell["tune"]["score"]
            click.echo(
                f"| {way} | {cell['forwards']:,} | {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] |"
            )
        if ahead := cells[DEFAULT].get("ahead"):
            test = cells[DEFAULT]["test"]["score"]["value"], cells[FORMER]["test"]["score"]["value"]
            line = f"{TESTED:,} test prompts: {test[0]:.3f} and {test[1]:.3f}, paired {ahead['value']:+.3f} "
            click.echo(f"\n{line}[{ahead['low']:+.3f}, {ahead['high']:+.3f}]")


@click.command()
@click.option("--table", is_flag=True, help="Print the table of what is known.")
def main(*, table: bool) -> None:
    """Measure what is missing, and print the table."""
    identity = open_model(locate("sanac:tiny")).identity(full_hash=True)
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if result.get("identity") != identity:
        result = {"identity": identity, "machine": machine(), "depths": {}}
    if not table:
        with workplace(None) as work:
            fill(result, work)
    show(result)


if __name__ == "__main__":
    main()
