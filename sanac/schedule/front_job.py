"""The front of a model as a cached step: measures what schedules cost in quality, and keeps it in the workspace."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import CachedStep
from sanac.core.artifact.completeness import check_complete
from sanac.core.artifact.model import Model
from sanac.core.artifact.schedule import Schedule
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.progress import Reporter
from sanac.core.units import duration_text
from sanac.judge.halving import SuiteSettings, images_of_finalist
from sanac.judge.intervals import Interval, PromptScore
from sanac.judge.requests import confirming_prompts, judge_identity
from sanac.nn.calibration.cost import PATIENCE
from sanac.nn.calibration.prompts import is_shapes_vocabulary
from sanac.nn.device import pick_device
from sanac.nn.generation_memory import MANY, batch_that_fits
from sanac.nn.guidance import branches_of, usual_steps
from sanac.nn.pipeline_config import forward_seconds, latent_side, noise_levels, vocabulary_of
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.schedule.allocation import VelocityTable, least_depth
from sanac.schedule.cost import UNSEEN, images_to_judge
from sanac.schedule.front import Front, FrontSearch, front_from_json
from sanac.schedule.settings import STEPS, UNCONFIRMED_STEPS, ScheduleSettings
from sanac.schedule.velocity_error import VelocityErrors
from sanac.verify.prompt_scorer import PromptScorer, WholeModel
from sanac.verify.suite_scorer import SuiteScorer, VariantScorer

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
    prompts: tuple[str, ...] = ()  # the user's own, where they confirm

    @property
    def images(self) -> int:
        """Images of a finalist."""
        return images_of_finalist(self.settings.images, len(self.prompts), typed="images" in self.settings.typed)

    @property
    def judge(self) -> str:
        """What scores images of the user's prompts; empty for a suite's."""
        return judge_identity(self.settings.verifier) if self.prompts else ""

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
        about += [self.images, pick_device(settings.device)] if self.confirm != "none" else []
        about += [self.prompts, self.judge] if self.prompts else []
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
        whole, each = self._judged
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
        reporter.note(f"judging schedules at {len(self.budgets)} budgets, {self.images} images: about {spoken}")
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
            self._judge_by_images(search, reporter)
        whole, each = self._judged
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

    @property
    def _judged(self) -> tuple[int, int]:
        """Images of the whole model, and of each budget."""
        return images_to_judge(self.images, len(self.steps), unseen=not self.prompts)

    def _judge_by_images(self, search: FrontSearch, reporter: Reporter) -> None:
        """Let a suite's images, or those of the user's prompts, decide a search."""
        settings = self.settings
        generator = open_generator(self.model, settings.device, reporter=reporter, scheduled=False)
        scale = self.model.schedule.guidance(settings.guidance, typed=False) if self.model.schedule else None
        about = SuiteSettings(
            self.images,
            scale or settings.guidance,
            settings.batch if "batch" in settings.typed else batch_that_fits(self.model, generator.device, most=MANY),
            settings.seed,
            self.confirm == "unseen",
            self.prompts,
            settings.verifier or "",
        )
        how = (generator, about, self.file.with_name("judged.json"), self.key, reporter)
        judged: VariantScorer
        if self.prompts:
            whole = search.whole
            judged = PromptScorer(*how, WholeModel(whole.to_json(), lambda generator: _follow(generator, whole)))
        else:
            judged = suite = SuiteScorer(*how)

            def unseen(schedule: Schedule) -> Interval:
                count = self.images // UNSEEN
                return suite.unseen(schedule.to_json(), lambda generator: _follow(generator, schedule), count)

            search.unseen = unseen

        def scores(schedule: Schedule, count: int) -> Sequence[PromptScore]:
            return judged.scores(schedule.to_json(), lambda generator: _follow(generator, schedule), count)

        search.scorer = scores

    def search(self, table: VelocityTable) -> FrontSearch:
        """The search over a measured table."""
        settings = self.settings
        how = (usual_steps(self.model), self.images)
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
        if not shapes and confirm != "prompts":
            raise UsageError(
                f"{model.located.name} can't be judged by the shapes suite",
                why="its tokenizer doesn't have the vocabulary of the shapes world",
                hint="--confirm prompts --confirm-prompts FILE, or --confirm none",
            )
    elif settings.max_loss is not None:
        why = "no suite applies to it" if settings.confirm is None else ""
        hint = "--budget 0.25, or --confirm prompts --confirm-prompts FILE"
        raise UsageError(f"--max-loss needs scores of {model.located.name}", why=why, hint=hint)
    prompts = confirming_prompts(settings.confirm_prompts, settings.verifier)
    own = (settings.budget,) if settings.budget is not None else ()
    budgets: Sequence[float] = sorted({*settings.front, *own}, reverse=True)
    job = FrontJob(model, settings, errors, confirm, tuple(budgets), workspace, prompts)
    least = job.least
    if budgets[0] < least or (own and own[0] < least):
        raise UsageError(
            f"a budget of {own[0] if own else budgets[0]:g} is too small for {min(job.steps)} steps",
            why=f"a step runs a third of the blocks or more: that is {least:.3f} of the whole model's block-forwards",
            hint="a larger --budget, or fewer --try-steps",
        )
    return job
