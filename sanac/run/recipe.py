"""A recipe: TOML that says what to do, read strictly; every mistake at once, each with its line."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanac.core.errors import UsageError
from sanac.core.units import parse_bytes
from sanac.run.toml_lines import Lines
from sanac.run.verbs import MAKING, REQUIRED, SETTINGS, SIZE, VERBS, complaint
from sanac.verify.gates import Gate, parse_gates

NONE = "none"  # in a matrix: this verb is left out
_OTHER = ("model", "matrix", "target", "gate")
_BASELINE = "baseline"  # of evaluate and bench: whether the source is measured, too
_TARGETS = {"max_bytes": SIZE, "max_latency_ratio": "a number", "min_score_ratio": "a number", "images": "a number"}


@dataclass(frozen=True)
class RecipeStep:
    """A verb with its settings."""

    verb: str
    settings: Mapping[str, Any]
    line: int = 0
    baseline: bool = True


@dataclass(frozen=True)
class Target:
    """What a search is to reach."""

    max_bytes: int | None = None
    max_latency_ratio: float | None = None
    min_score_ratio: float | None = None
    images: int = 96  # to look at every candidate cheaply


@dataclass(frozen=True)
class Recipe:
    """What is to be done, in the order of the work."""

    name: str
    base: Path  # that paths in it are seen from
    model: str
    steps: tuple[RecipeStep, ...]
    matrix: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    target: Target | None = None
    gates: tuple[Gate, ...] = ()

    def of(self, verb: str) -> RecipeStep | None:
        """The first step of this verb."""
        return next((step for step in self.steps if step.verb == verb), None)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; Misuse lists all that is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path} can't be read", why=error.strerror or str(error), hint="sanac recipes ls") from error
    except (ValueError, RecursionError) as error:  # TOML's, and UTF-8's, are ValueErrors
        raise UsageError(f"{path} is no TOML", why=str(error)) from error
    reader = _Reader(path, Lines(text))
    recipe = reader.read(value)
    if reader.problems:
        found = [text for _, text in sorted(reader.problems, key=lambda pair: pair[0])]
        raise UsageError(
            f"{path} can't be run", why=found[0], problems=found, hint="docs/run.md lists what a recipe may say"
        )
    return recipe


class _Reader:
    """Collects mistakes while it reads."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.path, self.lines = path, lines
        self.problems: list[tuple[int, str]] = []

    def wrong(self, line: int, text: str) -> None:
        """One more mistake."""
        self.problems.append((line, f"{self.path.name}:{line}: {text}"))

    def read(self, value: Mapping[str, Any]) -> Recipe:
        """All of it; what is returned is whole only where nothing was wrong."""
        known = (*VERBS, *_OTHER)
        for name in value:
            if name not in known:
                self.wrong(self.lines.of(name), f"there is no [{name}]{_near(name, known)}")
        model = value.get("model", "")
        if not isinstance(model, str) or not model:
            self.wrong(self.lines.of("", "model"), "model is missing: a folder, a hub id or sanac:tiny")
        steps = tuple(step for verb in VERBS if verb in value for step in self._steps(verb, value[verb]))
        matrix = self._matrix(value.get("matrix", {}), steps)
        target = self._target(value["target"]) if "target" in value else None
        gates = self._gates(value.get("gate", []))
        recipe = Recipe(self.path.stem, self.path.resolve().parent, str(model), steps, matrix, target, gates)
        self._together(recipe)
        return recipe

    def _steps(self, verb: str, value: Any) -> Iterator[RecipeStep]:
        """A table, or several of them one after the other."""
        tables = value if isinstance(value, list) else [value]
        for which, table in enumerate(tables):
            line = self.lines.of(verb, which=which)
            if not isinstance(table, dict):
                self.wrong(line, f"{verb} is {table!r}, not a table")
                continue
            settings = dict(table)
            baseline = settings.pop(_BASELINE, True) if verb in {"evaluate", "bench"} else True
            if not isinstance(baseline, bool):
                self.wrong(
                    self.lines.of(verb, _BASELINE, which), f"{verb}.{_BASELINE} is {baseline!r}, not true or false"
                )
            for name, said in settings.items():
                place = self.lines.of(verb, name, which)
                if name not in SETTINGS[verb]:
                    self.wrong(place, f"{verb} has no setting {name!r}{_near(name, SETTINGS[verb])}")
                elif text := complaint(verb, name, said):
                    self.wrong(place, f"{verb}.{name} {text}")
            yield RecipeStep(verb, settings, line, baseline)

    def _matrix(self, value: Any, steps: tuple[RecipeStep, ...]) -> dict[str, tuple[Any, ...]]:
        if not isinstance(value, dict):
            self.wrong(self.lines.of("matrix"), "matrix is no table")
            return {}
        present = {step.verb for step in steps}
        found: dict[str, tuple[Any, ...]] = {}
        for key, values in _flat(value):
            line = self.lines.of("matrix", key)
            verb, _, name = key.partition(".")
            if verb not in SETTINGS or name not in SETTINGS[verb]:
                self.wrong(line, f"matrix: there is no setting {key!r}{_near(key, _all_settings())}")
            elif not isinstance(values, list) or not values:
                self.wrong(line, f"matrix: {key} is {values!r}, not several values")
            else:
                for one in values:
                    text = complaint(verb, name, one) if one != NONE else ""
                    if text:
                        self.wrong(line, f"matrix: {key} {text}")
                if verb not in present:
                    self.wrong(line, f"matrix: {key} varies a stage that there is none of: add [{verb}]")
                found[key] = tuple(values)
        return found

    def _target(self, value: Any) -> Target | None:
        line = self.lines.of("target")
        if not isinstance(value, dict):
            self.wrong(line, "target is no table")
            return None
        found: dict[str, Any] = {}
        for name, said in value.items():
            place = self.lines.of("target", name)
            if name not in _TARGETS:
                self.wrong(place, f"target has no setting {name!r}{_near(name, _TARGETS)}")
            elif name == "max_bytes":
                try:
                    found[name] = parse_bytes(said)
                except (UsageError, TypeError, AttributeError):
                    self.wrong(place, f"target.{name} is {said!r}, not {SIZE}")
            elif isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < 1e9:
                self.wrong(place, f"target.{name} is {said!r}, not a number above 0")
            elif name == "images" and (said < 12 or int(said) != said):
                self.wrong(place, f"target.images is {said!r}: a whole number, 12 or more")
            else:
                found[name] = int(said) if name == "images" else float(said)
        if not set(found) - {"images"}:
            self.wrong(line, f"target wants one of {', '.join(name for name in _TARGETS if name != 'images')}")
        return Target(**found)

    def _gates(self, value: Any) -> tuple[Gate, ...]:
        gates, problems = parse_gates(value)
        for text in problems:
            number = int(match[1]) - 1 if (match := re.match(r"gate (\d+)", text)) else 0
            self.wrong(self.lines.of("gate", which=number), text)
        return () if problems else gates

    def _together(self, recipe: Recipe) -> None:
        """What is right alone and wrong together."""
        from sanac.run.recipe_checks import contradictions

        verbs = {step.verb for step in recipe.steps}
        if not verbs & {*MAKING, "analyze", "evaluate", "bench"}:
            self.wrong(1, f"there is nothing to do: add one of {', '.join(f'[{verb}]' for verb in VERBS)}")
        for step in recipe.steps:
            self._required(recipe, step)
        for line, text in contradictions(recipe, self.lines):
            self.wrong(line, text)

    def _required(self, recipe: Recipe, step: RecipeStep) -> None:
        wanted = REQUIRED.get(step.verb, ())
        varied = {key.partition(".")[2] for key in recipe.matrix if key.startswith(f"{step.verb}.")}
        given = [name for name in wanted if name in step.settings or name in varied]
        if wanted and not given:
            self.wrong(step.line, f"{step.verb} wants {' or '.join(wanted)}")
        if len(given) > 1:
            self.wrong(step.line, f"{step.verb}: {' and '.join(given)} exclude each other")


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, whether they were written as such or as tables."""
    for key, inside in value.items():
        if isinstance(inside, dict):
            yield from _flat(inside, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inside


def _all_settings() -> list[str]:
    return [f"{verb}.{name}" for verb, names in SETTINGS.items() for name in names]


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""
