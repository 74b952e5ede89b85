"""Tracing without what costs time: the graph is the same, and torch is as it was afterwards."""

import json
from pathlib import Path

import pytest
import torch
from torch._dynamo import config as dynamo
from torch.fx import config as fx
from torch.onnx._internal.exporter._registration import ONNXRegistry

from sanac.core.checkpoint.locate import locate
from sanac.export.components import decoder, encoder
from sanac.export.graph import completed, serialized, translated
from sanac.export.tracing import OWN, light_tracing


def config() -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(locate("sanac:tiny").path, "vae", "config.json").read_text())
    return found


def test_the_graph_is_the_same() -> None:
    def graph() -> bytes:
        return serialized(completed(translated(decoder(config(), torch.float32)), range(1)))

    plain = graph()
    with light_tracing():
        assert graph() == plain
        assert graph() == plain, "with operators of the exporter that were read before"


def test_torch_is_as_it_was() -> None:
    def switches() -> tuple[object, ...]:
        return dynamo.fake_tensor_cache_enabled, fx.do_not_emit_stack_traces, vars(ONNXRegistry)["from_torchlib"]

    before = switches()
    with pytest.raises(ValueError, match="tracing failed"), light_tracing():
        assert switches() != before
        raise ValueError("tracing failed")
    assert switches() == before


def test_no_mark_is_left_of_the_image_s_sides() -> None:
    with light_tracing():
        traced = encoder(config(), torch.float32)
        model = translated(traced)
    assert not any(node.domain == OWN for node in model.graph)
    assert OWN not in model.opset_imports
    assert [str(size) for size in model.graph.inputs[0].shape or ()] == ["batch", "3", "16*rows", "16*columns"]
