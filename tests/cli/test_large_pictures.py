"""Models of 2K and 4K images, whose latents get a position embedding, through the whole chain."""

import json
from pathlib import Path

from tests.conftest import Sanac

FEW = ("--num-prompts", "4", "--timesteps", "2")


def test_the_chain(large_pictures: Path, sanac: Sanac) -> None:
    """Scored, searched, repaired, recovered by its parent, quantized with activations, exported and compared."""
    scored = sanac("analyze", large_pictures, "--metric", "velocity", *FEW, "--json")
    assert scored.code == 0, scored.err
    searched = sanac("prune", large_pictures, "--target-blocks", "3", "--select", "search", *FEW, "--dry-run")
    assert (searched.code, "depends on the search" in searched.out) == (0, True)
    steps = {
        "prune": ("prune", "--target-blocks", "4", "--select", "search", "--compensate", *FEW),
        "finetune": ("finetune", "--steps", "2", "--batch", "2", "--data", "shapes", "--samples", "4", "--loss",
                     "distill,features"),
        "quantize": ("quantize", "--scheme", "int8", "--component", "transformer", "--include", "ends", *FEW),
        "export": ("export", "--component", "transformer", "--precision", "fp32"),
    }  # fmt: skip
    for name, words in steps.items():
        ran = sanac(words[0], *((large_pictures,) if name == "prune" else ()), *words[1:], "--json")
        assert ran.code == 0, (name, ran.err)
    config = json.loads((Path(ran.json["out"]) / "transformer" / "config.json").read_text())
    assert (config["interpolation_scale"], config["num_layers"]) == (1.0, 4)
    figures = ran.json["verify"]["figures"]
    assert figures
    assert all(figure["passed"] for figure in figures)


def test_positions_count(large_pictures: Path, pipeline: Path, sanac: Sanac) -> None:
    """The two models differ by nothing else, and their scores do."""
    scores = [sanac("analyze", model, *FEW, "--json").json["metrics"] for model in (large_pictures, pipeline)]
    assert scores[0] != scores[1]
