"""`sanac analyze` as its user runs it."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.nn.calibration.inputs import choose_inputs
from sanac.nn.calibration.sampling import SamplerSettings, starting_noise
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.device_speed import Speed
from sanac.prune.importance_job import estimate
from sanac.prune.scoring import plan_scoring
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


def test_importance_is_that_of_hooks_on_stock_diffusers(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    prompts = ["two red circles", "a blue square above a cross", "a triangle"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    ran = sanac("analyze", pipeline, "--prompts", "prompts.txt", "--timesteps", "4", "--seed", "3", "--out", "a")
    assert ran.code == 0, ran.err
    stock, hooked = SanaPipeline.from_pretrained(pipeline), torch.zeros(6, dtype=torch.float64)
    for index, part in enumerate(stock.transformer.transformer_blocks):

        def hook(_module, given, result, index=index) -> None:  # both branches at once
            hooked[index] += torch.cosine_similarity(given[0], result, dim=-1).double().mean()

        part.register_forward_hook(hook)
    noise = starting_noise(3, 16, SamplerSettings(steps=4, side=4, seed=3))
    how = {"height": 512, "width": 512, "use_resolution_binning": False, "output_type": "latent"}
    model = open_model(locate(str(pipeline)))
    for number, prompt in enumerate(choose_inputs(model, prompts=Path("prompts.txt")).prompts):
        stock(prompt, latents=noise[number : number + 1], num_inference_steps=4, **how)
    found = [entry["value"] for entry in json.loads(Path("a/scores.json").read_text())["metrics"]["bi"]]
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), 1 - hooked / 12, atol=1e-5, rtol=0)


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


KILLED = """
import os, signal, sys
from sanac.cli import main
from sanac.prune import resume
resume._PAUSE = resume._SHARE = 0.0
real = resume.ResumeFile.save
def save(journal, saved):
    real(journal, saved)
    if saved.progress and (saved.progress.step, saved.progress.block) == (2, 4):
        os.kill(os.getpid(), signal.SIGKILL)
resume.ResumeFile.save = save
main()
"""


def test_a_run_killed_inside_a_step_continues_to_the_same_file(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    arguments = ["analyze", str(pipeline), "--num-prompts", "12", "--timesteps", "4", "--memory-limit", "8MB"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, "--out", str(tmp_path / "killed")], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "scores.json").exists()
    with safe_open(tmp_path / "killed" / ".progress" / "prompts-0.safetensors", framework="pt") as file:
        assert {"step": "2", "block": "4"}.items() <= file.metadata().items()
    for folder in ("killed", "whole"):
        assert sanac(*arguments, "--out", tmp_path / folder).code == 0
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["bi.png", "bi.svg", "scores.json"]
    assert (tmp_path / "killed" / "scores.json").read_bytes() == (tmp_path / "whole" / "scores.json").read_bytes()


def test_embeddings_stand_in_for_prompts_and_text_encoder(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    saved = sanac("analyze", pipeline, *FEW, "--save-embeddings", "captions.safetensors", "--json")
    assert "wrote captions.safetensors: 3 captions" in saved.err
    alone = tmp_path / "alone"
    shutil.copytree(pipeline / "transformer", alone)
    given = ("--embeddings", "captions.safetensors", "--timesteps", "3")
    found = sanac("analyze", alone, *given, "--json")
    settings = found.json["settings"]
    assert (settings["inputs"], settings["num_prompts"]) == ("sampled", 3)
    assert len(settings["embeddings"]) == 64
    assert "prompts" not in settings
    pruned = sanac("prune", alone, "--target-blocks", "2", "--select", "bi", *given, "--json", "-v")
    assert pruned.json["status"] == "ok"
    assert sanac("analyze", alone, *given, "--json").json["status"] == "cached"
    assert sanac("analyze", alone, *given, "--num-prompts", "2", "--json").json["out"] != found.json["out"]
    with_prompts = sanac("analyze", pipeline, *FEW, "--json").json
    through_file = sanac("analyze", pipeline, *given, "--json").json
    assert (with_prompts["status"], through_file["metrics"]) == ("cached", with_prompts["metrics"])
    without = sanac("analyze", alone, *FEW)
    assert without.code == 2
    assert "--embeddings FILE" in without.err


def test_embeddings_that_do_not_fit(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    narrow = {"embeddings": torch.zeros(1, 2, 7), "mask": torch.ones(1, 2)}
    save_file(narrow, tmp_path / "narrow.safetensors")
    ran = sanac("analyze", pipeline, "--embeddings", "narrow.safetensors", "--json")
    assert ran.code == 3
    assert len(ran.json["error"]["problems"]) == 3, "two are missing, one has another width"
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "narrow.safetensors").read_bytes()[:-4])
    assert sanac("analyze", pipeline, "--embeddings", "cut.safetensors").code == 3


def test_own_latents_under_noise(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    torch.manual_seed(0)
    pictures = {"latents": torch.randn(3, 16, 4, 6)}
    save_file(pictures, tmp_path / "data" / "a.safetensors")
    noised = ("--inputs", "noised", "--data", "data", "--timesteps", "3")
    first = sanac("analyze", pipeline, *noised, "--json")
    assert first.code == 0, first.err
    assert "scoring blocks on 3 images x 3 steps (data)" in first.err
    assert "all images use the empty caption" in first.err
    settings = first.json["settings"]
    assert (settings["inputs"], settings["num_prompts"], settings["size"]) == ("noised", 3, [4, 6])
    assert sanac("analyze", pipeline, *noised, "--json").json["status"] == "cached"
    assert sanac("analyze", pipeline, *noised, "--num-prompts", "2", "--json").json["metrics"] != first.json["metrics"]
    captions = {"embeddings": torch.randn(3, 5, 64), "mask": torch.ones(3, 5)}
    save_file(pictures | captions, tmp_path / "data" / "a.safetensors")
    captioned = sanac("analyze", pipeline, *noised, "--json")
    assert "empty one" not in captioned.err
    assert captioned.json["metrics"] != first.json["metrics"]
    pruned = sanac("prune", pipeline, "--target-blocks", "4", *noised, "--json")
    assert pruned.json["status"] == "ok"
    pictures["latents"][1] = torch.nan
    save_file(pictures, tmp_path / "data" / "a.safetensors")
    assert sanac("analyze", pipeline, *noised).code == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--embeddings", "a", "--prompts", "b"), "--prompts and --embeddings contradict"),
        (("--inputs", "noised"), "needs --data"),
        (("--data", "a"), "--data requires --inputs noised"),
        (("--inputs", "noised", "--data", "a", "--prompts", "b"), "--prompts and --data contradict"),
        (("--inputs", "noised", "--data", "a", "--save-embeddings", "b"), "--save-embeddings only applies to prompts"),
        (("--embeddings", "a", "--save-embeddings", "b"), "--save-embeddings only applies to prompts"),
        (("--save-embeddings", "/"), "/ is a folder"),
        (("--inputs", "raw"), "raw"),
    ],
)
def test_inputs_that_contradict_each_other(
    arguments: tuple[str, ...], says: str, sanac: Sanac, pipeline: Path, tmp_path: Path
) -> None:
    ran = sanac("analyze", pipeline, *arguments)
    assert ran.code == 2
    assert says in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "says"), [(b"", "no prompt"), (b" \n\n", "no prompt"), (b"\xff", "UTF-8")])
def test_prompts_files_that_are_none(content: bytes, says: str, sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    for verb in (("analyze",), ("prune", "--target-blocks", "3", "--select", "bi")):
        ran = sanac(verb[0], pipeline, *verb[1:], "--prompts", "prompts.txt")
        assert ran.code == 3
        assert says in ran.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_measures_what_the_cpu_measures(sanac: Sanac, pipeline: Path) -> None:
    found = []
    for device in ("cpu", "cuda"):
        ran = sanac("analyze", pipeline, *FEW, "--device", device, "--out", device)
        assert ran.code == 0, ran.err
        found.append([entry["value"] for entry in json.loads(Path(device, "scores.json").read_text())["metrics"]["bi"]])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_what_takes_hours_says_what_makes_it_cheaper(
    sanac: Sanac, pipeline: Path, sharded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sanac.nn.calibration.cost.PATIENCE", 0.0)
    for verb in (("analyze",), ("prune", "--target-blocks", "3", "--select", "bi")):
        ran = sanac(verb[0], sharded, *verb[1:], "--device", "cpu")
        assert ran.code == 4
        assert "about" in ran.err
        for way in ("--num-prompts 10", "--timesteps 5", "--embeddings FILE", "--yes"):
            assert way in ran.err
        assert ("--scores FILE" in ran.err) == (verb[0] == "prune"), "analyze makes them"
    refused = sanac("analyze", pipeline, "--device", "cpu", "--save-embeddings", tmp_path / "captions")
    assert refused.code == 4
    assert not (tmp_path / "captions").exists(), "asked before anything is encoded"
    assert "--embeddings" not in sanac("analyze", pipeline, "--device", "cpu").err, "it has its text encoder"
    assert sanac("analyze", pipeline, *FEW, "--yes").code == 0


def test_advice_is_less_than_what_was_asked(sanac: Sanac, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanac.nn.calibration.cost.PATIENCE", 0.0)
    ran = sanac("analyze", sharded, "--num-prompts", "4", "--timesteps", "3", "--device", "cpu")
    assert "--num-prompts 3 (about" in ran.err
    assert "--timesteps 1 (about" in ran.err
    least = sanac("analyze", sharded, "--num-prompts", "3", "--timesteps", "1", "--device", "cpu")
    assert "--num-prompts" not in least.err
    assert "--timesteps" not in least.err


def test_a_dry_run_estimates_and_writes_nothing(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    ran = sanac("analyze", pipeline, *FEW, "--dry-run")
    assert ran.code == 0
    assert "about" in ran.err
    assert not (tmp_path / "sanac-out").exists()


def test_a_dry_run_leaves_what_a_stopped_run_left(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    left = tmp_path / "a" / ".progress" / "prompts-0.safetensors"
    left.parent.mkdir(parents=True)
    left.write_text("journal")
    assert sanac("analyze", pipeline, *FEW, "--out", "a", "--fresh", "--dry-run").code == 0
    assert left.exists()


def test_the_estimate_counts_reading_and_encoding(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a streamed model each reading; of prompts the text encoder's products."""
    model = open_model(locate(str(pipeline)))
    seconds = []
    monkeypatch.setattr("sanac.nn.pipeline_config.speed_of", lambda *_: Speed(1e12, "made up"))
    monkeypatch.setattr("sanac.nn.pipeline_config.reading_seconds", lambda *_: 100.0)
    for limit, steps in ((None, 4), (9_000_000, 4), (9_000_000, 8)):
        wanted = CalibrationSettings(num_prompts=3, timesteps=steps, memory_limit=limit)
        job = plan_scoring(model, wanted, tmp_path)
        seconds.append(estimate(job.job))
        encoder = sum(ref.count for ref in model.others[1].weights if "embed_tokens" not in ref.name)
        assert job.inputs.encoding == 2 * encoder * 600 * 3
        assert estimate(job.job, 5e12) == pytest.approx(seconds[-1] + 5)
    assert seconds == [100, 400, 800], "read once where it stays, else once a step"


def test_defaults_that_take_hours_are_reduced_and_others_are_not(
    sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = open_model(locate(str(pipeline)))
    monkeypatch.setattr("sanac.nn.pipeline_config.speed_of", lambda *_: Speed(1e9, "made up"))
    full = plan_scoring(model, CalibrationSettings(yes=True), tmp_path)
    assert (full.inputs.count, full.job.sampling.steps, full.reduced_from) == (100, 20, "")
    for share, size in ((1.1, (100, 20)), (0.5, (32, 10)), (0.1, (16, 5)), (1e-6, (100, 20))):
        monkeypatch.setattr("sanac.prune.scoring.PATIENCE", share * full.seconds)
        found = plan_scoring(model, CalibrationSettings(), tmp_path)
        assert (found.inputs.count, found.job.sampling.steps) == size, share
        named = plan_scoring(model, CalibrationSettings(num_prompts=50), tmp_path)
        assert (named.inputs.count, named.job.sampling.steps) == (50, 20)
    monkeypatch.setattr("sanac.prune.scoring.PATIENCE", 0.1 * full.seconds)
    ran = sanac("prune", pipeline, "--target-blocks", "3", "--select", "bi")
    assert ran.code == 0, ran.err
    assert "16 prompts x 5 steps" in ran.err
    assert "100 prompts x 20 steps would take over an hour" in ran.err
    monkeypatch.setattr("sanac.prune.scoring.PATIENCE", 0.5 * full.seconds)
    assert sanac("prune", pipeline, "--target-blocks", "3", "--select", "bi", "--json").json["status"] == "cached", (
        "what is measured stays"
    )


def test_a_dry_run_of_a_prune_needs_no_scores(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    for how in ((), ("--select", "bi"), ("--select", "search"), ("--select", "bi", "--compensate")):
        ran = sanac("prune", pipeline, "--target-blocks", "3", *how, *FEW, "--dry-run")
        assert ran.code == 0, ran.err
        assert "plan: 3 of 6 blocks; which of them depends on the" in ran.out
        assert "about" in ran.err
    assert not list((tmp_path / "sanac-out").glob("*"))


def test_other_scores_are_replaced_only_by_force(sanac: Sanac, pipeline: Path) -> None:
    assert sanac("analyze", pipeline, *FEW, "--out", "a").code == 0
    other = ("analyze", pipeline, *FEW, "--seed", "1", "--out", "a", "--json")
    refused = sanac(*other)
    assert refused.code == 2
    assert "--force" in refused.err
    assert sanac(*other, "--force").json["status"] == "ok"
    assert sanac(*other).json["status"] == "cached"


def test_damaged_scores_are_measured_again(sanac: Sanac, pipeline: Path) -> None:
    first = sanac("analyze", pipeline, *FEW, "--json").json
    file = Path(first["out"]) / "scores.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"metrics": {}}))
    again = sanac("analyze", pipeline, *FEW, "--json").json
    assert (again["status"], again["metrics"]) == ("ok", first["metrics"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--guidance", "nan", "--target-blocks", "3"), "--guidance is nan, not a number"),
        (("--target-params", "9" * 400), "not a number of parameters"),
    ],
)
def test_numbers_without_sense_are_refused(sanac: Sanac, pipeline: Path, options: tuple[str, ...], words: str) -> None:
    ran = sanac("prune", pipeline, *options)
    assert ran.code == 2
    assert words in ran.err


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
    assert "block 4 produces NaN or infinity at step 0, timestep 999" in ran.err
    assert not (tmp_path / "out" / "scores.json").exists()


def test_without_a_model_nothing_is_downloaded(sanac: Sanac) -> None:
    ran = sanac("prune", "--target-blocks", "20")
    assert ran.code == 4
    assert "hf download" in ran.err


def test_imports_are_silent(tmp_path: Path) -> None:
    """Libraries warn while they are imported; -q leaves nothing of that."""
    command = [sys.executable, "-m", "sanac", "analyze", "sanac:tiny", "--num-prompts", "1", "--timesteps", "2", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
