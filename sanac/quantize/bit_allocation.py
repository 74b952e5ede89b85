"""Bit allocation: chooses a scheme per unit for the lowest velocity error within a size budget, or vice versa.

The velocity error of each unit quantized alone by each scheme is measured and cached, so another budget reuses it.
The choice assumes that errors of units add up; the chosen allocation is then measured as a whole, compared with
uniform schemes, and the best measured one is used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import NotComputedYet
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.core.progress import Reporter
from sanac.core.quant.layer_rules import COMPONENTS as KNOWN
from sanac.core.quant.layer_rules import INCLUDES, QuantRequest
from sanac.core.quant.schemes import SCHEMES
from sanac.core.units import bytes_text
from sanac.core.write.job import ArtifactJob, WriteOptions
from sanac.nn.calibration.job import Calibration, calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.text_encoding import open_encoder
from sanac.nn.streaming import DTYPES
from sanac.quantize.allocation_units import UNQUANTIZED, Schemes, Units, units_of
from sanac.quantize.knapsack import Item, cheapest, lightest, swaps
from sanac.quantize.plan import SCHEMA as WRITTEN
from sanac.quantize.plan import parts_of, plan_chosen, weights_of
from sanac.quantize.sensitivity import SensitivityEvaluator

SCHEMA = 1  # raised when the same settings would measure other errors
EVERY, PROMPTS = 4, 8
AMONG = ("int8-wo", "int4-wo")
SWAPS, TOGETHER = 4, 24  # rounds of measured swaps, swaps per round
ROUNDS = 8  # most iterations to approach the target error of --min-sqnr
NEAR = 0.97  # share of the target error at which the iteration stops


@dataclass(frozen=True, slots=True)
class Budget:
    """Allocation settings: most bytes of the components together, or least velocity SQNR in dB; schemes to mix."""

    max_bytes: int | None = None
    min_sqnr: float | None = None
    among: tuple[str, ...] = AMONG
    components: tuple[str, ...] = ("transformer",)
    rounding: str | None = None
    include: frozenset[str] = frozenset()
    leave: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise one UsageError that lists all contradictions."""
        problems = []
        for name in self.among:
            if name not in SCHEMES:
                problems.append(f"there is no scheme {name!r}: {', '.join(SCHEMES)}")
            elif SCHEMES[name].activations:
                weight_only = f"{name.partition('-')[0]}-wo"
                problems.append(f"--schemes {name}: same size as {weight_only} but a larger error, use {weight_only}")
        if not self.among:
            problems.append("--schemes lists no scheme")
        if self.rounding == "gptq":
            problems.append("--rounding gptq only applies to --scheme: it calibrates for one fixed assignment")
        problems += [f"there is no component {name!r}" for name in self.components if name not in KNOWN]
        problems += [
            f"--include {name} only applies to schemes that quantize activations" for name in self.include & {"ends"}
        ]
        problems += [
            f"--include {name!r} is not one of {', '.join(INCLUDES)}" for name in self.include - INCLUDES.keys()
        ]
        if self.min_sqnr is not None and not 0 < self.min_sqnr < 200:
            problems.append(f"--min-sqnr {self.min_sqnr:g} is not between 0 and 200 dB")
        if problems:
            raise UsageError(problems[0], problems=problems)

    @property
    def request(self) -> QuantRequest:
        """Quantization request for each component's weights."""
        return QuantRequest(SCHEMES[self.among[0]], None, self.rounding, self.include, self.leave)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An assignment of schemes with its measured size and error."""

    name: str
    schemes: Schemes
    bytes: int
    error: float  # relative, squared, of the guided velocity
    gap: float = 0.0  # optimality gap of the knapsack solution, if errors add up

    @property
    def sqnr(self) -> float:
        """Velocity SQNR in dB."""
        return -10 * math.log10(self.error) if self.error else math.inf

    def to_json(self) -> dict[str, Any]:
        """Name and measurements of the candidate, without its schemes."""
        return {"name": self.name, "bytes": self.bytes, "error": self.error, "gap": self.gap}


@dataclass(frozen=True, slots=True)
class Allocation:
    """The chosen candidate, the alternatives, and the measured errors of single units."""

    best: Candidate
    alternatives: tuple[Candidate, ...]
    errors: Mapping[str, float]  # 'unit scheme' -> error of that unit quantized alone

    def to_json(self) -> dict[str, Any]:
        """Measurements of the chosen candidate and of its alternatives."""
        return {**self.best.to_json(), "beside": [found.to_json() for found in self.alternatives]}


@dataclass(frozen=True)
class AllocationJob:
    """A bit allocation with all settings resolved: units, budget and calibration."""

    model: Model
    units: Units
    budget: Budget
    states: Calibration
    workspace: ConfinedPath
    yes: bool = False
    dry: bool = False
    fresh: bool = False  # ignore cached errors

    @cached_property
    def key(self) -> str:
        """Content key of the measured errors; independent of the budget."""
        how = [self.budget.rounding, self.units.dtypes]
        return json_files.key_of(["sensitivity", SCHEMA, self.states.settings, self.model.identity(), how])

    @property
    def report_settings(self) -> dict[str, Any]:
        """The budget and the calibration settings."""
        budget = asdict(self.budget) | {"include": sorted(self.budget.include)}
        return {"budget": budget, "measured_on": self.states.settings}

    def check(self) -> None:
        """Raise UsageError for a budget that can't be met or needs no quantization, before measuring anything."""
        least = self.units.fixed + round(lightest(self._items({})))
        most, whole = self.budget.max_bytes, self.units.size(self._high)
        if most is None:
            return
        if most >= whole:
            raise UsageError(
                f"--max-bytes {bytes_text(most)} needs no quantization",
                why=f"the components take {bytes_text(whole)} unquantized",
                hint=f"--max-bytes below {whole}",
            )
        if most < least:
            raise UsageError(
                f"--max-bytes {bytes_text(most)} can't be reached",
                why=f"the minimum is {least:,} bytes, of which {bytes_text(self.units.fixed)} are never quantized",
                hint=f"--max-bytes {least}" + ("" if "kv" in self.budget.include else ", or --include kv"),
            )

    def check_budget(self, alone: int, whole: int, together: int, reporter: Reporter) -> None:
        """Report the estimated time of the measurements; above one hour it requires --yes.

        `alone` and `whole` are the numbers of single-unit and whole assignments, `together` those per sweep.
        """
        text = sum(unit.component == "text_encoder" for unit in self.units.all) / len(self.units.all)
        groups = -(-alone // together)
        forwards = whole + alone * text + (1 - text) * (alone + groups) / 2  # groups share what precedes a change
        more = (whole * bool(text) + alone * text) * self.states.inputs.encoding
        seconds = self.states.seconds(forwards, readings=groups + -(-whole // together), more=more)
        self.states.check_budget(f"measuring {alone} sensitivities and the allocation", seconds, reporter, yes=self.yes)

    def run(self, reporter: Reporter) -> Allocation:
        """The best allocation: measures the errors that are not cached, allocates, and measures the result."""
        self.check()
        cache = _SensitivityCache(self, reporter)
        cache.measure_each()
        candidates = {name: self._measured(cache, name, how) for name, how in self.units.uniform().items()}
        most = self.budget.max_bytes
        if most is not None:
            chosen = self._least_error(cache, most)
            fitting = [chosen, *(found for found in candidates.values() if found.bytes <= most)]
            best = min(fitting, key=lambda found: found.error)
        else:
            assert self.budget.min_sqnr is not None
            error = 10 ** (-self.budget.min_sqnr / 10)
            chosen = self._fewest_bytes(cache, error)
            best = min([chosen, *(t for t in candidates.values() if t.error <= error)], key=lambda found: found.bytes)
            if not self.units.plans_for(best.schemes):
                finest = max(found.sqnr for found in candidates.values())
                raise UsageError(
                    f"no weight can be quantized within --min-sqnr {self.budget.min_sqnr:g} dB",
                    why=f"the best uniform scheme of {', '.join(self.budget.among)} reaches {finest:.1f} dB",
                    hint=f"--min-sqnr {finest:.0f}",
                )
        alternatives = tuple(found for found in (chosen, *candidates.values()) if found is not best)
        return Allocation(best, alternatives, cache.unit_errors())

    def _least_error(self, cache: "_SensitivityCache", most: int) -> Candidate:
        """The knapsack solution for additive errors, improved by swaps that are measured as a whole."""
        items = self._items(cache.errors)
        choice = cheapest(items, float(most - self.units.fixed))
        assert choice is not None
        options, best = choice.options, self._measured(cache, "by budget", self._named(choice.options), choice.gap)
        for _ in range(SWAPS):
            near = swaps(items, options, float(most - self.units.fixed), TOGETHER)
            cache.measure_all([self._named(other) for other in near])
            found = {other: self._measured(cache, "by budget", self._named(other), choice.gap) for other in near}
            better = min(found, key=lambda other: found[other].error, default=options)
            if better == options or found[better].error >= best.error:
                break
            options, best = better, found[better]
        return best

    def _fewest_bytes(self, cache: "_SensitivityCache", most: float) -> Candidate:
        """The smallest allocation within the error `most`; scales the limit on summed errors to match measured ones."""
        items = [Item(item.weights, item.costs) for item in self._items(cache.errors)]
        best = Candidate("by budget", self._high, self.units.size(self._high), 0.0)
        limit = most
        for _ in range(ROUNDS):
            choice = cheapest(items, limit)
            assert choice is not None
            found = self._measured(cache, "by budget", self._named(choice.options), choice.gap)
            if found.error <= most and found.bytes <= best.bytes:
                best = found
            if found.error == 0.0 or NEAR * most <= found.error <= most:
                break
            limit *= most / found.error
        return best

    @property
    def _high(self) -> dict[str, str]:
        """The assignment that quantizes nothing."""
        return dict.fromkeys((unit.name for unit in self.units.all), UNQUANTIZED)

    def _items(self, errors: Mapping[str, float]) -> list[Item]:
        """Knapsack items: errors are costs, bytes are weights; an unquantized unit costs nothing."""
        return [
            Item(
                np.array([errors.get(f"{unit.key} {scheme}", 0.0) for scheme in unit.bytes]),
                np.array([float(size) for size in unit.bytes.values()]),
            )
            for unit in self.units.all
        ]

    def _named(self, options: tuple[int, ...]) -> dict[str, str]:
        pairs = zip(self.units.all, options, strict=True)
        return {unit.name: list(unit.bytes)[option] for unit, option in pairs}

    def _measured(self, cache: "_SensitivityCache", name: str, schemes: Schemes, gap: float = 0.0) -> Candidate:
        return Candidate(name, schemes, self.units.size(schemes), cache.error_of(schemes), gap)

    def job(self, allocation: Allocation, options: WriteOptions) -> ArtifactJob:
        """The artifact job of an allocation: the schemes are part of its key, the budget is only described."""
        budget = self.budget
        schemas = [SCHEMA, WRITTEN]
        settings = {"schema": schemas, "schemes": dict(allocation.best.schemes), "rounding": budget.rounding}
        limit = f"within {bytes_text(budget.max_bytes)}" if budget.max_bytes else f"for {budget.min_sqnr:g} dB"
        how = f"{' and '.join(sorted(budget.components))} to {' and '.join(budget.among)} by sensitivity, {limit}"
        return plan_chosen(self.model, self.units.plans_for(allocation.best.schemes), settings, how, options)


def allocating(
    model: Model,
    budget: Budget,
    settings: CalibrationSettings,
    options: WriteOptions,
    workspace: ConfinedPath,
    reporter: Reporter,
    *,
    fresh: bool = False,
) -> AllocationJob:
    """The allocation job of a budget; raises at once if the calibration doesn't fit into memory."""
    budget.check()
    units = units_of(parts_of(model, budget.components, options), budget.request, budget.among)
    if settings.num_prompts is None and settings.prompts is None and settings.embeddings is None:
        settings = replace(settings, num_prompts=PROMPTS)
    states = calibration(model, settings, EVERY, min_prompts=1)
    if states.inputs.embeddings and "text-encoder" in budget.components:
        raise UsageError(
            "--embeddings can't be combined with --component text-encoder",
            why="the error of the text encoder is measured by encoding prompts, and the file holds none",
            hint="--prompts FILE instead of --embeddings",
        )
    text = [part for part in units.parts if part.name == "text_encoder"]
    held = sum(4 * ref.count for part in text for ref in weights_of(part).tensors.values())  # the text encoder in fp32
    states = states.fit_to_memory(held, 3 * states.moments * states.state_bytes, reporter)
    return AllocationJob(model, units, budget, states, workspace, settings.yes, settings.dry, fresh)


class _SensitivityCache:
    """Velocity errors of assignments, measured on demand and cached on disk at once."""

    def __init__(self, job: AllocationJob, reporter: Reporter) -> None:
        self.job, self.reporter = job, reporter
        self.file = job.workspace / f"sensitivity-{job.key[:8]}" / "errors.json"
        known = None if job.fresh else load_cached(self.file, job.key, {"errors": dict})
        self.errors: dict[str, float] = dict(known["errors"]) if known else {}
        self.names = {
            f"{unit.key} {scheme}": {unit.name: scheme}
            for unit in job.units.all
            for scheme in unit.bytes
            if scheme != UNQUANTIZED
        }

    @cached_property
    def evaluator(self) -> SensitivityEvaluator:
        """The evaluator, created on first use: checks the time budget, then samples the calibration states."""
        units, states = self.job.units, self.job.states
        each = 2 * states.count * states.moments * states.state_bytes
        together = max(1, states.memory_limit // 4 // each)
        alone = sum(name not in self.errors for name in self.names)
        self.job.check_budget(alone, len(self.job.budget.among) + 1 + SWAPS * TOGETHER, together, self.reporter)
        if self.job.dry:
            raise NotComputedYet("the sensitivity measurement")
        with torch.no_grad():
            all_states = states.sample()
        text = any(part.name == "text_encoder" for part in units.parts)
        encoder = open_encoder(self.job.model, torch.device(states.device)) if text else None
        dtypes = {name: DTYPES[dtype] for name, dtype in units.dtypes.items()}
        return SensitivityEvaluator(all_states, states.inputs.prompts[: states.count], encoder, dtypes, together)

    def measure_each(self) -> None:
        """Measure every unit alone under every scheme."""
        self._measure("sensitivities", self.names)

    def unit_errors(self) -> dict[str, float]:
        """Error of every unit alone under every scheme, keyed 'unit scheme'."""
        return {
            f"{unit} {scheme}": self.errors[name] for name, how in self.names.items() for unit, scheme in how.items()
        }

    def error_of(self, schemes: Schemes) -> float:
        """Error of a whole assignment of schemes."""
        self.measure_all([schemes])
        return self.errors[self._name_of(schemes)]

    def measure_all(self, choices: Sequence[Schemes]) -> None:
        """Measure several whole assignments."""
        self._measure("allocations", {self._name_of(how): how for how in choices})

    def _name_of(self, schemes: Schemes) -> str:
        pairs = ((unit.key, schemes[unit.name]) for unit in self.job.units.all)
        return json_files.key_of({key: scheme for key, scheme in pairs if scheme != UNQUANTIZED})

    def _measure(self, what: str, choices: Mapping[str, Schemes]) -> None:
        """Measure the assignments that are not cached yet."""
        questions = {name: self.job.units.assignment(how) for name, how in choices.items() if name not in self.errors}
        if not questions:
            return
        evaluator, names = self.evaluator, iter(questions)
        self.reporter.begin("measuring", len(questions), what)
        try:
            with torch.no_grad():
                for found in evaluator.errors(list(questions.values())):
                    self.errors |= {next(names): e if math.isfinite(e) else 1e300 for e in found}
                    store_cached(self.file, {"key": self.job.key, "errors": self.errors})
                    self.reporter.advance(len(found))
        finally:
            self.reporter.end()


def explained(units: Units, allocation: Allocation) -> list[dict[str, Any]]:
    """Table rows per unit: chosen scheme, bytes, and error under each scheme; the most sensitive unit first."""
    rows = [
        {
            "unit": unit.name,
            "component": unit.component,
            "scheme": allocation.best.schemes[unit.name],
            "bytes": unit.bytes[allocation.best.schemes[unit.name]],
            "errors": {s: allocation.errors[f"{unit.name} {s}"] for s in unit.bytes if s != UNQUANTIZED},
        }
        for unit in units.all
    ]
    return sorted(rows, key=lambda row: -max(row["errors"].values()))


def summary(found: Allocation) -> list[str]:
    """Readable lines about the chosen candidate and its alternatives."""
    lines = []
    for candidate in (found.best, *found.alternatives):
        what = "chosen" if candidate is found.best else "alternative"
        lines.append(f"{what}: {candidate.name}: {bytes_text(candidate.bytes)}, velocity SQNR {candidate.sqnr:.1f} dB")
    return lines
