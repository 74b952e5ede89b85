"""The training curve of sanac:tokens as data and picture, and what its image tokenizer keeps of tuning scenes.

python benchmarks/token_training.py build/tokens      (the folder that `python -m sanac.tiny.tokens.train` filled)
"""

import json
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
import torch
from measure import machine

from sanac.core.artifact.token_model import TokenModel, open_any_model
from sanac.core.checkpoint.locate import TOKENS, locate
from sanac.judge.intervals import PromptScore, overall
from sanac.judge.shapes import judge_pictures
from sanac.shapes.prompts import suite
from sanac.tokens.networks import open_networks
from sanac.verify.shapes_suite import rendered

mpl.use("Agg")

RESULT, PICTURE = Path("docs/results/tokens-training.json"), Path("docs/pictures/tokens-training.png")
SCENES, SMOOTH = 480, 4


def curve(file: Path) -> list[tuple[int, float]]:
    """(step, loss), thinned."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    groups = [lines[start : start + SMOOTH] for start in range(0, len(lines), SMOOTH)]
    return [(group[-1]["step"], round(sum(one["loss"] for one in group) / len(group), 5)) for group in groups]


def reconstructed() -> dict[str, float]:
    """The detector's score of tuning scenes that were encoded and decoded."""
    model = open_any_model(locate(TOKENS))
    assert isinstance(model, TokenModel)
    images, prompts = open_networks(model, "cpu").images, suite("tune", SCENES)
    scenes = torch.from_numpy(rendered(prompts, model.image_side, 0)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = images.decode(images.encode(scenes), model.architecture.side)
    pictures = np.round(((decoded + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    verdicts = judge_pictures(prompts, list(pictures))
    pairs = enumerate(zip(prompts, verdicts, strict=True))
    scores = [PromptScore(one.content.tag, f"{n}", float(verdict.correct), 1) for n, (one, verdict) in pairs]
    return dict(overall(scores).to_json())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(folder: Path) -> None:
    """Write docs/results/tokens-training.json and docs/pictures/tokens-training.png."""
    from matplotlib import pyplot as plt

    points, kept = curve(folder / "transformer" / "metrics.jsonl"), reconstructed()
    RESULT.write_text(json.dumps({"machine": machine(), "curve": points, "reconstructed": kept}) + "\n")
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(*zip(*points, strict=True))
    axes.set(xlabel="steps of 64", ylabel="loss", ylim=(1.3, 3))
    axes.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=120)
    click.echo(f"{points[-1][0]:,} steps, loss {points[-1][1]:.3f}; reconstructed scenes: {kept['value']:.3f}")


if __name__ == "__main__":
    main()
