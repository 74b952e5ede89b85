"""`sanac export` and `sanac verify`: from a model to graphs that are proven equal, and a no where they aren't."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import onnx
import pytest
from PIL import Image

from sanac.core.checkpoint.locate import locate
from sanac.core.file_copy import digest_file
from tests.conftest import Sanac


def test_export_verifies_what_it_wrote(sanac: Sanac) -> None:
    ran = sanac("export", "sanac:tiny", "--precision", "fp32", "--out", "exported", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["status"] == "ok"
    assert ran.json["verify"]["passed"] is True
    names = {figure["name"] for figure in ran.json["verify"]["figures"]}
    assert {"vae_decoder, relative error", "text_encoder, relative error", "pictures, PSNR in dB, the least"} <= names
    report = json.loads(Path("exported/measurements/verify-onnx.json").read_text())
    assert report["passed"]
    assert all(len(case["blocks"]) == 12 for case in report["parity"]["cases"])
    metrics = json.loads(Path("exported/measurements/metrics.json").read_text())
    assert metrics["verify-onnx/relative_error_at_worst"] < 1e-4
    again = sanac("export", "sanac:tiny", "--precision", "fp32", "--out", "exported", "--no-verify", "--json")
    assert again.json["status"] == "cached"
    sheet = Path("exported/measurements/verify-onnx.png")
    with Image.open(sheet) as image:
        assert image.width > 2 * 256
        assert image.height > 4 * 256, "four pairs"
    ended = sanac("export", "sanac:tiny", "--precision", "fp32", "--out", "exported")
    assert f"the images, side by side: {sheet}" in ended.out
    python, command = ended.out.splitlines()[-2:]
    assert python.endswith('sanac.load_pipeline("exported", backend="onnx")("a red circle").images[0]')
    typed = shlex.split(command.partition(": sanac ")[2])
    assert sanac(*typed, "--steps", "1", "--out", "typed").code == 0, "it can be typed as it is shown"

    shown = sanac("verify", "exported", "--against", "sanac:tiny", "--pictures", "0")
    assert (shown.code, "the same function" in shown.out) == (0, True)
    assert "side by side" not in shown.out
    assert not sheet.exists(), "no images were compared"
    strict = sanac("verify", "exported", "--against", "sanac:tiny", "--pictures", "0", "--limit", "1e-12")
    assert (strict.code, "would pass" in strict.out) == (5, True)
    pictures = sanac("generate", "exported", "a red circle", "--steps", "2", "--out", "pictures")
    assert pictures.code == 0, "it still is a pipeline"

    graph = Path("exported/transformer/model.onnx")
    model = onnx.load(graph, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and "blocks/3/" in node.name:
            next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = 0.5
    shutil.copytree("exported", "edited", ignore=shutil.ignore_patterns("sanac.json"))
    Path("edited/transformer/model.onnx").write_bytes(model.SerializeToString())
    found = sanac("verify", "edited", "--against", "sanac:tiny", "--pictures", "0")
    assert (found.code, "they differ from block 3 on" in found.out) == (5, True), found.out

    graph.write_bytes(model.SerializeToString())
    changed = sanac("verify", "exported", "--against", "sanac:tiny", "--pictures", "0")
    assert (changed.code, "changed after it was sealed" in changed.err) == (3, True), changed.err


def test_in_place(sanac: Sanac) -> None:
    """The same artifact, with graphs; weights are neither copied nor touched, and are looked at when it is verified."""
    cut = ("prune", "sanac:tiny", "--keep", "0-1", "--out", "less")
    assert sanac(*cut).code == 0
    weights = Path("less/transformer/diffusion_pytorch_model.safetensors")
    before = weights.stat().st_ino, weights.stat().st_mtime_ns
    export = ("export", "less", "--in-place", "--component", "transformer", "--precision", "fp32")
    planned = sanac(*export, "--dry-run")
    assert (planned.code, "would add transformer/model.onnx to" in planned.out) == (0, True), planned.err
    ran = sanac(*export, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["status"], ran.json["out"]) == ("ok", str(Path("less").absolute()))
    assert ran.json["added"] == ["transformer/model.onnx"]
    assert ran.json["verify"]["passed"] is True
    assert sanac(*export, "--no-verify", "--json").json["status"] == "cached"
    assert sanac(*cut, "--json").json["status"] == "cached", "it still is what was pruned"
    assert "graphs: transformer/model.onnx" in sanac("inspect", "less", "--scan").out
    assert before == (weights.stat().st_ino, weights.stat().st_mtime_ns)
    assert sanac("verify", "less", "--against", "less", "--pictures", "0").code == 0
    stray = Path(shutil.copytree("less", "stray"), "text_encoder", "model.onnx")
    shutil.copy("less/transformer/model.onnx", stray)
    shutil.copy(weights, stray.parent)
    added = sanac("verify", "stray", "--against", "less", "--pictures", "0")
    assert (added.code, "added" in added.err) == (3, True), added.err
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    swapped = sanac("verify", "less", "--against", "sanac:tiny", "--pictures", "0")
    assert (swapped.code, "changed after it was sealed" in swapped.err) == (3, True), swapped.err


def test_a_part_alone_is_compared(sanac: Sanac) -> None:
    ran = sanac("export", "sanac:tiny", "--component", "text-encoder", "--out", "exported", "--json")
    assert ran.code == 0, ran.err
    found = ran.json["verify"]
    assert found["passed"]
    assert "text_encoder, relative error" in {figure["name"] for figure in found["figures"]}
    less = sanac("prune", "exported", "--keep", "0-1", "--out", "less")
    assert less.code == 0, less.err
    export = ("export", "less", "--in-place", "--component", "text-encoder")
    assert sanac(*export).code == 0
    other = sanac("verify", "less", "--against", "sanac:tiny", "--pictures", "1", "--json")
    assert other.code == 5, "its transformer has no graph, and is another"
    figures = {figure["name"]: figure["passed"] for figure in other.json["figures"]}
    assert not figures["relative error, at worst"]
    assert not figures["pictures, PSNR in dB, the least"], "painted with its own weights"


def test_nan_is_a_no_and_not_a_crash(sanac: Sanac) -> None:
    assert sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "less").code == 0
    export = ("export", "less", "--in-place", "--component", "transformer", "--precision", "fp32", "--no-verify")
    assert sanac(*export).code == 0
    shutil.copytree("less", "plain", ignore=shutil.ignore_patterns("sanac.json"))
    for folder in ("less", "plain"):
        graph = Path(folder, "transformer/model.onnx")
        model = onnx.load(graph, load_external_data=False)
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "LayerNormalization" and attribute.name == "epsilon":
                    attribute.f = float("nan")
        graph.write_bytes(model.SerializeToString())
    manifest = json.loads(Path("less/sanac.json").read_text())
    for file in manifest["files"]:
        if file["path"] == "transformer/model.onnx":
            file |= {"blake3": digest_file(graph), "size": graph.stat().st_size}
    Path("less/sanac.json").write_text(json.dumps(manifest))
    for folder in ("less", "plain"):
        found = sanac("verify", folder, "--against", folder, "--pictures", "1", "--json")
        assert (found.code, found.json["status"]) == (5, "failed"), found.err
        values = {figure["name"]: figure["value"] for figure in found.json["figures"]}
        assert values["relative error, at worst"] is None
        assert values["pictures, PSNR in dB, the least"] is None
    assert json.loads(Path("less/measurements/verify-onnx.json").read_text())["passed"] is False


def _renamed(model: onnx.ModelProto) -> None:
    model.graph.input[3].name = "time"
    for node in model.graph.node:
        node.input[:] = ["time" if name == "timestep" else name for name in node.input]


def _no_output(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def _two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("transformer_blocks.0", onnx.TensorProto.FLOAT, None))


def _double(model: onnx.ModelProto) -> None:
    model.graph.input[3].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "Frobnicate"


def test_graphs_that_clients_would_not_know(sanac: Sanac) -> None:
    export = ("export", "sanac:tiny", "--component", "transformer", "--no-verify", "--out")
    assert sanac(*export, "bf16").code == 0
    assert sanac(*export, "fp32", "--precision", "fp32").code == 0
    for name, change in (
        ("fp32", _renamed),
        ("fp32", _no_output),
        ("fp32", _two_outputs),
        ("fp32", _double),
        ("fp32", _unknown),
        ("bf16", _unknown),
        ("bf16", _no_output),
    ):
        shutil.rmtree("edited", ignore_errors=True)
        shutil.copytree(name, "edited", ignore=shutil.ignore_patterns("sanac.json"))
        graph = Path("edited/transformer/model.onnx")
        model = onnx.load(graph, load_external_data=False)
        change(model)
        graph.write_bytes(model.SerializeToString())
        found = sanac("verify", "edited", "--against", "sanac:tiny", "--pictures", "0", "--json")
        assert (found.code, found.json["status"]) == (3, "error"), (name, change, found.err)


def test_faults_of_a_bf16_graph_are_seen(sanac: Sanac) -> None:
    """What is compared is the file itself, widened: not what it should be."""
    assert sanac("export", "sanac:tiny", "--component", "transformer", "--no-verify", "--out", "exported").code == 0
    shutil.copytree("exported", "edited", ignore=shutil.ignore_patterns("sanac.json"))
    graph = Path("edited/transformer/model.onnx")
    model = onnx.load(graph, load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    key, value = (weights[f"transformer_blocks.5.attn1.to_{name}.weight"] for name in "kv")
    places = [next(entry for entry in one.external_data if entry.key == "offset") for one in (key, value)]
    places[0].value, places[1].value = places[1].value, places[0].value
    graph.write_bytes(model.SerializeToString())
    found = sanac("verify", "edited", "--against", "sanac:tiny", "--pictures", "0", "--json")
    assert found.code == 5, found.err
    assert found.json["parity"]["block"] == 5


def test_without_onnxruntime(sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is written; graphs are made all the same if they need not be compared."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = sanac("export", "sanac:tiny", "--component", "transformer", "--out", "exported")
    assert (ran.code, "pip install 'onnxruntime>=" in ran.err, Path("exported").exists()) == (4, True, False), ran.err
    ran = sanac("export", "sanac:tiny", "--component", "transformer", "--out", "exported", "--no-verify")
    assert ran.code == 0, ran.err
    assert Path("exported/transformer/model.onnx").exists()
    assert sanac("verify", "exported", "--against", "sanac:tiny", "--pictures", "0").code == 4


def test_in_bf16_it_says_what_was_compared(sanac: Sanac) -> None:
    ran = sanac("export", "sanac:tiny", "--component", "transformer", "--out", "exported")
    assert ran.code == 0, ran.err
    assert "converted to fp32" in ran.out
    assert "pictures, PSNR" in ran.out
    assert not Path("exported/vae_decoder").exists()


def test_verify_compares_torch_with_torch(sanac: Sanac, tmp_path: Path) -> None:
    shutil.copytree(locate("sanac:tiny").path / "transformer", tmp_path / "transformer")
    assert sanac("convert", tmp_path / "transformer", "--to", "nvlabs", "--out", "nvlabs").code == 0
    same = sanac("verify", "nvlabs/model.pth", "--against", "sanac:tiny", "--pictures", "0")
    assert same.code == 0, same.err
    assert sanac("prune", "sanac:tiny", "--keep", "0-4,6-11", "--out", "less").code == 0
    less = sanac("verify", "less", "--against", "sanac:tiny", "--json")
    assert less.code == 5
    assert less.json["status"] == "failed"
    assert less.json["parity"]["block"] == 5


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("verify sanac:tiny --against sanac:tiny --backend onnx", 2, "has no graph"),
        ("verify sanac:tiny --against nowhere", 2, "nowhere"),
        ("verify sanac:tiny --against sanac:tiny --limit 0", 2, "limit"),
        ("export sanac:tiny --component unet --out o", 2, "'unet', not one of transformer"),
        ("export sanac:tiny --precision int8 --out o", 2, "int8"),
        ("export sanac:tiny --in-place", 2, "not an artifact"),
        ("export sanac:tiny --in-place --out o", 2, "--out applies to a copy"),
        ("export sanac:tiny --out o --link", 2, "--link can't be combined"),
        (
            "export sanac:tiny --out o --component vae --depthwise fp16",
            2,
            "--depthwise only applies to the transformer",
        ),
    ],
)
def test_mistakes(sanac: Sanac, words: str, code: int, said: str) -> None:
    ran = sanac(*words.split())
    assert (ran.code, said in ran.err) == (code, True), ran.err


def test_a_dry_run_writes_nothing(sanac: Sanac) -> None:
    ran = sanac("export", "sanac:tiny", "--out", "exported", "--dry-run")
    assert ran.code == 0
    assert not Path("exported").exists()
