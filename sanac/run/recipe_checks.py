"""Reads a recipe and checks what is right alone and wrong together, before anything is opened."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sanac.core.artifact.engine_record import parse_capabilities, refuse_impossible
from sanac.core.errors import UsageError
from sanac.core.settings import missing_of, problems_of, recipe_defaults, settings_of
from sanac.run.recipe import NONE, SCORED, Problem, Recipe, RecipeStep, parse_recipe
from sanac.run.toml_lines import Lines
from sanac.search.picture_cost import FORESEEN
from sanac.verbs import VERBS, artifact_verbs, recipe_verbs

_DTYPES = {"int8": "int8", "int8-wo": "int8", "int8-dynamic": "int8", "int4-wo": "int4", "fp8-wo": "fp8", "fp8": "fp8",
          "fp8-dynamic": "fp8"}  # fmt: skip
_MEASURES = {"evaluate": "evaluate-", "bench": "bench/", "verify": "verify-", "export": "verify-"}
_ALWAYS = "size/"


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; UsageError lists every complaint, each with its line."""
    recipe, lines, problems = parse_recipe(path)
    problems = [*problems, *contradictions(recipe, lines)]
    if problems:
        found = list(dict.fromkeys(f"{path.name}:{line}: {text}" for line, text in sorted(problems)))
        hint = "docs/run.md and `sanac recipes schema` list the settings"
        raise UsageError(f"{path} is not a valid recipe", why=found[0], problems=found, hint=hint)
    return recipe


def contradictions(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    """(line, complaint) for everything that is wrong together."""
    yield from _stages(recipe, lines)
    yield from _steps(recipe, lines)
    yield from _files(recipe, lines)
    yield from _cards(recipe, lines)
    yield from _matrix(recipe, lines)
    yield from _target(recipe, lines)
    yield from _budget(recipe, lines)
    yield from _gates(recipe, lines)


def _stages(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    verbs = {step.verb for step in recipe.steps}
    if not verbs & {*artifact_verbs(), "analyze", "evaluate", "bench"}:
        yield 1, f"there is nothing to do: add one of {', '.join(f'[{verb}]' for verb in recipe_verbs())}"
    if {"prune", "grow"} <= verbs:
        yield lines.of("grow"), "grow and prune in one recipe: one undoes the other"
    if "prune" in verbs and (step := recipe.of("analyze")) and (other := recipe.of("prune")):
        for name in sorted(step.settings.keys() & other.settings.keys()):
            if step.settings[name] != other.settings[name]:
                line = lines.of("prune", name)
                yield line, f"prune.{name} differs from analyze.{name}: the scores would not be used"
    if "verify" in verbs and not verbs & {*artifact_verbs()}:
        yield lines.of("verify"), "verify: no stage writes an artifact that could differ from the source"


def _steps(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    """What is missing in a step, and what contradicts itself in it."""
    places: dict[str, int] = {}
    for step in recipe.steps:
        which = places.get(step.verb, 0)
        places[step.verb] = which + 1
        yield from _one_step(recipe, step, lines, which)


def _one_step(recipe: Recipe, step: RecipeStep, lines: Lines, which: int) -> Iterator[Problem]:
    settings, verb = VERBS[step.verb].settings_class(), step.verb
    varied: dict[str, Any] = {}
    for key, several in recipe.matrix.items():
        owner, _, varied_name = key.partition(".")
        tried = [value for value in several if value != NONE]
        if owner == verb and tried:
            varied[varied_name] = tried[0]

    def naming(name: str) -> str:
        return f"{verb}.{name}"

    own = {name: value for name, value in step.settings.items() if value is not False}
    missing = [text for _, text in missing_of(settings, [*own, *varied], naming, recipe=True)]
    for text in missing:
        yield step.line, text
    if missing or any(problems_of(settings, step.settings, recipe=True)):
        return
    known = settings_of(settings)
    values = {**recipe_defaults(settings), **varied, **own}
    values = {name: known[name].convert(value) for name, value in values.items() if name in known}
    if verb == "export" and step.settings.get("onnx") is False and not own.get("trt"):
        yield lines.of("export", "onnx", which), "export: neither onnx nor trt: there is nothing to export"
    if verb == "evaluate" and values.get("suite") == "geneval" and "prompts" not in values:
        yield lines.of("evaluate", "suite", which), "evaluate.prompts: suite geneval needs evaluation_metadata.jsonl"
    for name, text in settings(**values).contradictions(naming):
        yield lines.of(verb, name, which), text


def _files(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    """Two stages whose figures would go into one file."""
    kinds = {"evaluate": ["suite", "backend"], "verify": ["backend", "rank_correlation"]}
    for verb, names in kinds.items():
        steps = [step for step in recipe.steps if step.verb == verb]
        files = [tuple(str(step.settings.get(name)) for name in names) for step in steps]
        for which, file in enumerate(files):
            if file in files[:which]:
                yield lines.of(verb, which=which), f"{verb}: another [[{verb}]] leaves its figures in the same file"


def _cards(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    """Target GPUs that can't compute a scheme."""
    for step in recipe.steps:
        cards = step.settings.get("sm") if step.verb == "export" else None
        several = cards if isinstance(cards, list) else [str(cards)]
        if cards is None or any(problems_of(VERBS["export"].settings_class(), {"sm": cards})):
            continue
        for scheme in _schemes(recipe):
            try:
                refuse_impossible([_DTYPES[scheme]], "rtx", parse_capabilities(several), scheme)
            except UsageError as error:
                yield lines.of("export", "sm"), f"export.sm: {error.message}"


def _schemes(recipe: Recipe) -> list[str]:
    """All schemes that weights may be stored in."""
    named = [step.settings.get("scheme") for step in recipe.steps if step.verb == "quantize"]
    return [one for one in (*named, *recipe.matrix.get("quantize.scheme", ())) if one in _DTYPES]


def _matrix(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    verbs = [step.verb for step in recipe.steps]
    for key in recipe.matrix:
        verb, _, name = key.partition(".")
        if verbs.count(verb) > 1:
            yield lines.of("matrix", key), f"matrix: there are several [[{verb}]]: it is ambiguous which one is varied"
        step = recipe.of(verb)
        if step and name in step.settings:
            yield lines.of("matrix", key), f"matrix: {key} is fixed in [{verb}] (line {lines.of(verb, name)})"
        if verb not in artifact_verbs():
            yield (
                lines.of("matrix", key),
                f"matrix: {verb} writes no artifact: only {', '.join(artifact_verbs())} can be varied",
            )
    if any(len(set(map(str, values))) < len(values) for values in recipe.matrix.values()):
        yield lines.of("matrix"), "matrix: a value is listed twice"


def _target(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    target = recipe.target
    if target is None:
        return
    if not recipe.matrix and not (target.budget and len(recipe.samples) > 1):
        yield lines.of("target"), "target: there is nothing to choose from: add a [matrix]"
    if target.min_score_ratio is not None and not recipe.of("evaluate"):
        yield lines.of("target", "min_score_ratio"), "target.min_score_ratio needs scores: add [evaluate]"
    elif target.min_score_ratio is not None and recipe.scored and recipe.scored.settings.get("suite") != SCORED:
        line = lines.of("target", "min_score_ratio")
        yield line, f"target.min_score_ratio is a share of the {SCORED} suite's score: add [[evaluate]] for it"
    if target.max_latency_ratio is not None and not recipe.of("bench"):
        yield lines.of("target", "max_latency_ratio"), "target.max_latency_ratio needs times: add [bench]"
    steps = [step for step in recipe.steps if step.verb == "evaluate"]
    scores = target.min_score_ratio is not None or target.budget
    if scores and any(step.settings.get("backend", "torch") != "torch" for step in steps):
        yield lines.of("evaluate", "backend"), "evaluate.backend: a target's scores are those of the weights"
    if scores and any(step.settings.get("suite") != "shapes" for step in steps):
        yield lines.of("evaluate", "suite"), "evaluate.suite: a target's scores are those of shapes"
    for verb, wanted in (("evaluate", target.min_score_ratio), ("bench", target.max_latency_ratio)):
        step = recipe.of(verb)
        if wanted is not None and step and not step.baseline:
            yield lines.of(verb, "baseline"), f"{verb}.baseline is false: target's ratio is to the source's figures"


def _budget(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    """What a cost per picture needs."""
    target = recipe.target
    if target is None:
        return
    if target.samples and not target.budget:
        line = lines.of("target", "samples")
        yield line, "target.samples needs a cost per picture: target.max_block_forwards or target.max_seconds"
    if not target.budget:
        return
    limit = "max_seconds" if target.max_block_forwards is None else "max_block_forwards"
    bench = recipe.of("bench")
    if target.max_seconds is not None and bench is None:
        yield lines.of("target", "max_seconds"), "target.max_seconds needs times: add [bench]"
    elif target.max_seconds is not None and bench and recipe.scored:
        steps = [step.settings.get("steps") for step in (bench, recipe.scored)]
        if steps[0] != steps[1]:
            yield lines.of("bench", "steps"), "bench.steps differs from evaluate.steps: other pictures would be timed"
    if recipe.scored is None:
        yield lines.of("target", limit), f"target.{limit} looks for the best score: add [evaluate]"
    else:
        yield from _searched(recipe, recipe.scored.settings, limit, lines)


def _searched(recipe: Recipe, settings: Mapping[str, Any], limit: str, lines: Lines) -> Iterator[Problem]:
    """What is wrong with the search of an evaluation whose samples a budget decides."""
    search = settings.get("search", "single")
    if search == "single" and recipe.samples != (1,):
        line = lines.of("target", "samples")
        yield line, 'target.samples needs a search: add search = "best-of" and a search_verifier to [evaluate]'
    if search not in FORESEEN:
        known = " or ".join(FORESEEN[1:])
        yield lines.of("evaluate", "search"), f"evaluate.search is {search}, whose cost isn't known beforehand: {known}"
    if search == "halving" and settings.get("steps") == 1:
        yield lines.of("evaluate", "steps"), "evaluate.steps is 1: halving needs two steps or more"
    for name in ("n", "max_forwards", "max_seconds"):
        if name in settings:
            instead = "target.samples" if name == "n" else f"target.{limit}"
            yield lines.of("evaluate", name), f"evaluate.{name} is fixed, and {instead} decides it"


def _gates(recipe: Recipe, lines: Lines) -> Iterator[Problem]:
    """Metrics that nothing would measure, and shares of nothing."""
    verbs = {step.verb for step in recipe.steps}
    for number, gate in enumerate(recipe.gates):
        line = lines.of("gate", "metric", number)
        if gate.metric.startswith(_ALWAYS):
            continue
        makers = [verb for verb, prefix in _MEASURES.items() if gate.metric.startswith(prefix)]
        if not makers:
            yield line, f"gate {number + 1}: nothing measures {gate.metric!r}"
        elif not verbs & {*makers}:
            yield line, f"gate {number + 1}: {gate.metric} is measured by [{makers[0]}], which isn't there"
        step = recipe.of("evaluate")
        if gate.relative and gate.metric.startswith("evaluate-") and step and not step.baseline:
            yield line, f"gate {number + 1}: {gate.metric} is held to a baseline, and evaluate.baseline is false"
