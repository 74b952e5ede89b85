"""Parity backends: our torch forward, an ONNX graph in onnxruntime, a TensorRT engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import Tensor

from sanac.core.artifact.model import Model
from sanac.core.family.architecture import block_name
from sanac.nn.blocks.block import Geometry, QuantizedBlock, Tensors, block
from sanac.nn.blocks.embed_head import BlockInputs, embed_inputs, head
from sanac.nn.quant.activations import ActivationQuantizer, ReplayError
from sanac.nn.streaming import Blocks
from sanac.runtime.onnx_session import OnnxSession
from sanac.runtime.tensorrt_engine import TensorrtEngine
from sanac.verify.parity import Inputs, Outputs, Rounded

MASK = "encoder_attention_mask"
STREAM = "transformer_blocks"  # graphs name the hidden states after block 7 'transformer_blocks.7'
# suffixes of the graph values that hold the codes of a layer's quantized activations: '/path/of/layer/Round'
ROUNDINGS = ("QuantizeLinear", "Round", "Cast/fp32")


class TorchBackend:
    """Our fp32 forward over a model's weights, quantized or not, read block by block."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        """Prepare the backend; reads no weights yet."""
        self.name = model.located.name
        self.blocks = Blocks(model, torch.device(device), torch.float32)
        self.config = model.transformer.config

    def run(self, cases: Sequence[Inputs], codes: Sequence[Rounded] = ()) -> list[Outputs]:
        """Run all cases through each block together; replays the activation codes of each case if they are passed."""
        outside, geometry = self.blocks.outside(), Geometry.of(self.config)
        replays = [_Replay(rounded) for rounded in codes or [{} for _ in cases]]
        with torch.no_grad():
            starts = [self._start(outside, case) for case in cases]
            streams = [[start.state] for start in starts]
            for index, tensors in self.blocks.sweep(range(len(self.blocks))):
                for stream, start, replay in zip(streams, starts, replays, strict=True):
                    stream.append(block(replay.replayed(index, tensors), stream[-1], start.conditioning, geometry))
            return [
                Outputs(
                    head(outside, stream[-1], start).cpu(),
                    tuple(state.cpu() for state in stream[1:]),
                    replay_errors=replay.replay_errors if replay.complete else {},
                )
                for stream, start, replay in zip(streams, starts, replays, strict=True)
            ]

    def _start(self, outside: dict[str, torch.Tensor], case: Inputs) -> BlockInputs:
        inputs = {name: value.to(self.blocks.device) for name, value in case.items()}
        latents, captions, mask = (inputs[name] for name in ("hidden_states", "encoder_hidden_states", MASK))
        return embed_inputs(self.config, outside, latents, captions, inputs["timestep"], mask, inputs.get("guidance"))


@dataclass
class _Replay:
    """Replays another backend's rounding in one case."""

    codes: Rounded
    replay_errors: dict[str, ReplayError] = field(default_factory=dict)  # weight -> mismatch of the replayed rounding
    complete: bool = True  # whether all roundings were replayed

    def replayed(self, index: int, tensors: Tensors) -> Tensors:
        """A block's tensors, with activation quantizers replaced by the replay."""
        if not self.codes or not isinstance(tensors, QuantizedBlock):
            return tensors
        transforms = dict(tensors.transforms)
        for rest, quantizer in tensors.transforms.items():
            if (name := block_name(index, rest)) in self.codes and isinstance(quantizer, ActivationQuantizer):
                transforms[rest] = partial(self._replay, quantizer, name)
            else:
                self.complete = False
        return QuantizedBlock(tensors, transforms)

    def _replay(self, quantizer: ActivationQuantizer, name: str, activations: Tensor) -> Tensor:
        found, self.replay_errors[name] = quantizer.replay(activations, self.codes[name])
        return found


class OnnxBackend:
    """An ONNX graph that also outputs the hidden states after each block and the codes of quantized activations."""

    def __init__(self, path: Path, device: str = "cpu", content: bytes | None = None) -> None:
        """Open a session of a graph, or of `content` with the same weights, with the extra outputs."""
        self.name = str(path)
        model = onnx.load_from_string(content) if content else onnx.load(path, load_external_data=False)
        known = {name for node in model.graph.node for name in node.output}
        self.streams: list[str] = []
        while f"{STREAM}.{len(self.streams)}" in known:
            self.streams.append(f"{STREAM}.{len(self.streams)}")
        self.code_outputs = {weight: name for name in sorted(known) if (weight := _rounded_weight(name))}
        seen = {name: f"{name}/seen" for name in self.code_outputs.values()}
        model.graph.node.extend(
            onnx.helper.make_node("Cast", [name], [out], to=onnx.TensorProto.FLOAT) for name, out in seen.items()
        )
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (*self.streams, *seen.values()))
        self.graph = OnnxSession(path, device, content=model.SerializeToString())

    def run(self, cases: Sequence[Inputs]) -> list[Outputs]:
        """Run the cases one by one."""
        return [self._outputs(*self.graph(**case)) for case in cases]

    def _outputs(self, velocity: Tensor, *others: Tensor) -> Outputs:
        count = len(self.streams)
        rounded = dict(
            zip(self.code_outputs, map(Tensor.half, others[count:]), strict=True)
        )  # exact: codes are at most 448
        return Outputs(velocity.float(), tuple(map(Tensor.float, others[:count])), rounded)


class EngineBackend:
    """A TensorRT engine, which exposes neither hidden states nor codes."""

    def __init__(self, path: Path) -> None:
        """Open the engine on the installed GPU."""
        self.name, self.engine = str(path), TensorrtEngine(path)

    def run(self, cases: Sequence[Inputs]) -> list[Outputs]:
        """Run the cases one by one."""
        return [Outputs(self.engine(**case)[0].float().cpu(), ()) for case in cases]


def _rounded_weight(value: str) -> str | None:
    """Name of the weight whose activation codes a graph value holds; None for other values."""
    layer = next((value.removesuffix(f"/{end}") for end in ROUNDINGS if value.endswith(f"/{end}")), "")
    return f"{layer[1:].replace('/', '.')}.weight" if layer.startswith(f"/{STREAM}/") else None
