"""`sanac export` and `sanac verify`: from a model to graphs that are proven equal, and a no where they aren't."""

import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest

from sanac.core.locate import locate
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

    shown = sanac("verify", "exported", "--against", "sanac:tiny", "--pictures", "0")
    assert (shown.code, "the same function" in shown.out) == (0, True)
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
    assert (found.code, "they part at block 3" in found.out) == (5, True), found.out

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
    assert found["parity"] is None
    assert next(figure["name"] for figure in found["figures"]) == "text_encoder, relative error"


def test_without_onnxruntime(sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is written; graphs are made all the same if they need not be compared."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = sanac("export", "sanac:tiny", "--component", "transformer", "--out", "exported")
    assert (ran.code, "sanac[cpu]" in ran.err, Path("exported").exists()) == (4, True, False), ran.err
    ran = sanac("export", "sanac:tiny", "--component", "transformer", "--out", "exported", "--no-verify")
    assert ran.code == 0, ran.err
    assert Path("exported/transformer/model.onnx").exists()
    assert sanac("verify", "exported", "--against", "sanac:tiny", "--pictures", "0").code == 4


def test_in_bf16_it_says_what_was_compared(sanac: Sanac) -> None:
    ran = sanac("export", "sanac:tiny", "--component", "transformer", "--out", "exported")
    assert ran.code == 0, ran.err
    assert "the same graphs in fp32" in ran.out
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
        ("export sanac:tiny --component unet --out o", 2, "no component"),
        ("export sanac:tiny --precision int8 --out o", 2, "int8"),
        ("export sanac:tiny --in-place", 2, "no artifact"),
        ("export sanac:tiny --in-place --out o", 2, "--out is about a copy"),
    ],
)
def test_mistakes(sanac: Sanac, words: str, code: int, said: str) -> None:
    ran = sanac(*words.split())
    assert (ran.code, said in ran.err) == (code, True), ran.err


def test_a_dry_run_writes_nothing(sanac: Sanac) -> None:
    ran = sanac("export", "sanac:tiny", "--out", "exported", "--dry-run")
    assert ran.code == 0
    assert not Path("exported").exists()
