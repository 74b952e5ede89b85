"""The block search job of `prune`: finds the blocks to keep by beam search and caches the result in the workspace.

The cache is keyed by content, so a rerun reads it. An unreadable entry is a cache miss.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import CachedStep, run_step
from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact
from sanac.nn.calibration.block_subsets import BlockSubset
from sanac.nn.calibration.job import Calibration, calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates, SweepBatch
from sanac.prune.beam_search import search
from sanac.prune.cost import BEAM, EVERY, SEARCHED, SWAPS, search_forwards
from sanac.prune.selection import BlockSelection

NEAR, MOST_NEAR = 1.5, 12  # subsets within so much of the least error count as equal, and at most so many
SEARCH_SCHEMA = 1  # raised when the same settings would choose other blocks


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The blocks that a search chose to keep, and the velocity error without the others."""

    kept: BlockSubset
    error: float  # on held-out prompts
    settings: Mapping[str, Any]
    near: tuple[BlockSubset, ...] = ()  # subsets of the same size that are hardly worse, the best first


@dataclass(frozen=True)
class SearchJob(CachedStep[SearchResult]):
    """A search with all settings resolved."""

    selection: BlockSelection
    states: Calibration
    sweep_batch: SweepBatch
    workspace: ConfinedPath
    yes: bool = False  # allow estimates above one hour

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the search"

    @property
    def blocks(self) -> int:
        """Number of blocks of the model."""
        return self.states.model.architecture.blocks

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the result depends on, besides the model."""
        return {"schema": SEARCH_SCHEMA, "choice": asdict(self.selection), "beam": BEAM, **self.states.settings}

    @cached_property
    def key(self) -> str:
        """Content key of the result."""
        return json_files.key_of(["search", self.settings, self.states.model.identity()])

    @property
    def file(self) -> ConfinedPath:
        """Path of the result."""
        return self.workspace / f"search-{self.key[:8]}" / "search.json"

    def load(self) -> SearchResult | None:
        """The cached result, or None."""
        known = load_cached(self.file, self.key, {"kept": list, "error": float})
        if known is None:
            return None
        near = tuple(tuple(kept) for kept in known.get("near", [known["kept"]]))
        return SearchResult(tuple(known["kept"]), known["error"], self.settings, near)

    @property
    def seconds(self) -> float:
        """Estimated seconds of the search."""
        states, target = self.states, self.selection.target
        forwards, sweeps = search_forwards(self.blocks, target), _search_rounds(self.blocks, target)
        sweeps *= self.sweep_batch.sweeps(states.count * states.moments, BEAM * self.blocks)
        return states.seconds(forwards, readings=sweeps)

    def check_budget(self, reporter: Reporter) -> None:
        """Report the estimated time; above one hour it requires --yes."""
        self.states.check_budget("searching", self.seconds, reporter, yes=self.yes)

    def compute(self, reporter: Reporter) -> SearchResult:
        """Search on most prompts, and evaluate the result on the others."""
        target, protected = self.selection.target, frozenset(self.selection.protected(self.blocks))
        with torch.no_grad():
            fitted, judged = self.states.states([1])
            evaluate = _SubsetEvaluator(fitted, self.sweep_batch, self.file.with_name("seen.json"), self.key)
            found = search(self.blocks, target, protected, evaluate, beam=BEAM, reporter=reporter)
            kept = found[-1].kept
            error = float(judged.errors([kept], self.sweep_batch)[kept].mean())
        steps = [{"kept": list(step.kept), "error": step.error} for step in found]
        near = evaluate.near(kept)
        shown = {"kept": list(kept), "error": error, "steps": steps, "near": [list(one) for one in near]}
        store_cached(self.file, {"key": self.key, **shown})
        return SearchResult(kept, error, self.settings, near)


def find_blocks(
    model: Model,
    selection: BlockSelection,
    settings: CalibrationSettings,
    workspace: ConfinedPath,
    reporter: Reporter,
) -> SearchResult:
    """Search for the blocks to keep, or read the cached result."""
    return run_step(plan_search(model, selection, settings, workspace, reporter), reporter, dry=settings.dry)


def plan_search(
    model: Model,
    selection: BlockSelection,
    settings: CalibrationSettings,
    workspace: ConfinedPath,
    reporter: Reporter,
) -> SearchJob:
    """The search of these settings; computes nothing yet."""
    selection.check(model.architecture.blocks)
    count_is_open = settings.sizes_are_open
    if settings.num_prompts is None and settings.prompts is None and settings.embeddings is None:
        settings = replace(settings, num_prompts=SEARCHED)
    states = replace(calibration(model, settings, EVERY), count_is_open=count_is_open)
    sweep_batch = SweepBatch.of(states.memory_limit // 4, states.state_bytes, BEAM * model.architecture.blocks)
    states = states.fit_to_memory(sweep_batch.taken(states.state_bytes), 0, reporter)
    return SearchJob(selection, states, sweep_batch, workspace, settings.yes)


class _SubsetEvaluator:
    """Mean velocity error of block subsets, cached on disk so that a stopped search catches up quickly."""

    def __init__(self, states: CalibrationStates, sweep_batch: SweepBatch, file: ConfinedPath, key: str) -> None:
        self.states, self.sweep_batch, self.file, self.key = states, sweep_batch, file, key
        known = load_cached(file, key, {"seen": dict})
        self.errors: dict[str, float] = known["seen"] if known else {}

    def __call__(self, choices: list[BlockSubset]) -> dict[BlockSubset, float]:
        """Mean error of each subset; NaN and infinity become 1e300."""
        names = {kept: ",".join(map(str, kept)) for kept in choices}
        unknown = [kept for kept in choices if names[kept] not in self.errors]
        if unknown:
            for kept, errors in self.states.errors(unknown, self.sweep_batch).items():
                error = float(errors.mean())
                self.errors[names[kept]] = error if math.isfinite(error) else 1e300
            store_cached(self.file, {"key": self.key, "seen": self.errors})
        return {kept: self.errors[name] for kept, name in names.items()}

    def near(self, best: BlockSubset) -> tuple[BlockSubset, ...]:
        """`best` and the evaluated subsets of its size whose error is hardly larger, by their error."""
        limit = NEAR * self.errors[",".join(map(str, best))]
        subsets = {tuple(map(int, name.split(","))): error for name, error in self.errors.items()}
        found = [kept for kept, error in subsets.items() if len(kept) == len(best) and error <= limit]
        return tuple(sorted(found, key=lambda kept: (subsets[kept], kept))[:MOST_NEAR])


def _search_rounds(blocks: int, target: int) -> int:
    """Approximate number of evaluation rounds in a search."""
    return blocks - target + SWAPS


def plan_searched(model: Model, selection: BlockSelection, found: SearchResult, options: WriteOptions) -> ArtifactJob:
    """The prune job that keeps the blocks chosen by the search."""
    settings = {name: value for name, value in asdict(selection).items() if name != "target"}
    plan = keep_blocks(model.architecture.blocks, list(found.kept))
    return plan_artifact("prune", model, plan, settings | {"search": dict(found.settings)}, options)
