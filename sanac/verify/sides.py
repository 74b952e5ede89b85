"""Who can be asked whether it is the same: our forward over any weights, and graphs in onnxruntime."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from sanac.core.model import Model
from sanac.nn.block import Geometry, block
from sanac.nn.ends import Start, embed, head, positions
from sanac.nn.weights import Blocks
from sanac.runtime.onnx import Graph
from sanac.runtime.tensorrt import Engine
from sanac.verify.parity import Gave, Inputs

MASK = "encoder_attention_mask"
STREAM = "transformer_blocks"  # graphs call the stream behind block 7 'transformer_blocks.7'


class TorchSide:
    """A model's weights, quantized or not, in our forward; in fp32, read block by block."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        """Nothing is read yet."""
        self.name = model.located.name
        self.blocks = Blocks(model, torch.device(device), torch.float32)
        self.config = model.transformer.config

    def ask(self, cases: Sequence[Inputs]) -> list[Gave]:
        """All cases go through a block together."""
        outside, geometry = self.blocks.outside(), Geometry.of(self.config)
        with torch.no_grad():
            starts = [self._start(outside, case) for case in cases]
            streams = [[start.state] for start in starts]
            for _, tensors in self.blocks.sweep(range(len(self.blocks))):
                for stream, start in zip(streams, starts, strict=True):
                    stream.append(block(tensors, stream[-1], start.condition, geometry))
            pairs = zip(streams, starts, strict=True)
            return [
                Gave(head(outside, stream[-1], start).cpu(), tuple(state.cpu() for state in stream[1:]))
                for stream, start in pairs
            ]

    def _start(self, outside: dict[str, torch.Tensor], case: Inputs) -> Start:
        device, scale, patch = self.blocks.device, self.config.get("interpolation_scale"), self.config["patch_size"]
        given = {name: value.to(device) for name, value in case.items()}
        where = None
        if scale is not None:
            rows, columns = (side // patch for side in given["hidden_states"].shape[2:])
            width = len(outside["patch_embed.proj.bias"])
            where = positions(rows, columns, self.config["sample_size"] // patch, scale, width).to(device)
        latents, captions, mask = (given[name] for name in ("hidden_states", "encoder_hidden_states", MASK))
        return embed(outside, latents, captions, given["timestep"], mask, given.get("guidance"), where)


class OnnxSide:
    """A graph; the stream behind each block is made an output of it, in memory."""

    def __init__(self, path: Path, device: str = "cpu", content: bytes | None = None) -> None:
        """Opens a session of a graph, or of `content`, which takes the same weights."""
        self.name = str(path)
        model = onnx.load_from_string(content) if content else onnx.load(path, load_external_data=False)
        known = {name for node in model.graph.node for name in node.output}
        streams: list[str] = []
        while f"{STREAM}.{len(streams)}" in known:
            streams.append(f"{STREAM}.{len(streams)}")
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in streams)
        self.graph = Graph(path, device, content=model.SerializeToString())

    def ask(self, cases: Sequence[Inputs]) -> list[Gave]:
        """One after the other."""
        answers = [self.graph(**case) for case in cases]
        return [Gave(velocity.float(), tuple(part.float() for part in streams)) for velocity, *streams in answers]


class EngineSide:
    """An engine: nobody sees what happens inside."""

    def __init__(self, path: Path) -> None:
        """On the GPU that is here."""
        self.name, self.engine = str(path), Engine(path)

    def ask(self, cases: Sequence[Inputs]) -> list[Gave]:
        """One after the other."""
        return [Gave(self.engine(**case)[0].float().cpu(), ()) for case in cases]
