"""What can be given more bits or fewer: weights of the transformer, layers of the text encoder; and what each takes."""

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

UNQUANTIZED = "high"  # the name of leaving a unit as it is
COMPONENTS = ("transformer", "text_encoder")  # the velocity hangs on no other
_LAYER = re.compile(r"(.*layers\.\d+)\..+")


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets its bits together."""

    component: str
    name: str
    weights: tuple[str, ...]
    bytes: Mapping[str, int]  # by scheme, and as it is

    @property
    def key(self) -> str:
        """What its errors are kept under: a layer of which some weights are left is another unit."""
        return self.name if self.weights == (self.name,) else f"{self.name} {json_files.key_of(list(self.weights))[:8]}"


Schemes = Mapping[str, str]  # by unit


@dataclass(frozen=True)
class Units:
    """All that can be chosen."""

    parts: tuple[Component, ...]
    plans: Mapping[str, Mapping[str, QuantPlan]]  # by component and scheme, how its weights would be stored
    all: tuple[Unit, ...]

    @property
    def fixed(self) -> int:
        """Bytes of the components that no choice changes."""
        whole = sum(ref.size for part in self.parts for ref in weights_of(part).tensors.values())
        return whole - sum(unit.bytes[UNQUANTIZED] for unit in self.all)

    @property
    def dtypes(self) -> dict[str, str]:
        """Of scales, by component."""
        return {name: next(iter(plans.values())).dtype for name, plans in self.plans.items()}

    def size(self, schemes: Schemes) -> int:
        """Bytes of the components under a choice."""
        return self.fixed + sum(unit.bytes[schemes[unit.name]] for unit in self.all)

    def uniform(self) -> dict[str, dict[str, str]]:
        """Each scheme, for all that takes it."""
        names = next(iter(self.plans.values()))
        return {
            scheme: {unit.name: scheme if scheme in unit.bytes else UNQUANTIZED for unit in self.all}
            for scheme in names
        }

    def assignment(self, schemes: Schemes) -> QuantAssignment:
        """What is quantized under a choice; units that it doesn't name are left as they are."""
        found: dict[str, dict[str, WeightSpec]] = {name: {} for name in COMPONENTS}
        for unit in self.all:
            scheme = schemes.get(unit.name, UNQUANTIZED)
            if scheme != UNQUANTIZED:
                specs = self.plans[unit.component][scheme].specs
                found[unit.component] |= {name: specs[name] for name in unit.weights}
        return QuantAssignment(**found)

    def plans_for(self, schemes: Schemes) -> dict[str, QuantPlan]:
        """By component, how its weights are stored; those of which nothing is quantized are not among them."""
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
    """What can be chosen of these components."""
    for part in parts:
        if part.name not in COMPONENTS:
            raise UsageError(
                f"the {part.name} has no part in the velocity, by which bits are given", hint="--scheme NAME"
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
