"""Trains sanac:tiny from scratch: `python -m sanac.tiny.train FOLDER`. Run it again to resume.

Autoencoder and text encoder, then a shallow transformer, then `grow --init partial` to twelve blocks, then further
training.
`--control` instead trains twelve blocks from scratch for the same compute.
"""

import copy
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
from torch import Tensor, nn

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, SanacError
from sanac.core.progress import NullReporter, Reporter
from sanac.core.units import duration_text
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.grow.depth import decide_growth
from sanac.nn.device import pick_device
from sanac.tiny import build, reading
from sanac.tiny.autoencoder import AutoencoderTask
from sanac.tiny.data import SceneLatents, encode_scenes
from sanac.tiny.reading import ReadingTask
from sanac.tiny.text import CaptionEncoder
from sanac.train.loop import Settings, train
from sanac.train.schedule import Schedule
from sanac.train.task import FlowTask

SCENES = 40_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """Depths and numbers of steps. A step of the shallow model costs `shallow / deep` of a deep one."""

    deep: int = 12
    shallow: int = 6
    preserved: int = 4  # blocks kept of the shallow model; SANA-1.5, too, drops the last two
    autoencoder_steps: int = 2000
    reading_steps: int = 400
    shallow_steps: int = 2_500
    deep_steps: int = 2_000
    rate: float = 2e-3
    seed: int = 0

    @property
    def control_steps(self) -> int:
        """Steps at full depth with the compute of both stages together."""
        return self.deep_steps + self.shallow_steps * self.shallow // self.deep


def settings(recipe: Recipe, steps: int, rate: float) -> Settings:
    """Training settings of the transformer stages."""
    return Settings(Schedule(rate, steps, warmup=min(200, steps // 4)), seed=recipe.seed, weight_decay=0.01)


def autoencoder(recipe: Recipe, folder: Path, device: torch.device, reporter: Reporter) -> AutoencoderDC:
    """The trained autoencoder, with latents of unit variance (scaling factor 1)."""
    torch.manual_seed(recipe.seed)
    vae = build.autoencoder().to(device)
    plan = Settings(Schedule(2e-3, recipe.autoencoder_steps, warmup=100), seed=recipe.seed)
    vae.load_state_dict(train(AutoencoderTask(vae), plan, ConfinedPath(folder) / "autoencoder", reporter)["vae"])
    vae.register_to_config(scaling_factor=1.0)
    return vae.eval().requires_grad_(requires_grad=False)


def reader(recipe: Recipe, folder: Path, device: torch.device, reporter: Reporter) -> CaptionEncoder:
    """The tokenizer and the pretrained text encoder."""
    torch.manual_seed(recipe.seed)
    tokenizer = build.tokenizer()
    words = CaptionEncoder(tokenizer, build.text_encoder(len(tokenizer)).to(device))
    task = ReadingTask(words, reading.head().to(device))
    plan = Settings(Schedule(3e-3, recipe.reading_steps, warmup=100), average=0.99, seed=recipe.seed)
    _take(words.encoder, train(task, plan, ConfinedPath(folder) / "reading", reporter)["text_encoder"])
    words.encoder.requires_grad_(requires_grad=False)
    return words


def learn(
    transformer: SanaTransformer2DModel,
    words: CaptionEncoder,
    data: SceneLatents,
    plan: Settings,
    folder: Path,
    reporter: Reporter,
    *,
    compiled: bool,
) -> None:
    """Train `transformer` in place and load its averaged weights. As in SANA, the text encoder is frozen."""
    task = FlowTask(transformer.train(), words, data, compiled=compiled)
    _take(transformer, train(task, plan, ConfinedPath(folder), reporter)["transformer"])


def _take(module: nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict(weights, strict=False)
    module.eval()


def make(
    recipe: Recipe, folder: Path, device: torch.device, reporter: Reporter, *, control: bool, compiled: bool
) -> Path:
    """Run all stages; returns the folder of the finished pipeline."""
    vae = autoencoder(recipe, folder, device, reporter)
    data = encode_scenes(vae, SCENES, recipe.seed, folder / "latents.safetensors", reporter)
    words = reader(recipe, folder, device, reporter)
    torch.manual_seed(recipe.seed)
    if control:
        transformer = build.transformer(recipe.deep).to(device)
        plan = settings(recipe, recipe.control_steps, recipe.rate)
        learn(transformer, words, data, plan, folder / "control", reporter, compiled=compiled)
        return _finish(transformer, words, vae, folder / "control-model", torch.bfloat16)
    transformer = build.transformer(recipe.shallow).to(device)
    plan = settings(recipe, recipe.shallow_steps, recipe.rate)
    learn(transformer, words, data, plan, folder / "shallow", reporter, compiled=compiled)
    grown = _grow(recipe, _finish(transformer, words, vae, folder / "shallow-model"), reporter)
    transformer = SanaTransformer2DModel.from_pretrained(grown, subfolder="transformer").to(device)
    plan = settings(recipe, recipe.deep_steps, recipe.rate)
    learn(transformer, words, data, plan, folder / "deep", reporter, compiled=compiled)
    return _finish(transformer, words, vae, folder / "model", torch.bfloat16)


def _grow(recipe: Recipe, shallow: Path, reporter: Reporter) -> Path:
    out = shallow.with_name("grown")
    model = open_model(locate(str(shallow)))
    job = decide_growth(model, recipe.deep, WriteOptions(force=True), preserve=recipe.preserved, seed=recipe.seed)
    write_partial(job, out, reporter)
    return out


def _finish(
    transformer: SanaTransformer2DModel,
    words: CaptionEncoder,
    vae: AutoencoderDC,
    out: Path,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save the pipeline, with transformer and autoencoder in `dtype` and the text encoder in fp32."""
    pipeline = SanaPipeline(
        tokenizer=words.tokenizer,
        text_encoder=words.encoder.cpu(),
        vae=copy.deepcopy(vae).cpu().to(dtype),
        transformer=transformer.cpu().to(dtype),
        scheduler=build.scheduler(),
    )
    partial = out.with_name(f"{out.name}.partial")
    build.save(pipeline, partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


class Lines(NullReporter):
    """A Reporter that writes lines to stderr, for progress one every 30 seconds."""

    def note(self, text: str) -> None:
        """Print the text."""
        click.echo(text, err=True)

    warn = note

    def begin(self, label: str, total: int, unit: str = "") -> None:
        """Start timing a job."""
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self.since = self.said = time.monotonic()
        self.start: int | None = None

    def advance(self, amount: int, state: str = "") -> None:
        """Print a progress line every 30 seconds; resumed progress is left out of the time estimate."""
        self.done += amount
        self.start = self.done if self.start is None else self.start
        now = time.monotonic()
        if now - self.said >= 30:
            self.said = now
            about = f"{self.done:,} of {self.total:,} {self.unit}{state and f', {state}'}"
            if self.done > self.start:
                left = (now - self.since) * (self.total - self.done) / (self.done - self.start)
                about += f", {duration_text(left)} left"
            self.note(f"{self.label}: {about}")


@contextmanager
def errors_said() -> Iterator[None]:
    """Ends the process with a message and its exit code, where an error says what is wrong."""
    try:
        yield
    except SanacError as error:
        said = [error.message, error.why and f"  why: {error.why}", error.hint and f"  try: {error.hint}"]
        click.echo("error: " + "\n".join(filter(None, said)), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(InvalidInput.exit_code)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--control", is_flag=True, help="Train twelve blocks from scratch instead, with the same compute.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Compile the transformer: faster after a minute or two.")
@click.option("--rate", default=Recipe().rate, show_default=True, help="Peak learning rate.")
def main(folder: Path, device: str, rate: float, *, control: bool, compiled: bool) -> None:
    """Train sanac:tiny in FOLDER, resuming an earlier run."""
    recipe = Recipe(rate=rate)
    with errors_said():
        where = torch.device(pick_device(device))
        made = make(recipe, folder, where, Lines(), control=control, compiled=compiled)
    click.echo(f"wrote {made}")


if __name__ == "__main__":
    main()
