"""onnxruntime sessions called with torch tensors, on a CPU or on a GPU with one of three execution providers.

Inputs and outputs use I/O binding, so that no tensor is copied between the steps of a sampler.
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
from sanac.core.requirements import install_command
from sanac.core.resources import user_cache
from sanac.nn.onnx_files import check_references, first_line, load_graph

if TYPE_CHECKING:
    import onnxruntime

_AS_ASKED = "1"  # weight-only layers compute in floats: by default, onnxruntime quantizes their activations
_IN_FLOATS = "1"  # QDQ layers compute in floats
_BROKEN_FP8 = "QDQSelectorActionTransformer"  # rewrites fp8 QDQ to integer products, which then fail
_KINDS = {
    "tensor(float)": (torch.float32, 1),
    "tensor(float16)": (torch.float16, 10),
    "tensor(bfloat16)": (torch.bfloat16, 16),
    "tensor(int64)": (torch.int64, 7),
    "tensor(int32)": (torch.int32, 6),
    "tensor(bool)": (torch.bool, 9),
}  # onnxruntime type -> (torch dtype, ONNX dtype number)
_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "onnx": "CUDAExecutionProvider",
    "onnx-trt": "TensorrtExecutionProvider",
    "onnx-rtx": "NvTensorRTRTXExecutionProvider",
}  # backend -> execution provider on a GPU
_NO_ROOM = ("allocat", "out of memory", "bad_alloc")


class OnnxSession:
    """An onnxruntime session that is called with torch tensors by name."""

    def __init__(
        self,
        path: Path,
        device: str = "cpu",
        content: bytes | None = None,
        backend: str = "onnx",
        *,
        keep_memory: bool = True,
    ) -> None:
        """Open the graph at `path`, or `content` in its place; weights are read from the graph's folder.

        `keep_memory`: whether memory of one run is kept for the next one, which is faster.
        """
        self.path, self.device = path, torch.device(device)
        self.session = open_session(path, device, content, backend, keep_memory=keep_memory)
        unknown = [f"{one.name}: {one.type}" for one in self.session.get_inputs() if one.type not in _KINDS]
        if unknown:
            raise InvalidInput(f"{path} has inputs of unsupported dtypes", why=unknown[0], problems=unknown)
        self.inputs = {one.name: _KINDS[one.type] for one in self.session.get_inputs()}
        self.outputs = tuple(one.name for one in self.session.get_outputs())
        self.dtypes = {one.name: _KINDS[one.type][1] for one in self.session.get_outputs() if one.type in _KINDS}

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs in order, on its device; inputs are moved there and cast to its dtypes."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InvalidInput(
                f"{self.path} requires the input {missing[0]}", why=f"it got {', '.join(inputs)}", problems=missing
            )
        try:
            binding = self._bound(inputs)
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except _errors() as error:
            raise _unable(f"onnxruntime can't run {self.path}", error) from error
        return tuple(torch.from_dlpack(value) for value in binding.get_outputs())

    def _bound(self, inputs: Mapping[str, Tensor]) -> Any:
        """Bind inputs in place and let onnxruntime allocate outputs; the binding keeps the inputs alive."""
        where, number = self.device.type, self.device.index or 0
        binding = self.session.io_binding()
        binding.held = []
        for name, (kind, number_of_kind) in self.inputs.items():
            tensor = inputs[name].to(self.device, kind).contiguous()
            binding.bind_input(name, where, number, number_of_kind, tuple(tensor.shape), tensor.data_ptr())
            binding.held.append(tensor)
        for name in self.outputs:
            binding.bind_output(name, where, number)
        if where == "cuda":  # wait until torch has computed the inputs
            torch.cuda.current_stream(self.device).synchronize()
        return binding


class OnnxRunner(Protocol):
    """An opened graph or engine."""

    device: torch.device

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs in order, for inputs by name."""
        ...


def open_session(
    path: Path,
    device: str = "cpu",
    content: bytes | None = None,
    backend: str = "onnx",
    *,
    keep_memory: bool = True,
) -> "onnxruntime.InferenceSession":
    """Open a session of a graph, or of `content` in its place; weights are read from the graph's folder only."""
    runtime = installed()
    check_references(path)
    providers = _providers(backend, torch.device(device), path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = keep_memory
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
    expected = providers[0][0]
    if expected not in session.get_providers():  # onnxruntime falls back to the CPU with only a log line
        why = f"its {expected} could not be loaded"
        raise MissingResource("onnxruntime can't use this GPU", why=why, hint="sanac doctor; or --device cpu")
    return session


def _providers(backend: str, device: torch.device, path: Path) -> list[tuple[str, dict[str, str]]]:
    """Execution providers by priority; MissingResource if the backend's provider isn't available."""
    if device.type != "cuda":
        if backend != "onnx":
            raise MissingResource(
                f"--backend {backend} requires a GPU", why=f"the device is {device}", hint="--backend onnx"
            )
        return [(_CPU, {})]
    name, number = _PROVIDERS[backend], str(device.index or 0)
    if name not in installed().get_available_providers():
        extra = "rtx" if backend == "onnx-rtx" else "gpu"
        hint = f"pip uninstall onnxruntime, then {install_command(extra)}; or --device cpu"
        raise MissingResource(
            f"the installed onnxruntime has no {name}", why=f"it has {', '.join(_available())}", hint=hint
        )
    options = {
        "onnx": {},
        "onnx-trt": {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(_cache(backend, path))},
        "onnx-rtx": {"nv_runtime_cache_path": str(_cache(backend, path))},
    }[backend]
    behind = [(_PROVIDERS["onnx"], {"device_id": number})] if backend != "onnx" else []
    return [(name, {"device_id": number, **options}), *behind, (_CPU, {})]


def _cache(backend: str, path: Path) -> Path:
    """Engine cache folder of this graph with these weights; onnxruntime's own cache key ignores the weights."""
    files = [path.resolve(), *(file.resolve() for file in check_references(path))]
    about = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return user_cache() / backend / json_files.key_of(about)[:16]


def _available() -> list[str]:
    return [name.removesuffix("ExecutionProvider") for name in installed().get_available_providers()]


@functools.cache
def saturates() -> bool:
    """Whether int8 products saturate 16-bit sums on this CPU: true on x86 without VNNI."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return True
    return not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}


def _about(path: Path) -> tuple[bool, bool]:
    """(whether a graph quantizes activations, whether it has fp8 weights)."""
    import onnx

    graph = load_graph(path).graph
    rounds = any(node.op_type == "QuantizeLinear" for node in graph.node)
    return rounds, any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in graph.initializer)


def installed() -> Any:
    """The onnxruntime module; MissingResource if it isn't installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingResource(
            "onnxruntime is not installed",
            why="running exported graphs requires it",
            hint=f"{install_command('cpu')}; with a GPU: {install_command('gpu')}",
        ) from error
    return onnxruntime


def _unable(what: str, error: Exception) -> InvalidInput | MissingResource:
    """The exception for an onnxruntime error: MissingResource if memory ran out, else InvalidInput."""
    why = first_line(error)
    if any(word in str(error).lower() for word in _NO_ROOM):
        return MissingResource(what, why=why, hint="smaller images or batches, --tile 512, or a quantized model")
    return InvalidInput(what, why=why)


def _errors() -> tuple[type[Exception], ...]:
    """Exception classes of onnxruntime, listed by name because they share no base class."""
    state = installed().capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    own = tuple(getattr(state, name) for name in (*names, "RuntimeException", "EPFail") if hasattr(state, name))
    return (*own, RuntimeError, ValueError)
