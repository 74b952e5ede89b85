"""What is right alone and wrong together in a recipe: found before anything is opened."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from sanac.core.artifact.engine_record import parse_capabilities, parse_span, refuse_impossible
from sanac.core.errors import UsageError
from sanac.core.units import parse_bytes
from sanac.run.verbs import MAKING, SETTINGS, SIZE

if TYPE_CHECKING:
    from sanac.run.recipe import Recipe

Found = tuple[int, str]
_FORMS = {"int8": "int8", "int8-wo": "int8", "int8-dynamic": "int8", "int4-wo": "int4", "fp8-wo": "fp8", "fp8": "fp8",
          "fp8-dynamic": "fp8"}  # fmt: skip
_MEASURES = {"evaluate": "evaluate-", "bench": "bench/", "verify": "verify-", "export": "verify-"}
_ALWAYS = "size/"


class Places(Protocol):
    """Where things stand."""

    def of(self, table: str, key: str = "", which: int = 0) -> int:
        """The line."""
        ...


def contradictions(recipe: "Recipe", lines: Places) -> Iterator[Found]:
    """Each with its line."""
    yield from _stages(recipe, lines)
    yield from _files(recipe, lines)
    yield from _sizes(recipe, lines)
    yield from _engines(recipe, lines)
    yield from _matrix(recipe, lines)
    yield from _target(recipe, lines)
    yield from _gates(recipe, lines)


def _stages(recipe: "Recipe", lines: Places) -> Iterator[Found]:
    verbs = [step.verb for step in recipe.steps]
    if "prune" in verbs and "grow" in verbs:
        yield lines.of("grow"), "grow and prune in one recipe: one undoes the other"
    if "prune" in verbs and (step := recipe.of("analyze")) and (other := recipe.of("prune")):
        shared = SETTINGS["analyze"].keys() & SETTINGS["prune"].keys()
        apart = [name for name in sorted(shared) if name in step.settings and name in other.settings]
        for name in apart:
            if step.settings[name] != other.settings[name]:
                yield (
                    lines.of("prune", name),
                    f"prune.{name} is another than analyze.{name}: its scores would be unused",
                )
    for step in recipe.steps:
        if step.verb == "finetune" and {"data", "data_free"} <= step.settings.keys() and step.settings["data_free"]:
            yield lines.of("finetune", "data_free"), "finetune: data and data_free exclude each other"
        if step.verb == "export" and step.settings.get("onnx") is False and not step.settings.get("trt"):
            yield lines.of("export", "onnx"), "export: neither onnx nor trt: there is nothing to export"
    if "verify" in verbs and not {"export", *MAKING} & {*verbs}:
        yield lines.of("verify"), "verify: nothing is made that could differ"


def _files(recipe: "Recipe", lines: Places) -> Iterator[Found]:
    """Two stages whose figures would go into one file."""
    kinds = {"evaluate": ["suite", "backend"], "verify": ["backend", "rank_correlation"]}
    for verb, names in kinds.items():
        steps = [step for step in recipe.steps if step.verb == verb]
        files = [tuple(str(step.settings.get(name)) for name in names) for step in steps]
        for which, file in enumerate(files):
            if file in files[:which]:
                yield lines.of(verb, which=which), f"{verb}: another [[{verb}]] leaves its figures in the same file"


def _sizes(recipe: "Recipe", lines: Places) -> Iterator[Found]:
    for step in recipe.steps:
        for name, kind in SETTINGS[step.verb].items():
            if kind == SIZE and isinstance(said := step.settings.get(name), str):
                try:
                    parse_bytes(said)
                except UsageError:
                    yield lines.of(step.verb, name), f"{step.verb}.{name} is {said!r}, not {SIZE}"


def _engines(recipe: "Recipe", lines: Places) -> Iterator[Found]:
    """GPUs that can't compute what is asked for."""
    for step in recipe.steps:
        if step.verb != "export":
            continue
        settings = step.settings
        about = [name for name in ("builder", "sm", "batch", "size", "weight_streaming", "refit") if name in settings]
        if about and not settings.get("trt"):
            yield lines.of("export", about[0]), f"export.{about[0]} is about engines: add trt = true"
            continue
        for name in ("batch", "size"):
            if isinstance(said := settings.get(name), str):
                try:
                    parse_span(said, name)
                except UsageError as error:
                    yield lines.of("export", name), f"export.{name}: {error.message}"
        yield from _cards(recipe, settings.get("sm"), lines.of("export", "sm"))


def _cards(recipe: "Recipe", wanted: object, line: int) -> Iterator[Found]:
    """Those that aren't known, or can't compute a scheme."""
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
        return
    try:
        capabilities = parse_capabilities(wanted)
    except UsageError as error:
        for problem in error.problems:
            yield line, f"export.sm: {problem.removeprefix('--sm ')}"
        return
    for scheme in _schemes(recipe):
        try:
            refuse_impossible([_FORMS[scheme]], "rtx", capabilities, scheme)
        except UsageError as error:
            yield line, f"export.sm: {error.message}"


def _schemes(recipe: "Recipe") -> list[str]:
    """All that weights may be stored as."""
    named = [step.settings.get("scheme") for step in recipe.steps if step.verb == "quantize"]
    return [one for one in (*named, *recipe.matrix.get("quantize.scheme", ())) if one in _FORMS]


def _matrix(recipe: "Recipe", lines: Places) -> Iterator[Found]:
    verbs = [step.verb for step in recipe.steps]
    for key in recipe.matrix:
        verb, _, name = key.partition(".")
        if verbs.count(verb) > 1:
            yield lines.of("matrix", key), f"matrix: there are several [[{verb}]]: which one is varied can't be said"
        step = recipe.of(verb)
        if step and name in step.settings:
            yield lines.of("matrix", key), f"matrix: {key} is fixed in [{verb}] (line {lines.of(verb, name)})"
        if verb not in MAKING:
            yield lines.of("matrix", key), f"matrix: {verb} makes no model: only {', '.join(MAKING)} can be varied"
    if any(len(set(map(str, values))) < len(values) for values in recipe.matrix.values()):
        yield lines.of("matrix"), "matrix: a value stands there twice"


def _target(recipe: "Recipe", lines: Places) -> Iterator[Found]:
    target = recipe.target
    if target is None:
        return
    if not recipe.matrix:
        yield lines.of("target"), "target: there is nothing to choose from: add a [matrix]"
    if target.min_score_ratio is not None and not recipe.of("evaluate"):
        yield lines.of("target", "min_score_ratio"), "target.min_score_ratio wants scores: add [evaluate]"
    if target.max_latency_ratio is not None and not recipe.of("bench"):
        yield lines.of("target", "max_latency_ratio"), "target.max_latency_ratio wants times: add [bench]"
    steps = [step for step in recipe.steps if step.verb == "evaluate"]
    if target.min_score_ratio is not None and any(step.settings.get("backend", "torch") != "torch" for step in steps):
        yield lines.of("evaluate", "backend"), "evaluate.backend: a target's scores are those of the weights"
    for verb, wanted in (("evaluate", target.min_score_ratio), ("bench", target.max_latency_ratio)):
        step = recipe.of(verb)
        if wanted is not None and step and not step.baseline:
            yield lines.of(verb, "baseline"), f"{verb}.baseline is false: target's ratio is to the source's figures"


def _gates(recipe: "Recipe", lines: Places) -> Iterator[Found]:
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
