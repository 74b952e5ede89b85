"""SANA-Sprint, whose guidance is an input and whose sampler takes two noisy steps, through the whole chain."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import SanaSprintPipeline
from safetensors.torch import save_file

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.run.estimate import shape_of
from tests.conftest import Sanac

FEW = ("--num-prompts", "4")


def test_the_chain(sprint: Path, sanac: Sanac) -> None:
    """Searched, repaired, recovered by its parent without data, quantized with activations, exported, compared."""
    steps = {
        "prune": ("prune", "--target-blocks", "2", "--select", "search", "--compensate", *FEW),
        "finetune": ("finetune", "--steps", "2", "--batch", "2", "--samples", "4", "--loss", "distill,features"),
        "quantize": ("quantize", "--scheme", "int8", "--component", "transformer", "--include", "ends", *FEW),
        "export": ("export", "--component", "transformer", "--precision", "fp32"),
    }
    outs: dict[str, Path] = {}
    for name, words in steps.items():
        ran = sanac(words[0], *((sprint,) if name == "prune" else ()), *words[1:], "--json")
        assert ran.code == 0, (name, ran.err)
        outs[name] = Path(ran.json["out"])
    error = json.loads((outs["prune"] / "measurements" / "compensate.json").read_text())["velocity_error"]
    assert error["repaired"] < error["pruned"]
    figures = ran.json["verify"]["figures"]
    assert figures
    assert all(figure["passed"] for figure in figures)
    config = json.loads((outs["export"] / "transformer" / "config.json").read_text())
    assert (config["guidance_embeds"], config["num_layers"]) == (True, 2)
    card = (outs["finetune"] / "README.md").read_text()
    assert "SanaSprintPipeline.from_pretrained" in card
    assert "SanaPipeline" not in card
    pipeline = SanaSprintPipeline.from_pretrained(outs["finetune"])
    pipeline.set_progress_bar_config(disable=True)
    how = {"height": 512, "width": 512, "use_resolution_binning": False, "output_type": "np"}
    assert pipeline("a red circle", **how).images.shape == (1, 64, 64, 3)
    for folder, number in ((outs["finetune"], "1"), (outs["quantize"], "2"), (outs["quantize"], "4")):
        ran = sanac("generate", folder, "a red circle", "--steps", number, "--out", f"{folder.name}-{number}", "--json")
        assert ran.code == 0, ran.err


def test_steps_are_the_models_own(sprint: Path, pipeline: Path, sanac: Sanac) -> None:
    """Two unless typed; other models keep their 20. Scores choose blocks, and a dry run finds them cached."""
    ran = sanac("analyze", sprint, "--metric", "velocity", *FEW, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["settings"]["sampling"]["steps"] == 2
    assert [len(block["by_step"]) for block in ran.json["metrics"]["velocity"]] == [2] * 3
    again = sanac("analyze", sprint, "--metric", "velocity", *FEW, "--timesteps", "2", "--json")
    assert again.json["status"] == "cached"
    assert sanac("analyze", sprint, *FEW, "--timesteps", "4", "--json").json["settings"]["sampling"]["steps"] == 4
    shapes = [shape_of(open_model(locate(str(folder)))) for folder in (sprint, pipeline)]
    assert [(shape.steps, shape.branches) for shape in shapes] == [(2, 1), (20, 2)], "as recipes estimate"
    scored = sanac("analyze", pipeline, "--num-prompts", "1", "--json").json
    assert scored["settings"]["sampling"]["steps"] == 20
    ran = sanac("prune", sprint, "--target-blocks", "2", "--select", "velocity", *FEW, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["status"] == "ok"


@pytest.mark.parametrize("steps", [1, 2])
def test_images_of_your_own_are_noised(steps: int, sprint: Path, tmp_path: Path, sanac: Sanac) -> None:
    folder = tmp_path / "latents"
    folder.mkdir()
    save_file({"latents": torch.randn(4, 16, 4, 4)}, folder / "a.safetensors")
    ran = sanac("analyze", sprint, "--inputs", "noised", "--data", folder, "--timesteps", steps, "--json")
    assert ran.code == 0, ran.err


def test_the_flow_loss_is_refused(sprint: Path, sanac: Sanac) -> None:
    """It would train the velocity of the flow, and undo what makes few steps enough."""
    ran = sanac("finetune", sprint, "--loss", "flow", "--data", "shapes")
    assert (ran.code, "--loss flow doesn't fit" in ran.err) == (2, True), ran.err


def test_a_teacher_of_another_kind_is_refused(sprint: Path, pipeline: Path, sanac: Sanac) -> None:
    ran = sanac("finetune", sprint, "--teacher", pipeline, "--data", "shapes")
    assert (ran.code, "guidance as an input" in ran.err) == (3, True), ran.err
