"""Is it the same function? A candidate and a reference are given the same; what they give is compared by the block."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sanac.core.check import Check
from sanac.core.family.architecture import Architecture, split_block
from sanac.nn.quant.activations import ReplayError

Inputs = Mapping[str, Tensor]  # under the names that graphs have for them
Rounded = Mapping[str, Tensor]  # what weights are multiplied by, by their names: numbers of steps
USUAL, HOSTILE = "random", ("nothing", "huge", "no caption", "one number", "first step", "last step")
FLIPPED = 10.0  # times the limit, that one case may be off where the candidate rounds and nobody sees how
EDGE, STEPS = 2e-3, 0.03  # that it may round otherwise: the farthest value, all in the mean
JUMP = 10.0  # times: how much more a block errs than the one before where something is wrong in it


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a side gave for one case."""

    velocity: Tensor
    streams: tuple[Tensor, ...]  # behind each block
    rounded: Rounded = field(default_factory=dict)  # where one sees inside
    off: Mapping[str, ReplayError] = field(
        default_factory=dict
    )  # told how to round all that it rounds: how otherwise that was


class ParityBackend(Protocol):
    """A model that can be asked."""

    name: str

    def ask(self, cases: Sequence[Inputs]) -> list[Outputs]:
        """All cases, in one reading of the weights."""
        ...


class Reference(ParityBackend, Protocol):
    """One that can be told how to round, too."""

    def ask(self, cases: Sequence[Inputs], told: Sequence[Rounded] = ()) -> list[Outputs]:
        """The same."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """What both sides are given: sizes, a kind of input, and the seed it is drawn from."""

    kind: str
    batch: int
    rows: int
    columns: int
    length: int
    seed: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind}, {self.batch} x {self.rows}x{self.columns}, {self.length} tokens"

    def inputs(self, architecture: Architecture) -> dict[str, Tensor]:
        """The same wherever it is asked for."""
        generator = torch.Generator().manual_seed(self.seed)
        side = (self.rows * architecture.patch_size, self.columns * architecture.patch_size)
        latents = torch.randn(self.batch, architecture.in_channels, *side, generator=generator)
        captions = torch.randn(self.batch, self.length, architecture.caption_channels, generator=generator)
        mask = torch.ones(self.batch, self.length, dtype=torch.int64)
        mask[-1, self.length // 2 + 1 :] = 0
        times = 1000 * torch.rand(self.batch, generator=generator)
        if self.kind == "nothing":
            latents.zero_()
        elif self.kind == "huge":
            latents, captions = 1e3 * latents, 1e2 * captions
        elif self.kind == "one number":
            latents.fill_(latents[0, 0, 0, 0])
            captions.fill_(captions[0, 0, 0])
        elif self.kind == "no caption":
            mask.zero_()
        elif self.kind == "last step":
            times.zero_()
        elif self.kind == "first step":
            times.fill_(1000)
        found = {"hidden_states": latents, "encoder_hidden_states": captions, "encoder_attention_mask": mask}
        found["timestep"] = times
        return found | ({"guidance": torch.rand(self.batch, generator=generator)} if architecture.guidance else {})


def cases() -> list[Case]:
    """Random inputs of several sizes, and those that break what random ones don't."""
    shapes = [(1, 8, 8, 300), (2, 4, 6, 7), (4, 2, 4, 12), (1, 6, 2, 1), (3, 1, 1, 2)]
    usual = [Case(USUAL, *shape, seed=number) for number, shape in enumerate(shapes)]
    return usual + [Case(kind, 2, 4, 6, 9, seed=100 + number) for number, kind in enumerate(HOSTILE)]


def _number(value: float) -> float | None:
    """JSON has no others."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case."""

    case: Case
    finite: bool  # of the candidate, wherever the reference is
    error: float  # relative, of the velocity
    cosine: float
    blocks: tuple[float, ...]  # relative error of the stream behind each
    off: Mapping[str, ReplayError] = field(
        default_factory=dict
    )  # of a reference that rounded as the candidate, by weight
    own: float | None = None  # the error where each rounds by itself

    @property
    def sqnr(self) -> float:
        """Signal to noise, dB."""
        return -20 * math.log10(self.error) if self.error else math.inf

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        numbers = {name: _number(getattr(self, name)) for name in ("error", "cosine", "sqnr")}
        alike: dict[str, Any] = {}
        if self.own is not None:
            farthest, where = max((off.farthest, weight) for weight, off in self.off.items())
            steps = max(off.steps for off in self.off.values())
            alike = {"alone": _number(self.own), "edge": _number(farthest), "farthest": where, "steps": _number(steps)}
        blocks = list(map(_number, self.blocks))
        return {"case": self.case.name, "finite": self.finite, **numbers, **alike, "blocks": blocks}


@dataclass(frozen=True, slots=True)
class Parity:
    """All cases."""

    compared: tuple[CaseResult, ...]
    limit: float
    unseen: float | None = None  # the median's, where the candidate rounds in between and it can't be seen how

    @property
    def figures(self) -> tuple[Check, ...]:
        """What the verdict hangs on."""
        broken = sum(not one.finite for one in self.compared)
        errors = [one.error if one.finite else math.inf for one in self.compared] or [math.inf]
        least = min((one.cosine if one.finite else -1.0 for one in self.compared), default=-1.0)
        name, others = "relative error, at worst", []
        if off := [off for one in self.compared for off in one.off.values()]:
            name += ", rounded alike"
            others.append(Check("rounded otherwise, farthest", max(one.farthest for one in off), self._edge))
            others.append(Check("rounded otherwise, mean in steps", max(one.steps for one in off), STEPS))
        elif self.unseen:
            others.append(Check("relative error, median", statistics.median(errors), self.unseen))
        return (
            Check("cases that are not finite", broken, 0),
            Check(name, max(errors), self._most),
            *others,
            Check("cosine, at worst", least, 1 - self._most, most=False),
        )

    @property
    def _most(self) -> float:
        """That one case may be off, or a stream behind a block."""
        return FLIPPED * self.unseen if self.unseen and not self.own else self.limit

    @property
    def _edge(self) -> float:
        return max(self.limit, EDGE)

    @property
    def own(self) -> tuple[float, float] | None:
        """The median and the largest error where each rounds by itself; None where that is the error itself."""
        errors = [one.own for one in self.compared if one.own is not None]
        return (statistics.median(errors), max(errors)) if errors else None

    @property
    def passed(self) -> bool:
        """Whether each figure keeps to its limit."""
        return all(figure.passed for figure in self.figures)

    @property
    def passing(self) -> float | None:
        """The limit that would pass, if there is one and this is none."""
        failed = [figure for figure in self.figures[1:] if not figure.passed and figure.most]
        measured = [figure.value for figure in failed if figure.value is not None]
        looser = replace(self, limit=max(measured), unseen=self.unseen and max(measured)) if measured else self
        return looser.limit if looser.passed and not self.passed and math.isfinite(looser.limit) else None

    @property
    def otherwise(self) -> tuple[str, ...]:
        """Weights that are multiplied by what was rounded otherwise than is allowed."""
        every = (pair for one in self.compared for pair in one.off.items())
        return tuple(dict.fromkeys(name for name, off in every if off.farthest > self._edge or off.steps > STEPS))

    @property
    def culprit(self) -> int | None:
        """The block in which a case parts first by more than is allowed; None if none does."""
        found = [place for one in self.compared if (place := _parts(one.blocks, self._most)) is not None]
        places = filter(None, map(split_block, self.otherwise))
        return min((*found, *(place for place, _ in places)), default=None)

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return {
            "limit": self._most,
            "passed": self.passed,
            "block": self.culprit,
            "figures": [figure.to_json() for figure in self.figures],
            "cases": [one.to_json() for one in self.compared],
        }


def compare(
    candidate: ParityBackend,
    reference: Reference,
    architecture: Architecture,
    limit: float,
    asked: Sequence[Case] | None = None,
    *,
    unseen: float | None = None,
) -> Parity:
    """Ask both; depths may differ: then the stream is compared as far as both go.

    A candidate that rounds in between has a limit for its median case, too, for when it is `unseen` how it does.
    """
    asked = asked or cases()
    inputs = [case.inputs(architecture) for case in asked]
    wanted = reference.ask(inputs)
    found = wanted if candidate is reference else candidate.ask(inputs)
    compared = [_compared(*answer) for answer in zip(asked, found, wanted, strict=True)]
    if unseen is None:
        return Parity(tuple(compared), limit)
    told = reference.ask(inputs, [gave.rounded for gave in found]) if any(gave.rounded for gave in found) else wanted
    if not all(gave.off for gave in told):
        return Parity(tuple(compared), limit, unseen)
    alike = [_compared(*answer) for answer in zip(asked, found, told, strict=True)]
    return Parity(tuple(map(_told, alike, compared, told)), limit, unseen)


def _told(alike: CaseResult, own: CaseResult, told: Outputs) -> CaseResult:
    """Where the reference rounded as the candidate; told of what is no number, it would give none either."""
    return replace(alike, finite=own.finite, own=own.error, off=told.off)


def _compared(case: Case, found: Outputs, wanted: Outputs) -> CaseResult:
    ours, theirs = found.velocity.double(), wanted.velocity.double()
    error, cosine, finite = relative_error(ours, theirs), 1.0, True
    if error:
        alike = ours.shape == theirs.shape
        cosine = float(torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)) if alike else -1
        finite = alike and bool(torch.isfinite(ours[torch.isfinite(theirs)]).all())
    streams = zip(found.streams, wanted.streams, strict=False)
    return CaseResult(case, finite, error, cosine, tuple(relative_error(one, other) for one, other in streams))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|; infinite where one is no number and the other is, or their shapes differ."""
    if found.shape != wanted.shape:
        return math.inf
    found, wanted = found.double(), wanted.double()
    error = float((found - wanted).norm() / wanted.norm().clamp_min(torch.finfo(torch.float64).tiny))
    return error if math.isfinite(error) else math.inf


def _parts(blocks: Sequence[float], limit: float) -> int | None:
    """The first block behind which the stream errs more than is allowed, and much more than before it."""
    before = 0.0
    for index, error in enumerate(blocks):
        if error > limit and error > JUMP * before:
            return index
        before = error
    return None
