"""Training data of sanac:tiny: scenes of the shapes world, rendered once and stored as latents."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from sanac.core.progress import Reporter
from sanac.finetune import shapes_data
from sanac.finetune.shapes_data import captions, draw_lessons
from sanac.nn.save_tensors import save_tensors
from sanac.tiny.build import IMAGE_SIZE


def pictures(chosen: NDArray[np.int64], rng: np.random.Generator, *, tidy: bool = True) -> Tensor:
    """Rendered scenes of the lessons `chosen`, in -1..1: (count, 3, side, side)."""
    drawn = shapes_data.pictures(chosen, IMAGE_SIZE, rng, tidy=tidy)
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass
class SceneLatents:
    """Encoded scenes, and the lesson that each of them shows."""

    latents: Tensor
    chosen: Tensor
    identity: str

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """`count` random latents, each with one of its captions at random."""
        picked = torch.randint(len(self.latents), (count,), generator=generator)
        forms = torch.rand(count, generator=generator).tolist()
        ways = [captions(lesson) for lesson in self.chosen[picked].tolist()]
        return self.latents[picked.to(self.latents.device)], [
            texts[int(form * len(texts))] for texts, form in zip(ways, forms, strict=True)
        ]


def encode_scenes(vae: AutoencoderDC, count: int, seed: int, file: Path, reporter: Reporter) -> SceneLatents:
    """`count` scenes as latents scaled to unit variance; read from `file` if it exists."""
    identity = f"tidier shapes {count} {seed}"
    if not file.exists():
        reporter.begin("drawing and encoding scenes", count, "scenes")
        chunks: list[Tensor] = []
        chosen = draw_lessons(count, np.random.default_rng(seed))
        for start in range(0, count, 250):
            part = chosen[start : start + 250]
            with torch.no_grad():
                shown = pictures(part, np.random.default_rng((seed, start))).to(vae.device)
                chunks.append(vae.encode(shown).latent.cpu().contiguous())
            reporter.advance(len(part))
        reporter.end()
        found = {"latents": torch.cat(chunks), "chosen": torch.from_numpy(chosen)}
        save_tensors(found, file)
    found = load_file(file)
    return SceneLatents(found["latents"].to(vae.device), found["chosen"], identity)
