"""TensorRT engines: builders, target GPUs and their supported types, and the JSON record stored next to each engine.

Records are untrusted input: an engine is only opened after its record and header have been checked.
"""

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sanac.core import json_files
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.requirements import install_command

SCHEMA = 1
ENGINE, RECORD, LOG = ".engine", ".json", ".log"
PACKAGES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}  # builder -> Python package
EXTRAS = {"tensorrt": "gpu", "rtx": "rtx-build"}
NEVER, HERE = "built, never executed here", "built on the GPU that runs it"

_TURING = {"fp32", "fp16", "int8"}
_AMPERE = _TURING | {"bf16", "int4"}
_ADA = _AMPERE | {"fp8"}
COMPUTES: Mapping[int, set[str]] = {  # compute capability -> types that engines can compute with or read weights in
    75: _TURING,
    80: _AMPERE,
    86: _AMPERE,
    87: _AMPERE,
    89: _ADA,
    90: _ADA,
    100: _ADA,
    103: _ADA,
    110: _ADA,
    120: _ADA,
    121: _ADA,
}
LACKS: Mapping[tuple[str, int], set[str]] = {("rtx", 75): {"fp32"}}  # -> types it has no matmuls for
AHEAD = (75, 80, 86, 89, 120, 121)  # capabilities that TensorRT-RTX can build for without such a GPU
CARDS: Mapping[int, str] = {  # capability -> card names, without suffixes for variants of the same chip
    75: "rtx2060 rtx2070 rtx2080 gtx1650 gtx1660 t4 rtx6000",
    80: "a100 a30",
    86: "rtx3050 rtx3060 rtx3070 rtx3080 rtx3090 a2 a10 a16 a40 a4000 a5000 a6000 rtxa4000 rtxa5000 rtxa6000",
    87: "orin",
    89: "rtx4050 rtx4060 rtx4070 rtx4080 rtx4090 l4 l20 l40 l40s rtx4000ada rtx5000ada rtx6000ada",
    90: "h100 h200 h20 h800 gh200",
    100: "b200 gb200",
    103: "b300 gb300",
    110: "thor",
    120: "rtx5050 rtx5060 rtx5070 rtx5080 rtx5090 rtxpro6000",
    121: "gb10 dgxspark",
}
_VARIANT = re.compile(r"(?:ti|super|laptop|mobile|maxq|pcie|sxm\d?|\d{2,3}gb)+$")  # suffixes for the same chip
_KNOWN = "1.7."  # TensorRT-RTX versions whose engine header format is known
_SPAN = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """An optimization profile's minimum, optimum and maximum of one size."""

    least: int
    best: int
    most: int

    def scaled(self, factor: int) -> "Span":
        """This span with every size multiplied by `factor`."""
        return Span(self.least * factor, self.best * factor, self.most * factor)


def parse_span(text: str, what: str) -> tuple[int, int]:
    """Parse a range: '1..4' -> (1, 4), '2' -> (2, 2); `what` is the option's name for the UsageError."""
    match = _SPAN.fullmatch(text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise UsageError(f"--{what} {text!r} is not a range", hint=f"--{what} 1..4 (minimum..maximum)")
    return low, high


def parse_capabilities(words: Iterable[str]) -> tuple[int, ...]:
    """Parse GPUs: 'rtx4090,sm120' -> (89, 120). UsageError lists every unknown one."""
    known = {name: capability for capability, names in CARDS.items() for name in names.split()}
    asked = [word for text in words for word in text.split(",") if word.strip()]
    found, problems = set(), []
    for word in asked:
        name = re.sub(r"[\s_.-]", "", word.lower()).removeprefix("sm")
        card = _VARIANT.sub("", name.removeprefix("nvidia").removeprefix("geforce"))
        capability = int(name) if name.isdecimal() else known.get(card, 0)
        if capability in COMPUTES:
            found.add(capability)
        else:
            problems.append(f"--sm {word.strip()}: unknown GPU, or one that engines can't be built for")
    if problems:
        hint = f"pass a compute capability ({', '.join(map(str, COMPUTES))}) or a card such as rtx4090, l4 or rtx5090"
        raise UsageError(problems[0], problems=problems, hint=hint)
    return tuple(sorted(found))


def sm_text(capabilities: Iterable[int]) -> str:
    """Format compute capabilities: (86, 89) -> 'sm86+sm89'."""
    return "+".join(f"sm{one}" for one in capabilities)


def refuse_impossible(forms: Iterable[str], builder: str, capabilities: Sequence[int], name: str) -> None:
    """UsageError if `builder` can't build matmuls in one of `forms` for one of the GPUs; checked before building."""

    def missing(capability: int) -> list[str]:
        return sorted(set(forms) - (COMPUTES.get(capability, set()) - LACKS.get((builder, capability), set())))

    problems = [
        f"{name} has {form} matmuls, which {PACKAGES[builder]} doesn't support on sm{capability}"
        for capability in capabilities
        for form in missing(capability)
    ]
    if problems:
        able = [str(one) for one in COMPUTES if not missing(one) and (builder != "rtx" or one in AHEAD)]
        hint = f"--sm {', '.join(able)}, or another --precision or scheme" if able else "another --precision or scheme"
        raise UsageError(problems[0], problems=problems, hint=hint)


def bindings(builder: str) -> ModuleType:
    """The builder's Python package, imported; MissingResource names the extra to install."""
    package = PACKAGES[builder]
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: its native libraries don't load on this machine
        hint = install_command(EXTRAS[builder])
        raise MissingResource(
            f"{package} is not installed", why="it builds and runs TensorRT engines", hint=hint
        ) from error


@dataclass(frozen=True, slots=True)
class Record:
    """The JSON record stored next to an engine: how it was built, for which GPUs, and the shapes it takes."""

    engine: str  # file name
    size: int
    builder: str
    version: str
    capabilities: tuple[int, ...]
    forms: tuple[str, ...]
    structure: str  # digest of the graph without its weight locations: engines with the same digest can be refitted
    weights: Mapping[str, str]  # the graph's external data files -> digests
    inputs: Mapping[str, Mapping[str, Any]]  # input -> dtype, and minimum, optimal and maximum shape
    outputs: Mapping[str, str]  # output -> dtype
    weight_streaming: bool
    refit: bool
    executed: str

    def to_json(self) -> dict[str, Any]:
        """The record as written to the JSON file."""
        return {"schema": SCHEMA, **asdict(self)}

    @property
    def built_with(self) -> str:
        """Builder, version and target GPUs, for display."""
        return f"{PACKAGES[self.builder]} {self.version} for {sm_text(self.capabilities)}"

    def check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """UsageError, with the supported range, if an input's shape is outside the engine's optimization profile."""
        problems = []
        for name, entry in self.inputs.items():
            shape, least, most = tuple(shapes.get(name, ())), entry["least"], entry["most"]
            fits = len(shape) == len(least) and all(
                low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
            )
            if not fits:
                problems.append(f"{name} is {list(shape)}, the engine takes {list(least)} to {list(most)}")
        if problems:
            hint = "build an engine for this shape: sanac export --trt with other --batch or --size"
            raise UsageError(
                f"{self.engine} was not built for this shape", why=problems[0], problems=problems, hint=hint
            )


def read_record(path: Path) -> Record:
    """The record in the file `path`; InvalidInput if it is malformed or of another version."""
    value = json_files.read_object(path)
    if value.pop("schema", None) != SCHEMA:
        raise InvalidInput(
            f"{path} was written by another version of sanac", hint="build the engine again: sanac export --trt"
        )
    try:
        found = Record(**{**value, "capabilities": tuple(value["capabilities"]), "forms": tuple(value["forms"])})
        _check_form(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        hint = "build the engine again: sanac export --trt"
        raise InvalidInput(f"{path} is not a valid engine record", why=str(error)[:200], hint=hint) from error
    return found


def _check_form(record: Record) -> None:
    """ValueError names the first field that has the wrong type or an impossible value."""
    if record.builder not in PACKAGES:
        raise ValueError(f"builder {record.builder!r}")
    if Path(record.engine).name != record.engine or not record.engine.endswith(ENGINE):
        raise ValueError(f"engine {record.engine!r}")
    if type(record.size) is not int or not all(one in COMPUTES for one in record.capabilities):
        raise ValueError("its size or capabilities")
    if not all(isinstance(text, str) for text in (record.version, record.structure, record.executed, *record.forms)):
        raise ValueError("version, structure, executed or forms is not a string")
    if not all(isinstance(part, dict) for part in (record.inputs, record.outputs, record.weights)):
        raise ValueError("inputs, outputs or weights is not an object")
    if not all(isinstance(text, str) for part in (record.outputs, record.weights) for text in part.values()):
        raise ValueError("a value of outputs or weights is not a string")
    if type(record.weight_streaming) is not bool or type(record.refit) is not bool:
        raise ValueError("weight_streaming or refit is not a boolean")
    _check_inputs(record.inputs)


def _check_inputs(inputs: Mapping[str, Mapping[str, Any]]) -> None:
    for name, entry in inputs.items():
        if not isinstance(entry["dtype"], str):
            raise ValueError(f"the dtype of {name}")
        sizes = [entry[kind] for kind in ("least", "best", "most")]
        if not all(type(size) is int for part in sizes for size in part) or len({len(part) for part in sizes}) != 1:
            raise ValueError(f"the shapes of {name}")


def check_file(path: Path) -> Record:
    """An engine's record, after checking the engine file against it: name, size and header."""
    if path.suffix != ENGINE:
        raise InvalidInput(f"{path} is not an engine", why=f"its name doesn't end in {ENGINE}")
    record = read_record(path.with_suffix(RECORD))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InvalidInput(f"{path} can't be read", why=error.strerror or str(error)) from error
    hint = "build it again: sanac export --trt"
    if record.engine != path.name:
        raise InvalidInput(f"{path} has another engine's record", why=f"the record is of {record.engine}", hint=hint)
    if size != record.size:
        raise InvalidInput(f"{path} is truncated", why=f"it has {size:,} bytes, {record.size:,} were built", hint=hint)
    if b"trt" not in head[:4]:
        raise InvalidInput(f"{path} is not an engine", why="its first bytes are not TensorRT's", hint=hint)
    told = _told(head)
    if record.builder == "rtx" and record.version.startswith(_KNOWN) and told != (record.size, record.version):
        why = f"its header says {told[0]:,} bytes and version {told[1]}, its record says {record.version}"
        raise InvalidInput(f"{path} doesn't match its record", why=why, hint=hint)
    return record


def _told(head: bytes) -> tuple[int, str]:
    """Size and version from the header of a TensorRT-RTX engine."""
    return int.from_bytes(head[16:24], "little"), ".".join(map(str, head[24:28]))


def check_runs_here(record: Record, version: str, capability: int | None) -> None:
    """MissingResource, with the command that rebuilds it, unless the engine fits this runtime version and GPU."""
    again = "sanac export --trt --in-place"
    if capability is None:
        why = f"{record.engine} was built with {record.built_with}; this machine has no GPU"
        raise MissingResource(
            "engines only run on a GPU", why=why, hint="run the same command on a machine with that GPU"
        )
    if capability not in record.capabilities:
        why = f"it was built for {sm_text(record.capabilities)}, this GPU is sm{capability}"
        raise MissingResource(f"{record.engine} is for another GPU", why=why, hint=f"{again} --sm {capability}")
    if version != record.version:
        why = f"it needs {PACKAGES[record.builder]} {record.version}, {version} is installed"
        hint = f"{again}, or pip install {PACKAGES[record.builder].replace('_', '-')}=={record.version}"
        raise MissingResource(f"{record.engine} was built with another version", why=why, hint=hint)
