"""Measures the error of the velocity at every noise level and depth: one nested order of blocks, and its prefixes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import CachedStep
from sanac.core.artifact.model import Model
from sanac.core.artifact.schedule import WHOLE
from sanac.core.confined import ConfinedPath
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.nn.calibration.block_subsets import BlockSubset
from sanac.nn.calibration.cost import PATIENCE
from sanac.nn.calibration.job import Calibration, calibration
from sanac.nn.calibration.states import CalibrationStates, SweepBatch
from sanac.schedule.allocation import VelocityTable
from sanac.schedule.settings import PROMPTS, ScheduleSettings

SCHEMA = 1  # raised when the same settings would give another table
FEWER = ((8, 10), (4, 10), (4, 5))  # prompts and sampler steps, where the defaults would take more than an hour
_PER_ROUND = 12  # of so many remaining blocks, one is dropped per round


@dataclass(frozen=True)
class VelocityErrors(CachedStep[VelocityTable]):
    """The measurement with all settings resolved."""

    states: Calibration
    sweep_batch: SweepBatch
    workspace: ConfinedPath
    yes: bool = False

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the velocity's error by depth"

    @property
    def model(self) -> Model:
        """The model."""
        return self.states.model

    @cached_property
    def key(self) -> str:
        """Content key of the table."""
        return json_files.key_of(["velocity-error", SCHEMA, self.states.settings, self.model.identity()])

    @property
    def file(self) -> ConfinedPath:
        """Path of the table."""
        return self.workspace / f"velocity-{self.key[:8]}" / "velocity.json"

    def load(self) -> VelocityTable | None:
        """The cached table, or None."""
        fields = {"order": list, "levels": list, "guided": list, "unguided": list}
        known = load_cached(self.file, self.key, fields)
        try:
            return table_from_json(known) if known else None
        except TypeError:  # damaged: measured again
            return None

    @property
    def seconds(self) -> float:
        """Estimated seconds."""
        blocks, rounds = self.model.architecture.blocks, list(dropping_rounds(self.model.architecture.blocks))
        subsets = sum(0.5 * left * left / blocks for left, _ in rounds) + 2 * 0.5 * blocks
        pairs = self.states.count * self.states.moments
        readings = sum(self.sweep_batch.sweeps(pairs, left) for left, _ in rounds)
        return self.states.seconds(subsets, readings=readings + 2 * self.sweep_batch.sweeps(pairs, blocks))

    def check_budget(self, reporter: Reporter) -> None:
        """Report the estimated time; above one hour it requires --yes."""
        self.states.check_budget("measuring the velocity's error", self.seconds, reporter, yes=self.yes)

    def compute(self, reporter: Reporter) -> VelocityTable:
        """Measure, and cache the table."""
        with torch.no_grad():
            states = self.states.sample()
            table = measure(states, self.sweep_batch, reporter)
        store_cached(self.file, {"key": self.key, **table_to_json(table)})
        return table


def plan_errors(
    model: Model, settings: ScheduleSettings, workspace: ConfinedPath, reporter: Reporter
) -> VelocityErrors:
    """The measurement of these settings, with fewer prompts and steps where the defaults would take over an hour."""
    found = _planned(model, settings, workspace, reporter)
    if found.seconds <= PATIENCE or {"num_prompts", "timesteps", "prompts", "embeddings", "yes"} & settings.typed:
        return found
    usual = found.states.moments
    for prompts, steps in FEWER:
        found = _planned(model, replace(settings, num_prompts=prompts, timesteps=steps), workspace, NULL_REPORTER)
        if found.seconds <= PATIENCE:
            break
    counts = f"{found.states.count} prompts x {found.states.moments} steps"
    reporter.note(f"{counts}: {PROMPTS} x {usual} would take over an hour")
    return found


def _planned(model: Model, settings: ScheduleSettings, workspace: ConfinedPath, reporter: Reporter) -> VelocityErrors:
    states = calibration(model, settings.calibration(), every=1, min_prompts=1)
    sweep_batch = SweepBatch.of(states.memory_limit // 4, states.state_bytes, model.architecture.blocks)
    states = states.fit_to_memory(sweep_batch.taken(states.state_bytes), 0, reporter)
    return VelocityErrors(states, sweep_batch, workspace, settings.yes)


def measure(states: CalibrationStates, sweep_batch: SweepBatch, reporter: Reporter) -> VelocityTable:
    """The nested order of blocks, found by leaving out the least needed ones, and the errors of its prefixes."""
    blocks = len(states.blocks)
    levels = tuple(round(float(moment.timestep) / states.guidance.timesteps * WHOLE) for moment in states.moments)
    weights = torch.tensor([(here - after) ** 2 for here, after in zip(levels, (*levels[1:], 0), strict=True)])
    reporter.begin("measuring", blocks - 1, "blocks")
    try:
        order = _nested_order(states, sweep_batch, weights.float(), reporter)
        prefixes = [tuple(sorted(order[:depth])) for depth in range(1, blocks + 1)]
        guided = _by_level(states.errors(prefixes, sweep_batch), prefixes)
        unguided: tuple[tuple[float, ...], ...] = ()
        if states.guidance.branches > 1:
            unguided = _by_level(states.errors(prefixes, sweep_batch, guided=False), prefixes)
    finally:
        reporter.end()
    schedule = states.blocks.model.schedule
    return VelocityTable(tuple(order), levels, guided, unguided, schedule.guidance_inside if schedule else None)


def _nested_order(
    states: CalibrationStates, sweep_batch: SweepBatch, weights: torch.Tensor, reporter: Reporter
) -> list[int]:
    """All blocks, the last one to be left out first."""
    kept, dropped = tuple(range(len(states.blocks))), list[int]()
    for left, count in dropping_rounds(len(states.blocks)):
        assert len(kept) == left
        choices = {tuple(index for index in kept if index != out): out for out in kept}
        errors = states.errors(list(choices), sweep_batch)
        total = {choices[one]: float((weights @ errors[one].mean(dim=1)).nan_to_num(torch.inf)) for one in choices}
        least = sorted(kept, key=lambda block: (total[block], block))[:count]
        dropped += least
        kept = tuple(index for index in kept if index not in least)
        reporter.advance(count)
    return [*kept, *reversed(dropped)]


def dropping_rounds(blocks: int) -> "list[tuple[int, int]]":
    """(remaining blocks, how many of them are dropped) of each round, down to a single block."""
    found = []
    while blocks > 1:
        count = max(1, blocks // _PER_ROUND)
        found.append((blocks, count))
        blocks -= count
    return found


def _by_level(errors: Mapping[BlockSubset, torch.Tensor], prefixes: list[BlockSubset]) -> tuple[tuple[float, ...], ...]:
    """Mean error over prompts: [level][depth - 1]; NaN counts as a very large one."""
    means = torch.stack([errors[kept].mean(dim=1) for kept in prefixes], dim=1).nan_to_num(1e30, 1e30)
    return tuple(tuple(row) for row in means.tolist())


def table_to_json(table: VelocityTable) -> dict[str, Any]:
    """The table as stored."""
    rows = {"guided": [list(row) for row in table.guided], "unguided": [list(row) for row in table.unguided]}
    return {"order": list(table.order), "levels": list(table.levels), "inside": table.inside, **rows}


def table_from_json(value: Mapping[str, Any]) -> VelocityTable:
    """The table from its stored form."""
    rows = {name: tuple(tuple(row) for row in value[name]) for name in ("guided", "unguided")}
    return VelocityTable(tuple(value["order"]), tuple(value["levels"]), **rows, inside=value.get("inside"))
