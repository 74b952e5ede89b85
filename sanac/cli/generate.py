"""`sanac generate`: pictures from prompts."""

import re
from dataclasses import replace
from pathlib import Path

import click

from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, backend_option, common
from sanac.cli.output import Result
from sanac.core.errors import UsageError


@click.command(
    "generate",
    short_help="Pictures from prompts.",
    epilog="""\b
Examples:
  sanac generate sanac:tiny "two red circles"
  sanac generate MODEL "a red circle" "a blue square above a cross" --n 4 --out pictures
  sanac generate MODEL "a lighthouse at dusk" --seed 7 --size 1024x768
  sanac generate ./exported "a red circle" --backend onnx""",
)
@click.argument("model")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option("--n", "each", type=click.IntRange(1, 4096), default=1, show_default=True, help="Pictures per prompt.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Steps of the sampler.  [default: 20, SANA-Sprint's 2]")
@click.option("--guidance", type=click.FloatRange(0, 100), default=4.5, show_default=True, help="Guidance scale.")
@click.option("--size", metavar="WxH", help="Width and height in pixels.  [default: the model's own]")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Pictures painted at a time.")
@click.option("--tile", type=click.IntRange(1), metavar="PIXELS", help="Decode in tiles of this side: less memory.")
@backend_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="pictures",
    show_default=True,
    metavar="DIR",
    help="Where the pictures go.",
)
@common()
def command(
    model: str,
    prompts: tuple[str, ...],
    each: int,
    steps: int | None,
    guidance: float,
    size: str | None,
    batch: int,
    tile: int | None,
    backend: str,
    out: Path,
    common: Common,
) -> Result:
    """Paint each PROMPT with MODEL: a PNG each, with prompt, seed and settings inside, and a sheet of all.

    The first picture's noise is drawn from --seed (0 by default), the next one's from the seed after it.
    """
    from sanac.runtime.generate import generate
    from sanac.runtime.image_files import made_folder
    from sanac.runtime.pipeline import STEPS, GenerationSettings, open_generator, usual_steps

    asked = GenerationSettings(steps or STEPS, guidance, parse_size(size), batch, tile)
    if blank := [f"prompt {number}" for number, prompt in enumerate(prompts, 1) if not prompt.strip()]:
        raise UsageError(f"{', '.join(blank)} is empty", hint="say what the picture is to show")
    opened = open_word(model, common)
    sampling = replace(asked, steps=steps or usual_steps(opened))
    with made_folder(out):
        painter = open_generator(opened, common.device, backend, common.reporter)
        for doubt in painter.doubts():
            common.reporter.warn(doubt)
        if unknown := painter.unknown_words(prompts):
            common.reporter.warn(f"the model's vocabulary doesn't have: {', '.join(unknown)}; it can't see these words")
        files = generate(painter, prompts, each, common.seed or 0, sampling, out, common.reporter)
    data = {"pictures": [str(path) for path in files], "device": painter.device, "backend": backend}
    return Result("ok", lambda: _show(files), data, str(out), common.as_json)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Width and height."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise UsageError(f"--size {text} is no size", hint="--size 1024 or --size 1024x768")
    return int(match[1]), int(match[2] or match[1])


def _show(files: list[Path]) -> None:
    for path in files:
        click.echo(path)
