"""The table of verbs: the one place that the command line, recipes, Python, docs and tests read.

A verb is a folder with its settings and its job, and a row here. References are 'module:name': reading the table
imports nothing of a verb.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.core.requirements import check_loaders

if TYPE_CHECKING:
    from sanac.core.context import Context, Outcome
    from sanac.core.settings import Settings

MODELS = ("source", "newest", "one", "several", "any", "none")  # which models a verb takes
GROUPS = {
    "judge": "Judged samples of a model, and judges that are trained."
}  # the first word of verbs of two words -> what they do


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of the command line."""

    name: str  # one word, or two: the first is in GROUPS
    short_help: str
    settings: str  # its settings class
    run: str  # its job: (word, settings, context) -> Outcome
    models: str = "one"  # source: the workspace's source if none is named; newest: its newest artifact; any: 0 or more
    argument: str = "MODEL"
    takes_tokens: bool = False  # whether its models may be token generators
    before: str = ""  # checks before the job: (word, settings, context) -> None
    ready: str = ""  # whether what it needs is installed, before any stage of a recipe runs: (settings) -> None
    after: tuple[str, ...] = ()  # what reads its outcome: (outcome, settings, context) -> Outcome
    cost: str = ""  # its cost in a recipe: (settings, shapes) -> Cost; empty where no recipe can name it
    result: str = ""  # the file that shows that a recipe's stage is done; empty where it depends on settings
    writes_artifact: bool = False

    @property
    def in_recipes(self) -> bool:
        """Whether a recipe may name it."""
        return bool(self.cost)

    def settings_class(self) -> "type[Settings]":
        """The class of its settings."""
        return cast("type[Settings]", resolve(self.settings))

    def call(self, words: tuple[str, ...], settings: "Settings", context: "Context") -> "Outcome":
        """Run it on some models."""
        arguments: tuple[Any, ...] = (settings, context)
        if self.models in {"several", "any"}:
            arguments = (words, *arguments)
        elif self.models != "none":
            arguments = (words[0] if words else None, *arguments)
        if self.models != "none":
            check_loaders()
        if self.before:
            resolve(self.before)(*arguments)
        outcome: Outcome = resolve(self.run)(*arguments)
        for reference in self.after:
            outcome = resolve(reference)(outcome, settings, context)
        return outcome


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "inspect",
            "What a checkpoint is: family, blocks, bytes, lineage.",
            "sanac.core.inspect.settings:InspectSettings",
            "sanac.core.inspect.job:run",
            takes_tokens=True,
        ),
        Verb(
            "convert",
            "The same model in another layout.",
            "sanac.core.write.settings:ConvertSettings",
            "sanac.core.write.convert_job:run",
            writes_artifact=True,
        ),
        Verb(
            "analyze",
            "What each block is worth.",
            "sanac.prune.settings:AnalyzeSettings",
            "sanac.prune.analyze_job:run",
            models="source",
            after=("sanac.report.charts.scores:draw_outcome",),
            cost="sanac.prune.cost:analyze",
            result="scores.json",
        ),
        Verb(
            "prune",
            "Fewer blocks.",
            "sanac.prune.settings:PruneSettings",
            "sanac.prune.job:run",
            models="source",
            cost="sanac.prune.cost:prune",
            result="sanac.json",
            writes_artifact=True,
        ),
        Verb(
            "grow",
            "More blocks.",
            "sanac.grow.settings:GrowSettings",
            "sanac.grow.job:run",
            models="source",
            cost="sanac.grow.cost:grow",
            result="sanac.json",
            writes_artifact=True,
        ),
        Verb(
            "finetune",
            "Recover quality by a short training.",
            "sanac.finetune.settings:FinetuneSettings",
            "sanac.finetune.job:run",
            models="newest",
            ready="sanac.finetune.lora:check_installed",
            after=("sanac.report.charts.loss:archive_outcome",),
            cost="sanac.finetune.cost:finetune",
            result="sanac.json",
            writes_artifact=True,
        ),
        Verb(
            "reinforce",
            "A model taught by its own judge.",
            "sanac.reinforce.settings:ReinforceSettings",
            "sanac.reinforce.job:run",
            models="newest",
            takes_tokens=True,
            cost="sanac.reinforce.cost:reinforce",
            result="sanac.json",
            writes_artifact=True,
        ),
        Verb(
            "quantize",
            "Fewer bits per weight.",
            "sanac.quantize.settings:QuantizeSettings",
            "sanac.quantize.job:run",
            models="newest",
            after=("sanac.report.charts.allocation:draw_outcome",),
            cost="sanac.quantize.cost:quantize",
            result="sanac.json",
            writes_artifact=True,
        ),
        Verb(
            "schedule",
            "As many blocks and as much guidance as each sampler step needs.",
            "sanac.schedule.settings:ScheduleSettings",
            "sanac.schedule.job:run",
            models="newest",
            after=("sanac.report.charts.schedule:draw_outcome",),
            cost="sanac.schedule.cost:schedule",
            result="sanac.json",
            writes_artifact=True,
        ),
        Verb(
            "export",
            "Graphs and engines for other runtimes: ONNX, TensorRT.",
            "sanac.export.settings:ExportSettings",
            "sanac.export.job:run",
            models="newest",
            before="sanac.verify.exported:check_verifiable",
            ready="sanac.verify.exported:check_installed",
            after=("sanac.verify.exported:verify_exported",),
            cost="sanac.export.cost:export",
            result="sanac.json",
            writes_artifact=True,
        ),
        Verb(
            "verify",
            "Is it the same function?",
            "sanac.verify.settings:VerifySettings",
            "sanac.verify.job:run",
            argument="CANDIDATE",
            cost="sanac.verify.cost:verify",
        ),
        Verb(
            "evaluate",
            "Are the images good?",
            "sanac.verify.evaluate_settings:EvaluateSettings",
            "sanac.verify.evaluate_job:run",
            takes_tokens=True,
            cost="sanac.verify.cost:evaluate",
        ),
        Verb(
            "bench",
            "How fast, how much memory?",
            "sanac.verify.settings:BenchSettings",
            "sanac.verify.bench_job:run",
            takes_tokens=True,
            models="several",
            cost="sanac.verify.cost:bench",
            result="measurements/bench.json",
        ),
        Verb(
            "compare",
            "The same prompts with several models, side by side.",
            "sanac.verify.settings:CompareSettings",
            "sanac.verify.compare_job:run",
            models="several",
            result="compare.json",
        ),
        Verb(
            "gate",
            "Is it good enough to go on?",
            "sanac.verify.settings:GateSettings",
            "sanac.verify.gate_job:run",
            argument="DIR",
            after=("sanac.report.publish:publish_gates",),
        ),
        Verb(
            "generate",
            "Images from prompts.",
            "sanac.search.settings:GenerateSettings",
            "sanac.search.generate_job:run",
            takes_tokens=True,
        ),
        Verb(
            "judge samples",
            "Images of each prompt, scored, to reinforce a model with.",
            "sanac.reinforce.settings:JudgeSamplesSettings",
            "sanac.reinforce.samples_job:run",
            takes_tokens=True,
        ),
        Verb(
            "judge train",
            "Train a judge of images and previews.",
            "sanac.reinforce.judge_settings:JudgeTrainSettings",
            "sanac.reinforce.judge_job:run",
            models="any",
            takes_tokens=True,
        ),
        Verb(
            "ls",
            "What the workspace holds.",
            "sanac.core.housekeeping.settings:ListSettings",
            "sanac.core.housekeeping.ls_job:run",
            models="none",
        ),
        Verb(
            "clean",
            "Delete what can be made again.",
            "sanac.core.housekeeping.settings:CleanSettings",
            "sanac.core.housekeeping.clean_job:run",
            models="none",
        ),
        Verb(
            "doctor",
            "What this machine can build and run.",
            "sanac.runtime.settings:DoctorSettings",
            "sanac.runtime.doctor_job:run",
            models="none",
        ),
    )
}


def recipe_verbs() -> tuple[str, ...]:
    """Names of the verbs that recipes may name, in the order of the work."""
    return tuple(name for name, verb in VERBS.items() if verb.in_recipes)


def artifact_verbs() -> tuple[str, ...]:
    """Names of the verbs of recipes that write an artifact."""
    return tuple(name for name, verb in VERBS.items() if verb.in_recipes and verb.writes_artifact)


def make_context(
    reporter: Reporter = NULL_REPORTER,
    open_model: Callable[[str], Any] | None = None,
    *,
    reuse_comparisons: bool = False,
) -> "Context":
    """A context whose trainings can generate images, and whose searches judge them; `open_model` opens models."""
    from sanac.core.context import Context, open_word

    return Context(reporter, open_model or open_word, _training_samples, _subset_scorer, reuse_comparisons)


def _training_samples(*arguments: Any) -> Any:
    return resolve("sanac.runtime.training_samples:Samples")(*arguments)


def _subset_scorer(*arguments: Any) -> Any:
    return resolve("sanac.verify.suite_scorer:subset_scorer")(*arguments)


def resolve(reference: str) -> Any:
    """What 'module:name' names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
