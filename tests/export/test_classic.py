"""Classic TensorRT's path, against a STAND-IN of its API (tests/standins): what is called, never what TensorRT does."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanac.core.engines import check_file
from tests.conftest import Sanac

STANDINS = Path(__file__).parent.parent / "standins"
COMPONENT = ("--component", "transformer", "--precision", "fp32")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that looks as if it had an sm89 and classic TensorRT; the file in which calls are noted."""
    from sanac.export import engines
    from sanac.runtime import tensorrt
    from sanac.verify import graphs

    for module in (engines, tensorrt, graphs):
        monkeypatch.setattr(module, "capability", lambda: 89)
    monkeypatch.setattr("sanac.nn.device.capability", lambda: 89)
    monkeypatch.setattr(graphs, "where_executed", lambda: "executed on a stand-in")
    monkeypatch.setattr("sanac.verify.whole.where_executed", lambda: "executed on a stand-in")
    opened = tensorrt.Engine.__init__
    monkeypatch.setattr(tensorrt.Engine, "__init__", lambda self, path: opened(self, path, "cpu"))
    monkeypatch.syspath_prepend(STANDINS)
    monkeypatch.setenv("PYTHONPATH", str(STANDINS))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    calls = tmp_path / "calls.jsonl"
    monkeypatch.setenv("TENSORRT_CALLS", str(calls))
    yield calls
    sys.modules.pop("tensorrt", None)


def noted(calls: Path, name: str) -> list[list[str]]:
    return [line[1:] for line in map(json.loads, calls.read_text().splitlines()) if line[0] == name]


def test_built_verified_and_run(sanac: Sanac, gpu: Path) -> None:
    """`auto` takes classic TensorRT where it and a GPU are; what was exported is run and compared at once."""
    assert sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "two").code == 0
    ran = sanac("export", "two", *COMPONENT, "--in-place", "--trt", "--timing-cache", "timings", "--json")
    assert ran.code == 0, ran.err
    (record,) = ran.json["engines"]
    assert record["engine"] == "model.fp32.tensorrt-10.99.0.1.sm89.engine"
    assert ran.json["verify_trt"]["passed"] is True
    assert ran.json["verify_trt"]["notes"] == ["executed on a stand-in"]
    assert noted(gpu, "network") == [["2"]], "strongly typed"
    assert len(noted(gpu, "shape")) == 4
    assert len(noted(gpu, "execute")) == 11 + 12, "cases, and the steps of four pictures"
    assert Path("timings").read_bytes() == b"timed"
    report = json.loads(Path("two/measurements/verify-trt.json").read_text())
    assert all(case["blocks"] == [] for case in report["parity"]["cases"]), "nobody sees inside"
    assert "the same function" in sanac("inspect", "two").out
    again = sanac("verify", "two", "--against", "two", "--backend", "trt", "--pictures", "0")
    assert (again.code, "the same function" in again.out) == (0, True), again.err
    other = sanac("verify", "two", "--against", "sanac:tiny", "--backend", "trt", "--pictures", "1", "--json")
    assert (other.code, other.json["passed"]) == (5, False)


def test_new_weights_for_an_engine(sanac: Sanac, gpu: Path) -> None:
    for name, keep in (("two", "0-1"), ("others", "3,7"), ("three", "0-2")):
        assert sanac("prune", "sanac:tiny", "--keep", keep, "--out", name).code == 0
    export = (*COMPONENT, "--in-place", "--trt", "--no-verify")
    assert sanac("export", "two", *export).code == 0
    (plain,) = Path("two/transformer").glob("*.engine")
    refused = sanac("export", "others", *export, "--refit-from", plain)
    assert (refused.code, "built without --refit" in refused.err) == (2, True), refused.err
    assert sanac("export", "two", *export, "--refit", "--force").code == 0
    assert ["REFIT"] in noted(gpu, "flag")
    ran = sanac("export", "others", *export, "--refit-from", plain, "--json")
    assert ran.code == 0, ran.err
    assert len(noted(gpu, "refit")) == 1
    (record,) = ran.json["engines"]
    assert record["structure"] == check_file(plain).structure
    assert record["weights"] != dict(check_file(plain).weights)
    right = sanac("verify", "others", "--against", "others", "--backend", "trt", "--pictures", "0")
    assert right.code == 0, "it has the other model's weights now"
    other = sanac("export", "three", *export, "--refit-from", plain)
    assert (other.code, "another graph" in other.err) == (2, True), other.err
    assert not list(Path("three").rglob("*.engine*"))


def test_an_engine_of_other_weights_or_another_version(
    sanac: Sanac, gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "two").code == 0
    assert sanac("export", "two", *COMPONENT, "--in-place", "--trt", "--no-verify").code == 0
    verify = ("verify", "two", "--against", "two", "--backend", "trt", "--pictures", "0")
    (path,) = Path("two/transformer").glob("*.engine")
    record = json.loads(path.with_suffix(".json").read_text())
    for change, code, said in (
        ({"weights": {"diffusion_pytorch_model.safetensors": "0" * 64}}, 3, "other weights"),
        ({"version": "10.98.0.0"}, 4, "another version"),
        ({"capabilities": [86]}, 4, "another GPU"),
    ):
        path.with_suffix(".json").write_text(json.dumps(record | change))
        found = sanac(*verify)
        assert (found.code, said in found.err) == (code, True), found.err


def test_shapes_outside_its_range(sanac: Sanac, gpu: Path) -> None:
    from sanac.core.errors import Misuse
    from sanac.runtime.tensorrt import Engine

    assert sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "two").code == 0
    assert sanac("export", "two", *COMPONENT, "--in-place", "--trt", "--no-verify", "--batch", "1").code == 0
    (path,) = Path("two/transformer").glob("*.engine")
    engine = Engine(path)
    given = {
        "hidden_states": torch.zeros(2, 16, 4, 4),
        "encoder_hidden_states": torch.zeros(2, 5, 64),
        "encoder_attention_mask": torch.ones(2, 5),
        "timestep": torch.zeros(2),
    }
    assert engine(**given)[0].shape == (2, 16, 4, 4)
    with pytest.raises(Misuse, match="not built for this shape") as caught:
        engine(**given | {"hidden_states": torch.zeros(2, 16, 4, 40)})
    assert "[1, 16, 2, 2] to [2, 16, 8, 8]" in caught.value.why


def test_kernels_are_compiled_once(sanac: Sanac, gpu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TensorRT-RTX's way to run, with the same stand-in in its place."""
    import tensorrt

    from sanac.runtime import tensorrt as running

    assert sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "two").code == 0
    assert sanac("export", "two", *COMPONENT, "--in-place", "--trt", "--no-verify").code == 0
    (path,) = Path("two/transformer").glob("*.engine")
    record = replace(check_file(path), builder="rtx")
    monkeypatch.setattr(running, "check_file", lambda _: record)
    monkeypatch.setattr(running, "bindings", lambda _: tensorrt)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = {
        "hidden_states": torch.zeros(1, 16, 4, 4),
        "encoder_hidden_states": torch.zeros(1, 5, 64),
        "encoder_attention_mask": torch.ones(1, 5),
        "timestep": torch.zeros(1),
    }
    running.Engine(path)(**given)
    assert noted(gpu, "kernels") == []
    (kept,) = (tmp_path / "cache/sanac/rtx").iterdir()
    assert kept.read_bytes() == b"compiled"
    running.Engine(path)(**given)
    assert noted(gpu, "kernels") == [[str(b"compiled")]]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "Builder",
            "create_network create_builder_config create_optimization_profile build_serialized_network_to_stream",
        ),
        ("INetworkDefinition", "num_inputs get_input num_outputs get_output"),
        (
            "IBuilderConfig",
            "set_flag progress_monitor add_optimization_profile create_timing_cache set_timing_cache get_timing_cache",
        ),
        ("OnnxParser", "load_model_proto load_initializer parse_model_proto num_errors get_error"),
        ("OnnxParserRefitter", "load_model_proto load_initializer refit_model_proto num_errors get_error"),
        ("Refitter", "refit_cuda_engine"),
        ("Runtime", "deserialize_cuda_engine"),
        (
            "ICudaEngine",
            "create_execution_context create_serialization_config serialize_with_config create_runtime_config",
        ),
        ("ICudaEngine", "weight_streaming_budget_v2 get_weight_streaming_automatic_budget"),
        ("IRuntimeConfig", "create_runtime_cache set_runtime_cache"),
        ("IRuntimeCache", "serialize deserialize"),
        ("IExecutionContext", "set_input_shape set_tensor_address get_tensor_shape execute_async_v3"),
        ("IProgressMonitor", "phase_start step_complete phase_finish"),
        ("IStreamWriter", "write"),
        ("BuilderFlag", "REFIT WEIGHT_STREAMING"),
        ("SerializationFlag", "INCLUDE_REFIT"),
    ],
)
def test_the_real_bindings_have_these_names(kind: str, names: str) -> None:
    """What is called of either builder, in that of the two which installs here."""
    trt = pytest.importorskip("tensorrt_rtx")
    assert [name for name in names.split() if not hasattr(getattr(trt, kind), name)] == []


def test_only_for_the_gpu_that_is_there(sanac: Sanac, gpu: Path) -> None:
    ran = sanac("export", "sanac:tiny", "--trt", "--builder", "tensorrt", "--sm", "86", "--out", "o")
    assert (ran.code, "sm86" in ran.err) == (2, True), ran.err
    shutil.rmtree("o.partial", ignore_errors=True)
