"""`sanac bench`: how fast, and how much memory."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from sanac.core.artifact.measurements import write_measurement
from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import AnyModel
from sanac.core.context import Context, Outcome
from sanac.core.units import bytes_text, parse_size
from sanac.core.view import Block, Table
from sanac.runtime.backends import graphs_in
from sanac.runtime.image_files import make_folder
from sanac.verify.bench import STEP, BenchReport, BenchRun, Measured, Subject, Times, bench
from sanac.verify.settings import BenchSettings


def run(words: Sequence[str], settings: BenchSettings, context: Context) -> Outcome:
    """Time every model with every backend, and write the figures into each artifact and into --out."""
    size = parse_size(settings.size) if settings.size else None
    how = BenchRun(
        settings.batch,
        settings.rounds,
        settings.steps,
        settings.guidance if "guidance" in settings.typed else None,
        size,
        settings.device,
        settings.threads,
        settings.tile,
    )
    opened = {word: context.open_any(word) for word in dict.fromkeys(words)}
    subjects = [one for word, model in opened.items() for one in _subjects(word, model, settings.backend)]
    found = bench(subjects, how, context.reporter)
    for warning in found.warnings:
        context.reporter.warn(warning)
    files = _save(found, opened, settings.out)
    data = {**found.to_json(), "files": [str(path) for path in files]}
    return Outcome("ok", data, settings.out, found, partial(_show, found, files))


def _subjects(word: str, model: AnyModel, backends: Sequence[str]) -> list[Subject]:
    """A model with each named backend, or with those that it has files for."""
    graphs = isinstance(model, Model) and "transformer" in graphs_in(model)
    names = backends or ["torch", *(["onnx"] if graphs else [])]
    where = word if word.startswith("sanac:") else str(model.located.path)
    return [Subject(word, where, name) for name in names]


def _save(found: BenchReport, opened: dict[str, AnyModel], out: Path | None) -> tuple[Path, ...]:
    value = found.to_json()
    homes = {model.located.path: word for word, model in opened.items() if model.manifest}
    files = [write_measurement(home, "bench", value, found.metrics(word)) for home, word in homes.items()]
    if out:
        metrics = {f"{word}/{key}": number for word in opened for key, number in found.metrics(word).items()}
        files.append(write_measurement(make_folder(out), "bench", value, metrics))
    return tuple(files)


_TITLES = ("step ms", "p90", "faster", "from", "to", "text ms", "decoder", "image", "images/s")


def _show(found: BenchReport, files: tuple[Path, ...]) -> Iterator[Block]:
    """Times of each batch size, then loading and memory, then the files."""
    batches = found.settings.batches
    for batch in batches:
        if len(batches) > 1:
            yield f"batch {batch}"
        yield Table(("model", "backend"), _TITLES, tuple(_times_row(found, one, batch) for one in found.measured))
    titles = ("load s", "first call s", "memory", "with files", "GPU")
    yield Table(("model", "backend", "on"), titles, tuple(_memory_row(one, batches[0]) for one in found.measured))
    yield from map(str, files)


def _times_row(found: BenchReport, one: Measured, batch: int) -> tuple[str, ...]:
    ratio, image, step = one.ratio(found.measured[0], batch), one.times(batch, "image"), one.times(batch, STEP)
    cells = [_ms(step), f"{1000 * step.p90:.1f}" if step else ""]
    cells += [f"{number:.2f}" for number in (ratio.median, ratio.least, ratio.most)]
    cells += [_ms(one.times(batch, part)) for part in ("text_encoder", "decoder", "image")]
    cells += [f"{batch / image.median:.2f}" if image else ""]
    return (one.subject.name, one.subject.backend, *cells)


def _ms(times: Times | None) -> str:
    return f"{1000 * times.median:.1f}" if times else ""


def _memory_row(one: Measured, batch: int) -> tuple[str, ...]:
    sizes = [bytes_text(size) for size in (one.anonymous, one.resident)]
    gpu = bytes_text(one.on_device) if one.on_device else ""
    return (one.subject.name, one.subject.backend, one.device, f"{one.load:.2f}", f"{one.warm[batch]:.2f}", *sizes, gpu)
