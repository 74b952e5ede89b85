"""Translated graphs in the user's cache: hits, misses, and files that someone else wrote there."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.export import graph_cache
from sanac.export.graph_cache import memoised, restored, stored
from sanac.export.plan import graphs_of
from sanac.export.settings import ExportSettings
from tests.conftest import Sanac

KEY = "0" * 64


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of KEY in an empty cache, for a process that hasn't traced anything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(graph_cache, "_in_process", {})
    return tmp_path / "sanac" / "graphs" / f"{KEY}.graph"


def small() -> ir.Model:
    """y = (x + constant) * weight, the weight without values."""
    x, weight, constant = (ir.Value(name=name, shape=ir.Shape([2]), type=ir.TensorType(FLOAT)) for name in "xwc")
    constant.const_value = ir.tensor(np.ones(2, np.float32), name="c")
    added = ir.node("Add", [x, constant], name="added")
    product = ir.node("Mul", [added.outputs[0], weight], name="product")
    added.outputs[0].name, product.outputs[0].name = "sum", "y"
    graph = ir.Graph([x], product.outputs, nodes=[added, product], name="small", opset_imports={"": 22})
    for value in (weight, constant):
        graph.initializers.add(value)
    return ir.Model(graph, ir_version=10)


FLOAT = ir.DataType.FLOAT


def ask(traced: list[str]) -> ir.Model:
    """The graph by way of the memo; notes when it is traced."""
    return memoised(KEY, lambda: (traced.append("traced"), small())[1], lambda model: model)


def in_another_process() -> None:
    graph_cache._in_process.clear()


def test_traced_once(entry: Path) -> None:
    traced: list[str] = []
    graphs = [ask(traced), ask(traced)]
    in_another_process()
    graphs.append(ask(traced))
    assert traced == ["traced"]
    for graph in graphs:
        assert list(graph.graph.initializers) == ["w", "c"]
        assert [value.name for value in graph.graph.inputs] == ["x"]
        assert stored(graph) == stored(small())
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def sealed(body: bytes) -> bytes:
    """A hostile entry: its digest is right."""
    return graph_cache._head(KEY, body) + body


def edited(change: Callable[[onnx.ModelProto], object]) -> bytes:
    proto = onnx.ModelProto.FromString(stored(small()))
    change(proto)
    return sealed(proto.SerializeToString())


def _outside(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _too_large(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [1 << 40]


def _with_a_graph(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.name = "inside"


def _with_a_function(proto: onnx.ModelProto) -> None:
    proto.functions.add(name="own", domain="own")


def _in_no_order(proto: onnx.ModelProto) -> None:
    for entry in proto.graph.metadata_props:
        entry.value = "[" * 100_000 if entry.key == "initializers" else entry.value


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "nonsense": lambda: os.urandom(1000),
    "pickle": lambda: b"cos\nsystem\n(S'false'\ntR.",
    "nonsense, sealed": lambda: sealed(os.urandom(1000)),
    "nothing, sealed": lambda: sealed(b""),
    "truncated": lambda: sealed(stored(small()))[:-5],
    "a bit": lambda: sealed(stored(small()))[:-5] + b"!" + sealed(stored(small()))[-4:],
    "another key": lambda: sealed(stored(small())).replace(b"0" * 64, b"1" * 64),
    "values elsewhere": lambda: edited(_outside),
    "larger than its bytes": lambda: edited(_too_large),
    "a graph inside": lambda: edited(_with_a_graph),
    "functions": lambda: edited(_with_a_function),
    "weights in no order": lambda: edited(_in_no_order),
    "a weight missing": lambda: edited(lambda proto: proto.graph.input.pop()),
    "no graph": lambda: edited(lambda proto: proto.ClearField("graph")),
    "a loop": lambda: edited(lambda proto: proto.graph.node[0].input.__setitem__(0, "y")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_can_not_be_used_is_traced_again(entry: Path, name: str) -> None:
    entry.parent.mkdir(parents=True)
    entry.write_bytes(HOSTILE[name]())
    traced: list[str] = []
    found = memoised(KEY, lambda: (traced.append("traced"), small())[1], complete)
    assert (traced, stored(found)) == (["traced"], stored(small()))
    assert entry.read_bytes() == sealed(stored(small())), "and replaced"


def complete(model: ir.Model) -> ir.Model:
    """As naming nodes and weights does, it looks at all."""
    assert [node.op_type for node in model.graph] == ["Add", "Mul"]
    first = model.graph.node(0).inputs[0]
    assert first is not None
    assert first.producer() is None
    return model


def test_an_error_in_tracing_is_an_error(entry: Path) -> None:
    with pytest.raises(ValueError, match="its config"):
        memoised(KEY, lambda: (_ for _ in ()).throw(ValueError("its config")), lambda model: model)
    assert not entry.exists()


def test_a_cache_that_can_not_be_written(entry: Path) -> None:
    entry.parent.parent.parent.joinpath("sanac").write_text("a file")
    traced: list[str] = []
    ask(traced)
    in_another_process()
    assert stored(ask(traced)) == stored(small())
    assert traced == ["traced"] * 2


def test_a_pipe_in_its_place_is_not_waited_for(entry: Path) -> None:
    entry.parent.mkdir(parents=True)
    os.mkfifo(entry)
    assert stored(ask([])) == stored(small())


def test_the_longest_unused_go(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "_KEPT", 2)
    for number, name in enumerate("abc"):
        memoised(name, small, lambda model: model)
        os.utime(entry.parent / f"{name}.graph", (number, number))
    assert sorted(path.stem for path in entry.parent.iterdir()) == ["b", "c"]


def how(precision: str, depthwise: str | None) -> ExportSettings:
    return ExportSettings(component=("transformer",), precision=precision, depthwise=depthwise)


def test_depth_is_not_part_of_the_key(sanac: Sanac) -> None:
    """Precision and the rest of a config are."""
    assert sanac("prune", "sanac:tiny", "--keep", "3,7", "--out", "two").code == 0
    keys = {
        (name, precision, depthwise): graph._trace_key(locate(name).path / "transformer", precision)
        for name in ("sanac:tiny", "two")
        for precision, depthwise in (("fp32", None), ("fp16", None), ("fp16", "fp32"))
        for graph in graphs_of(
            open_model(locate(name)),
            ExportSettings(component=("transformer",), precision=precision, depthwise=depthwise),
        )
    }
    assert len(keys) == 6
    assert len(set(keys.values())) == 3
    assert keys["two", "fp16", "fp32"] == keys["sanac:tiny", "fp16", "fp32"]


def test_a_stored_graph_is_what_it_was() -> None:
    model = small()
    assert stored(restored(stored(model))) == stored(model)
    assert [value.name for value in model.graph.inputs] == ["x"]
