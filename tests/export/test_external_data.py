"""Weights that are stored in another dtype are cast: all of them, or the rows that are looked up."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from sanac.core.checkpoint.weights import open_folder
from sanac.export.external_data import link_external_data
from sanac.export.graph import serialized
from sanac.runtime.bf16_to_fp32 import looked_up, widened

FLOAT, BF16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16


def lookup(dtype: ir.DataType, *, added: bool) -> ir.Model:
    """Rows of a table; `added`: and the table itself, so that all of it is needed."""
    table = ir.Value(name="table", shape=ir.Shape([5, 2]), type=ir.TensorType(dtype))
    ids = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
    rows = ir.node("Gather", [table, ids], name="rows")
    rows.outputs[0].name, rows.outputs[0].type, rows.outputs[0].shape = "rows", ir.TensorType(dtype), None
    other = ir.node("ReduceMax", [table], {"keepdims": 0}, name="largest") if added else None
    last = ir.node("Add", [rows.outputs[0], other.outputs[0]], name="y") if other else ir.node("Neg", rows.outputs)
    last.outputs[0].name, last.outputs[0].type = "y", ir.TensorType(dtype)
    last.outputs[0].shape = ir.Shape(["n", 2])
    nodes = [node for node in (rows, other, last) if node]
    graph = ir.Graph([ids], last.outputs, nodes=nodes, name="lookup", opset_imports={"": 22})
    graph.initializers.add(table)
    return ir.Model(graph, ir_version=10)


def linked(folder: Path, dtype: ir.DataType, *, added: bool) -> tuple[Path, torch.Tensor]:
    values = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file({"table": values}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    model = lookup(dtype, added=added)
    found = open_folder(folder, folder)
    assert found
    link_external_data(model, found.tensors, folder)
    (folder / "model.onnx").write_bytes(serialized(model))
    return folder / "model.onnx", values


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("dtype", [FLOAT, BF16])
def test_a_table_is_not_cast_for_its_rows(dtype: ir.DataType, added: bool, tmp_path: Path) -> None:
    path, values = linked(tmp_path, dtype, added=added)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    if dtype == BF16:
        model = widened(model)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 1
    assert (casts[0].input[0] == "table") == added
    assert looked_up(model.graph) == (set() if added else {"table"})
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (found,) = session.run(None, {"ids": np.array([3, 0, 3])})
    rows = values.float()[[3, 0, 3]]
    assert np.array_equal(found, (rows + values.float().max() if added else -rows).numpy())
