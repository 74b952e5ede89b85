"""`sanac prune --confirm`: images decide between the subsets of blocks that the search finds nearly equal.

Each subset is judged as it would be shipped: with its own repair, where --compensate asks for one. The velocity's error
finds the neighbourhood, but among near-equal subsets it says little about the images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import CachedStep, run_step
from sanac.core.artifact.completeness import check_complete
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context
from sanac.core.errors import MissingResource, UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.core.units import duration_text
from sanac.judge.halving import SuiteSettings, choose_by_images, images_of_finalist, judged_images, mean_of_tasks
from sanac.judge.intervals import PromptScore
from sanac.judge.requests import confirming_prompts, judge_identity
from sanac.nn.calibration.block_subsets import BlockSubset
from sanac.nn.calibration.cost import PATIENCE
from sanac.nn.calibration.job import Calibration
from sanac.nn.calibration.prompts import is_shapes_vocabulary
from sanac.nn.calibration.states import CalibrationStates
from sanac.nn.device import pick_device
from sanac.nn.generation_memory import MANY, batch_that_fits
from sanac.nn.guidance import branches_of, usual_steps
from sanac.nn.pipeline_config import forward_seconds, latent_side, vocabulary_of
from sanac.prune.repair_job import RepairJob, sample, with_repair
from sanac.prune.search_job import SearchResult, plan_searched
from sanac.prune.selection import BlockSelection
from sanac.prune.settings import PruneSettings

SCHEMA = 1  # raised when the same settings would choose other blocks
_GUIDANCE = 4.5


@dataclass(frozen=True)
class ConfirmJob(CachedStep[BlockSubset]):
    """A choice between near-equal subsets with all settings resolved."""

    model: Model
    selection: BlockSelection
    found: SearchResult
    settings: PruneSettings
    states: Calibration | None  # of the repairs; None without --compensate
    context: Context
    workspace: ConfinedPath
    prompts: tuple[str, ...] = ()  # the user's own, where they confirm

    @property
    def images(self) -> int:
        """Images of a finalist."""
        return images_of_finalist(self.settings.images, len(self.prompts), typed="images" in self.settings.typed)

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the choice between subsets by their images"

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """What the choice depends on besides the model."""
        settings = self.settings
        repair = dict(self.states.settings) if self.states else None
        drawn: dict[str, Any] = {"images": self.images, "guidance": _GUIDANCE, "seed": settings.seed}
        if self.prompts:
            drawn |= {"prompts": json_files.key_of(self.prompts), "judge": judge_identity(settings.verifier)}
        return {"schema": SCHEMA, "suite": settings.confirm, "repair": repair, "subsets": self.found.near, **drawn}

    @cached_property
    def key(self) -> str:
        """Content key of the choice."""
        device = pick_device(self.settings.device)
        return json_files.key_of(["confirm", self.about, self.model.identity(), device])

    @property
    def file(self) -> ConfinedPath:
        """Path of the choice."""
        return self.workspace / f"confirm-{self.key[:8]}" / "confirm.json"

    def load(self) -> BlockSubset | None:
        """The cached choice, or None."""
        known = load_cached(self.file, self.key, {"kept": list})
        return tuple(known["kept"]) if known else None

    def check_budget(self, reporter: Reporter) -> None:
        """Report the estimated time of repairing and judging; above one hour it requires --yes."""
        model, count = self.model, len(self.found.near)
        pictures = self._pictures
        tokens = branches_of(model) * (latent_side(model) // model.architecture.patch_size) ** 2
        share = self.selection.target / model.architecture.blocks
        device = pick_device(self.settings.device)
        seconds = forward_seconds(model, tokens * share * pictures * usual_steps(model), device, readings=0.0)
        repairs = [self._repair(kept).seconds for kept in self.found.near] if self.states else []
        spoken = duration_text(seconds + sum(repairs))
        reporter.note(f"judging {count} subsets by {pictures:,} images: about {spoken}")
        if seconds + sum(repairs) > PATIENCE and not self.settings.yes:
            hint = "--images 64, a machine with a GPU, or --yes"
            raise MissingResource(f"judging {count} subsets would take about {spoken} here", hint=hint)

    def forget(self) -> None:
        """Delete what earlier runs judged."""
        self.file.parent.rmtree(ignore_errors=True)

    def compute(self, reporter: Reporter) -> BlockSubset:
        """Repair every subset, judge its images, and choose."""
        near = self.found.near
        assert self.context.subset_scorer is not None
        changes = {kept: self._changes(kept) for kept in near}
        scale = self.model.schedule.guidance(_GUIDANCE, typed=False) if self.model.schedule else _GUIDANCE
        verifier = self.settings.verifier or ""
        about = SuiteSettings(
            self.images,
            scale,
            batch_that_fits(self.model, pick_device(self.settings.device), most=MANY),
            self.settings.seed,
            prompts=self.prompts,
            verifier=verifier,
        )
        scorer = self.context.subset_scorer(
            self.model, about, self.file.with_name("judged.json"), self.key, self.settings.device, reporter
        )

        def scores(kept: BlockSubset, count: int) -> Sequence[PromptScore]:
            found: Sequence[PromptScore] = scorer(kept, changes[kept], count)
            return found

        reporter.begin("judging subsets", self._pictures, "images")
        try:
            kept = choose_by_images(near, scores, self.images)
        finally:
            reporter.end()
        few = self.images // 4
        judged = [{"kept": list(one), "score": mean_of_tasks(scores(one, few)), "images": few} for one in near]
        score = mean_of_tasks(scores(kept, self.images))
        store_cached(self.file, {"key": self.key, "kept": list(kept), "score": score, "judged": judged})
        return kept

    @property
    def _pictures(self) -> int:
        """Images to generate; those of the whole model, too, where they are the reference."""
        compared = bool(self.prompts) and self.settings.verifier is None
        return judged_images(len(self.found.near), self.images) + (self.images if compared else 0)

    def _repair(self, kept: BlockSubset) -> RepairJob:
        assert self.states is not None
        found = replace(self.found, kept=kept)
        job = plan_searched(self.model, self.selection, found, self.settings.write_options())
        return RepairJob(
            with_repair(job, self.states), self.states, self.workspace, yes=True, sample=lambda: self._sampled
        )

    @cached_property
    def _sampled(self) -> Sequence[CalibrationStates]:
        """The states that all repairs share."""
        assert self.states is not None
        return sample(self.states)

    def _changes(self, kept: BlockSubset) -> Mapping[str, Tensor]:
        """The repair's changes of a subset's weights; none without a repair."""
        if self.states is None:
            return {}
        repair = self._repair(kept)
        run_step(repair, NULL_REPORTER)
        return load_file(Path(repair.folder / "changes.safetensors"))


def check_confirmable(model: Model, settings: PruneSettings) -> tuple[str, ...]:
    """The user's prompts, if they confirm; an error if a model's images can't be judged as the settings say."""
    check_complete(model)
    if settings.confirm == "shapes" and not is_shapes_vocabulary(vocabulary_of(model)):
        raise UsageError(
            f"{model.located.name} can't be judged by the shapes suite",
            why="its tokenizer doesn't have the vocabulary of the shapes world",
            hint="--confirm prompts --confirm-prompts FILE, or leave --confirm out",
        )
    return confirming_prompts(settings.confirm_prompts, settings.verifier)


def confirmed(
    model: Model,
    selection: BlockSelection,
    found: SearchResult,
    settings: PruneSettings,
    states: Calibration | None,
    context: Context,
) -> SearchResult:
    """The search's result with the subset that the images prefer, and with what decided in its settings."""
    prompts, place = check_confirmable(model, settings), ConfinedPath(settings.workspace)
    job = ConfirmJob(model, selection, found, settings, states, context, place, prompts)
    kept = run_step(job, context.reporter, dry=settings.dry_run, fresh=settings.fresh)
    if kept != found.kept:
        context.reporter.note(f"images prefer the blocks {', '.join(map(str, kept))}")
    return replace(found, kept=kept, settings={**found.settings, "confirm": dict(job.about)})
