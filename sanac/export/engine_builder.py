"""Child process that builds one engine: `python -m sanac.export.engine_builder`, with its task as JSON on stdin.

TensorRT retains memory and can crash its process, so nothing else runs in this one. It reports on stdout, one JSON
object per line: progress, TensorRT's log, and finally the result.
"""

import hashlib
import json
import mmap
import os
import re
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from sanac.core.artifact.engine_record import bindings
from sanac.core.atomic import PARTIAL, atomic_path
from sanac.core.process import end_with
from sanac.nn.allocator import give_back_when_freed

_FLOATS = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.FLOAT16: np.dtype(np.float16)}
_TERM = re.compile(r"(?:(\d+)\*)?(\w+)")
_SMALL = 1 << 16  # bytes: builders free many allocations up to this size
_CLASSIC = "tensorrt"


@dataclass(frozen=True)
class BuildTask:
    """The engine to build."""

    parent: int  # process id of the parent; this process ends with it
    builder: str
    graph: str
    out: str
    capabilities: tuple[int, ...]
    sizes: Mapping[str, tuple[int, int, int]]  # symbolic dimension -> (min, opt, max)
    weight_streaming: bool = False
    refit: bool = False
    refit_from: str | None = None
    structure: str | None = None  # digest of the graph that the engine to refit was built from
    timing_cache: str | None = None
    no_bf16: bool = False  # convert bf16 weights on reading: the GPU doesn't support bf16


def say(**what: Any) -> None:
    """Write one JSON line to the parent."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Failed(Exception):
    """The engine can't be built: the reason, and whether the graph is the cause."""

    def __init__(self, why: str, *, graph: bool = False) -> None:
        super().__init__(why)
        self.graph = graph


@dataclass
class BuildGraph:
    """A graph without weights, and the addresses of its memory-mapped weights."""

    model: onnx.ModelProto
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # weight -> (address, bytes)
    kept: list[Any] = field(default_factory=list)  # arrays that keep the addresses valid
    files: tuple[str, ...] = ()  # weight files

    @property
    def structure(self) -> str:
        """Digest of the graph, independent of the location of its weights."""
        bare = onnx.ModelProto()
        bare.CopyFrom(self.model)
        for tensor in bare.graph.initializer:
            del tensor.external_data[:]
        return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def open_graph(path: Path, *, no_bf16: bool = False) -> BuildGraph:
    """Open the graph at `path` and memory-map its weights."""
    found = BuildGraph(onnx.load(path, load_external_data=False))
    if no_bf16:
        _widen_stored(found.model.graph)
    files: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in found.model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        about = {entry.key: entry.value for entry in tensor.external_data}
        place, start, size = about["location"], int(about["offset"]), int(about["length"])
        if place not in files:
            with (path.parent / place).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            files[place] = np.frombuffer(mapped, np.uint8)
        data = files[place][start : start + size]
        if about.get("from") == "bf16":
            data = data.view(ml_dtypes.bfloat16).astype(_FLOATS[tensor.data_type])
        found.kept.append(data)
        found.places[tensor.name] = (data.ctypes.data, data.nbytes)
    found.files = tuple(sorted(files))
    return found


def _opened(task: BuildTask) -> BuildGraph:
    try:
        return open_graph(Path(task.graph), no_bf16=task.no_bf16)
    except (OSError, ValueError) as error:
        raise Failed(str(error), graph=True) from error


def _widen_stored(graph: onnx.GraphProto) -> None:
    """Replace Cast nodes of bf16 weights by a mark that converts the weights on reading."""
    stored = {one.name: one for one in graph.initializer if one.data_type == TensorProto.BFLOAT16}
    casts = {node.input[0]: node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored}
    renamed = {}
    for name, cast in casts.items():
        stored[name].data_type = next(entry.i for entry in cast.attribute if entry.name == "to")
        stored[name].external_data.add(key="from", value="bf16")
        renamed[cast.output[0]] = name
        graph.node.remove(cast)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def shapes_of(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, int, int]]) -> dict[str, list[list[int]]]:
    """Min, opt and max shape of each input, from the ranges of its symbolic dimensions."""
    found: dict[str, list[list[int]]] = {}
    for value in model.graph.input:
        shapes: list[list[int]] = [[], [], []]
        for place in value.type.tensor_type.shape.dim:
            match = _TERM.fullmatch(place.dim_param)
            for which, shape in enumerate(shapes):
                shape.append(int(match[1] or 1) * sizes[match[2]][which] if match else place.dim_value)
        found[value.name] = shapes
    return found


def _make_log(trt: ModuleType) -> Any:
    """A TensorRT logger that forwards all but verbose messages to the parent."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            kind = str(severity).rpartition(".")[2].lower()
            if "error" in kind:
                self.errors.append(message)
            if kind != "verbose":
                say(log=kind, text=message)

    return Log()


def _make_progress(trt: ModuleType) -> Any:
    """A TensorRT progress monitor; a nested phase counts as one step of its parent phase."""

    class Progress(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.around: dict[str, str | None] = {}
            self.steps: dict[str, tuple[int, int]] = {}  # (done, total)
            self.begun: dict[str, float] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.around[phase], self.steps[phase], self.begun[phase] = parent, (0, max(1, steps)), time.monotonic()

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps:
                self.steps[phase] = (step + 1, self.steps[phase][1])
                self._tell()
            return True

        def phase_finish(self, phase: str) -> None:
            say(phase=phase, seconds=round(time.monotonic() - self.begun.get(phase, time.monotonic()), 2))
            self.steps.pop(phase, None)

        def _tell(self) -> None:
            top = next((name for name in self.steps if self.around[name] is None), None)
            say(share=round(self._share(top), 4) if top else 0)

        def _share(self, phase: str) -> float:
            done, steps = self.steps[phase]
            inside = max((self._share(one) for one in self.steps if self.around[one] == phase), default=0)
            return float(min(1.0, (done + inside) / steps))

    return Progress()


def _make_writer(trt: ModuleType, file: BinaryIO) -> Any:
    """A TensorRT stream writer; a disk error is stored and raised after the build."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OSError | None = None
            self.written = 0

        def write(self, data: Any) -> int:
            try:
                self.written += file.write(data)
            except OSError as error:
                self.error = error
                return 0
            return len(data)

    return Writer()


def _parse(parser: Any, graph: BuildGraph, finish: str = "parse_model_proto") -> None:
    """Pass the graph and its weights to the parser; raises Failed with the parser's errors."""
    done = parser.load_model_proto(graph.model.SerializeToString())
    for weight, place in graph.places.items() if done else ():
        done = done and parser.load_initializer(weight, *place)
    if not (done and getattr(parser, finish)()):
        said = [parser.get_error(number) for number in range(parser.num_errors)]
        why = "; ".join(f"{one.desc()} (at {one.node_name()})" for one in said) or "the parser can't read the graph"
        raise Failed(why, graph=True)


def build(task: BuildTask, trt: ModuleType, log: Any, file: BinaryIO) -> dict[str, Any]:
    """Build the engine into the file; returns its inputs, outputs, structure and weight files for the record."""
    graph = _opened(task)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt.OnnxParser(network, log), graph)
    config = builder.create_builder_config()
    if task.builder != _CLASSIC:
        config.num_compute_capabilities = len(task.capabilities)
        for place, capability in enumerate(task.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), place)
    for enabled, flag in ((task.weight_streaming, "WEIGHT_STREAMING"), (task.refit, "REFIT")):
        if enabled:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    config.progress_monitor = _make_progress(trt)
    shapes = shapes_of(graph.model, task.sizes)
    profile = builder.create_optimization_profile()
    inputs = {}
    for tensor in (network.get_input(number) for number in range(network.num_inputs)):
        profile.set_shape(tensor.name, *shapes[tensor.name])
        inputs[tensor.name] = _input(tensor.dtype, shapes[tensor.name])
    config.add_optimization_profile(profile)
    cache = _timing_cache(task, config)
    writer = _make_writer(trt, file)
    done = builder.build_serialized_network_to_stream(network, config, writer)
    if writer.error:
        raise writer.error
    if not done:
        raise Failed(log.errors[0] if log.errors else "TensorRT reported no reason")
    if cache:
        _keep_timings(cache, config)
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    dtypes = {one.name: _dtype(one.dtype) for one in outputs}
    return {"inputs": inputs, "outputs": dtypes, "structure": graph.structure, "files": graph.files}


def _timing_cache(task: BuildTask, config: Any) -> Path | None:
    """Load the timing cache into the builder config; returns its path, or None without --timing-cache."""
    if not task.timing_cache:
        return None
    path = Path(task.timing_cache)
    known = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), False):  # noqa: FBT003 (TensorRT's own)
        say(log="warning", text=f"{path} has no timings of this GPU and TensorRT version: starting an empty cache")
        config.set_timing_cache(config.create_timing_cache(b""), False)  # noqa: FBT003
    return path


def _keep_timings(path: Path, config: Any) -> None:
    """Write the timing cache atomically; a failure is only a warning."""
    try:
        with atomic_path(path, f".{os.getpid()}{PARTIAL}") as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        say(log="warning", text=f"the timing cache was not written: {error}")


def _input(dtype: Any, shapes: list[list[int]]) -> dict[str, Any]:
    return {"dtype": _dtype(dtype), **dict(zip(("least", "best", "most"), shapes, strict=True))}


def _dtype(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2].lower()


def refit(task: BuildTask, trt: ModuleType, log: Any, file: BinaryIO) -> dict[str, Any]:
    """Refit an engine of the same graph with this graph's weights; requires the GPU."""
    graph = _opened(task)
    assert task.refit_from
    if graph.structure != task.structure:
        raise Failed(f"{task.refit_from} was built from another graph", graph=True)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(Path(task.refit_from).read_bytes())
    if engine is None:
        raise Failed(log.errors[0] if log.errors else f"{task.refit_from} can't be opened")
    refitter = trt.Refitter(engine, log)
    _parse(trt.OnnxParserRefitter(refitter, log), graph, "refit_model_proto")
    if not refitter.refit_cuda_engine():
        raise Failed(log.errors[0] if log.errors else "TensorRT rejected the weights")
    config = engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    file.write(bytes(engine.serialize_with_config(config)))
    return {"structure": graph.structure, "files": graph.files}


def _peak() -> int:
    """Peak resident bytes, including mapped files."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Build the engine; the last line on stdout is the result or the reason of the failure."""
    give_back_when_freed(_SMALL)
    value = json.load(sys.stdin)
    task = BuildTask(**{**value, "capabilities": tuple(value["capabilities"])})
    if not end_with(task.parent):
        return 1
    trt = bindings(task.builder)
    log = _make_log(trt)
    try:
        with Path(task.out).open("wb") as file:
            found = (refit if task.refit_from else build)(task, trt, log, file)
            file.flush()
            os.fsync(file.fileno())
    except Failed as error:
        say(failed=str(error), graph=error.graph)
        return 1
    except OSError as error:
        say(disk=error.errno, text=error.strerror or str(error))
        return 1
    say(built=found | {"version": trt.__version__}, peak=_peak())
    return 0


if __name__ == "__main__":
    sys.exit(main())
