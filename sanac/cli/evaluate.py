"""`sanac evaluate`: are the pictures good?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, backend_option, common
from sanac.cli.output import Result
from sanac.cli.tables import console, table
from sanac.core.errors import UsageError

if TYPE_CHECKING:
    from sanac.verify.shapes_suite import Evaluation

SUITES = ("shapes",)


@click.command(
    "evaluate",
    short_help="Are the pictures good?",
    epilog="""\b
Examples:
  sanac evaluate sanac:tiny --suite shapes --images 240
  sanac evaluate ./sanac-out/prune-1a2b3c4d --suite shapes --json
  sanac evaluate ./exported --suite shapes --backend onnx""",
)
@click.argument("model")
@click.option("--suite", required=True, metavar="NAME", help="shapes: the world that sanac:tiny paints.")
@click.option("--images", type=int, default=2048, show_default=True, help="Pictures to paint and judge.")
@click.option("--steps", type=click.IntRange(1, 1000), default=20, show_default=True, help="Steps of the sampler.")
@click.option("--guidance", type=click.FloatRange(0, 100), default=4.5, show_default=True, help="Guidance scale.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Pictures painted at a time.")
@backend_option
@click.option(
    "--prompts-split",
    "split",
    type=click.Choice(["test", "tune"]),
    default="test",
    show_default=True,
    help="Choose settings on tune, report test.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the measurement goes.  [default: the artifact; sanac-out/evaluate-NAME for other models]",
)
@common()
def command(
    model: str,
    suite: str,
    images: int,
    steps: int,
    guidance: float,
    batch: int,
    backend: str,
    split: str,
    out: Path | None,
    common: Common,
) -> Result:
    """Let MODEL paint the suite's prompts and judge every picture; score per task with 95 % intervals.

    Test prompts and combinations marked held-out were never seen in training. The same pictures are compared with
    rendered scenes as a set: a distance that sees collapse, which a score per picture does not.
    """
    from sanac.runtime.image_files import make_folder
    from sanac.runtime.pipeline import GenerationSettings, open_generator
    from sanac.verify.shapes_suite import LEAST, evaluate

    problems = [] if suite in SUITES else [f"there is no suite {suite!r}: {', '.join(SUITES)}"]
    problems += [] if images >= LEAST else [f"--images {images}: at least {LEAST}, two per task"]
    if problems:
        raise UsageError(problems[0], problems=problems, hint="sanac evaluate MODEL --suite shapes --images 240")
    opened = open_word(model, common)
    home = make_folder(out or (opened.located.path if opened.manifest else _home(model)))
    painter = open_generator(opened, common.device, backend, common.reporter)
    for doubt in painter.doubts():
        common.reporter.warn(doubt)
    sampling = GenerationSettings(steps, guidance, batch=batch)
    found = evaluate(painter, images, sampling, common.seed or 0, split, common.reporter)  # type: ignore[arg-type]
    about = {"model": opened.located.name, "suite": suite, "split": split, "seed": common.seed or 0}
    about |= {"sampling": sampling.to_json(), "device": painter.device}
    about |= {"backend": backend} if backend != "torch" else {}
    files = _save(found, about, home)
    return Result("ok", lambda: _show(found, files), about | found.to_json(), str(home), common.as_json)


def _home(model: str) -> Path:
    """Where measurements of a model go that is nobody's artifact."""
    from sanac.runtime.generate import file_name

    return Path("sanac-out") / f"evaluate-{file_name(model)}"


def _save(found: "Evaluation", about: dict[str, Any], home: Path) -> list[Path]:
    from sanac.core.artifact.measurements import write_measurement
    from sanac.core.artifact.staging import MEASUREMENTS
    from sanac.judge.results import write_results
    from sanac.runtime.image_files import save_sheet
    from sanac.verify.shapes_suite import examples

    scores = {"overall": found.summary.overall, **found.summary.tasks}
    scores |= {"held_out": found.held_out} if found.held_out else {}
    metrics = {"frechet": found.distance.frechet}
    for key, score in scores.items():
        metrics |= {key: score.value, f"{key}.low": score.low, f"{key}.high": score.high}
    name = f"evaluate-{about['suite']}" + (f"-{about['backend']}" if "backend" in about else "")
    written = write_measurement(home, name, about | found.to_json(), metrics)
    shown = examples(found)
    sheet = home / MEASUREMENTS / f"{name}.png"
    verdicts = [found.results[index].correct for index in shown]
    save_sheet(sheet, [found.pictures[i] for i in shown], [found.prompts[i].text for i in shown], verdicts, columns=8)
    lines = home / MEASUREMENTS / f"{name}.jsonl"
    write_results(lines, found.results)
    return [written, sheet, lines]


def _show(found: "Evaluation", files: list[Path]) -> None:
    scores = {**found.summary.tasks, "overall": found.summary.overall}
    scores |= {"held out": found.held_out} if found.held_out else {}
    rows = table(("task",), ("right", "from", "to", "prompts"))
    for name, score in scores.items():
        rows.add_row(name, f"{score.value:.3f}", f"{score.low:.3f}", f"{score.high:.3f}", str(score.n))
    console(color=False).print(rows)
    distance = found.distance
    click.echo(
        f"distance to rendered scenes: {distance.frechet:.2f} (two halves of these: {distance.frechet_floor:.2f})"
    )
    click.echo(f"diversity: {distance.diversity}")
    for path in files:
        click.echo(path)
