"""A judge that reads the generator's own states: no decoder, no further forward pass.

The tokens after a block were computed anyway. They are normalised token by token, joined by
a token for the prompt's mean embedding and the noise level, and one attention layer pools them into that token; three
heads say the same as a preview judge's: clarity, potential, final.

The block is stored by its number in the model that the head was trained on. In a descendant with fewer blocks the head
reads behind the last block that is left up to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sanac.core.artifact.model import Model
from sanac.core.errors import InvalidInput
from sanac.judge.judge_files import STATE_JUDGE, JudgeFiles, loaded, size_problems
from sanac.judge.preview_judge import HEADS, waves
from sanac.judge.verifier import Reading

_SIZES = {"block": (0, 10_000), "channels": (1, 100_000), "caption": (1, 100_000), "width": (1, 4096), "heads": (1, 64)}


@dataclass(frozen=True)
class StateJudgeShape:
    """Sizes of a head on states, and the block that it reads behind."""

    block: int  # as the model that it was trained on counts
    channels: int  # of a token
    caption: int  # width of the prompt's embedding
    width: int = 64
    heads: int = 4

    def to_json(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": STATE_JUDGE, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "StateJudgeShape":
        """The sizes in a config; InvalidInput lists everything that is wrong with it."""
        problems = size_problems(value, _SIZES)
        if not problems and (value["width"] % value["heads"] or value["width"] % 4):
            problems.append("width is not a multiple of heads and of 4")
        if problems:
            raise InvalidInput("the judge's config is malformed", why=problems[0], problems=problems)
        return cls(**{name: value[name] for name in _SIZES})


class StateJudge(nn.Module):  # type: ignore[misc]
    """The network: tokens, the prompt's mean embedding and the noise level to the logits of the three heads."""

    def __init__(self, shape: StateJudgeShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.tokens = nn.Linear(shape.channels, width)
        self.places = nn.Linear(32, width)
        self.caption = nn.Sequential(nn.Linear(shape.caption, width), nn.SiLU(), nn.Linear(width, width))
        self.levels = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        how: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True, "dropout": 0.0}
        self.pool = nn.TransformerEncoderLayer(width, shape.heads, 3 * width, **how)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, len(HEADS))

    def forward(self, states: Tensor, caption: Tensor, noise: Tensor, columns: int) -> Tensor:
        """Logits (rows, heads) of states (rows, tokens, channels) in a grid of so many columns."""
        tokens = self.tokens(nn.functional.layer_norm(states, states.shape[-1:])) + self.places(
            _grid(states.shape[1], columns, states.device)
        )
        read = self.caption(caption) + self.levels(waves(noise))
        pooled = self.pool(torch.cat([read[:, None], tokens], dim=1))[:, 0]
        found: Tensor = self.heads(self.norm(pooled))
        return found


def _grid(tokens: int, columns: int, device: torch.device) -> Tensor:
    """Waves of each token's place in the grid, rows and columns from 0 to 1: (tokens, 32)."""
    number = torch.arange(tokens, device=device)
    rows = (number // columns + 0.5) / (tokens / columns)
    across = (number % columns + 0.5) / columns
    return torch.cat([waves(rows)[:, ::2], waves(across)[:, ::2]], dim=1)


@dataclass(frozen=True)
class StateReader:
    """A head on states, ready to read."""

    id: str
    network: StateJudge

    @classmethod
    def open(cls, files: JudgeFiles, device: str) -> "StateReader":
        """Load a head's folder; nothing in it is run."""
        network = StateJudge(StateJudgeShape.from_json(files.config))
        loaded(network, files)
        return cls(f"state judge {files.identity}", network.to(device))

    def readings(self, states: Tensor, caption: Tensor, noise: float, columns: int) -> list[Reading]:
        """What the states of each image promise."""
        levels = torch.full((len(states),), noise, device=states.device)
        with torch.no_grad():
            logits = self.network(states, caption, levels, columns)
        return [Reading(*map(float, row)) for row in logits.sigmoid().cpu()]


def block_in(model: Model, original: int) -> int:
    """The block of a model behind which a head reads that was trained behind block `original` of its ancestor."""
    origins: Sequence[int | None] | None = model.manifest.origins if model.manifest else None
    known = range(model.architecture.blocks) if origins is None else origins
    places = [place for place, origin in enumerate(known) if origin is not None and origin <= original]
    if not places:
        raise InvalidInput(
            f"{model.located.name} has no block for a head behind block {original}",
            why="all blocks up to it were removed",
            hint="train a head on this model",
        )
    return places[-1]


def mean_embedding(embeddings: Tensor, mask: Tensor) -> Tensor:
    """The mean of a prompt's token embeddings, padding left out: (rows, width)."""
    weights = mask[..., None].to(embeddings)
    return (embeddings * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
