"""The text encoder's own class with one layer in memory at a time: each is read when it runs, and dropped after it."""

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from sanac.core.artifact.model import Component, Model
from sanac.core.safetensors_header import TensorRef
from sanac.nn.component_loading import empty_module, fill
from sanac.nn.loader_gate import check_loadable
from sanac.nn.streaming import DTYPES, read_rows

STREAMED = ("Gemma2Model",)  # classes with `embed_tokens`, `layers` and `norm`
_TABLE = "embed_tokens.weight"
_LAYER = re.compile(r"(?:model\.)?layers\.\d+\.")


class StreamedTextEncoder:
    """A text encoder that computes in fp32 and reads only the embeddings of its tokens."""

    def __init__(self, model: Model) -> None:
        """Build the class without weights; InvalidInput unless the weights outside its layers fit."""
        check_loadable(model, {"text_encoder"})
        part = next(part for part in model.components if part.name == "text_encoder")
        self.module: Any = empty_module(part).eval().requires_grad_(requires_grad=False)
        assert part.weights
        prefix = "" if _TABLE in part.weights.tensors else "model."  # of a checkpoint that holds more than the encoder
        table = part.weights.tensors[f"{prefix}{_TABLE}"]
        self.states: list[Tensor] = []  # of the last call: the embeddings, and the hidden states after each layer
        self.module.embed_tokens = _StreamedEmbedding(self.module.embed_tokens, table, self.states)
        for number, layer in enumerate(self.module.layers):
            self.module.layers[number] = _StreamedLayer(layer, part, f"{prefix}layers.{number}.", self.states)
        fill(self.module.norm, part, torch.float32, f"{prefix}norm.")

    @property
    def vocabulary(self) -> int:
        """Number of different tokens."""
        return int(self.module.config.vocab_size)

    def __call__(self, **inputs: Tensor) -> Tensor:
        """The last hidden state."""
        self.states.clear()
        with torch.no_grad():
            found: Tensor = self.module(**inputs, use_cache=False).last_hidden_state
        return found


class _StreamedLayer(nn.Module):  # type: ignore[misc]
    """A layer that has weights only while it runs."""

    def __init__(self, layer: nn.Module, part: Component, prefix: str, states: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.part, self.prefix, self.states = layer, part, prefix, states

    def forward(self, *inputs: Any, **options: Any) -> Any:
        layer = copy.deepcopy(self.layer)
        fill(layer, self.part, torch.float32, self.prefix)
        found = layer(*inputs, **options)
        self.states.append(found[0] if isinstance(found, tuple) else found)
        return found


class _StreamedEmbedding(nn.Module):  # type: ignore[misc]
    """An embedding that reads the rows of its tokens."""

    def __init__(self, embedding: nn.Module, table: TensorRef, states: list[Tensor]) -> None:
        super().__init__()
        self.embedding, self.table, self.states = embedding, table, states

    def forward(self, ids: Tensor) -> Tensor:
        tokens, places = torch.unique(ids, return_inverse=True)
        rows = torch.cat([read_rows(self.table, token, token + 1) for token in tokens.tolist()])
        embedding = copy.deepcopy(self.embedding)
        embedding.weight = nn.Parameter(rows.float(), requires_grad=False)
        found: Tensor = embedding(places)
        self.states.append(found)
        return found


def streams(part: Component) -> bool:
    """Whether a text encoder's class and weights are such that it can run layer by layer."""
    if part.class_name not in STREAMED or part.weights is None:
        return False
    table = part.weights.tensors.get(_TABLE) or part.weights.tensors.get(f"model.{_TABLE}")
    return table is not None and table.dtype in DTYPES


def layer_parameters(part: Component) -> int:
    """Number of weights in the largest layer."""
    assert part.weights
    counts: dict[str, int] = {}
    for name, ref in part.weights.tensors.items():
        if hit := _LAYER.match(name):
            counts[hit[0]] = counts.get(hit[0], 0) + ref.count
    return max(counts.values(), default=0)
