"""Runs TensorRT and TensorRT-RTX engines with the same call as an ONNX session."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.engine_record import ENGINE, RECORD, Record, bindings, check_file, check_runs_here
from sanac.core.artifact.model import Model
from sanac.core.atomic import PARTIAL, atomic_path
from sanac.core.errors import InvalidInput, MissingResource
from sanac.core.resources import user_cache
from sanac.core.units import bytes_text
from sanac.nn.device import capability, free_memory

_KINDS = {
    "float": torch.float32,
    "half": torch.float16,
    "bf16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
}


class TensorrtEngine:
    """An opened engine that is called with torch tensors by name."""

    def __init__(self, path: Path, device: str = "cuda") -> None:
        """Open an engine; checks its record against the file and this machine before TensorRT reads it."""
        self.path, self.device, self.record = path, torch.device(device), check_file(path)
        trt = bindings(self.record.builder)
        check_runs_here(self.record, str(trt.__version__), capability())
        kinds = {name: entry["dtype"] for name, entry in self.record.inputs.items()} | dict(self.record.outputs)
        if unknown := [f"{name}: {kind}" for name, kind in kinds.items() if kind not in _KINDS]:
            raise InvalidInput(f"{path} has inputs or outputs of unsupported dtypes", why=unknown[0], problems=unknown)
        self.inputs = {name: _KINDS[entry["dtype"]] for name, entry in self.record.inputs.items()}
        self.outputs = {name: _KINDS[kind] for name, kind in self.record.outputs.items()}
        self._lock = threading.Lock()
        self._buffers: _Buffers | None = None
        self._check_room()
        self._log = trt.Logger(trt.Logger.ERROR)
        engine = trt.Runtime(self._log).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            hint = "build it again with sanac export --trt"
            raise InvalidInput(f"{path} can't be opened", why=f"{self.record.built_with} rejects it", hint=hint)
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        dtypes = {name: str(engine.get_tensor_dtype(name)).rpartition(".")[2].lower() for name in names}
        if dtypes != kinds:  # buffers are allocated by the record's dtypes
            why = f"the dtypes of its inputs and outputs are {dtypes}, its record says {kinds}"
            raise InvalidInput(
                f"{path} doesn't match its record", why=why, hint="build it again with sanac export --trt"
            )
        if self.record.weight_streaming:
            engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
        self._engine, self._kernels = engine, _Kernels(self.record)
        self._captures = self.device.type == "cuda" and not self._kernels.enabled and not self.record.weight_streaming
        self._context = self._kernels.context(engine)
        if self._context is None:
            hint = "smaller images or batches, or an engine with --weight-streaming"
            raise MissingResource(f"{path.name} doesn't fit into the GPU's memory", hint=hint)

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The engine's outputs in order, on its device; inputs are cast to its dtypes."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InvalidInput(
                f"{self.path} requires the input {missing[0]}", why=f"it got {', '.join(inputs)}", problems=missing
            )
        self.record.check_shapes({name: tuple(inputs[name].shape) for name in self.inputs})
        with self._lock:  # a context holds the shapes and addresses of one call
            return self._run(inputs)

    def _check_room(self) -> None:
        """Raise MissingResource if the weights don't fit into the GPU's free memory."""
        if self.device.type != "cuda" or self.record.weight_streaming:
            return
        free = free_memory(str(self.device))
        if self.record.size > free:
            why = f"it takes {bytes_text(self.record.size)}, {bytes_text(free)} are free"
            hint = "fewer bits, fewer blocks, or an engine with --weight-streaming"
            raise MissingResource(f"{self.path.name} doesn't fit into the GPU's memory", why=why, hint=hint)

    def _run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        shapes = {name: tuple(inputs[name].shape) for name in self.inputs}
        if self._buffers is None or self._buffers.shapes != shapes:
            self._buffers = None  # the context's addresses change now, even if binding fails
            self._buffers = self._bound(shapes)
        for name, place in self._buffers.inputs.items():
            place.copy_(inputs[name])
        if not self._buffers.run(lambda: bool(self._context.execute_async_v3(self._stream()))):
            raise self._unable()
        self._finish()
        self._kernels.keep()
        return tuple(found.clone() for found in self._buffers.outputs)

    def _bound(self, shapes: Mapping[str, tuple[int, ...]]) -> "_Buffers":
        """Allocate buffers for inputs of these shapes and bind them to the context."""
        context, found = self._context, []
        feed = {name: torch.empty(shapes[name], dtype=kind, device=self.device) for name, kind in self.inputs.items()}
        taken = [context.set_input_shape(name, tuple(tensor.shape)) for name, tensor in feed.items()]
        taken += [context.set_tensor_address(name, tensor.data_ptr()) for name, tensor in feed.items()]
        for name, kind in self.outputs.items() if all(taken) else ():
            found.append(torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device=self.device))
        outputs = zip(self.outputs, found, strict=False)
        taken += [context.set_tensor_address(name, tensor.data_ptr()) for name, tensor in outputs]
        if not all(taken):
            raise self._unable()
        return _Buffers(dict(shapes), feed, tuple(found), captures=self._captures)

    def _unable(self) -> InvalidInput:
        return InvalidInput(f"{self.path} can't be run", why="TensorRT reported no reason", hint="sanac doctor")

    def _stream(self) -> int:
        return int(torch.cuda.current_stream(self.device).cuda_stream) if self.device.type == "cuda" else 0

    def _finish(self) -> None:
        """Wait for the call to finish, as its inputs must stay alive."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


@dataclass
class _Buffers:
    """Input and output buffers of one set of shapes, and the CUDA graph captured between them."""

    shapes: dict[str, tuple[int, ...]]
    inputs: dict[str, Tensor]
    outputs: tuple[Tensor, ...]
    captures: bool  # false for TensorRT-RTX, which captures itself, and with weight streaming
    calls: int = 0
    graph: "torch.cuda.CUDAGraph | None" = None

    def run(self, enqueue: Callable[[], bool]) -> bool:
        """Run the engine: the first call warms up, the second is captured as a CUDA graph, later ones replay it."""
        self.calls += 1
        if self.captures and self.calls == 2:
            self.graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                    done = enqueue()
            except RuntimeError:
                done = False
            if not done:  # some engines can't be captured: run them normally
                self.captures, self.graph = False, None
        if self.graph is None:
            return enqueue()
        self.graph.replay()
        return True


class _Kernels:
    """Cache of the kernels that TensorRT-RTX compiles on an engine's first run; unused by classic TensorRT."""

    def __init__(self, record: Record) -> None:
        """Key the cache by engine record and GPU."""
        self.enabled = record.builder == "rtx"
        self.cache: Any = None
        self.key = json_files.key_of(["kernels", record.to_json(), capability()])

    def context(self, engine: Any) -> Any:
        """An execution context of the engine, with the cached kernels."""
        if not self.enabled:
            return engine.create_execution_context()
        self.path = user_cache() / "rtx" / f"{self.key}.kernels"
        config = engine.create_runtime_config()
        self.cache = config.create_runtime_cache()
        if self.path.is_file():
            self.cache.deserialize(self.path.read_bytes())
        config.set_runtime_cache(self.cache)
        if strategy := getattr(bindings("rtx"), "CudaGraphStrategy", None):  # since 1.2
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)

    def keep(self) -> None:
        """Save the compiled kernels after the first run."""
        if self.cache is None:
            return
        with suppress(OSError):  # an unwritable cache only costs time
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path, f".{os.getpid()}{PARTIAL}") as partial:
                partial.write_bytes(bytes(self.cache.serialize()))
        self.cache = None


def engines_in(model: Model, component: str, depth: int | None = None) -> list[Path]:
    """A model's engine files for a component, or for a depth of its schedule; their records are no links either."""
    every = sorted(path.name for path in (model.located.path / component).glob(f"model.*{ENGINE}"))
    start = f"model.depth-{depth}." if depth else "model.depth-"
    names = [name for name in every if name.startswith(start) == bool(depth)]
    files = [model.find_file(f"{component}/{name}") for name in names]
    for name in names:
        model.find_file(f"{component}/{Path(name).with_suffix(RECORD)}")
    return [path for path in files if path]


def fitting(paths: Sequence[Path]) -> Path:
    """The first engine that runs on this machine; if none does, raises the first engine's problem."""
    problems: list[MissingResource] = []
    for path in paths:
        record = check_file(path)
        try:
            check_runs_here(record, str(bindings(record.builder).__version__), capability())
        except MissingResource as error:
            problems.append(error)
            continue
        return path
    raise problems[0]
