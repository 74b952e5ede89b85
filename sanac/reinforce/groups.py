"""Groups: the judged samples of each prompt, in files. Pairs, accepted samples and advantages are views of them.

A prompt is a file of its own: its samples in the generator's own form, what the generator read of the prompt, seeds and
scores. So gathering goes on behind what is there, and several processes can share the prompts.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sanac.core import json_files
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.nn.save_tensors import save_tensors

SCHEMA = 1
ABOUT, FOLDER = "samples.json", "groups"
_SAMPLES, _CONDITION = "samples", "condition."


@dataclass(frozen=True)
class Group:
    """The samples of one prompt."""

    prompt: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    samples: Tensor  # (samples, ...): finished latents, or codes
    condition: Mapping[str, Tensor]  # what the generator reads of the prompt, each (...) without a batch

    @property
    def varied(self) -> bool:
        """Whether its scores differ: if not, nothing can be learned from comparing them."""
        return max(self.scores) > min(self.scores)

    @property
    def pair(self) -> tuple[int, int]:
        """The best and the worst sample."""
        order = sorted(range(len(self.scores)), key=lambda place: -self.scores[place])
        return order[0], order[-1]

    def accepted(self, least: float, most: int) -> tuple[int, ...]:
        """The samples that score at least `least`, the best first, at most `most`: easy prompts must not prevail."""
        order = sorted(range(len(self.scores)), key=lambda place: -self.scores[place])
        return tuple(place for place in order if self.scores[place] >= least)[:most]


@dataclass(frozen=True)
class Samples:
    """All groups of a folder, and what they were made with."""

    about: Mapping[str, Any]  # model, sampling, verifier, prompts, samples of each, seed
    groups: tuple[Group, ...]

    @property
    def identity(self) -> str:
        """A digest of prompts, seeds and scores, and of what the samples follow from."""
        lines = [[one.prompt, one.seeds, one.scores] for one in self.groups]
        return json_files.key_of([SCHEMA, dict(self.about), lines])[:16]

    @property
    def varied(self) -> tuple[Group, ...]:
        """The groups whose scores differ."""
        return tuple(one for one in self.groups if one.varied)


def group_file(folder: ConfinedPath, number: int) -> ConfinedPath:
    """The file of a prompt's group."""
    return folder / FOLDER / f"{number:06}.safetensors"


def save_group(group: Group, folder: ConfinedPath, number: int) -> None:
    """Write the group of prompt `number`."""
    about = {"prompt": group.prompt, "seeds": list(group.seeds), "scores": list(group.scores)}
    tensors = {_SAMPLES: group.samples.contiguous()}
    tensors |= {f"{_CONDITION}{name}": value.contiguous() for name, value in group.condition.items()}
    save_tensors(tensors, group_file(folder, number), {"group": json.dumps(about)})


def load_group(folder: ConfinedPath, number: int) -> Group:
    """The group of prompt `number`; InvalidInput if its file is damaged."""
    file = group_file(folder, number)
    try:
        with safe_open(os.fspath(file), framework="pt") as opened:
            about = json_files.parse_object((opened.metadata() or {}).get("group", "").encode(), f"{file}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        seeds, scores = tuple(map(int, about["seeds"])), tuple(map(float, about["scores"]))
        condition = {
            name.removeprefix(_CONDITION): value for name, value in tensors.items() if name.startswith(_CONDITION)
        }
        found = Group(str(about["prompt"]), seeds, scores, tensors[_SAMPLES], condition)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise InvalidInput(f"{file} holds no judged samples", why=str(error)[:300]) from error
    wrong = len(found.samples) != len(scores) or len(seeds) != len(scores) or not scores
    if wrong or not all(map(_finite, (torch.tensor(scores), found.samples, *condition.values()))):
        raise InvalidInput(f"{file} is damaged", why="samples, seeds and scores differ in number, or aren't finite")
    return found


def _finite(values: Tensor) -> bool:
    return not values.is_floating_point() or bool(torch.isfinite(values).all())
