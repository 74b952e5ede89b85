"""Generates images from prompts into a folder: one PNG each, and a contact sheet."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac import __version__
from sanac.core.progress import Reporter
from sanac.runtime.image_files import save_picture, save_sheet
from sanac.runtime.pipeline import GenerationSettings, ImageGenerator

SHEET = "sheet.png"


def generate(
    generator: ImageGenerator,
    prompts: Sequence[str],
    each: int,
    seed: int,
    sampling: GenerationSettings,
    out: Path,
    reporter: Reporter,
) -> list[Path]:
    """Generate `each` images per prompt into `out`; returns their files, and the contact sheet if there are several."""
    texts = [prompt for prompt in prompts for _ in range(each)]
    seeds = list(range(seed, seed + len(texts)))
    reporter.begin("generating", len(texts), "images")
    files: list[Path] = []
    pictures: list[NDArray[np.uint8]] = []
    try:
        for batch in generator.generate(texts, seeds, sampling, reporter):
            for picture in batch:
                number = len(pictures)
                path = out / f"{file_name(texts[number])}-{seeds[number]}.png"
                about: dict[str, Any] = {"prompt": texts[number], "seed": str(seeds[number]), "model": generator.name}
                about |= {"settings": sampling.to_json(), "software": f"sanac {__version__}"}
                save_picture(path, picture, about)
                files.append(path)
                pictures.append(picture)
    finally:
        reporter.end()
    if len(pictures) > 1:
        captions = [f"{text} ({number})" for text, number in zip(texts, seeds, strict=True)]
        save_sheet(out / SHEET, pictures, captions)
        files.append(out / SHEET)
    return files


def file_name(prompt: str) -> str:
    """A portable file name for a prompt: 'Two red circles!' -> 'two-red-circles'."""
    plain = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return plain[:60].rstrip("-") or "picture"
