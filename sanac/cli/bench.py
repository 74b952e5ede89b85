"""`sanac bench`: how fast, how much memory?"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sanac.cli.generate import parse_size
from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, common
from sanac.cli.output import Result
from sanac.cli.tables import console, table
from sanac.core.errors import UsageError
from sanac.core.units import bytes_text

if TYPE_CHECKING:
    from sanac.core.artifact.model import Model
    from sanac.verify.bench import BenchReport, Measured, Subject, Times


@click.command(
    "bench",
    short_help="How fast, how much memory?",
    epilog="""\b
Examples:
  sanac bench sanac:tiny ./sanac-out/prune-1a2b3c4d
  sanac bench ./exported --backend torch,compile,onnx --batch 1,4
  sanac bench ./exported --backend torch,trt --size 1024 --rounds 10 --json""",
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--backend",
    "backends",
    metavar="NAME,...",
    help="torch, compile, onnx, onnx-trt, onnx-rtx, trt.  [default: torch, and onnx where graphs are]",
)
@click.option("--batch", "batches", default="1", show_default=True, metavar="N,...", help="Pictures at once.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Turns that each takes.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Steps of the sampler.  [default: 20, SANA-Sprint's 2]")
@click.option("--guidance", type=click.FloatRange(0, 100), default=4.5, show_default=True, help="Guidance scale.")
@click.option("--size", metavar="WxH", help="Width and height in pixels.  [default: the model's own]")
@click.option("--tile", type=click.IntRange(1), metavar="PIXELS", help="Decode in tiles of this side.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Of the processor.  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the measurement goes, too.")
@common("seed")
def command(
    models: tuple[str, ...],
    backends: str | None,
    batches: str,
    rounds: int,
    steps: int | None,
    guidance: float,
    size: str | None,
    tile: int | None,
    threads: int | None,
    out: Path | None,
    common: Common,
) -> Result:
    """Time every MODEL with every backend, in turns, each in a process of its own; ratios are to the first.

    Pictures are painted by the whole pipeline, and its parts timed as it calls them; of a transformer without the rest
    of its pipeline, steps are. The figures go into measurements/bench.json of each MODEL that is an artifact. It says
    when they are not to be trusted: others at work, rounds far apart, or slower and slower.
    """
    from sanac.verify.bench import BenchSettings, bench

    asked = BenchSettings(_numbers(batches), rounds, steps, guidance, parse_size(size), common.device, threads, tile)
    opened = {word: open_word(word, common) for word in dict.fromkeys(models)}
    subjects = [one for word, model in opened.items() for one in _subjects(word, model, backends)]
    found = bench(subjects, asked, common.reporter)
    for doubt in found.doubts:
        common.reporter.warn(doubt)
    files = _save(found, opened, out)
    data = {**found.to_json(), "files": [str(path) for path in files]}
    return Result("ok", lambda: _show(found, files), data, str(out) if out else None, common.as_json)


def _numbers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*", text):
        raise UsageError(f"--batch {text} is no number of pictures", hint="--batch 1,4")
    return tuple(dict.fromkeys(map(int, text.split(","))))


def _subjects(word: str, model: "Model", backends: str | None) -> "list[Subject]":
    """A model with each backend that was named, or that there is something for."""
    from sanac.runtime.backends import BACKENDS, graphs_in
    from sanac.verify.bench import Subject
    from sanac.verify.bench_worker import COMPILE

    known = (*BACKENDS, COMPILE)
    named = backends.split(",") if backends else ["torch", *(["onnx"] if "transformer" in graphs_in(model) else [])]
    if unknown := [name for name in named if name not in known]:
        problems = [f"there is no backend {name!r}" for name in unknown]
        raise UsageError(problems[0], hint=f"of {', '.join(known)}", problems=problems)
    where = word if word.startswith("sanac:") else str(model.located.path)
    return [Subject(word, where, name) for name in named]


def _save(found: "BenchReport", opened: "dict[str, Model]", out: Path | None) -> list[Path]:
    """Into every artifact that was measured, and where the user wants it."""
    from sanac.core.artifact.measurements import write_measurement
    from sanac.runtime.image_files import make_folder

    value = found.to_json()
    homes = {model.located.path: word for word, model in opened.items() if model.manifest}
    files = [write_measurement(home, "bench", value, found.metrics(word)) for home, word in homes.items()]
    if out:
        metrics = {f"{word}/{key}": number for word in opened for key, number in found.metrics(word).items()}
        files.append(write_measurement(make_folder(out), "bench", value, metrics))
    return files


def _show(found: "BenchReport", files: list[Path]) -> None:
    from sanac.verify.bench import STEP

    titles = ("step ms", "p90", "faster", "from", "to", "text ms", "decoder", "image", "images/s")
    for batch in found.asked.batches:
        rows = table(("model", "backend"), titles)
        for one in found.measured:
            ratio, image = one.ratio(found.measured[0], batch), one.times(batch, "image")
            step = one.times(batch, STEP)
            cells = [_ms(step), f"{1000 * step.p90:.1f}" if step else ""]
            cells += [f"{number:.2f}" for number in (ratio.median, ratio.least, ratio.most)]
            cells += [_ms(one.times(batch, part)) for part in ("text_encoder", "decoder", "image")]
            cells += [f"{batch / image.median:.2f}" if image else ""]
            rows.add_row(one.subject.name, one.subject.backend, *cells)
        if len(found.asked.batches) > 1:
            click.echo(f"{batch} at once")
        console(color=False).print(rows)
    rows = table(("model", "backend", "on"), ("load s", "first call s", "memory", "with files", "GPU"))
    for one in found.measured:
        rows.add_row(*_about(one, found.asked.batches[0]))
    console(color=False).print(rows)
    for path in files:
        click.echo(path)


def _ms(times: "Times | None") -> str:
    return f"{1000 * times.median:.1f}" if times else ""


def _about(one: "Measured", batch: int) -> list[str]:
    sizes = [bytes_text(size) for size in (one.anonymous, one.resident)]
    gpu = bytes_text(one.on_device) if one.on_device else ""
    return [one.subject.name, one.subject.backend, one.device, f"{one.load:.2f}", f"{one.warm[batch]:.2f}", *sizes, gpu]
