"""Opens the engines of a candidate: checks seals, weights and record, and picks those for the installed GPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sanac.core.artifact.engine_record import ENGINE as KIND
from sanac.core.artifact.engine_record import RECORD, Record, check_file
from sanac.core.artifact.model import Model
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import digest_file
from sanac.nn.device import capability
from sanac.runtime.backends import FOLDERS
from sanac.runtime.tensorrt_engine import engines_in, fitting
from sanac.verify.onnx_candidates import Candidate, check_sealed_files, precision_of, rounding

Executed = Mapping[str, Mapping[str, str]]  # engine file -> digest, builder, GPU and driver


def ready_engines(model: Model, names: Sequence[str] = ()) -> dict[str, Candidate]:
    """A model's engines for the installed GPU by component, optionally only those in `among`; raises if none fits."""
    found: dict[str, Candidate] = {}
    every = {name: engines_in(model, name) for name in FOLDERS}
    check_sealed_files(model, KIND, _files([path for paths in every.values() for path in paths]))
    for name, paths in every.items():
        chosen = [path for path in paths if not names or f"{name}/{path.name}" in names]
        for path in chosen:
            _check_weights(path, check_file(path))
        if chosen:
            found[name] = _ready(name, fitting(chosen), rounds_activations=name in rounding(model))
    return found


def ready_depth_engines(model: Model, names: Sequence[str] = ()) -> dict[int, Candidate]:
    """A model's engines for the installed GPU by depth of its schedule, optionally only those in `names`."""
    found: dict[int, Candidate] = {}
    for depth in range(1, len(model.schedule.order)) if model.schedule else ():
        paths = engines_in(model, "transformer", depth)
        check_sealed_files(model, KIND, _files(paths))
        chosen = [path for path in paths if not names or f"transformer/{path.name}" in names]
        for path in chosen:
            _check_weights(path, check_file(path))
        if chosen:
            rounds = "transformer" in rounding(model)
            found[depth] = _ready("transformer", fitting(chosen), rounds_activations=rounds)
    return found


def _files(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in (path, path.with_suffix(RECORD)) if check_file(path)]


def _check_weights(path: Path, record: Record) -> None:
    """Raise InvalidInput unless an engine was built from the weight files in its folder."""
    for name, digest in record.weights.items():
        file = path.parent / name
        if Path(name).name != name or not file.is_file() or digest_file(file) != digest:
            why = f"{name} is not the file that the engine was built from"
            raise InvalidInput(
                f"{path} has other weights than its graph",
                why=why,
                hint="build it again with sanac export --trt --in-place",
            )


def _ready(name: str, path: Path, *, rounds_activations: bool) -> Candidate:
    record = check_file(path)
    inputs = {each: len(entry["least"]) for each, entry in record.inputs.items()}
    precision = precision_of(name, path, inputs, list(record.outputs.values()))
    return Candidate(path, precision, rounds_activations, record=record)


def executed(engines: Mapping[str, Candidate]) -> Executed:
    """Digest, builder and GPU of each engine that ran, so that a report identifies it."""
    return {
        f"{name}/{engine.path.name}": {
            "blake3": digest_file(engine.path),
            "built_with": engine.record.built_with,
            "where": where_executed(),
        }
        for name, engine in engines.items()
        if engine.record
    }


def where_executed() -> str:
    """Description of the GPU and driver that engines run on."""
    import torch

    driver = Path("/sys/module/nvidia/version")
    version = driver.read_text().strip() if driver.is_file() else "unknown"
    return f"executed on {torch.cuda.get_device_name()}, sm{capability()}, driver {version}"
