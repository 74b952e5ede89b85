"""The front of schedules: at each budget the best candidate, beside as many plain steps as cost the same.

Candidates are what the velocity's error proposes for each number of steps and each guided share. Images decide: all
candidates on a quarter of the prompts, the best on all of them. A schedule that isn't better than plain steps, by the
interval of the paired difference, gives way to them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sanac.core.artifact.schedule import Schedule, schedule_from_json
from sanac.core.errors import CheckFailed
from sanac.core.progress import Reporter
from sanac.judge.halving import choose_by_images
from sanac.judge.intervals import Difference, Interval, PromptScore, overall, paired_difference
from sanac.schedule.allocation import VelocityTable, allocate, guidance_patterns

Scorer = Callable[[Schedule, int], Sequence[PromptScore]]  # (schedule, number of prompts) -> their scores
Unseen = Callable[[Schedule], Interval]  # the share of right images of contents that training never saw
Levels = Callable[[int], tuple[int, ...]]  # number of sampler steps -> noise levels


@dataclass(frozen=True)
class FrontRow:
    """One budget: the schedule that was chosen for it, and what the images say."""

    budget: float  # share of the whole model's block-forwards
    schedule: Schedule  # the best candidate
    plain: Schedule  # the whole model in as few steps as cost the same
    score: Interval | None = None
    plain_score: Interval | None = None
    against_plain: Difference | None = None
    against_whole: Difference | None = None
    unseen: Interval | None = None  # of contents that training never saw: it decides nothing
    plain_unseen: Interval | None = None

    @property
    def gains(self) -> bool:
        """Whether the schedule beats plain steps; without images it is taken to."""
        return self.against_plain is None or self.against_plain.interval.low > 0

    @property
    def chosen(self) -> Schedule:
        """The schedule, or the plain steps where those are as good."""
        return self.schedule if self.gains else self.plain

    def to_json(self) -> dict[str, Any]:
        """The row as stored and printed."""
        judged: dict[str, Interval | Difference | None] = {"score": self.score, "plain_score": self.plain_score}
        judged |= {"unseen": self.unseen, "plain_unseen": self.plain_unseen}
        judged |= {"against_plain": self.against_plain, "against_whole": self.against_whole}
        return {
            "budget": self.budget,
            "forwards": self.schedule.forwards,
            "plain_forwards": self.plain.forwards,
            "gains": self.gains,
            "schedule": self.schedule.to_json(),
            "plain": self.plain.to_json(),
            **{name: value.to_json() if value else None for name, value in judged.items()},
        }


@dataclass(frozen=True)
class Front:
    """The rows of all budgets, the largest first, and the whole model's score."""

    whole: Schedule
    rows: tuple[FrontRow, ...]
    score: Interval | None = None
    unseen: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """The front as stored and printed."""
        whole = {"forwards": self.whole.forwards, "schedule": self.whole.to_json()}
        judged = {"score": self.score, "unseen": self.unseen}
        whole |= {name: value.to_json() if value else None for name, value in judged.items()}
        return {"whole": whole, "rows": [row.to_json() for row in self.rows]}

    def loses_unseen(self, row: FrontRow) -> bool:
        """Whether the schedule of a row is worse than the whole model on unseen contents, by both intervals."""
        return row.unseen is not None and self.unseen is not None and row.unseen.high < self.unseen.low

    def at(self, budget: float) -> FrontRow:
        """The row of a budget."""
        return next(row for row in self.rows if row.budget == budget)

    def cheapest(self, max_loss: float) -> FrontRow:
        """The row of the smallest budget that loses at most this score; CheckFailed if none does."""
        kept = [row for row in self.rows if row.against_whole and row.against_whole.interval.value >= -max_loss]
        if not kept:
            lost = [-row.against_whole.interval.value for row in self.rows if row.against_whole]
            raise CheckFailed(
                f"no schedule of the front loses at most {max_loss:g}",
                why=f"the least that one loses is {min(lost):.3f}, at budgets of {self.budgets_text}",
                hint="--front with larger budgets, more --images for a narrower interval, or a larger --max-loss",
            )
        return min(kept, key=lambda row: row.budget)

    @property
    def budgets_text(self) -> str:
        """'0.5, 0.25, 0.2'."""
        return ", ".join(f"{row.budget:g}" for row in self.rows)


def proposals(table: VelocityTable, levels: Levels, steps: Sequence[int], forwards: float) -> list[Schedule]:
    """What the velocity's error proposes for a budget: a schedule for each number of steps and guided share."""
    found: dict[Schedule, None] = {}
    for count in steps:
        for pattern in guidance_patterns(table, count):
            made = allocate(table, levels(count), forwards, pattern)
            if made:
                found[made] = None
    return list(found)


def plain_steps(table: VelocityTable, levels: Levels, forwards: float, most: int) -> Schedule:
    """The whole model in as many plain steps as a budget pays for, and at most `most`."""
    step = table.plain(levels(1)).forwards
    return table.plain(levels(min(most, max(1, math.floor(forwards / step + 1e-9)))))


@dataclass
class FrontSearch:
    """Finds the front of a model: proposals of the velocity table, decided by `scorer` if there is one."""

    table: VelocityTable
    levels: Levels
    steps: Sequence[int]
    usual_steps: int
    images: int
    scorer: Scorer | None = None
    unseen: Unseen | None = None
    seed: int = 0
    _whole: Sequence[PromptScore] = field(default_factory=list)

    @property
    def whole(self) -> Schedule:
        """Plain sampling at the model's usual number of steps."""
        return self.table.plain(self.levels(self.usual_steps))

    def run(self, budgets: Sequence[float], reporter: Reporter) -> Front:
        """The front at these shares of the whole model's block-forwards."""
        if self.scorer:
            self._whole = self.scorer(self.whole, self.images)
        rows = []
        for budget in sorted(set(budgets), reverse=True):
            forwards = budget * self.whole.forwards
            candidates = proposals(self.table, self.levels, self.steps, forwards)
            if not candidates:
                reporter.note(f"a budget of {budget:g} is too small for {min(self.steps)} steps, and left out")
                continue
            rival = plain_steps(self.table, self.levels, forwards, self.usual_steps)
            rows.append(self._row(budget, candidates, rival))
            reporter.note(_said(rows[-1]))
        score = overall(self._whole, seed=self.seed) if self.scorer else None
        return Front(self.whole, tuple(rows), score, self.unseen(self.whole) if self.unseen else None)

    def _row(self, budget: float, candidates: Sequence[Schedule], rival: Schedule) -> FrontRow:
        if self.scorer is None:
            counts = (count for count in sorted(self.steps, reverse=True))
            free = (allocate(self.table, self.levels(count), budget * self.whole.forwards) for count in counts)
            return FrontRow(budget, next(one for one in free if one), rival)
        best = choose_by_images(candidates, self.scorer, self.images)
        ours, theirs = self.scorer(best, self.images), self.scorer(rival, self.images)
        return FrontRow(
            budget,
            best,
            rival,
            overall(ours, seed=self.seed),
            overall(theirs, seed=self.seed),
            paired_difference(ours, theirs, seed=self.seed),
            paired_difference(ours, self._whole, seed=self.seed),
            self.unseen(best) if self.unseen else None,
            self.unseen(rival) if self.unseen else None,
        )


def _said(row: FrontRow) -> str:
    """A row in words."""
    if row.score is None:
        return f"{row.budget:g}: {row.schedule}"
    assert row.against_plain
    ahead = row.against_plain.interval
    plain_text = f"{ahead.value:+.3f} [{ahead.low:+.3f}, {ahead.high:+.3f}] to {row.plain.steps} plain steps"
    return f"{row.budget:g}: {row.score.value:.3f}, {plain_text}; {row.schedule}"


def front_from_json(value: Any, blocks: int) -> Front:
    """The front from its stored form."""

    def schedule(entry: Any) -> Schedule:
        return schedule_from_json(entry, "the stored front", blocks)

    def interval(entry: Any) -> Interval | None:
        names = ("value", "low", "high", "level", "n")
        return Interval(*(entry[name] for name in names)) if entry else None

    def difference(entry: Any) -> Difference | None:
        found = interval(entry)
        return Difference(found, entry["below_zero"]) if found else None

    rows = tuple(
        FrontRow(
            row["budget"],
            schedule(row["schedule"]),
            schedule(row["plain"]),
            interval(row["score"]),
            interval(row["plain_score"]),
            difference(row["against_plain"]),
            difference(row["against_whole"]),
            interval(row["unseen"]),
            interval(row["plain_unseen"]),
        )
        for row in value["rows"]
    )
    whole = value["whole"]
    return Front(schedule(whole["schedule"]), rows, interval(whole["score"]), interval(whole["unseen"]))
