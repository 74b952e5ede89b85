"""Units of bit allocation: single weights of the transformer, whole layers of the text encoder; bytes per scheme."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sanac.core import json_files
from sanac.core.artifact.model import Component
from sanac.core.checkpoint.quant_json import PACKED, WeightSpec
from sanac.core.errors import UsageError
from sanac.core.quant.layer_rules import QuantPlan, QuantRequest, check_patterns, plan_quantization
from sanac.core.quant.schemes import scheme_of
from sanac.quantize.plan import weights_of
from sanac.quantize.sensitivity import QuantAssignment
from sanac.quantize.tensor_packing import WeightQuantizer

UNQUANTIZED = "high"  # pseudo-scheme: the unit is not quantized
COMPONENTS = ("transformer", "text_encoder")  # the only components that the velocity depends on
_LAYER = re.compile(r"(.*layers\.\d+)\..+")


@dataclass(frozen=True, slots=True)
class Unit:
    """A group of weights that get the same scheme."""

    component: str
    name: str
    weights: tuple[str, ...]
    bytes: Mapping[str, int]  # by scheme, including UNQUANTIZED

    @property
    def key(self) -> str:
        """Cache key of the unit's errors: a layer with some weights skipped is another unit."""
        return self.name if self.weights == (self.name,) else f"{self.name} {json_files.key_of(list(self.weights))[:8]}"


Schemes = Mapping[str, str]  # unit name -> scheme


@dataclass(frozen=True)
class Units:
    """All units of the selected components, and how each scheme would store them."""

    parts: tuple[Component, ...]
    plans: Mapping[str, Mapping[str, QuantPlan]]  # component -> scheme -> plan for its weights
    all: tuple[Unit, ...]

    @property
    def fixed(self) -> int:
        """Bytes of all tensors that are never quantized."""
        whole = sum(ref.size for part in self.parts for ref in weights_of(part).tensors.values())
        return whole - sum(unit.bytes[UNQUANTIZED] for unit in self.all)

    @property
    def dtypes(self) -> dict[str, str]:
        """Dtype of the scales by component."""
        return {name: next(iter(plans.values())).dtype for name, plans in self.plans.items()}

    def size(self, schemes: Schemes) -> int:
        """Bytes of the components under an assignment of schemes."""
        return self.fixed + sum(unit.bytes[schemes[unit.name]] for unit in self.all)

    def uniform(self) -> dict[str, dict[str, str]]:
        """Uniform assignments: each scheme applied to every unit that supports it."""
        names = next(iter(self.plans.values()))
        return {
            scheme: {unit.name: scheme if scheme in unit.bytes else UNQUANTIZED for unit in self.all}
            for scheme in names
        }

    def assignment(self, schemes: Schemes) -> QuantAssignment:
        """Quantized weights under an assignment of schemes; unnamed units are not quantized."""
        found: dict[str, dict[str, WeightSpec]] = {name: {} for name in COMPONENTS}
        for unit in self.all:
            scheme = schemes.get(unit.name, UNQUANTIZED)
            if scheme != UNQUANTIZED:
                specs = self.plans[unit.component][scheme].specs
                found[unit.component] |= {name: specs[name] for name in unit.weights}
        return QuantAssignment(**found)

    def plans_for(self, schemes: Schemes) -> dict[str, QuantPlan]:
        """Quantization plan by component under an assignment; omits components without quantized weights."""
        assignment = self.assignment(schemes)
        found = {}
        for part in (part for part in self.parts if getattr(assignment, part.name)):
            first = next(iter(self.plans[part.name].values()))
            specs: Mapping[str, WeightSpec] = getattr(assignment, part.name)
            names = {name for unit in self.all if unit.component == part.name for name in unit.weights}
            skipped = {name: why for name, why in first.skipped.items() if name not in names}
            skipped |= dict.fromkeys(sorted(names - specs.keys()), "the budget: its bits are worth more here")
            found[part.name] = replace(first, layout=PACKED, specs=specs, skipped=skipped)
        return found


def units_of(parts: Sequence[Component], request: QuantRequest, schemes: Sequence[str]) -> Units:
    """Units of these components, with the bytes of each under every scheme in `among`."""
    for part in parts:
        if part.name not in COMPONENTS:
            raise UsageError(
                f"bits can't be allocated to the {part.name}",
                why="the budget is spent by velocity error, which doesn't depend on it",
                hint="quantize it with one --scheme NAME in a separate run",
            )
    plans = {
        part.name: {
            name: plan_quantization(part.name, weights_of(part).tensors, replace(request, scheme=scheme_of(name)))
            for name in schemes
        }
        for part in parts
    }
    check_patterns(request.skip, {part.name: next(iter(plans[part.name].values())) for part in parts})
    found = [unit for part in parts for unit in _units(part, plans[part.name])]
    return Units(tuple(parts), plans, tuple(found))


def _units(part: Component, plans: Mapping[str, QuantPlan]) -> list[Unit]:
    groups: dict[str, list[str]] = {}
    for name in sorted(set().union(*(how.specs for how in plans.values()))):
        layer = _LAYER.fullmatch(name) if part.name == "text_encoder" else None
        groups.setdefault(layer[1] if layer else name, []).append(name)
    tensors, found = weights_of(part).tensors, []
    for group, weights in groups.items():
        sizes = {UNQUANTIZED: sum(tensors[name].size for name in weights)}
        for scheme, how in plans.items():
            if all(name in how.specs for name in weights):
                written = (
                    WeightQuantizer(tensors[name], how.specs[name], PACKED, how.dtype).tensors() for name in weights
                )
                sizes[scheme] = sum(piece.size for pieces in written for piece in pieces)
        found.append(Unit(part.name, group, tuple(weights), sizes))
    return found
