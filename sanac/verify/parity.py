"""Parity: runs a candidate and a reference on the same inputs and compares outputs and hidden states block by block."""

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

Inputs = Mapping[str, Tensor]  # graph input name -> tensor
Rounded = Mapping[str, Tensor]  # weight name -> integer codes of its quantized activations
USUAL, HOSTILE = "random", ("nothing", "huge", "no caption", "one number", "first step", "last step")
FLIPPED = 10.0  # factor on the limit for single cases, if the candidate's rounding can't be replayed
# Limits on the rounding mismatch: farthest value, mean in quantization steps. Where the velocity's limit is more than
# EDGE (bf16: 5e-3), it applies. A maximum over single values could ask for more room than an error of a whole tensor,
# but correct graphs don't need it: it is up to 2e-5 in fp32 and 4e-4 in bf16. A scale that is 1 % off moves
# the largest values of its layer by 1 % and the farthest to 9e-3: 1e-2 would let it pass.
EDGE, STEPS = 2e-3, 0.03
JUMP = 10.0  # a block is at fault if its error exceeds the previous block's by this factor


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a backend for one case."""

    velocity: Tensor
    streams: tuple[Tensor, ...]  # hidden states after each block
    codes: Rounded = field(default_factory=dict)  # if the backend exposes its codes
    replay_errors: Mapping[str, ReplayError] = field(
        default_factory=dict
    )  # weight -> rounding mismatch, if all roundings were replayed


class ParityBackend(Protocol):
    """A model on a backend that can be run for parity."""

    name: str

    def run(self, cases: Sequence[Inputs]) -> list[Outputs]:
        """Outputs for all cases, reading the weights once."""
        ...


class Reference(ParityBackend, Protocol):
    """A parity backend that can replay another backend's rounding."""

    def run(self, cases: Sequence[Inputs], replay: Sequence[Rounded] = ()) -> list[Outputs]:
        """Outputs for all cases; replays the activation codes of each case if they are passed."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: sizes, kind of input, and seed."""

    kind: str
    batch: int
    rows: int
    columns: int
    length: int
    seed: int = 0

    @property
    def name(self) -> str:
        """Readable name of the case."""
        return f"{self.kind}, {self.batch} x {self.rows}x{self.columns}, {self.length} tokens"

    def inputs(self, architecture: Architecture) -> dict[str, Tensor]:
        """Input tensors of the case, determined by its fields."""
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
    """The parity cases: random inputs of several sizes, and edge cases."""
    shapes = [(1, 8, 8, 300), (2, 4, 6, 7), (4, 2, 4, 12), (1, 6, 2, 1), (3, 1, 1, 2)]
    usual = [Case(USUAL, *shape, seed=number) for number, shape in enumerate(shapes)]
    return usual + [Case(kind, 2, 4, 6, 9, seed=100 + number) for number, kind in enumerate(HOSTILE)]


def _number(value: float) -> float | None:
    """JSON has no others."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Comparison of one case."""

    case: Case
    finite: bool  # whether the candidate is finite wherever the reference is
    error: float  # relative error of the velocity
    cosine: float
    blocks: tuple[float, ...]  # relative error of the hidden states after each block
    replay_errors: Mapping[str, ReplayError] = field(
        default_factory=dict
    )  # weight -> rounding mismatch, if the reference replayed the candidate's rounding
    unreplayed_error: float | None = None  # error without the replay

    @property
    def sqnr(self) -> float:
        """SQNR of the velocity in dB."""
        return -20 * math.log10(self.error) if self.error else math.inf

    def to_json(self) -> dict[str, Any]:
        """The case as JSON."""
        numbers = {name: _number(getattr(self, name)) for name in ("error", "cosine", "sqnr")}
        alike: dict[str, Any] = {}
        if self.unreplayed_error is not None:
            farthest, where = max((off.farthest, weight) for weight, off in self.replay_errors.items())
            steps = max(off.steps for off in self.replay_errors.values())
            alike = {
                "alone": _number(self.unreplayed_error),
                "edge": _number(farthest),
                "farthest": where,
                "steps": _number(steps),
            }
        blocks = list(map(_number, self.blocks))
        return {"case": self.case.name, "finite": self.finite, **numbers, **alike, "blocks": blocks}


@dataclass(frozen=True, slots=True)
class Parity:
    """Comparison of all cases with the limits."""

    results: tuple[CaseResult, ...]
    limit: float
    median_limit: float | None = None  # limit on the median error, if the candidate's rounding can't be replayed

    @property
    def figures(self) -> tuple[Check, ...]:
        """The checks that decide the result."""
        broken = sum(not one.finite for one in self.results)
        errors = [one.error if one.finite else math.inf for one in self.results] or [math.inf]
        least = min((one.cosine if one.finite else -1.0 for one in self.results), default=-1.0)
        name, others = "relative error, at worst", []
        if off := [off for one in self.results for off in one.replay_errors.values()]:
            name += ", rounded alike"
            others.append(Check("rounded otherwise, farthest", max(one.farthest for one in off), self._edge))
            others.append(Check("rounded otherwise, mean in steps", max(one.steps for one in off), STEPS))
        elif self.median_limit:
            others.append(Check("relative error, median", statistics.median(errors), self.median_limit))
        return (
            Check("cases that are not finite", broken, 0),
            Check(name, max(errors), self._most),
            *others,
            Check("cosine, at worst", least, 1 - self._most, most=False),
        )

    @property
    def _most(self) -> float:
        """Limit on the error of a single case, and of the hidden states after a block."""
        return FLIPPED * self.median_limit if self.median_limit and not self.unreplayed_errors else self.limit

    @property
    def _edge(self) -> float:
        return max(self.limit, EDGE)

    @property
    def unreplayed_errors(self) -> tuple[float, float] | None:
        """(median, largest) error without replayed rounding; None if nothing was replayed."""
        errors = [one.unreplayed_error for one in self.results if one.unreplayed_error is not None]
        return (statistics.median(errors), max(errors)) if errors else None

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(figure.passed for figure in self.figures)

    @property
    def passing(self) -> float | None:
        """The limit that would have passed; None if the comparison passed or no limit would."""
        failed = [figure for figure in self.figures[1:] if not figure.passed and figure.most]
        measured = [figure.value for figure in failed if figure.value is not None]
        looser = (
            replace(self, limit=max(measured), median_limit=self.median_limit and max(measured)) if measured else self
        )
        return looser.limit if looser.passed and not self.passed and math.isfinite(looser.limit) else None

    @property
    def misrounded(self) -> tuple[str, ...]:
        """Weights whose activations were rounded differently by more than the limits."""
        every = (pair for one in self.results for pair in one.replay_errors.items())
        return tuple(dict.fromkeys(name for name, off in every if off.farthest > self._edge or off.steps > STEPS))

    @property
    def first_bad_block(self) -> int | None:
        """The first block at fault in any case; None if there is none."""
        found = [place for one in self.results if (place := first_jump(one.blocks, self._most)) is not None]
        places = filter(None, map(split_block, self.misrounded))
        return min((*found, *(place for place, _ in places)), default=None)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "limit": self._most,
            "passed": self.passed,
            "block": self.first_bad_block,
            "figures": [figure.to_json() for figure in self.figures],
            "cases": [one.to_json() for one in self.results],
        }


def compare(
    candidate: ParityBackend,
    reference: Reference,
    architecture: Architecture,
    limit: float,
    selected: Sequence[Case] | None = None,
    *,
    median_limit: float | None = None,
) -> Parity:
    """Compare candidate and reference; if depths differ, hidden states are compared up to the smaller depth.

    `median_limit` is the limit on the median case for a candidate with quantized activations that doesn't expose its
    rounding.
    """
    selected = selected or cases()
    inputs = [case.inputs(architecture) for case in selected]
    expected = reference.run(inputs)
    found = expected if candidate is reference else candidate.run(inputs)
    results = [_compared(*answer) for answer in zip(selected, found, expected, strict=True)]
    if median_limit is None:
        return Parity(tuple(results), limit)
    replayed = (
        reference.run(inputs, [outputs.codes for outputs in found])
        if any(outputs.codes for outputs in found)
        else expected
    )
    if not all(outputs.replay_errors for outputs in replayed):
        return Parity(tuple(results), limit, median_limit)
    alike = [_compared(*answer) for answer in zip(selected, found, replayed, strict=True)]
    return Parity(tuple(map(_with_replay, alike, results, replayed)), limit, median_limit)


def _with_replay(alike: CaseResult, unreplayed: CaseResult, replayed: Outputs) -> CaseResult:
    """The result with replayed rounding; `finite` comes from the run without, as replayed NaN would spread."""
    return replace(
        alike, finite=unreplayed.finite, unreplayed_error=unreplayed.error, replay_errors=replayed.replay_errors
    )


def _compared(case: Case, found: Outputs, expected: Outputs) -> CaseResult:
    ours, theirs = found.velocity.double(), expected.velocity.double()
    error, cosine, finite = relative_error(ours, theirs), 1.0, True
    if error:
        alike = ours.shape == theirs.shape
        cosine = float(torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)) if alike else -1
        finite = alike and bool(torch.isfinite(ours[torch.isfinite(theirs)]).all())
    streams = zip(found.streams, expected.streams, strict=False)
    return CaseResult(case, finite, error, cosine, tuple(relative_error(one, other) for one, other in streams))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - wanted| / |wanted|; infinite if the result isn't finite or the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    found, expected = found.double(), expected.double()
    error = float((found - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float64).tiny))
    return error if math.isfinite(error) else math.inf


def first_jump(blocks: Sequence[float], limit: float) -> int | None:
    """The first block whose error exceeds the limit and jumps over the previous block's; None if there is none."""
    before = 0.0
    for index, error in enumerate(blocks):
        if error > limit and error > JUMP * before:
            return index
        before = error
    return None
