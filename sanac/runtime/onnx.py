"""onnxruntime behind the calls that torch's parts answer: in a stock diffusers pipeline each stands for one of them."""

import functools
import platform
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sanac.core.errors import BadInput, Lacking
from sanac.nn.graphfile import check_references, first_line, load_graph

if TYPE_CHECKING:
    import onnxruntime

_AS_ASKED = "1"  # products with dequantized weights in floats: left to itself, it rounds what they are multiplied by
_IN_FLOATS = "1"  # what is quantized is multiplied in floats
_BROKEN_FP8 = "QDQSelectorActionTransformer"  # makes integer products of fp8, which it then refuses
_KINDS = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int64)": torch.int64,
}


class Graph:
    """A session, called with torch's tensors by name."""

    def __init__(self, path: Path, device: str = "cpu", content: bytes | None = None) -> None:
        """Open the graph, whose weights lie beside it; `content` is one to take instead of the file's."""
        self.path = path
        self.session = open_session(path, device, content)
        unknown = [f"{one.name}: {one.type}" for one in self.session.get_inputs() if one.type not in _KINDS]
        if unknown:
            raise BadInput(f"{path} takes what nothing here gives", why=unknown[0], problems=unknown)
        self.inputs = {one.name: _KINDS[one.type] for one in self.session.get_inputs()}
        self.outputs = tuple(one.name for one in self.session.get_outputs())

    def __call__(self, **given: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs in order, as they come; inputs are cast to what it takes."""
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise BadInput(f"{self.path} wants {missing[0]}", why=f"it is given {', '.join(given)}", problems=missing)
        feed = {name: given[name].to("cpu", kind).numpy() for name, kind in self.inputs.items()}
        try:
            found: Sequence[np.ndarray[Any, Any]] = self.session.run(None, feed)
        except _errors() as error:
            raise BadInput(f"onnxruntime can't run {self.path}", why=first_line(error)) from error
        return tuple(torch.from_numpy(array) for array in found)


class Runner(Protocol):
    """A graph or an engine, opened."""

    def __call__(self, **given: Tensor) -> tuple[Tensor, ...]:
        """Its outputs in order."""
        ...


class _Part:
    """What a pipeline asks of any of its models: a graph, and the config of the class that it stands for."""

    def __init__(self, graph: Runner, config: Any) -> None:
        """The config is the one of diffusers' or transformers' own."""
        self.graph, self.config = graph, config
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def to(self, *_: Any, **__: Any) -> "_Part":
        """It stays where its session is."""
        return self


class Transformer(_Part):
    """SanaTransformer2DModel's call."""

    def __call__(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,  # noqa: FBT001, FBT002 (diffusers' own)
        **_: Any,
    ) -> Any:
        """The velocity, in the latents' dtype."""
        if encoder_attention_mask is None:
            encoder_attention_mask = torch.ones(encoder_hidden_states.shape[:2], dtype=torch.int64)
        given = {
            "hidden_states": hidden_states,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
            "timestep": timestep,
        }
        (found,) = self.graph(**given | ({"guidance": guidance} if guidance is not None else {}))
        found = found.to(hidden_states)
        return SimpleNamespace(sample=found) if return_dict else (found,)


class TextEncoder(_Part):
    """Gemma2Model's call."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> tuple[Tensor, ...]:
        """The last hidden state."""
        return self.graph(input_ids=input_ids, attention_mask=attention_mask)


class Autoencoder(_Part):
    """AutoencoderDC's `decode`."""

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:  # noqa: FBT001, FBT002 (diffusers' own)
        """From latents, unscaled, to the picture."""
        (found,) = self.graph(latent_sample=latents)
        return SimpleNamespace(sample=found.to(latents)) if return_dict else (found.to(latents),)


def open_session(path: Path, device: str = "cpu", content: bytes | None = None) -> "onnxruntime.InferenceSession":
    """A session of a graph, or of `content` in its place; weights are looked for in its own folder only."""
    runtime = installed()
    check_references(path)
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if device.startswith("cuda") else None
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _AS_ASKED)
    rounds, has_fp8 = _about(path)
    if rounds and saturates():
        options.add_session_config_entry("session.disable_quant_qdq", _IN_FLOATS)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    off = [_BROKEN_FP8] if has_fp8 else None
    chosen = providers or ["CPUExecutionProvider"]
    try:
        return runtime.InferenceSession(content or path, options, providers=chosen, disabled_optimizers=off)
    except _errors() as error:
        raise BadInput(f"onnxruntime can't open {path}", why=first_line(error)) from error


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
        raise Lacking(
            "onnxruntime is not installed", why="it runs graphs", hint="pip install 'sanac[cpu]', on a GPU 'sanac[gpu]'"
        ) from error
    return onnxruntime


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises, by name: its classes have no common one."""
    state = installed().capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    own = tuple(getattr(state, name) for name in (*names, "RuntimeException", "EPFail") if hasattr(state, name))
    return (*own, RuntimeError, ValueError)
