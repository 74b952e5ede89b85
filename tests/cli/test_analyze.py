"""`sanac analyze` and `sanac prune --target-blocks` as their user runs them."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Sanac

FEW = ("--num-prompts", "3", "--timesteps", "3")


def test_scores_table_file_and_pictures(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    ran = sanac("analyze", pipeline, *FEW, "--out", tmp_path / "a")
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.out.splitlines()[:7]] == ["block", "0", "1", "2", "3", "4", "5"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["bi.png", "bi.svg", "scores.json"]
    assert Image.open(tmp_path / "a" / "bi.png").size[0] > 400
    found = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert {name: len(entries) for name, entries in found["metrics"].items()} == {"bi": 6, "norm": 6}
    assert all(len(entry["by_step"]) == 3 for entry in found["metrics"]["bi"])
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in found["metrics"]["norm"])


def test_twice_is_once_and_the_same(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    first = sanac("analyze", pipeline, *FEW, "--json")
    again = sanac("analyze", pipeline, *FEW, "--json")
    other = sanac("analyze", pipeline, *FEW, "--json", "--out", tmp_path / "elsewhere")
    assert (first.json["status"], again.json["status"], other.json["status"]) == ("ok", "cached", "ok")
    assert first.json["metrics"] == again.json["metrics"] == other.json["metrics"]
    assert sanac("analyze", pipeline, *FEW, "--seed", "1", "--json").json["metrics"] != first.json["metrics"]


def test_chunks_of_prompts_change_nothing(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    whole = sanac("analyze", pipeline, *FEW, "--json").json
    chunked = sanac("analyze", pipeline, *FEW, "--json", "--memory-limit", "4MB", "--out", tmp_path / "c")
    assert chunked.code == 0, chunked.err
    for one, other in zip(whole["metrics"]["bi"], chunked.json["metrics"]["bi"], strict=True):
        assert other["value"] == pytest.approx(one["value"], rel=1e-4)
    tight = sanac("analyze", pipeline, *FEW, "--memory-limit", "1MB", "--out", tmp_path / "t")
    assert tight.code == 2
    assert "--memory-limit" in tight.err


def test_a_killed_run_continues_to_the_same_file(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    long = ("--num-prompts", "12", "--timesteps", "40", "--memory-limit", "4MB")
    arguments = ["analyze", str(pipeline), *long, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-m", "sanac", *arguments], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "killed").glob("prompts-*.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() != 0
    assert not (tmp_path / "killed" / "scores.json").exists()
    assert sanac(*arguments).code == 0
    assert sanac("analyze", pipeline, *long, "--out", tmp_path / "whole").code == 0
    assert (tmp_path / "killed" / "scores.json").read_bytes() == (tmp_path / "whole" / "scores.json").read_bytes()


def test_pruning_by_importance_keeps_the_best(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    scored = sanac("analyze", pipeline, *FEW, "--json").json
    values = [entry["value"] for entry in scored["metrics"]["bi"]]
    expected = sorted(sorted(range(6), key=lambda index: -values[index])[:3])
    measured = sanac("prune", pipeline, "--target-blocks", "3", *FEW, "--json")
    from_file = sanac(
        "prune", pipeline, "--target-blocks", "3", "--scores", Path(scored["out"]) / "scores.json", "--json"
    )
    for ran in (measured, from_file):
        assert [entry["keep"] for entry in ran.json["plan"]["blocks"]] == expected
    assert (measured.json["status"], from_file.json["status"]) == ("ok", "cached")
    assert measured.json["out"] == from_file.json["out"]


def test_protected_blocks_stay(sanac: Sanac, pipeline: Path) -> None:
    ran = sanac(
        "prune", pipeline, "--target-blocks", "2", "--protect-first", "1", "--protect-last", "1", *FEW, "--json"
    )
    assert [entry["keep"] for entry in ran.json["plan"]["blocks"]] == [0, 5]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing says which blocks stay"),
        (("--target-blocks", "3", "--keep", "0-2"), "contradict"),
        (("--target-blocks", "0"), "not between 1 and 6"),
        (("--target-blocks", "7"), "not between 1 and 6"),
        (("--target-blocks", "2.5"), "2.5"),
        (("--target-params", "many"), "no number"),
        (("--target-blocks", "2", "--protect-first", "3"), "don't fit into 2"),
        (("--target-blocks", "3", "--num-prompts", "999"), "100"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str, sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    if says == "100":  # the shapes world has prompts enough; a file doesn't
        (tmp_path / "few.txt").write_text("a circle\n")
        arguments, says = (*arguments, "--prompts", str(tmp_path / "few.txt")), "few.txt holds 1"
    ran = sanac("prune", pipeline, *arguments, "--out", tmp_path / "out")
    assert ran.code == 2
    assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_scores_of_another_model_are_refused(sanac: Sanac, pipeline: Path, sharded: Path, tmp_path: Path) -> None:
    sanac("analyze", pipeline, *FEW, "--out", tmp_path / "a")
    ran = sanac("prune", sharded, "--target-blocks", "3", "--scores", tmp_path / "a" / "scores.json")
    assert ran.code == 3
    assert "made for another model" in ran.err


def test_nan_is_named(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    import safetensors.torch

    broken = tmp_path / "broken"
    shutil.copytree(pipeline, broken)
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["transformer_blocks.4.ff.conv_point.weight"][0] = float("nan")
    safetensors.torch.save_file(tensors, path)
    ran = sanac("analyze", broken, *FEW, "--out", tmp_path / "out")
    assert ran.code == 3
    assert "block 4 gives NaN or infinity at step 0" in ran.err
    assert not (tmp_path / "out" / "scores.json").exists()


def test_without_a_model_nothing_is_downloaded(sanac: Sanac) -> None:
    ran = sanac("prune", "--target-blocks", "20")
    assert ran.code == 4
    assert "hf download" in ran.err
