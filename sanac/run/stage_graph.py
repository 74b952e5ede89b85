"""A recipe becomes stages: each one command, with a key of all that it depends on; variants share what is common."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sanac import __version__
from sanac.core import json_files
from sanac.core.settings import Settings, build, recipe_defaults, settings_of
from sanac.run.recipe import NONE, SCORED, Recipe, RecipeStep
from sanac.run.stage_words import key_part, words
from sanac.runtime.doctor import processor
from sanac.verbs import VERBS
from sanac.verify.evaluate_settings import EvaluateSettings

SCHEMA = 1


@dataclass(frozen=True)
class RecipeStage:
    """One command."""

    verb: str
    key: str
    options: tuple[str, ...]  # words of the command line, without models and OUT
    source: "RecipeStage | None"  # whose artifact it works on; None: the recipe's model
    settings: Mapping[str, Any]
    others: "tuple[RecipeStage | None, ...]" = ()  # of bench: more models; of prune: the scores that were measured

    @property
    def writes_artifact(self) -> bool:
        """Whether it writes an artifact."""
        return VERBS[self.verb].writes_artifact

    @property
    def typed_settings(self) -> Settings:
        """The settings as the verb reads them."""
        return typed_settings(self.verb, self.settings)

    @property
    def folder_name(self) -> str:
        """Its folder's, in a workspace."""
        return f"{self.verb}-{self.key[:8]}"

    def folder(self, workspace: Path) -> Path:
        """Where it writes."""
        return workspace / self.folder_name


def typed_settings(verb: str, settings: Mapping[str, Any]) -> Settings:
    """Settings as they are written in a recipe, as the verb reads them."""
    known = VERBS[verb].settings_class()
    return build(known, {**recipe_defaults(known), **settings})


@dataclass(frozen=True)
class Variant:
    """One way through the recipe."""

    name: str  # 'prune.target_blocks=6, quantize.scheme=int8-wo'; '' where there is only one
    values: Mapping[str, Any]
    stages: tuple[RecipeStage, ...]

    @property
    def last(self) -> "RecipeStage | None":
        """What it ends in; None: the source itself."""
        return self.stages[-1] if self.stages else None


@dataclass(frozen=True)
class RecipePlan:
    """Everything that a recipe asks for, in order."""

    recipe: Recipe
    identity: str  # of the source model
    source_stages: tuple[RecipeStage, ...]  # that look at the source: scores, its own evaluation
    variants: tuple[Variant, ...]

    def evaluations(self, variant: Variant, **changed: Any) -> tuple[RecipeStage, ...]:
        """What is asked of a variant's end: verify, evaluate."""
        steps = [step for step in self.recipe.steps if step.verb in {"verify", "evaluate"}]
        if changed:  # a screening, which reads one suite's score
            steps = [step for step in steps if step.verb == "verify" or step is self.recipe.scored]
        found = []
        for step in steps:
            settings = {**step.settings, **(changed if step.verb == "evaluate" else {})}
            if step.verb == "evaluate" or variant.last:  # the source is no other than itself
                found.append(_stage(self, replace(step, settings=settings), variant.last, detached=bool(changed)))
        return tuple(found)

    def sampled(self, samples: int) -> "RecipePlan":
        """The plan whose evaluation searches so many candidates per picture; everything else is the same stage."""
        return replace(self, recipe=self.recipe.sampled(samples))

    @property
    def measurement(self) -> str:
        """The name of the measurement whose score stands for a model: with a search, that of the search."""
        step = self.recipe.scored
        if step is None or step.settings.get("search", "single") == "single":
            return f"evaluate-{SCORED}"
        settings = typed_settings(step.verb, step.settings)
        assert isinstance(settings, EvaluateSettings)
        return settings.measurement

    def source_score(self) -> RecipeStage | None:
        """The evaluation of the source itself, where shares are wanted."""
        step = self.recipe.scored
        if step is None or not step.baseline:
            return None
        return _stage(self, step, None)

    def bench(self, variants: Sequence[Variant]) -> RecipeStage | None:
        """All of them side by side, the source first."""
        step = self.recipe.of("bench")
        if step is None:
            return None
        models = (*((None,) if step.baseline else ()), *(variant.last for variant in variants))
        others = {stage.key if stage else "": stage for stage in models[1:]}
        return _stage(self, step, models[0], tuple(others.values()))

    def shown(self, variant: Variant) -> tuple[RecipeStage, ...]:
        """The stages whose models are shown on the sheet, after the source."""
        return variant.stages if self.recipe.sheet == "stages" else variant.stages[-1:]

    def comparison(self, variant: Variant) -> RecipeStage:
        """The pictures of the sheet: the source's and those of a variant, sampled as they are evaluated."""
        evaluated = self.recipe.of("evaluate")
        known = evaluated.settings if evaluated else {}
        settings = {name: known[name] for name in ("steps", "guidance", "device") if name in known}
        return _stage(self, RecipeStep("compare", {"images": 0, **settings}), None, self.shown(variant))

    def scores(self, variant: Variant) -> tuple[RecipeStage | None, ...]:
        """The evaluations of the models on the sheet, the source first; None where there is none."""
        step = self.recipe.scored
        if step is None or step.settings.get("suite") != SCORED:
            return (None,) * (1 + len(self.shown(variant)))
        plain = replace(step, settings={name: value for name, value in step.settings.items() if name != "backend"})
        found = [_stage(self, step if stage is variant.last else plain, stage) for stage in self.shown(variant)]
        return (self.source_score(), *found)

    def stages(self) -> tuple[RecipeStage, ...]:
        """Each once, in the order in which they can be done; a budget evaluates the source without a search."""
        sampled = [self.sampled(samples) for samples in self.recipe.samples] if self.recipe.budget else [self]
        score = (self.sampled(1) if self.recipe.budget else self).source_score()
        found = [*self.source_stages, *((score,) if score else ())]
        for variant in self.variants:
            found += [*variant.stages, *(stage for plan in sampled for stage in plan.evaluations(variant))]
        bench = self.bench(self.variants)
        return tuple({stage.key: stage for stage in (*found, *((bench,) if bench else ()))}.values())


def plan_of(recipe: Recipe, identity: str) -> RecipePlan:
    """The stages of every variant."""
    plan = RecipePlan(recipe, identity, (), ())
    source_stages = tuple(_stage(plan, step, None) for step in recipe.steps if step.verb == "analyze")
    plan = replace(plan, source_stages=source_stages)
    return replace(plan, variants=tuple(_variants(plan)))


def _variants(plan: RecipePlan) -> Iterator[Variant]:
    matrix = plan.recipe.matrix
    for values in itertools.product(*matrix.values()):
        chosen = dict(zip(matrix, values, strict=True))
        left_out = {key.partition(".")[0] for key, value in chosen.items() if value == NONE}
        made: list[RecipeStage] = []
        for step in plan.recipe.steps:
            if not VERBS[step.verb].writes_artifact or step.verb in left_out:
                continue
            varied = {key.partition(".")[2]: v for key, v in chosen.items() if key.startswith(f"{step.verb}.")}
            settings = {**step.settings, **varied}
            scores = _scores(plan, replace(step, settings=settings))
            if scores and settings.get("compensate"):  # what repairs is fitted on the same
                settings = _shared(plan.recipe.of("analyze")) | settings
            made.append(_stage(plan, replace(step, settings=settings), made[-1] if made else None, scores))
        yield Variant(", ".join(f"{key}={value}" for key, value in chosen.items()), chosen, tuple(made))


def _scores(plan: RecipePlan, step: RecipeStep) -> tuple[RecipeStage, ...]:
    """What analyze measured, where prune chooses by it."""
    own = {"keep", "scores"} & step.settings.keys() or step.settings.get("select") == "search"
    return plan.source_stages[-1:] if step.verb == "prune" and not own else ()


def _shared(analyze: RecipeStep | None) -> dict[str, Any]:
    """Settings of analyze that prune has, too."""
    known = settings_of(VERBS["prune"].settings_class())
    return {name: value for name, value in (analyze.settings if analyze else {}).items() if name in known}


def _stage(
    plan: RecipePlan,
    step: RecipeStep,
    source: RecipeStage | None,
    others: "tuple[RecipeStage | None, ...]" = (),
    *,
    detached: bool = False,
) -> RecipeStage:
    base = plan.recipe.base
    identities = [stage.key if stage else plan.identity for stage in (source, *others)]
    part = key_part(step.verb, step.settings, base)
    key = json_files.key_of(
        [SCHEMA, __version__, step.verb, part, identities, *(["apart"] if detached else []), *_where(step.verb)]
    )
    options = tuple(words(step.verb, step.settings, base))
    return RecipeStage(step.verb, key, options, source, dict(step.settings), others)


def _where(verb: str) -> list[Any]:
    """Times are those of a machine."""
    return [processor(), os.cpu_count()] if verb == "bench" else []
