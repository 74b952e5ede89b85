"""The front of a model as a cached step: measures what schedules cost in quality, and keeps it in the workspace."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import CachedStep
from sanac.core.artifact.model import Model
from sanac.core.artifact.schedule import Schedule
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.progress import Reporter
from sanac.core.units import duration_text
from sanac.judge.halving import SuiteSettings
from sanac.judge.intervals import Interval, PromptScore
from sanac.nn.calibration.cost import PATIENCE
from sanac.nn.calibration.prompts import is_shapes_vocabulary
from sanac.nn.device import pick_device
from sanac.nn.guidance import branches_of, usual_steps
from sanac.nn.pipeline_config import forward_seconds, latent_side, noise_levels, vocabulary_of
from sanac.runtime.pipeline import DiffusionGenerator, check_complete, open_generator
from sanac.schedule.allocation import VelocityTable, least_depth
from sanac.schedule.cost import UNSEEN, images_to_judge
from sanac.schedule.front import Front, FrontSearch, front_from_json
from sanac.schedule.settings import STEPS, UNCONFIRMED_STEPS, ScheduleSettings
from sanac.schedule.velocity_error import VelocityErrors
from sanac.verify.suite_scorer import SuiteScorer

SCHEMA = 1  # raised when the same settings would give another front


@dataclass(frozen=True)
class FrontJob(CachedStep[Front]):
    """A search for the front with all settings resolved."""

    model: Model
    settings: ScheduleSettings
    errors: VelocityErrors
    confirm: str
    budgets: tuple[float, ...]
    workspace: ConfinedPath

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the front of schedules"

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of sampler steps to try."""
        usual = usual_steps(self.model)
        default = tuple(count for count in STEPS if count <= usual) or (usual,)
        if self.confirm == "none":
            default = (min(UNCONFIRMED_STEPS, usual),)
        return self.settings.try_steps or default

    @property
    def least(self) -> float:
        """The smallest share of the whole model's block-forwards that a schedule may have."""
        blocks, branches = self.model.architecture.blocks, branches_of(self.model)
        return min(self.steps) * least_depth(blocks) / branches / (usual_steps(self.model) * blocks)

    @cached_property
    def key(self) -> str:
        """Content key of the front."""
        settings = self.settings
        about = [self.confirm, self.budgets, self.steps, settings.guidance, settings.seed]
        about += [settings.images, pick_device(settings.device)] if self.confirm != "none" else []
        return json_files.key_of(["front", SCHEMA, self.errors.key, about])

    @property
    def file(self) -> ConfinedPath:
        """Path of the front."""
        return self.workspace / f"front-{self.key[:8]}" / "front.json"

    def load(self) -> Front | None:
        """The cached front, or None."""
        known = load_cached(self.file, self.key, {"whole": dict, "rows": list})
        try:
            return front_from_json(known, self.model.architecture.blocks) if known else None
        except (InvalidInput, KeyError, TypeError):  # damaged: measured again
            return None

    @property
    def seconds(self) -> float:
        """Estimated seconds of judging, without the velocity's errors."""
        if self.confirm == "none":
            return 0.0
        model = self.model
        whole, each = images_to_judge(self.settings.images, len(self.steps))
        pictures = whole + each * sum(self.budgets)
        tokens = branches_of(model) * (latent_side(model) // model.architecture.patch_size) ** 2
        device = pick_device(self.settings.device)
        return forward_seconds(model, tokens * pictures * usual_steps(model), device, readings=0.0)

    def forget(self) -> None:
        """Delete what earlier runs measured and judged."""
        self.file.parent.rmtree(ignore_errors=True)
        self.errors.file.parent.rmtree(ignore_errors=True)

    def check_budget(self, reporter: Reporter) -> None:
        """Report the estimated time of both parts; above one hour it requires --yes."""
        if self.errors.load() is None:
            self.errors.check_budget(reporter)
        if not self.seconds:
            return
        spoken = duration_text(self.seconds)
        reporter.note(
            f"judging schedules at {len(self.budgets)} budgets, {self.settings.images} images: about {spoken}"
        )
        if self.seconds > PATIENCE and not self.settings.yes:
            raise MissingResource(
                f"judging schedules would take about {spoken} here",
                hint="--images 64, --front with fewer budgets, --confirm none, a machine with a GPU, or --yes",
            )

    def compute(self, reporter: Reporter) -> Front:
        """Measure the velocity's errors, propose, judge, and cache the front."""
        table = self.errors.load() or self.errors.compute(reporter)
        search = self.search(table)
        if self.confirm != "none":
            settings = self.settings
            generator = open_generator(self.model, settings.device, reporter=reporter, scheduled=False)
            scale = self.model.schedule.guidance(settings.guidance, typed=False) if self.model.schedule else None
            about = SuiteSettings(
                settings.images, scale or settings.guidance, settings.batch, settings.seed, self.confirm == "unseen"
            )
            judged = SuiteScorer(generator, about, self.file.with_name("judged.json"), self.key, reporter)

            def scores(schedule: Schedule, count: int) -> Sequence[PromptScore]:
                return judged.scores(schedule.to_json(), lambda generator: _follow(generator, schedule), count)

            def unseen(schedule: Schedule) -> Interval:
                count = settings.images // UNSEEN
                return judged.unseen(schedule.to_json(), lambda generator: _follow(generator, schedule), count)

            search.scorer, search.unseen = scores, unseen
        whole, each = images_to_judge(self.settings.images, len(self.steps))
        total = whole + each * len(self.budgets)
        reporter.begin(
            "judging", total if search.scorer else len(self.budgets), "images" if search.scorer else "budgets"
        )
        try:
            front = search.run(self.budgets, reporter)
        finally:
            reporter.end()
        store_cached(self.file, {"key": self.key, **front.to_json()})
        return front

    def search(self, table: VelocityTable) -> FrontSearch:
        """The search over a measured table."""
        settings = self.settings
        how = (usual_steps(self.model), settings.images)
        return FrontSearch(table, lambda steps: noise_levels(self.model, steps), self.steps, *how, seed=settings.seed)


def _follow(generator: DiffusionGenerator, schedule: Schedule) -> int:
    generator.follow(schedule)
    return schedule.steps


def plan_front(model: Model, settings: ScheduleSettings, errors: VelocityErrors, workspace: ConfinedPath) -> FrontJob:
    """The search of these settings; computes nothing yet."""
    shapes = is_shapes_vocabulary(vocabulary_of(model))
    confirm = settings.confirm or ("shapes" if shapes else "none")
    if confirm != "none":
        check_complete(model)
        if not shapes:
            raise UsageError(
                f"{model.located.name} can't be judged by the shapes suite",
                why="its tokenizer doesn't have the vocabulary of the shapes world",
                hint="--confirm none",
            )
    elif settings.max_loss is not None:
        why = "no suite applies to it" if settings.confirm is None else ""
        raise UsageError(f"--max-loss needs scores of {model.located.name}", why=why, hint="--budget 0.25")
    own = (settings.budget,) if settings.budget is not None else ()
    budgets: Sequence[float] = sorted({*settings.front, *own}, reverse=True)
    job = FrontJob(model, settings, errors, confirm, tuple(budgets), workspace)
    least = job.least
    if budgets[0] < least or (own and own[0] < least):
        raise UsageError(
            f"a budget of {own[0] if own else budgets[0]:g} is too small for {min(job.steps)} steps",
            why=f"a step runs a third of the blocks or more: that is {least:.3f} of the whole model's block-forwards",
            hint="a larger --budget, or fewer --try-steps",
        )
    return job
