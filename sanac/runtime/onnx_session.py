"""onnxruntime behind a plain call with torch's tensors: on a processor, or on a GPU by one of three providers.

Inputs and outputs are bound where they lie: nothing is copied between the steps of a sampler, on a GPU least of all.
"""

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.errors import InvalidInput, MissingResource
from sanac.core.resources import user_cache
from sanac.nn.onnx_files import check_references, first_line, load_graph

if TYPE_CHECKING:
    import onnxruntime

_AS_ASKED = "1"  # products with dequantized weights in floats: left to itself, it rounds what they are multiplied by
_IN_FLOATS = "1"  # what is quantized is multiplied in floats
_BROKEN_FP8 = "QDQSelectorActionTransformer"  # makes integer products of fp8, which it then refuses
_KINDS = {
    "tensor(float)": (torch.float32, 1),
    "tensor(float16)": (torch.float16, 10),
    "tensor(bfloat16)": (torch.bfloat16, 16),
    "tensor(int64)": (torch.int64, 7),
}  # by the name that onnxruntime has for it: torch's dtype, onnx's number
_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "onnx": "CUDAExecutionProvider",
    "onnx-trt": "TensorrtExecutionProvider",
    "onnx-rtx": "NvTensorRTRTXExecutionProvider",
}  # by backend, on a GPU
_NO_ROOM = ("allocat", "out of memory", "bad_alloc")


class OnnxSession:
    """A session, called with torch's tensors by name."""

    def __init__(self, path: Path, device: str = "cpu", content: bytes | None = None, backend: str = "onnx") -> None:
        """Open the graph, whose weights lie beside it; `content` is one to take instead of the file's."""
        self.path, self.device = path, torch.device(device)
        self.session = open_session(path, device, content, backend)
        unknown = [f"{one.name}: {one.type}" for one in self.session.get_inputs() if one.type not in _KINDS]
        if unknown:
            raise InvalidInput(f"{path} takes what nothing here gives", why=unknown[0], problems=unknown)
        self.inputs = {one.name: _KINDS[one.type] for one in self.session.get_inputs()}
        self.outputs = tuple(one.name for one in self.session.get_outputs())

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs in order, where it computes; inputs are brought there and cast to what it takes."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InvalidInput(
                f"{self.path} wants {missing[0]}", why=f"it is given {', '.join(inputs)}", problems=missing
            )
        try:
            binding = self._bound(inputs)
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except _errors() as error:
            raise _unable(f"onnxruntime can't run {self.path}", error) from error
        return tuple(torch.from_dlpack(value) for value in binding.get_outputs())

    def _bound(self, inputs: Mapping[str, Tensor]) -> Any:
        """Inputs where they lie, and outputs wherever it puts them; the binding holds on to both."""
        where, number = self.device.type, self.device.index or 0
        binding = self.session.io_binding()
        binding.held = []
        for name, (kind, number_of_kind) in self.inputs.items():
            tensor = inputs[name].to(self.device, kind).contiguous()
            binding.bind_input(name, where, number, number_of_kind, tuple(tensor.shape), tensor.data_ptr())
            binding.held.append(tensor)
        for name in self.outputs:
            binding.bind_output(name, where, number)
        if where == "cuda":  # what torch still computes of the inputs
            torch.cuda.current_stream(self.device).synchronize()
        return binding


class OnnxRunner(Protocol):
    """A graph or an engine, opened."""

    device: torch.device

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Its outputs in order."""
        ...


def open_session(
    path: Path, device: str = "cpu", content: bytes | None = None, backend: str = "onnx"
) -> "onnxruntime.InferenceSession":
    """A session of a graph, or of `content` in its place; weights are looked for in its own folder only."""
    runtime = installed()
    check_references(path)
    providers = _providers(backend, torch.device(device), path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _AS_ASKED)
    rounds, has_fp8 = _about(path)
    if rounds and saturates():
        options.add_session_config_entry("session.disable_quant_qdq", _IN_FLOATS)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    off = [_BROKEN_FP8] if has_fp8 else None
    try:
        session = runtime.InferenceSession(content or path, options, providers=providers, disabled_optimizers=off)
    except _errors() as error:
        raise _unable(f"onnxruntime can't open {path}", error) from error
    wanted = providers[0][0]
    if wanted not in session.get_providers():  # it falls back to the processor, and only says so in its log
        why = f"its {wanted} could not be loaded"
        raise MissingResource("onnxruntime can't use this GPU", why=why, hint="sanac doctor; or --device cpu")
    return session


def _providers(backend: str, device: torch.device, path: Path) -> list[tuple[str, dict[str, str]]]:
    """Who computes, in order; Lacking where the one that is asked for can't be had."""
    if device.type != "cuda":
        if backend != "onnx":
            raise MissingResource(f"{backend} needs a GPU", why=f"{device} is none", hint="--backend onnx")
        return [(_CPU, {})]
    name, number = _PROVIDERS[backend], str(device.index or 0)
    if name not in installed().get_available_providers():
        extra = "rtx" if backend == "onnx-rtx" else "gpu"
        hint = f"pip uninstall onnxruntime, then pip install 'sanac[{extra}]'; or --device cpu"
        raise MissingResource(f"this onnxruntime has no {name}", why=f"it has {', '.join(_available())}", hint=hint)
    options = {
        "onnx": {},
        "onnx-trt": {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(_cache(backend, path))},
        "onnx-rtx": {"nv_runtime_cache_path": str(_cache(backend, path))},
    }[backend]
    behind = [(_PROVIDERS["onnx"], {"device_id": number})] if backend != "onnx" else []
    return [(name, {"device_id": number, **options}), *behind, (_CPU, {})]


def _cache(backend: str, path: Path) -> Path:
    """Of this graph with these weights: onnxruntime knows engines by the names in a graph only."""
    files = [path.resolve(), *(file.resolve() for file in check_references(path))]
    about = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return user_cache() / backend / json_files.key_of(about)[:16]


def _available() -> list[str]:
    return [name.removesuffix("ExecutionProvider") for name in installed().get_available_providers()]


@functools.cache
def saturates() -> bool:
    """Whether this processor's products of 8 bits overflow in sums of 16: those of x86 do that have no VNNI."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return True
    return not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}


def _about(path: Path) -> tuple[bool, bool]:
    """Whether it rounds what is multiplied, and whether it has numbers in fp8."""
    import onnx

    graph = load_graph(path).graph
    rounds = any(node.op_type == "QuantizeLinear" for node in graph.node)
    return rounds, any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in graph.initializer)


def installed() -> Any:
    """The module; Lacking where it isn't there."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingResource(
            "onnxruntime is not installed", why="it runs graphs", hint="pip install 'sanac[cpu]', on a GPU 'sanac[gpu]'"
        ) from error
    return onnxruntime


def _unable(what: str, error: Exception) -> InvalidInput | MissingResource:
    """Memory that ran out is no fault of the graph."""
    why = first_line(error)
    if any(word in str(error).lower() for word in _NO_ROOM):
        return MissingResource(what, why=why, hint="smaller pictures or batches, --tile 512, or a quantized model")
    return InvalidInput(what, why=why)


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises, by name: its classes have no common one."""
    state = installed().capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    own = tuple(getattr(state, name) for name in (*names, "RuntimeException", "EPFail") if hasattr(state, name))
    return (*own, RuntimeError, ValueError)
