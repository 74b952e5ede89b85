"""The repair job of a pruned model: calibration states, cached result, and the artifact job that writes it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import CachedStep, run_step
from sanac.core.artifact.model import Model
from sanac.core.checkpoint.lora import Addition
from sanac.core.confined import ConfinedPath
from sanac.core.file_copy import digest_file
from sanac.core.progress import Reporter
from sanac.core.safetensors_header import read_header
from sanac.core.write.job import ArtifactJob
from sanac.nn.blocks.block import POINT
from sanac.nn.calibration.block_subsets import BlockSubset
from sanac.nn.calibration.job import Calibration, calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates
from sanac.nn.save_tensors import save_tensors
from sanac.prune.repair import RIDGES, ROUNDS, Repair, fit, gaps_of

REPAIR_SCHEMA = 1  # raised when the same settings would give other changes


def repair_states(model: Model, settings: CalibrationSettings, reporter: Reporter) -> Calibration:
    """The calibration that a repair is fitted on; raises at once if it doesn't fit into memory."""
    states = calibration(model, settings, every=1)
    outputs, inputs = _point_shape(model)
    fixed = 8 * (states.moments * inputs**2 + (len(RIDGES) + 6) * outputs * inputs)
    return states.fit_to_memory(fixed, 2 * states.moments * (states.state_bytes + states.caption_bytes), reporter)


def _point_shape(model: Model) -> tuple[int, int]:
    outputs, inputs = model.weights.tensors[f"transformer_blocks.0.{POINT}"].shape[:2]
    return outputs, inputs


def with_repair(job: ArtifactJob, states: Calibration) -> ArtifactJob:
    """The job with the repair in its settings and key, so that it names another artifact. Computes nothing yet."""
    settings = {**job.settings, "compensate": {"schema": REPAIR_SCHEMA, **states.settings}}
    return replace(job, settings=settings, key=json_files.key_of([job.key, settings["compensate"]]))


@dataclass(frozen=True, slots=True)
class RepairJob(CachedStep[dict[str, Any]]):
    """The cached repair of a job; all layouts that the job is written in share it."""

    job: ArtifactJob
    states: Calibration
    workspace: ConfinedPath
    yes: bool = False  # allow estimates above one hour
    sample: Callable[[], Sequence[CalibrationStates]] | None = None  # sampled states that several repairs share
    searched: bool = False  # whether a search, which takes as much memory, was reported before

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the repair"

    @property
    def kept(self) -> BlockSubset:
        """Indices of the kept blocks."""
        return tuple(index for index in self.job.plan.sources if index is not None)

    @property
    def seconds(self) -> float:
        """Estimated seconds of the fit."""
        outputs, inputs = _point_shape(self.states.model)
        gaps = len(gaps_of(self.kept, self.states.model.architecture.blocks))
        solving = 2.0 * gaps * len(RIDGES) * ROUNDS * self.states.moments * outputs * inputs**2
        return self.states.seconds(3.0, more=solving, readings=3)

    def check_budget(self, reporter: Reporter) -> None:
        """Report the estimated time of the fit; above one hour it requires --yes."""
        known = self.searched
        self.states.check_budget("repairing", self.seconds, reporter, yes=self.yes, memory_is_known=known)

    @property
    def key(self) -> str:
        """Content key: equal for repairs with the same weight changes."""
        return json_files.key_of(
            ["repair", self.job.settings["compensate"], self.job.identity, self.job.plan.to_json()]
        )

    @property
    def folder(self) -> ConfinedPath:
        """Folder of the repair in the workspace."""
        return self.workspace / f"repair-{self.key[:8]}"

    def load(self) -> dict[str, Any] | None:
        """Report of a cached repair, or None if there is none or its file doesn't match its digest."""
        known = load_cached(
            self.folder / "repair.json",
            self.key,
            {"changes": str, "velocity_error": dict, "left_out": bool, "gaps": list},
        )
        changes = self.folder / "changes.safetensors"
        whole = known is not None and changes.is_file() and digest_file(changes) == known["changes"]
        return known if whole else None

    def compute(self, reporter: Reporter) -> dict[str, Any]:
        """Fit the repair and store its weight changes; returns the report."""
        with torch.no_grad():
            found, report = _fitted(self.sample() if self.sample else sample(self.states), self.kept, reporter)
        self.folder.mkdir(parents=True, exist_ok=True)
        changes = self.folder / "changes.safetensors"
        save_tensors(found.changes, changes)
        report |= {"key": self.key, "changes": digest_file(changes)}
        store_cached(self.folder / "repair.json", report)
        return report

    def run(self, reporter: Reporter) -> ArtifactJob:
        """The job with the repair's weight changes, read from the cache or fitted now."""
        report = run_step(self, reporter)
        additions = read_header(Path(self.folder / "changes.safetensors")).tensors
        return replace(
            self.job,
            additions={name: Addition(ref) for name, ref in additions.items()},
            overrides_digest=report["changes"],
        )


def sample(states: Calibration) -> Sequence[CalibrationStates]:
    """The states that a repair is fitted on, those that choose its ridges, and those that it is evaluated on."""
    with torch.no_grad():
        return states.states([1, 1])


def _fitted(
    states: Sequence[CalibrationStates], kept: BlockSubset, reporter: Reporter
) -> tuple[Repair, dict[str, Any]]:
    """Fit on most prompts, choose ridges on a fifth of them and evaluate on another; returns (repair, report)."""
    fitted, chosen, judged = states
    found = fit(fitted, chosen, kept, reporter)
    before, after = (float(states.errors([kept])[kept].mean()) for states in (judged, judged.changed(found.changes)))
    if not after <= before:
        reporter.warn(f"the repair increased the velocity error ({before:.4f} -> {after:.4f}), so it is not applied")
        found, after = Repair(), before
    report = {
        "velocity_error": {"pruned": before, "repaired": after},
        "left_out": not found.changes,
        "gaps": [asdict(gap) for gap in found.gaps],
    }
    return found, report
