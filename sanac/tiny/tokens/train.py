"""Trains sanac:tokens from scratch: `python -m sanac.tiny.tokens.train FOLDER`. Run it again to resume.

First the image tokenizer, then the transformer on the codes of scenes.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import load_file

from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.finetune.shapes_data import draw_lessons
from sanac.nn.save_tensors import save_tensors
from sanac.tiny.data import pictures
from sanac.tiny.tokens import build
from sanac.tiny.tokens.image_task import ImageTokenizerTask
from sanac.tiny.tokens.token_task import MaskedTokenTask, SceneCodes
from sanac.tiny.train import Lines, errors_said
from sanac.tokens.image_tokenizer import ImageTokenizer
from sanac.tokens.text import TextTokens
from sanac.tokens.transformer import MaskedTokenTransformer
from sanac.train.loop import Settings, train
from sanac.train.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long each part trains, and on how many scenes."""

    image_steps: int = 1500
    scenes: int = 40_000
    steps: int = 2500  # more would leave nothing to win for what searches and reinforces it
    rate: float = 1e-3
    precision: str = "bf16"
    seed: int = 0


def image_tokenizer(recipe: Recipe, folder: Path, reporter: Reporter) -> ImageTokenizer:
    """The trained image tokenizer, its weights rounded to bf16 as they are saved."""
    torch.manual_seed(recipe.seed)
    network: ImageTokenizer = ImageTokenizer(build.tokenizer_architecture())
    plan = Settings(Schedule(2e-3, recipe.image_steps, warmup=100), average=0.995, seed=recipe.seed)
    found = train(ImageTokenizerTask(network), plan, ConfinedPath(folder) / "image-tokenizer", reporter)
    rounded = {name: value.bfloat16().float() for name, value in found["image_tokenizer"].items()}
    network.load_state_dict(rounded, strict=False)
    network.eval().requires_grad_(requires_grad=False)
    return network


def scene_codes(network: ImageTokenizer, recipe: Recipe, file: Path, reporter: Reporter) -> SceneCodes:
    """Codes of rendered scenes; read from `file` if it exists."""
    if not file.exists():
        reporter.begin("drawing and encoding scenes", recipe.scenes, "scenes")
        chosen, parts = draw_lessons(recipe.scenes, np.random.default_rng(recipe.seed)), []
        for start in range(0, recipe.scenes, 250):
            part = chosen[start : start + 250]
            with torch.no_grad():
                parts.append(network.encode(pictures(part, np.random.default_rng((recipe.seed, start)))))
            reporter.advance(len(part))
        reporter.end()
        save_tensors({"codes": torch.cat(parts).short(), "chosen": torch.from_numpy(chosen)}, file)
    found = load_file(file)
    return SceneCodes(found["codes"], found["chosen"], f"shapes {recipe.scenes} {recipe.seed}")


def transformer(recipe: Recipe, data: SceneCodes, folder: Path, reporter: Reporter) -> MaskedTokenTransformer:
    """The trained transformer."""
    torch.manual_seed(recipe.seed)
    network: MaskedTokenTransformer = MaskedTokenTransformer(build.architecture())
    text = TextTokens(build.text_tokenizer(), network.architecture, build.BOS, build.EOS)
    task = MaskedTokenTask(network.train(), text, data)
    schedule = Schedule(recipe.rate, recipe.steps, warmup=200)
    plan = Settings(schedule, seed=recipe.seed, weight_decay=0.01, precision=recipe.precision)
    found = train(task, plan, ConfinedPath(folder) / "transformer", reporter)
    network.load_state_dict(found["transformer"])
    network.eval()
    return network


def make(recipe: Recipe, folder: Path, reporter: Reporter) -> Path:
    """Run both stages; returns the folder of the finished model."""
    folder.mkdir(parents=True, exist_ok=True)
    images = image_tokenizer(recipe, folder, reporter)
    data = scene_codes(images, recipe, folder / "codes.safetensors", reporter)
    network = transformer(recipe, data, folder, reporter)
    out, partial = folder / "model", folder / "model.partial"
    build.save(partial, network, images)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Train sanac:tokens in FOLDER, resuming an earlier run."""
    with errors_said():
        made = make(Recipe(), folder, Lines())
    click.echo(f"wrote {made}")


if __name__ == "__main__":
    main()
