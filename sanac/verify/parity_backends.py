"""Parity backends: our torch forward, an ONNX graph in onnxruntime, a TensorRT engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sanac.core.artifact.model import Model
from sanac.core.family.architecture import block_name
from sanac.nn.blocks.block import Geometry, QuantizedBlock, Tensors, block
from sanac.nn.blocks.embed_head import BlockInputs, embed_inputs, head
from sanac.nn.quant.activations import ActivationQuantizer, ReplayError
from sanac.nn.streaming import Blocks
from sanac.runtime.tensorrt_engine import TensorrtEngine
from sanac.verify.graph_cut import GraphPiece, hidden_states
from sanac.verify.parity import Inputs, Outputs, Rounded
from sanac.verify.streamed_graph import BLOCKS, graph_model, run_graph

MASK = "encoder_attention_mask"
# suffixes of the graph values that hold the codes of a layer's quantized activations: '/path/of/layer/Round'
ROUNDINGS = ("QuantizeLinear", "Round", "Cast/fp32")


class TorchBackend:
    """Our fp32 forward over a model's weights, quantized or not, read block by block."""

    def __init__(self, model: Model, device: str = "cpu", kept: Sequence[int] | None = None) -> None:
        """Prepare the backend, which runs the blocks `kept`, or all; reads no weights yet."""
        self.name = model.located.name
        self.blocks = Blocks(model, torch.device(device), torch.float32)
        self.config = model.transformer.config
        self.kept = kept or range(len(self.blocks))

    def run(self, cases: Sequence[Inputs], codes: Sequence[Rounded] = ()) -> list[Outputs]:
        """Run all cases through each block together; replays the activation codes of each case if they are passed."""
        outside, geometry = self.blocks.outside(), Geometry.of(self.config)
        replays = [_Replay(rounded) for rounded in codes or [{} for _ in cases]]
        with torch.no_grad():
            starts = [self._start(outside, case) for case in cases]
            streams = [[start.state] for start in starts]
            for index, tensors in self.blocks.sweep(self.kept):
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
    """An ONNX graph whose hidden states and codes of quantized activations are read, too."""

    def __init__(
        self, path: Path, device: str = "cpu", content: bytes | None = None, pieces: Sequence[GraphPiece] = ()
    ) -> None:
        """The graph at `path`, or `content` with the same weights; with `pieces`, in a session for each of them."""
        self.name, self.path, self.device, self.pieces = str(path), path, device, pieces
        self.model = graph_model(path, content)
        known = {name for node in self.model.graph.node for name in node.output}
        self.streams = hidden_states(self.model.graph, BLOCKS)
        self.code_outputs = {weight: name for name in sorted(known) if (weight := _rounded_weight(name))}

    def run(self, cases: Sequence[Inputs]) -> list[Outputs]:
        """Run the cases one by one, or all of them through one piece after the other."""
        seen = (*self.streams, *self.code_outputs.values())
        found = run_graph(self.path, self.model, self.pieces, cases, seen, self.device)
        return [self._outputs(values) for values in found]

    def _outputs(self, values: Mapping[str, Tensor]) -> Outputs:
        # codes are exact in fp16: they are at most 448
        rounded = {weight: values[name].half() for weight, name in self.code_outputs.items()}
        (velocity,) = (values[value.name] for value in self.model.graph.output)
        return Outputs(velocity.float().cpu(), tuple(values[name].float().cpu() for name in self.streams), rounded)


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
    return f"{layer[1:].replace('/', '.')}.weight" if layer.startswith(f"/{BLOCKS}/") else None
