"""The summary that `inspect` prints: family, parameters and bytes per component and part, lineage, memory needs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sanac.core.artifact.engine_record import ENGINE, check_file
from sanac.core.artifact.measurements import read_measurement
from sanac.core.artifact.model import Component, Model
from sanac.core.artifact.plan import Keep
from sanac.core.artifact.token_model import TokenModel
from sanac.core.checkpoint.weights import Weights
from sanac.core.confined import ConfinedPath
from sanac.core.family.architecture import dtype_counts, part_of, split_block, training_note
from sanac.core.safetensors_header import DTYPE_BITS

_ITEM_BYTES = 2  # bytes per weight: pipelines run in 16 bits


@dataclass(frozen=True, slots=True)
class Amount:
    """Number of parameters and their bytes on disk."""

    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ComponentSummary:
    """One row of the component table."""

    name: str
    class_name: str
    amount: Amount
    plain_bytes: int  # bytes if it weren't quantized
    dtypes: Mapping[str, int]
    files: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything `inspect` prints, as data."""

    name: str
    kind: str
    family: str
    blocks: int
    width: int
    qk_norm: bool
    guidance: bool
    components: tuple[ComponentSummary, ...]
    parts: Mapping[str, Amount]
    block: Amount
    total: Amount
    plain_bytes: int
    run_bytes: int  # all components at once, in 16 bits or as stored if that is less
    offload_bytes: int  # the largest component alone
    lineage: tuple[str, ...]
    origins: tuple[int | str, ...] | None  # per block: its number in the source, or how it was initialised
    in_all: str  # composition of the stages' plans; '' unless several stages moved blocks
    schedule: str  # depth and guidance per step; '' without a schedule
    left_out: tuple[str, ...]
    graphs: tuple[str, ...]  # ONNX files of the artifact
    engines: Mapping[str, str]  # engine file -> whether and where it was executed
    layout: str  # tensor names on disk: diffusers or nvlabs
    notes: tuple[str, ...]  # choices made while opening, and hints about its training dtype

    def to_json(self) -> dict[str, Any]:
        """The summary as printed by `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TokenSummary:
    """Everything `inspect` prints of a token generator, as data."""

    name: str
    kind: str
    family: str
    layers: int
    width: int
    words: int  # tokens of the text tokenizer
    codes: int  # entries of the image tokenizer's codebook
    image_tokens: int
    image_side: int  # pixels
    text_length: int
    components: tuple[ComponentSummary, ...]
    total: Amount
    run_bytes: int  # all components at once, in 16 bits or as stored if that is less

    def to_json(self) -> dict[str, Any]:
        """The summary as printed by `--json`."""
        return asdict(self)


def _total(components: Sequence[ComponentSummary]) -> Amount:
    """Parameters and bytes of all components."""
    return Amount(sum(one.amount.parameters for one in components), sum(one.amount.bytes for one in components))


def summarise_tokens(model: TokenModel) -> TokenSummary:
    """The summary of a token generator, from file headers alone; InvalidInput if its parts don't fit each other."""
    model.check()
    shape = model.architecture
    components = tuple(_component(part) for part in model.components)
    return TokenSummary(
        name=model.located.name,
        kind=model.kind,
        family=model.title,
        layers=shape.layers,
        width=shape.width,
        words=shape.words,
        codes=shape.codes,
        image_tokens=shape.image_tokens,
        image_side=model.image_side,
        text_length=shape.text_length,
        components=components,
        total=_total(components),
        run_bytes=sum(_run_bytes(part) for part in model.components),
    )


def summarise(model: Model) -> Summary:
    """The summary of `model`, from file headers alone: no weights are loaded."""
    architecture = model.architecture
    components = tuple(_component(part) for part in model.components)
    parts: dict[str, Amount] = {}
    for ref in model.weights:
        before = parts.get(part_of(ref.name), Amount(0, 0))
        parts[part_of(ref.name)] = Amount(before.parameters + ref.count, before.bytes + model.weights.size_of(ref))
    first_block = [ref for ref in model.weights if (found := split_block(ref.name)) and found[0] == 0]
    sizes = [_run_bytes(part) for part in model.components]
    manifest = model.manifest
    plan = manifest.whole_plan if manifest else None
    several = manifest is not None and sum(bool(step.moved) for step in manifest.lineage) > 1
    return Summary(
        name=model.located.name,
        kind="artifact" if manifest else model.kind,
        family=architecture.title,
        blocks=architecture.blocks,
        width=architecture.width,
        qk_norm=architecture.qk_norm,
        guidance=architecture.guidance,
        components=components,
        parts=dict(sorted(parts.items(), key=lambda item: -item[1].bytes)),
        block=Amount(sum(ref.count for ref in first_block), sum(map(model.weights.size_of, first_block))),
        total=_total(components),
        plain_bytes=sum(c.plain_bytes for c in components),
        run_bytes=sum(sizes),
        offload_bytes=max(sizes),
        lineage=tuple(_step(step.stage, step.name, step.moved) for step in manifest.lineage) if manifest else (),
        origins=tuple(o.block if isinstance(o, Keep) else str(o) for o in plan.blocks) if plan else None,
        in_all=str(plan) if several else "",
        schedule=str(model.schedule or ""),
        left_out=manifest.left_out if manifest else (),
        graphs=tuple(sorted(name for name in manifest.files if name.endswith(".onnx"))) if manifest else (),
        engines=_engines(model),
        layout=model.weights.layout,
        notes=(*model.weights.notes, *filter(None, [training_note(architecture, dtype_counts(model.weights))])),
    )


def _engines(model: Model) -> dict[str, str]:
    """Each engine's execution status: from its record, or from the last parity check of this very file."""
    root, sealed = ConfinedPath(model.located.path), model.manifest.files if model.manifest else {}
    found = {name: check_file(Path(root / name)).executed for name in sorted(sealed) if name.endswith(ENGINE)}
    verdict = read_measurement(model.located.path, "verify-trt") if found else None
    if verdict is None:
        return found
    text = "the same function" if verdict.get("passed") is True else "NOT the same function"
    ran = verdict.get("executed")
    for name in found:
        about = ran.get(name) if isinstance(ran, dict) else None
        if isinstance(about, dict) and about.get("blake3") == sealed[name].blake3:  # the check was of this very file
            found[name] = f"{about.get('where')}: {text}"
    return found


def _component(part: Component) -> ComponentSummary:
    if part.weights is None:
        size = sum(path.stat().st_size for path in part.files)
        return ComponentSummary(part.name, part.class_name, Amount(0, size), size, {}, len(part.files))
    amount, counts = Amount(part.weights.count, part.weights.size), dtype_counts(part.weights)
    return ComponentSummary(part.name, part.class_name, amount, _plain_bytes(part.weights), counts, len(part.files))


def _plain_bytes(weights: Weights) -> int:
    """Bytes of all weights with the quantized ones in their original dtype."""
    quantized = weights.quantized
    if not quantized:
        return weights.size
    before = DTYPE_BITS[quantized.dtype] // 8
    return sum(before * ref.count if ref.name in quantized.weights else ref.size for ref in weights)


def _run_bytes(part: Component) -> int:
    stored = part.weights.size if part.weights else 0
    return min(stored, _ITEM_BYTES * part.weights.count if part.weights else 0)


def _step(stage: str, name: str, plan: str) -> str:
    return " ".join(word for word in (stage, name, f"({plan})" if plan else "") if word)
