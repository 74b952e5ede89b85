"""`sanac bench`: how fast, and how much memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sanac.core.artifact.measurements import write_measurement
from sanac.core.artifact.model import Model
from sanac.core.context import Context, Outcome
from sanac.core.units import parse_size
from sanac.runtime.backends import graphs_in
from sanac.runtime.image_files import make_folder
from sanac.verify.bench import BenchReport, BenchRun, Subject, bench
from sanac.verify.settings import BenchSettings


@dataclass(frozen=True, slots=True)
class BenchView:
    """What there is to show of a benchmark."""

    report: BenchReport
    files: tuple[Path, ...]


def run(words: Sequence[str], settings: BenchSettings, context: Context) -> Outcome:
    """Time every model with every backend, and write the figures into each artifact and into --out."""
    size = parse_size(settings.size) if settings.size else None
    how = BenchRun(
        settings.batch,
        settings.rounds,
        settings.steps,
        settings.guidance,
        size,
        settings.device,
        settings.threads,
        settings.tile,
    )
    opened = {word: context.open(word) for word in dict.fromkeys(words)}
    subjects = [one for word, model in opened.items() for one in _subjects(word, model, settings.backend)]
    found = bench(subjects, how, context.reporter)
    for warning in found.warnings:
        context.reporter.warn(warning)
    files = _save(found, opened, settings.out)
    data = {**found.to_json(), "files": [str(path) for path in files]}
    return Outcome("ok", data, settings.out, BenchView(found, files))


def _subjects(word: str, model: Model, backends: Sequence[str]) -> list[Subject]:
    """A model with each named backend, or with those that it has files for."""
    names = backends or ["torch", *(["onnx"] if "transformer" in graphs_in(model) else [])]
    where = word if word.startswith("sanac:") else str(model.located.path)
    return [Subject(word, where, name) for name in names]


def _save(found: BenchReport, opened: dict[str, Model], out: Path | None) -> tuple[Path, ...]:
    value = found.to_json()
    homes = {model.located.path: word for word, model in opened.items() if model.manifest}
    files = [write_measurement(home, "bench", value, found.metrics(word)) for home, word in homes.items()]
    if out:
        metrics = {f"{word}/{key}": number for word in opened for key, number in found.metrics(word).items()}
        files.append(write_measurement(make_folder(out), "bench", value, metrics))
    return tuple(files)
