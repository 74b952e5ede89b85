"""A recipe: TOML that names stages and their settings. Read strictly; every complaint comes with its line."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sanac.core.errors import UsageError
from sanac.core.settings import canonical_name, did_you_mean, problems_of, settings_of
from sanac.core.units import parse_bytes
from sanac.run.toml_lines import Lines
from sanac.search.settings import USES
from sanac.verbs import VERBS, recipe_verbs
from sanac.verify.gates import Gate, parse_gates

NONE = "none"  # in a matrix: the variant without this verb
SCORED = "shapes"  # the suite that targets and sheets read
BASELINE = "baseline"  # of evaluate and bench: whether the source is measured, too
SHEETS = (True, False, "stages")  # whether a sheet of pictures is made: source and result; none; every stage's model
_OTHER = ("model", "sheet", "matrix", "target", "gate")
_LIMITS = ("max_bytes", "max_latency_ratio", "min_score_ratio", "max_block_forwards", "max_seconds")
_TARGETS = (*_LIMITS, "samples", "images")
SAMPLES = (1, 2, 4, 8)  # candidates per picture that a budget chooses from, where [evaluate] has a search
MOST_SAMPLES = 4096
_OF_SEARCH = ("search", "n", "search_verifier", "max_forwards", "max_seconds", *USES)  # settings of [evaluate]
Problem = tuple[int, str]  # line, complaint


@dataclass(frozen=True)
class RecipeStep:
    """A verb with its settings."""

    verb: str
    settings: Mapping[str, Any]  # as they were written, under their present names
    line: int = 0
    baseline: bool = True


@dataclass(frozen=True)
class Target:
    """What a search has to reach, and what a picture may cost."""

    max_bytes: int | None = None
    max_latency_ratio: float | None = None
    min_score_ratio: float | None = None
    max_block_forwards: float | None = None  # of a picture with all its candidates, in the unit of `sanac schedule`
    max_seconds: float | None = None  # of the same
    samples: tuple[int, ...] = ()  # candidates per picture to choose from; (): the default
    images: int = 96  # for the first, cheap look at every candidate

    @property
    def budget(self) -> bool:
        """Whether the best score for a cost per picture is wanted, instead of the smallest variant."""
        return self.max_block_forwards is not None or self.max_seconds is not None


@dataclass(frozen=True)
class Recipe:
    """Stages in the order of the work, variants, a target and gates."""

    name: str
    base: Path  # that its paths are relative to
    model: str
    steps: tuple[RecipeStep, ...]
    matrix: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    target: Target | None = None
    gates: tuple[Gate, ...] = ()
    sheet: bool | str | None = None  # one of SHEETS; None: where it takes little time

    def of(self, verb: str) -> RecipeStep | None:
        """The first step of a verb."""
        return next((step for step in self.steps if step.verb == verb), None)

    @property
    def scored(self) -> RecipeStep | None:
        """The evaluation whose score stands for a model: that of the shapes suite, else the first one."""
        steps = [step for step in self.steps if step.verb == "evaluate"]
        return next((step for step in steps if step.settings.get("suite") == SCORED), steps[0] if steps else None)

    @property
    def budget(self) -> bool:
        """Whether its target has a budget per picture."""
        return self.target is not None and self.target.budget

    @property
    def samples(self) -> tuple[int, ...]:
        """Candidates per picture that the target's budget chooses from."""
        searches = self.scored is not None and self.scored.settings.get("search", "single") != "single"
        return (self.target.samples if self.target else ()) or (SAMPLES if searches else (1,))

    def sampled(self, samples: int) -> "Recipe":
        """The recipe whose evaluation searches so many candidates per picture; a single one needs no search."""
        scored = self.scored
        if scored is None:
            return self
        settings = {name: value for name, value in scored.settings.items() if samples > 1 or name not in _OF_SEARCH}
        settings |= {"n": samples} if samples > 1 else {}
        steps = (replace(step, settings=settings) if step is scored else step for step in self.steps)
        return replace(self, steps=tuple(steps))


def parse_recipe(path: Path) -> tuple[Recipe, Lines, list[Problem]]:
    """The recipe in a file, its lines, and what is wrong in each table; raises UsageError for what is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path} can't be read", why=error.strerror or str(error), hint="sanac recipes ls") from error
    except (ValueError, RecursionError) as error:  # TOML's, and UTF-8's, are ValueErrors
        raise UsageError(f"{path} is not valid TOML", why=str(error)) from error
    reader = _Reader(path, Lines(text))
    return reader.read(value), reader.lines, reader.problems


class _Reader:
    """Collects complaints while it reads."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.path, self.lines = path, lines
        self.problems: list[Problem] = []

    def wrong(self, line: int, text: str) -> None:
        """Add a complaint."""
        self.problems.append((line, text))

    def read(self, value: Mapping[str, Any]) -> Recipe:
        """Read all of it; the recipe is only whole where there was no complaint."""
        verbs = recipe_verbs()
        known = (*verbs, *_OTHER)
        for name in value:
            if name not in known:
                self.wrong(self.lines.of(name), f"there is no table [{name}]{did_you_mean(name, known)}")
        model = value.get("model", "")
        if not isinstance(model, str) or not model:
            self.wrong(self.lines.of("", "model"), "model is missing: a folder, a hub id or sanac:tiny")
        steps = tuple(step for verb in verbs if verb in value for step in self._steps(verb, value[verb]))
        matrix = self._matrix(value.get("matrix", {}), steps)
        target = self._target(value["target"]) if "target" in value else None
        gates = self._gates(value.get("gate", []))
        sheet = self._sheet(value.get("sheet"))
        return Recipe(self.path.stem, self.path.resolve().parent, str(model), steps, matrix, target, gates, sheet)

    def _sheet(self, value: Any) -> bool | str | None:
        if value is None or (value in SHEETS and isinstance(value, bool | str)):
            return value
        self.wrong(self.lines.of("", "sheet"), f"sheet is {value!r}, not true, false or 'stages'")
        return None

    def _steps(self, verb: str, value: Any) -> Iterator[RecipeStep]:
        """One table, or several of them one after the other."""
        tables = value if isinstance(value, list) else [value]
        for which, table in enumerate(tables):
            line = self.lines.of(verb, which=which)
            if not isinstance(table, dict):
                self.wrong(line, f"{verb} is {table!r}, not a table")
                continue
            written = dict(table)
            baseline = written.pop(BASELINE, True) if verb in {"evaluate", "bench"} else True
            if not isinstance(baseline, bool):
                line_of = self.lines.of(verb, BASELINE, which)
                self.wrong(line_of, f"{verb}.{BASELINE} is {baseline!r}, not true or false")
            yield RecipeStep(verb, self._settings(verb, written, which), line, baseline is not False)

    def _settings(self, verb: str, written: Mapping[str, Any], which: int) -> dict[str, Any]:
        """A table's settings by their present names."""
        settings = VERBS[verb].settings_class()
        for key, text in problems_of(settings, written, lambda name: f"{verb}.{name}", recipe=True):
            self.wrong(self.lines.of(verb, key, which), text)
        found: dict[str, Any] = {}
        for key, value in written.items():
            name = canonical_name(settings, key)
            if name in found:
                self.wrong(self.lines.of(verb, key, which), f"{verb}.{key} is an earlier name of {verb}.{name}")
            found[name] = value
        return found

    def _matrix(self, value: Any, steps: tuple[RecipeStep, ...]) -> dict[str, tuple[Any, ...]]:
        if not isinstance(value, dict):
            self.wrong(self.lines.of("matrix"), "matrix is not a table")
            return {}
        present = {step.verb for step in steps}
        found: dict[str, tuple[Any, ...]] = {}
        for key, values in _flat(value):
            line = self.lines.of("matrix", key)
            verb, _, written = key.partition(".")
            name = canonical_name(VERBS[verb].settings_class(), written) if verb in recipe_verbs() else ""
            if name not in _names(verb):
                self.wrong(line, f"matrix: there is no setting {key!r}{did_you_mean(key, _all_settings())}")
            elif not isinstance(values, list) or not values:
                self.wrong(line, f"matrix: {key} is {values!r}, not several values")
            else:
                settings = VERBS[verb].settings_class()
                for one in values:
                    if one != NONE:
                        for _, text in problems_of(settings, {name: one}, lambda _, key=key: key, recipe=True):  # type: ignore[misc]
                            self.wrong(line, f"matrix: {text}")
                if verb not in present:
                    self.wrong(line, f"matrix: {key} varies a stage that isn't in the recipe: add [{verb}]")
                found[f"{verb}.{name}"] = tuple(values)
        return found

    def _target(self, value: Any) -> Target | None:
        line = self.lines.of("target")
        if not isinstance(value, dict):
            self.wrong(line, "target is not a table")
            return None
        found: dict[str, Any] = {}
        for name, given in value.items():
            place = self.lines.of("target", name)
            if name not in _TARGETS:
                self.wrong(place, f"target has no setting {name!r}{did_you_mean(name, _TARGETS)}")
            elif text := _wrong_target(name, given):
                self.wrong(place, f"target.{name} is {given!r}{text}")
            else:
                kinds: dict[str, Callable[[Any], Any]] = {"max_bytes": parse_bytes, "samples": tuple, "images": int}
                found[name] = kinds.get(name, float)(given)
        if not set(found) & {*_LIMITS}:
            self.wrong(line, f"target needs one of {', '.join(_LIMITS)}")
        return Target(**found)

    def _gates(self, value: Any) -> tuple[Gate, ...]:
        gates, problems = parse_gates(value)
        for text in problems:
            number = int(match[1]) - 1 if (match := re.match(r"gate (\d+)", text)) else 0
            self.wrong(self.lines.of("gate", which=number), text)
        return () if problems else gates


def _wrong_target(name: str, value: Any) -> str:
    """What is wrong with a setting of a target, behind its value; '' if nothing is."""
    if name == "max_bytes":
        try:
            parse_bytes(value)
        except (UsageError, TypeError, AttributeError):
            return ", not a size such as '2GB'"
        return ""
    if name == "samples":
        return _wrong_samples(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        return ", not a number above 0"
    if name == "images" and (value < 12 or int(value) != value):
        return ": a whole number, at least 12"
    return ""


def _wrong_samples(value: Any) -> str:
    """What is wrong with the samples of a target, behind their value; '' if nothing is."""
    if not isinstance(value, list) or not value or any(type(one) is not int for one in value):
        return ", not a list of whole numbers such as [1, 2, 4]"
    if not all(1 <= one <= MOST_SAMPLES for one in value):
        return f": each from 1 to {MOST_SAMPLES:,}"
    return "" if value == sorted(set(value)) else ": not in ascending order"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, whether they were written as such or as tables."""
    for key, inside in value.items():
        if isinstance(inside, dict):
            yield from _flat(inside, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inside


def _names(verb: str) -> list[str]:
    """The settings of a verb that recipes may set."""
    if verb not in recipe_verbs():
        return []
    return [name for name, one in settings_of(VERBS[verb].settings_class()).items() if one.option.recipe]


def _all_settings() -> list[str]:
    return [f"{verb}.{name}" for verb in recipe_verbs() for name in _names(verb)]
