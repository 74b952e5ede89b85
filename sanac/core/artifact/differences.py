"""What differs between two models, without reading weights: lineage, blocks, precision and the other components."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sanac.core.artifact.manifest import Ancestor, compose
from sanac.core.artifact.model import Component, Model
from sanac.core.artifact.plan import Keep, New, Origin, origins_text, ranges_text
from sanac.core.checkpoint.quant_json import QuantConfig
from sanac.core.family.architecture import dtype_counts
from sanac.core.file_copy import digest_file


@dataclass(frozen=True, slots=True)
class BlockOrigin:
    """Where a block of the other model comes from, seen from the first model."""

    first: int | None  # the same block's number in the first model
    ancestor: int | None  # its number in the common ancestor
    new: str  # how it was initialised, if it is new


@dataclass(frozen=True, slots=True)
class ModelDifference:
    """What differs from a first model to another one."""

    ancestor: str  # the nearest common ancestor; '' if the lineages share none
    blocks: str
    origins: tuple[BlockOrigin, ...] | None  # per block of the other model; None without a common ancestor
    only_first: tuple[str, ...]  # steps of the first model's lineage that the other one lacks
    only_other: tuple[str, ...]
    components: Mapping[str, tuple[str, str]]  # component -> its form in the first and in the other, where they differ

    def to_json(self) -> dict[str, Any]:
        """The JSON form used by `compare`."""
        return asdict(self)


def difference(first: Model, other: Model) -> ModelDifference:
    """What differs from `first` to `other`."""
    ours, theirs = lineage_of(first), lineage_of(other)
    shared = _shared(ours, theirs)
    ancestor = (ours[shared - 1].name or ours[shared - 1].stage) if shared else ""
    counts = (first.architecture.blocks, other.architecture.blocks)
    origins = _origins(ours[shared:], theirs[shared:], counts) if shared else None
    return ModelDifference(
        ancestor,
        _blocks_text(origins, counts, first.located.name) if origins else _unrelated(counts),
        origins,
        tuple(_step_text(step) for step in ours[shared:]),
        tuple(_step_text(step) for step in theirs[shared:]),
        dict(_components(first, other)),
    )


def lineage_of(model: Model) -> tuple[Ancestor, ...]:
    """The lineage of a model; a model without a manifest is its own source."""
    if model.manifest:
        return model.manifest.lineage
    return (Ancestor("source", model.identity(), model.located.name),)


def _shared(ours: Sequence[Ancestor], theirs: Sequence[Ancestor]) -> int:
    """The number of steps that both lineages begin with."""
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one.key != other.key), min(len(ours), len(theirs)))


def _origins(ours: Sequence[Ancestor], theirs: Sequence[Ancestor], counts: tuple[int, int]) -> tuple[BlockOrigin, ...]:
    """The origin of each block of the other model; both tails begin at the common ancestor."""
    mine, plan = compose(ours), compose(theirs)
    kept: Sequence[Origin] = mine.blocks if mine else [*map(Keep, range(counts[0]))]
    got: Sequence[Origin] = plan.blocks if plan else [*map(Keep, range(counts[1]))]
    place = {origin: number for number, origin in reversed([*enumerate(kept)])}
    return tuple(
        BlockOrigin(
            place.get(origin),
            origin.block if isinstance(origin, Keep) else None,
            str(origin) if isinstance(origin, New) else "",
        )
        for origin in got
    )


def _blocks_text(origins: Sequence[BlockOrigin], counts: tuple[int, int], name: str) -> str:
    """Text such as 'keeps 0-3, 8-11 of the 12 blocks of sanac:tiny; lacks 4-7'."""
    kept = [one.first for one in origins if one.first is not None]
    if kept == [*range(counts[0])] and counts[1] == counts[0]:
        return f"the same {counts[0]} blocks"
    parts = [f"keeps {ranges_text(kept)} of the {counts[0]} blocks of {name}" if kept else f"no block of {name}"]
    if missing := sorted({*range(counts[0])} - {*kept}):
        parts.append(f"lacks {ranges_text(missing)}")
    others = [one for one in origins if one.first is None]
    if older := [one.ancestor for one in others if one.ancestor is not None]:
        parts.append(f"has {ranges_text(older)} of their common ancestor")
    for how, count in Counter(one.new for one in others if one.new).items():
        parts.append(f"{count} {how}")
    return "; ".join(parts)


def _unrelated(counts: tuple[int, int]) -> str:
    return f"{counts[0]} and {counts[1]} blocks; the lineages share no model"


def _step_text(step: Ancestor) -> str:
    """Text such as 'prune: keep 0-3, 8-11 of 12 blocks' or 'finetune: 100 steps of distill'."""
    if step.stage == "source":
        return f"source: {step.name}"
    moved = f"{origins_text(step.plan.blocks)} of {step.plan.source_blocks} blocks" if step.plan and step.moved else ""
    about = ", ".join(filter(None, (step.name, moved)))
    return f"{step.stage}: {about}" if about else step.stage


def _components(first: Model, other: Model) -> Iterator[tuple[str, tuple[str, str]]]:
    """Components whose class, precision or settings differ."""
    mine, theirs = ({part.name: part for part in model.components} for model in (first, other))
    for name in dict.fromkeys((*mine, *theirs)):
        one, two = mine.get(name), theirs.get(name)
        if one is None or two is None:
            yield name, ("there" if one else "missing", "there" if two else "missing")
            continue
        forms = (precision_of(one), precision_of(two))
        if one.class_name != two.class_name:
            yield name, (one.class_name, two.class_name)
        elif forms[0] != forms[1]:
            yield name, forms
        elif one.weights is None and two.weights is None and _digests(one) != _digests(two):
            yield name, (one.class_name, "other settings")


def precision_of(part: Component) -> str:
    """Text such as 'F32', or 'int8 in 32 of 104 weights, else F32'; '' for a component without weights."""
    if part.weights is None:
        return ""
    return precision_text(part.weights.quantized, dtype_counts(part.weights))


def precision_text(quantized: QuantConfig | None, dtypes: Iterable[str]) -> str:
    """Text as of `precision_of`: the schemes of the quantized weights, else all dtypes."""
    if quantized is None or not quantized.weights:
        return ", ".join(dtypes)
    total = len(quantized.weights) + len(quantized.skipped)
    schemes = Counter(spec.scheme for spec in quantized.weights.values())
    return ", ".join(f"{name} in {count} of {total} weights" for name, count in schemes.items()) + (
        f", else {quantized.dtype}" if len(quantized.weights) < total else ""
    )


def _digests(part: Component) -> dict[str, str]:
    return {path.name: digest_file(path) for path in part.files}
