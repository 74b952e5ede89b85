"""A small yes/no judge of images and previews: it knows how noisy what it sees is, and answers three questions.

    clarity    does the preview already show what the finished image will show?
    potential  will the finished image show what the prompt says?
    final      does this image, as it is, show what the prompt says?

A convolutional stem turns the image into 8 x 8 tokens, a transformer encoder reads them together with the noise level,
and a decoder reads the prompt's words against them. A probability is the sigmoid of a head's output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sanac.core.errors import InvalidInput
from sanac.judge.judge_files import PREVIEW_JUDGE, JudgeFiles, loaded, size_problems
from sanac.judge.questions import parts_of
from sanac.judge.requests import check_words
from sanac.judge.verifier import Picture, Reading, Request
from sanac.judge.words import split_words

LONGEST = 24  # words of a prompt; the rest is cut
HEADS = ("clarity", "potential", "final")
_SIZES = {"side": (1, 1024), "width": (1, 1024), "heads": (1, 64), "encoder_layers": (1, 32), "decoder_layers": (1, 32)}
_PAD, _UNKNOWN, _FIRST = 0, 1, 2  # word ids: nothing, a word that isn't known, the first known word
_TOGETHER = 64  # images per forward pass


@dataclass(frozen=True)
class JudgeShape:
    """Sizes of a preview judge, and the words that it knows."""

    words: tuple[str, ...]
    side: int = 64  # pixels of the images that it sees; others are resized
    width: int = 96
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 2

    def to_json(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": PREVIEW_JUDGE, **asdict(self), "words": list(self.words)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "JudgeShape":
        """The sizes in a config; InvalidInput lists everything that is wrong with it."""
        problems = size_problems(value, _SIZES)
        words = value.get("words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or len(words) > 100_000:
            problems.append("words is not a list of words")
        if not problems and (value["width"] % value["heads"] or value["width"] % 8 or value["side"] % 8):
            problems.append("width is not a multiple of heads and of 8, or side is not one of 8")
        if problems:
            raise InvalidInput("the judge's config is malformed", why=problems[0], problems=problems)
        assert isinstance(words, list)
        return cls(tuple(words), **{name: value[name] for name in _SIZES})


class PreviewJudge(nn.Module):  # type: ignore[misc]
    """The network: images, noise levels and prompts to the logits of the three heads."""

    def __init__(self, shape: JudgeShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.stem = nn.Sequential(
            *_halving(3, width // 4), *_halving(width // 4, width // 2), *_halving(width // 2, width)
        )
        self.places = nn.Parameter(0.02 * torch.randn(1, (shape.side // 8) ** 2, width))
        self.levels = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.words = nn.Embedding(_FIRST + len(shape.words), width)
        self.order = nn.Parameter(0.02 * torch.randn(1, 1 + LONGEST, width))
        how: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True, "dropout": 0.0}
        encoder = nn.TransformerEncoderLayer(width, shape.heads, 3 * width, **how)
        self.encoder = nn.TransformerEncoder(encoder, shape.encoder_layers, enable_nested_tensor=False)
        decoder = nn.TransformerDecoderLayer(width, shape.heads, 3 * width, **how)
        self.decoder = nn.TransformerDecoder(decoder, shape.decoder_layers, nn.LayerNorm(width))
        self.heads = nn.Linear(width, len(HEADS))

    def forward(self, images: Tensor, noise: Tensor, words: Tensor) -> Tensor:
        """Logits (images, prompts, heads).

        `images`: (images, 3, side, side) in -1..1. `noise`: (images,). `words`: ids (images, prompts, LONGEST).
        """
        count, prompts = words.shape[:2]
        level = self.levels(waves(noise))[:, None]
        tokens = self.stem(images).flatten(2).transpose(1, 2) + self.places + level
        seen = self.encoder(tokens).repeat_interleave(prompts, dim=0)
        flat = words.flatten(0, 1)
        read = torch.cat([level.repeat_interleave(prompts, dim=0), self.words(flat)], dim=1) + self.order
        nothing = torch.cat([flat.new_zeros(len(flat), 1, dtype=torch.bool), flat == _PAD], dim=1)
        found: Tensor = self.heads(self.decoder(read, seen, tgt_key_padding_mask=nothing)[:, 0])
        return found.view(count, prompts, len(HEADS))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The word ids of some prompts (prompts, LONGEST)."""
        known = {word: number for number, word in enumerate(self.shape.words, _FIRST)}
        ids = torch.full((len(prompts), LONGEST), _PAD)
        for row, prompt in enumerate(prompts):
            some = [known.get(word, _UNKNOWN) for word in split_words(prompt)[:LONGEST]]
            ids[row, : len(some)] = torch.tensor(some)
        return ids


def _halving(channels: int, wanted: int) -> tuple[nn.Module, ...]:
    """A convolution that halves the size, and one that keeps it."""
    return (
        nn.Conv2d(channels, wanted, 3, stride=2, padding=1),
        nn.GroupNorm(1, wanted),
        nn.SiLU(),
        nn.Conv2d(wanted, wanted, 3, padding=1),
        nn.GroupNorm(1, wanted),
        nn.SiLU(),
    )


def waves(noise: Tensor) -> Tensor:
    """Sines and cosines of noise levels: (count, 32)."""
    angles = noise[:, None] * torch.pi * 2.0 ** torch.arange(-1, 7, 0.5, device=noise.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def as_inputs(images: Sequence[Picture], side: int, device: torch.device) -> Tensor:
    """Images as the network takes them: (count, 3, side, side) in -1..1."""
    found = []
    for image in images:
        one = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
        same = one.shape[2:] == (side, side)
        how: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
        found.append(one if same else nn.functional.interpolate(one, (side, side), **how))
    return torch.cat(found)


@dataclass(frozen=True)
class PreviewJudgeVerifier:
    """A preview judge as a verifier."""

    id: str
    network: PreviewJudge
    device: torch.device

    @classmethod
    def open(cls, files: JudgeFiles, device: str) -> "PreviewJudgeVerifier":
        """Load a judge's folder; nothing in it is run."""
        network = PreviewJudge(JudgeShape.from_json(files.config))
        loaded(network, files)
        return cls(f"judge {files.identity}", network.to(device), torch.device(device))

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """The probability that each finished image shows its prompt."""
        return [reading.final for reading in self.previews(images, requests, 0.0)]

    def reasons(self, image: Picture, request: Request) -> list[str]:
        """The things that a finished image doesn't show, each asked about as a prompt of its own."""
        if request.task is None:
            return []
        wanted = [words for words, _ in parts_of(request.task)]
        shown = self.scores([image] * len(wanted), [Request(one) for one in wanted])
        return [one for one, probability in zip(wanted, shown, strict=True) if probability < 0.5]

    def previews(self, images: Sequence[Picture], requests: Sequence[Request], noise: float) -> list[Reading]:
        """What each image promises; they are guesses made at one noise level, 0 for finished images."""
        prompts = [request.prompt for request in requests]
        check_words(self.network.shape.words, prompts)
        found: list[Reading] = []
        for start in range(0, len(images), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            inputs = as_inputs(images[some], self.network.shape.side, self.device)
            words = self.network.encode(prompts[some]).to(self.device)[:, None]
            with torch.no_grad():
                logits = self.network(inputs, torch.full((len(inputs),), noise, device=self.device), words)[:, 0]
            found += [Reading(*map(float, row)) for row in logits.sigmoid().cpu()]
        return found
