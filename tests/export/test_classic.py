"""Classic TensorRT's path, against a STAND-IN of its API (tests/standins): what is called, never what TensorRT does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanac.cli.app import run
from sanac.core.artifact.engine_record import NEVER, check_file
from sanac.core.file_copy import digest_file
from tests.conftest import Sanac

STANDINS = Path(__file__).parent.parent / "standins"
COMPONENT = ("--component", "transformer", "--precision", "fp32")
EXPORT = (*COMPONENT, "--in-place", "--trt", "--no-verify")


def pretend(patch: pytest.MonkeyPatch, calls: Path) -> None:
    """A machine that looks as if it had an sm89 and classic TensorRT, and notes what is called."""
    from sanac.export import engine_plan
    from sanac.runtime import tensorrt_engine

    for module in (engine_plan, tensorrt_engine):
        patch.setattr(module, "capability", lambda: 89)
    patch.setattr("sanac.nn.device.capability", lambda: 89)
    patch.setattr("sanac.verify.engine_candidates.where_executed", lambda: "executed on a stand-in")
    opened = tensorrt_engine.TensorrtEngine.__init__
    patch.setattr(tensorrt_engine.TensorrtEngine, "__init__", lambda self, path: opened(self, path, "cpu"))
    patch.syspath_prepend(STANDINS)
    patch.setenv("PYTHONPATH", str(STANDINS))
    patch.delitem(sys.modules, "tensorrt", raising=False)
    patch.setenv("TENSORRT_CALLS", str(calls))


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which calls are noted."""
    pretend(monkeypatch, tmp_path / "calls.jsonl")
    yield tmp_path / "calls.jsonl"
    sys.modules.pop("tensorrt", None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of sanac:tiny with an engine."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, folder / "calls.jsonl")
        out, ws = str(folder / "two"), ("--workspace", str(folder / "ws"))
        assert run(["prune", "sanac:tiny", "--keep", "0-1", "--out", out, *ws]) == 0
        assert run(["export", out, *EXPORT, *ws]) == 0
    sys.modules.pop("tensorrt", None)
    return Path(out)


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


def test_new_weights_for_an_engine(sanac: Sanac, gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, keep in (("two", "0-1"), ("others", "3,7"), ("three", "0-2")):
        assert sanac("prune", "sanac:tiny", "--keep", keep, "--out", name).code == 0
    assert sanac("export", "two", *EXPORT).code == 0
    (plain,) = Path("two/transformer").glob("*.engine")
    refused = sanac("export", "others", *EXPORT, "--refit-from", plain)
    assert (refused.code, "built without --refit" in refused.err) == (2, True), refused.err
    assert sanac("export", "two", *EXPORT, "--refit", "--force").code == 0
    assert ["REFIT"] in noted(gpu, "flag")
    ran = sanac("export", "others", *EXPORT, "--refit-from", plain, "--json")
    assert ran.code == 0, ran.err
    assert len(noted(gpu, "refit")) == 1
    (record,) = ran.json["engines"]
    assert record["structure"] == check_file(plain).structure
    assert record["weights"] != dict(check_file(plain).weights)
    right = sanac("verify", "others", "--against", "others", "--backend", "trt", "--pictures", "0")
    assert right.code == 0, "it has the other model's weights now"
    other = sanac("export", "three", *EXPORT, "--refit-from", plain)
    assert (other.code, "another graph" in other.err) == (3, True), other.err
    apart = sanac("export", "three", *COMPONENT, "--trt", "--no-verify", "--refit-from", plain, "--out", "apart")
    assert (apart.code, Path("apart.partial").exists()) == (3, False), apart.err
    idle = sanac("export", "others", *EXPORT, "--refit-from", plain, "--sm", "120", "--batch", "2")
    assert (idle.code, "--sm is fixed in" in idle.err, "--batch is fixed in" in idle.err) == (2, True, True), idle.err
    empty = sanac("export", "others", *EXPORT, "--refit-from", "")
    assert (empty.code, "not a path" in empty.err) == (2, True), empty.err
    monkeypatch.chdir(plain.parent)
    beside = sanac("export", "../../others", *EXPORT, "--refit-from", plain.name, "--force")
    assert beside.code == 0, beside.err
    monkeypatch.chdir("../..")
    assert not list(Path("three").rglob("*.engine*"))


@pytest.fixture
def two(sanac: Sanac, gpu: Path, built: Path) -> Path:
    """The engine of a copy."""
    shutil.copytree(built, "two")
    (path,) = Path("two/transformer").glob("*.engine")
    return path


def reseal(path: Path) -> None:
    """As if the file had been sealed like this."""
    manifest = json.loads(Path("two/sanac.json").read_text())
    for file in manifest["files"]:
        if file["path"] == f"transformer/{path.name}":
            file |= {"blake3": digest_file(path), "size": path.stat().st_size}
    Path("two/sanac.json").write_text(json.dumps(manifest))


TINY = {"least": [1], "best": [1], "most": [1], "dtype": "float"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"weights": {"diffusion_pytorch_model.safetensors": "0" * 64}}, 3, "other weights"),
        ({"weights": {"../../two/sanac.json": "0" * 64}}, 3, "other weights"),
        ({"version": "10.98.0.0"}, 4, "another version"),
        ({"capabilities": [86]}, 4, "another GPU"),
        ({"inputs": {}}, 3, "can't be compared"),
        ({"inputs": {"timestep": TINY}}, 3, "can't be compared"),
        ({"outputs": {}}, 3, "can't be compared"),
        ({"outputs": {"out_hidden_states": "int8"}}, 3, "can't be compared"),
        ({"outputs": {"out_hidden_states": "half"}}, 3, "doesn't match its record"),
    ],
)
def test_records_that_are_not_of_this_engine(
    sanac: Sanac, two: Path, change: dict[str, object], code: int, said: str
) -> None:
    """Edited they are refused for their seal; sealed like that, for what they say."""
    verify = ("verify", "two", "--against", "two", "--backend", "trt", "--pictures", "0")
    place = two.with_suffix(".json")
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    found = sanac(*verify)
    assert (found.code, "sealed" in found.err) == (3, True), found.err
    reseal(place)
    found = sanac(*verify)
    assert (found.code, said in found.err) == (code, True), found.err


def test_weights_swapped_and_engines_lost(sanac: Sanac, two: Path) -> None:
    verify = ("verify", "two", "--against", "sanac:tiny", "--backend", "trt", "--pictures", "0")
    weights = two.parent / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = sanac(*verify)
    assert (found.code, "other weights" in found.err) == (3, True), found.err
    two.unlink()
    found = sanac(*verify)
    assert (found.code, "missing" in found.err) == (3, True), found.err


@pytest.mark.parametrize("lost", [".log", ".json", ".engine"])
def test_what_was_lost_is_made_again_with_its_seals(sanac: Sanac, two: Path, lost: str) -> None:
    two.with_suffix(lost).unlink()
    ran = sanac("export", "two", *EXPORT, "--json")
    assert (ran.code, ran.json["status"]) == (0, "ok"), ran.err
    assert sanac("inspect", "two", "--scan").code == 0
    assert sanac("verify", "two", "--against", "two", "--backend", "trt", "--pictures", "0").code == 0
    assert sanac("export", "two", *EXPORT, "--json").json["status"] == "cached"


def test_only_what_was_run_is_called_executed(sanac: Sanac, two: Path) -> None:
    """Neither another engine of the same artifact nor a later one under the same name."""
    verify = ("verify", "two", "--against", "two", "--backend", "trt", "--pictures", "0", "--json")
    about = sanac(*verify).json["executed"][f"transformer/{two.name}"]
    assert (about["blake3"], about["where"]) == (digest_file(two), "executed on a stand-in")
    assert "tensorrt 10.99.0.1 for sm89" in about["built_with"]
    assert "executed on a stand-in: the same function" in sanac("inspect", "two").out
    ran = sanac("export", "two", *EXPORT, "--sm", "120", "--json")  # by TensorRT-RTX, for a GPU that isn't here
    assert (ran.code, "verify_trt" in ran.json) == (0, False), ran.err
    said = sanac("inspect", "two").out
    assert (said.count("executed on a stand-in"), said.count(NEVER)) == (1, 1)
    assert sanac("export", "two", *EXPORT, "--batch", "1..2").code == 0
    assert "executed on a stand-in" not in sanac("inspect", "two").out
    for broken in ("null", "5", '{"executed": 5}', '{"executed": {"x": 1}, "notes": 5}'):
        Path("two/measurements/verify-trt.json").write_text(broken)
        assert sanac("inspect", "two").code in {0, 3}, broken


def test_ahead_for_another_gpu_is_not_run_here(sanac: Sanac, two: Path) -> None:
    """What was built is written, and that it wasn't executed is no failure."""
    ran = sanac("export", "two", *COMPONENT, "--in-place", "--trt", "--sm", "120", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["verify"]["passed"] is True
    assert "verify_trt" not in ran.json


@pytest.mark.parametrize("sizes", [("--size", "96..128"), ("--batch", "3"), ("--batch", "5..6", "--size", "32..48")])
def test_pictures_of_the_sizes_that_an_engine_takes(sanac: Sanac, two: Path, sizes: tuple[str, ...]) -> None:
    ran = sanac("export", "two", *COMPONENT, "--in-place", "--trt", *sizes, "--json")
    assert ran.code == 0, ran.err
    names = {figure["name"] for figure in ran.json["verify_trt"]["figures"]}
    assert "pictures, PSNR in dB, the least" in names


def test_timings_of_another_version(sanac: Sanac, two: Path) -> None:
    Path("timings").write_bytes(b"of another version")
    ran = sanac("export", "two", *EXPORT, "--force", "--timing-cache", "timings", "-v")
    assert (ran.code, "starting an empty cache" in ran.err) == (0, True), ran.err
    assert Path("timings").read_bytes() == b"timed"
    ran = sanac("export", "two", *EXPORT, "--force", "--timing-cache", "nowhere/timings")
    assert (ran.code, "does not exist" in ran.err) == (2, True), ran.err


def test_a_graph_that_was_changed_is_not_built(sanac: Sanac, two: Path) -> None:
    graph = two.parent / "model.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data.replace(b"diffusion_pytorch_model.safetensors", b"/elsewhere/other.model.safetensors.", 1))
    ran = sanac("export", "two", *EXPORT, "--batch", "2")
    assert (ran.code, "in the graph's folder" in ran.err) == (3, True), ran.err
    graph.write_bytes(data[:-1] + b"!")
    ran = sanac("export", "two", *EXPORT, "--batch", "2")
    assert ran.code == 3, ran.err
    assert not list(Path("two").rglob("*.engine*")), "nothing that could be taken for one"


def test_a_gpu_that_nobody_knows(sanac: Sanac, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sanac.export import engine_plan

    monkeypatch.setattr(engine_plan, "capability", lambda: 70)
    ran = sanac("export", "two", *EXPORT)
    assert (ran.code, "doesn't support on sm70" in ran.err) == (2, True), ran.err


def test_the_builder_s_last_words(two: Path) -> None:
    """What it built counts, whatever a library says on the way out; a builder that nobody waits for ends."""
    from sanac.core.progress import NULL_REPORTER
    from sanac.export.engine_writer import _BuildLog, _listen

    code = 'print(\'{"built": {}, "peak": 1}\'); print(\'goodbye\'); print(\'{"log": "info", "text": "x"}\')'
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    told = _BuildLog([])
    assert _listen(process, told, 1, NULL_REPORTER) == {"built": {}, "peak": 1}
    assert told.lines == ["output: goodbye", "info: x"]
    task = {"parent": 1, "builder": "rtx", "graph": "", "out": "nothing", "capabilities": [], "sizes": {}}
    command = [sys.executable, "-P", "-m", "sanac.export.engine_builder"]
    ended = subprocess.run(command, input=json.dumps(task), text=True, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, Path("nothing").exists()) == (1, "", False)


def test_shapes_outside_its_range(sanac: Sanac, two: Path) -> None:
    from sanac.core.errors import UsageError
    from sanac.runtime.tensorrt_engine import TensorrtEngine

    assert sanac("export", "two", *EXPORT, "--batch", "1").code == 0
    engine = TensorrtEngine(two)
    given = {
        "hidden_states": torch.zeros(2, 16, 4, 4),
        "encoder_hidden_states": torch.zeros(2, 5, 64),
        "encoder_attention_mask": torch.ones(2, 5),
        "timestep": torch.zeros(2),
    }
    assert engine(**given)[0].shape == (2, 16, 4, 4)
    with pytest.raises(UsageError, match="not built for this shape") as caught:
        engine(**given | {"hidden_states": torch.zeros(2, 16, 4, 40)})
    assert "[1, 16, 2, 2] to [2, 16, 8, 8]" in caught.value.why


def test_kernels_are_compiled_once(two: Path, gpu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TensorRT-RTX's way to run, with the same stand-in in its place."""
    import tensorrt

    from sanac.runtime import tensorrt_engine as running

    path = two
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
    running.TensorrtEngine(path)(**given)
    assert noted(gpu, "kernels") == []
    (kept,) = (tmp_path / "cache/sanac/rtx").iterdir()
    assert kept.read_bytes() == b"compiled"
    running.TensorrtEngine(path)(**given)
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
