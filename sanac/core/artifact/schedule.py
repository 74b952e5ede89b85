"""The schedule of a model, schedule.json: how many blocks each sampler step runs, and whether it is guided.

Blocks have one nested order: a step of depth k runs the first k of it, in the order in which the model has them. So
every depth is a prefix, and the model of a step is the model pruned to that prefix.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sanac.core.artifact.plan import BlockPlan
from sanac.core.errors import InvalidInput, UsageError

SCHEDULE = "schedule.json"
SCHEMA = 1
MOST_STEPS = 100
WHOLE = 1000  # the noise level of pure noise


@dataclass(frozen=True)
class Schedule:
    """Depth and guidance of every sampler step."""

    order: tuple[int, ...]  # all blocks, from the one that always runs to the first that is left out
    levels: tuple[int, ...]  # noise level of each step, in thousandths, falling
    blocks: tuple[int, ...]  # blocks that each step runs
    guided: tuple[bool, ...]  # whether each step runs the branch without the prompt, too
    guidance_inside: float | None = None  # scale that was distilled into the weights: the prompt's branch is enough

    def __post_init__(self) -> None:
        """Raise InvalidInput that lists what doesn't fit together."""
        count, problems = len(self.order), []
        if sorted(self.order) != list(range(count)) or not count:
            problems.append(f"order is not a permutation of the blocks 0 to {max(0, count - 1)}")
        if not 1 <= self.steps <= MOST_STEPS or not self.steps == len(self.blocks) == len(self.guided):
            problems.append(f"it has {self.steps} steps, not 1 to {MOST_STEPS}")
        if any(not 0 <= level <= WHOLE for level in self.levels) or list(self.levels) != sorted(self.levels)[::-1]:
            problems.append(f"its noise levels don't fall from {WHOLE} to 0")
        if any(not 1 <= depth <= count for depth in self.blocks):
            problems.append(
                f"a step runs {min(self.blocks, default=0)} to {max(self.blocks, default=0)} of {count} blocks"
            )
        if self.guidance_inside is not None and (not 0 < self.guidance_inside <= 100 or any(self.guided)):
            problems.append(
                f"guidance_inside is {self.guidance_inside}, with guided steps"
                if any(self.guided)
                else f"guidance_inside is {self.guidance_inside}"
            )
        if problems:
            raise InvalidInput("the schedule is broken", why=problems[0], problems=problems)

    @property
    def steps(self) -> int:
        """Number of sampler steps."""
        return len(self.levels)

    @property
    def forwards(self) -> float:
        """Block-forwards per picture: blocks run, an unguided step counting half."""
        pairs = zip(self.blocks, self.guided, strict=True)
        return sum(depth * (1.0 if guided else 0.5) for depth, guided in pairs)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The distinct depths, ascending."""
        return tuple(sorted(set(self.blocks)))

    @property
    def whole(self) -> bool:
        """Whether every step runs the whole model with guidance: plain sampling."""
        return all(self.guided) and self.depths == (len(self.order),)

    def guidance(self, scale: float, *, typed: bool) -> float:
        """The guidance scale to sample with; UsageError for one that was typed and can't be had from these weights."""
        inside = self.guidance_inside
        if inside is None or (typed and scale == inside):
            return scale
        if typed:
            raise UsageError(
                f"a guidance scale of {scale:g} can't be had from this model",
                why=f"its weights were trained to give the velocity guided by {inside:g} in one branch",
                hint="leave the guidance scale out",
            )
        return inside

    def steps_warning(self, steps: int) -> str:
        """A warning about another number of steps than the schedule's; '' if it is the same."""
        if steps == self.steps:
            return ""
        return f"the schedule has {self.steps} steps: {steps} steps take depth and guidance by noise level"

    def kept(self, depth: int) -> tuple[int, ...]:
        """The blocks of a step of this depth, ascending."""
        return tuple(sorted(self.order[:depth]))

    def step_at(self, level: float) -> int:
        """The step whose noise level is nearest; of two equally near ones the later."""
        return min(range(self.steps), key=lambda step: (abs(self.levels[step] - level), -step))

    def grouped(self, most: int) -> tuple[int, ...]:
        """At most `most` depths, so that rounding each step up to the next of them adds the fewest blocks."""
        if len(self.depths) <= most:
            return self.depths
        chosen = itertools.combinations(self.depths[:-1], most - 1)
        return min(
            ((*some, self.depths[-1]) for some in chosen),
            key=lambda available: (self.deepened(available).forwards, available),
        )

    def deepened(self, available: tuple[int, ...]) -> "Schedule":
        """This schedule where only some depths can be run: each step takes the next deeper one."""
        return replace(self, blocks=tuple(min(one for one in available if one >= depth) for depth in self.blocks))

    def after(self, plan: BlockPlan) -> "Schedule":
        """The schedule of a model whose blocks were moved by `plan`: dropped blocks leave the order.

        UsageError where that isn't the same schedule: new or repeated blocks, or a step that would run none.
        """
        sources = plan.sources
        if not plan.moves:
            return self
        if None in sources or len(set(sources)) != len(sources):
            raise UsageError(
                "the model has a schedule, which new blocks are not part of",
                why="schedule.json says for each block of the model when it runs",
                hint="start from the model without the schedule, and run sanac schedule on the result",
            )
        place = {source: position for position, source in enumerate(sources)}
        blocks = tuple(sum(block in place for block in self.order[:depth]) for depth in self.blocks)
        if not all(blocks):
            step = blocks.index(0)
            gone = ", ".join(map(str, self.kept(self.blocks[step])))
            raise UsageError(
                f"the model's schedule runs no block of this plan in step {step}",
                why=f"step {step} runs the blocks {gone}, and all are dropped",
                hint="keep one of them, or start from the model without the schedule",
            )
        return replace(self, order=tuple(place[block] for block in self.order if block in place), blocks=blocks)

    def to_json(self) -> dict[str, Any]:
        """The content of schedule.json."""
        rows = zip(self.levels, self.blocks, self.guided, strict=True)
        steps = [{"noise": level, "blocks": depth, "guided": int(guided)} for level, depth, guided in rows]
        inside = {"guidance_inside": self.guidance_inside} if self.guidance_inside is not None else {}
        return {"schema": SCHEMA, "order": list(self.order), "steps": steps, **inside}

    def __str__(self) -> str:
        """'10 steps of 4 4 4 4 5 7 9 11 12 12 blocks, guided in the first 5: 46.5 block-forwards per picture'."""
        depths = " ".join(map(str, self.blocks)) if len(self.depths) > 1 else f"{self.depths[0]}"
        return (
            f"{self.steps} steps of {depths} blocks, {self.guided_text}: {self.forwards:g} block-forwards per picture"
        )

    @property
    def guided_text(self) -> str:
        """Which steps are guided, in words."""
        if self.guidance_inside is not None:
            return f"guidance of {self.guidance_inside:g} in the weights"
        if all(self.guided):
            return "all guided"
        if not any(self.guided):
            return "none guided"
        count = sum(self.guided)
        if all(self.guided[:count]):
            return f"guided in the first {count}"
        return f"guided in steps {' '.join(str(step) for step, one in enumerate(self.guided, 1) if one)}"


def plain(blocks: int, levels: tuple[int, ...]) -> Schedule:
    """The schedule that runs the whole model with guidance at every step."""
    return Schedule(tuple(range(blocks)), levels, (blocks,) * len(levels), (True,) * len(levels))


def schedule_from_json(value: Mapping[str, Any], where: str, blocks: int) -> Schedule:
    """The schedule in a parsed schedule.json of a model with so many blocks; InvalidInput says what is wrong."""
    try:
        if value["schema"] != SCHEMA:
            raise ValueError(f"its schema is {value['schema']!r}, this version reads {SCHEMA}")
        rows = [(_integer(row["noise"]), _integer(row["blocks"]), row["guided"]) for row in value["steps"]]
        if any(type(guided) is not int or guided not in {0, 1} for *_, guided in rows):
            raise ValueError("guided is 0 or 1")
        order = tuple(map(_integer, value["order"]))
        if len(order) != blocks:
            raise ValueError(f"it orders {len(order)} blocks, the model has {blocks}")
        inside = value.get("guidance_inside")
        if inside is not None and type(inside) not in {int, float}:
            raise ValueError(f"guidance_inside is {inside!r}")
        levels, depths = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
        return Schedule(order, levels, depths, tuple(bool(row[2]) for row in rows), inside)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
        why = error.why if isinstance(error, InvalidInput) else str(error)
        raise InvalidInput(
            f"{where} is not a schedule", why=why, hint="run sanac schedule again, or delete the file"
        ) from error


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not an integer")
    return value
