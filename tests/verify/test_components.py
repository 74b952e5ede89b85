"""Text encoders are compared layer by layer, and the layer at fault is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.verify.components import compare_component
from sanac.verify.onnx_candidates import open_candidates
from sanac.verify.streamed_graph import graph_model, plan_run, run_graph

Change = Callable[[onnx.GraphProto], None]


def test_hidden_states_of_the_graph_are_named(tiny_graphs: Path) -> None:
    path = tiny_graphs / "text_encoder" / "model.onnx"
    run = plan_run(path, small=0)
    assert len(run.pieces) == 4, "embeddings, two layers, and the norm"
    model, ids = graph_model(path), torch.arange(14).view(2, 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seen = ("embed_tokens", "layers.0", "layers.1")
    (whole,), (streamed,) = (run_graph(path, model, pieces, [inputs], seen) for pieces in ((), run.pieces))
    assert whole.keys() == streamed.keys() == {*seen, "last_hidden_state"}
    assert all(torch.allclose(whole[name], streamed[name], atol=1e-5) for name in whole)


@pytest.mark.parametrize("streamed", [True, False])
def test_the_layer_at_fault_is_named(tiny_graphs: Path, tmp_path: Path, streamed: bool) -> None:
    def compared(folder: Path) -> tuple[bool, str]:
        graph = open_candidates(open_model(locate(str(folder))))["text_encoder"]
        run = plan_run(graph.path, small=0 if streamed else 10**9)
        model = open_model(locate(str(tiny_graphs)))
        check, where = compare_component("text_encoder", graph, run, model, model, None)
        assert check
        return check.passed, where

    assert compared(tiny_graphs) == (True, "")
    copy = Path(shutil.copytree(tiny_graphs, tmp_path / "copy"))
    (copy / "sanac.json").unlink()
    path = copy / "text_encoder" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.input[:] = [name.replace("layers.1.mlp.up_proj.w", "layers.0.mlp.up_proj.w") for name in node.input]
    path.write_bytes(model.SerializeToString())
    assert compared(copy) == (False, "the text_encoders differ from layer 1 on")
