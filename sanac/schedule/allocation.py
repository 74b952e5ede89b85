"""Chooses depth and guidance of every sampler step under a budget, from the error that each choice makes.

A step from noise level s to s' moves the latents by (s - s') v, so an error dv of the velocity moves them wrong by
(s - s') dv. With e(s, choice) = |dv|^2 / |v|^2 from the sweep, the schedule minimises

    sum over steps of (s - s')^2 e(s, choice)     subject to     sum of costs <= budget,

exactly, by dynamic programming over the budget. Costs are counted in halves of a block-forward: a guided step of k
blocks costs 2 k, an unguided one k.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sanac.core.artifact.schedule import WHOLE, Schedule

SHALLOWEST = 3  # a step runs at least one in so many blocks
GUIDED_SHARES = (1.0, 0.75, 0.5, 0.33)  # of the steps, from the first: guidance matters while the picture takes form


@dataclass(frozen=True)
class VelocityTable:
    """The relative squared error of the guided velocity by noise level and depth, with guidance and without."""

    order: tuple[int, ...]  # of blocks, nested
    levels: tuple[int, ...]  # noise levels in thousandths, falling
    guided: tuple[tuple[float, ...], ...]  # [level][depth - 1]
    unguided: tuple[tuple[float, ...], ...]  # () where guidance costs no second branch
    inside: float | None = None  # guidance scale in the weights

    @property
    def blocks(self) -> int:
        """Number of blocks of the model."""
        return len(self.order)

    @property
    def options(self) -> tuple[bool, ...]:
        """Whether a step may be guided by a second branch, and whether it may not."""
        if self.unguided:
            return (True, False)
        return (self.inside is None,)  # guided where guidance is an input, unguided where it is in the weights

    def errors(self, level: float, *, guided: bool) -> list[float]:
        """Errors by depth at any noise level, interpolated between the measured ones."""
        table = np.asarray(self.guided if guided or not self.unguided else self.unguided)[::-1]
        places = self.levels[::-1]
        return [float(np.interp(level, places, table[:, depth])) for depth in range(table.shape[1])]

    def plain(self, levels: Sequence[int]) -> Schedule:
        """The schedule that runs the whole model at every step, guided as the model is."""
        count = len(levels)
        return Schedule(self.order, tuple(levels), (self.blocks,) * count, self.options[:1] * count, self.inside)


@dataclass(frozen=True, slots=True)
class _StepOption:
    """What a step may do: its cost in halves of a block-forward, and the error that it makes."""

    depth: int
    guided: bool
    cost: int
    error: float


def least_depth(blocks: int) -> int:
    """Blocks that a step runs at least."""
    return -(-blocks // SHALLOWEST)


def allocate(
    table: VelocityTable, levels: Sequence[int], budget: float, guided: Sequence[bool] | None = None
) -> Schedule | None:
    """The schedule of these noise levels with the least error for at most `budget` block-forwards.

    `guided` fixes which steps are guided; None leaves it to the error. None is returned if the budget is too small.
    """
    most = math.floor(2 * budget + 1e-9)
    weights = [((here - after) / WHOLE) ** 2 for here, after in zip(levels, (*levels[1:], 0), strict=True)]
    steps = [
        _options(table, level, weight, None if guided is None else guided[step])
        for step, (level, weight) in enumerate(zip(levels, weights, strict=True))
    ]
    chosen = _cheapest_error(steps, most)
    if chosen is None:
        return None
    depths, guidance = (tuple(one.depth for one in chosen), tuple(one.guided for one in chosen))
    return Schedule(table.order, tuple(levels), depths, guidance, table.inside)


def _options(table: VelocityTable, level: int, weight: float, guided: bool | None) -> list[_StepOption]:  # noqa: FBT001
    found = []
    for option in table.options:
        if guided not in {None, option}:
            continue
        errors = table.errors(level, guided=option)
        found += [
            _StepOption(depth, option, depth * (1 + option), weight * errors[depth - 1])
            for depth in range(least_depth(table.blocks), table.blocks + 1)
        ]
    return found


def _cheapest_error(steps: Sequence[Sequence[_StepOption]], most: int) -> list[_StepOption] | None:
    """One choice per step with the least sum of errors, at a sum of costs of at most `most`."""
    best = np.zeros(most + 1)  # least error of the steps so far, by what they may cost
    picked: list[np.ndarray] = []
    for options in steps:
        after, pick = np.full(most + 1, np.inf), np.full(most + 1, -1)
        for number, one in enumerate(options):
            if one.cost > most:
                continue
            found = np.full(most + 1, np.inf)
            found[one.cost :] = best[: most + 1 - one.cost] + one.error
            better = found < after
            after[better], pick[better] = found[better], number
        best = after
        picked.append(pick)
    if not np.isfinite(best[most]):
        return None
    left, chosen = most, []
    for options, pick in zip(reversed(steps), reversed(picked), strict=True):
        one = options[pick[left]]
        chosen.append(one)
        left -= one.cost
    return chosen[::-1]


def guidance_patterns(table: VelocityTable, steps: int) -> list[tuple[bool, ...] | None]:
    """Which steps are guided, in the variants that are tried; None: as the velocity's error would have it."""
    if len(table.options) == 1:
        return [table.options * steps]
    counts = dict.fromkeys(max(1, math.ceil(share * steps)) for share in GUIDED_SHARES)
    return [*((True,) * count + (False,) * (steps - count) for count in counts), None]
