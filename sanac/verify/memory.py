"""How much memory a comparison needs, and whether it is there: one block or layer of each side, or a whole pipeline."""

import math
from collections.abc import Mapping
from pathlib import Path

from sanac.core.artifact.model import Component, Model
from sanac.core.cost import COMPARED, block_comparison
from sanac.core.errors import MissingResource
from sanac.core.progress import Reporter
from sanac.core.resources import Needs, available_memory, check_room
from sanac.core.units import bytes_text
from sanac.nn.layer_streaming import layer_parameters, streams
from sanac.verify.parity import cases
from sanac.verify.streamed_graph import GraphRun, session_memory

GRAPHS = {"transformer": ("transformer",), "text_encoder": ("text_encoder",), "vae": ("vae_decoder", "vae_encoder")}
_CUT = ("transformer", "text_encoder")  # graphs whose hidden states are named
_TRAFFIC = 6  # bytes of a comparison for each byte of weights: read, widened and checked on both sides
Runs = Mapping[str, GraphRun]


def check_memory(reference: Model, reporter: Reporter, runs: Runs | None = None) -> None:
    """Raise MissingResource without enough memory; without `runs`, for graphs that have yet to be exported."""
    needs = _needs(reference, runs)
    try:
        check_room(needs, Path.cwd(), reporter)
    except MissingResource as error:
        cut = [run for name, run in (runs or {}).items() if name in _CUT]
        largest = max(cut, key=lambda run: run.memory, default=None)
        uncut = f"; a graph runs as a whole, as {largest.why_whole}" if largest and largest.why_whole else ""
        hint = "compare on a machine with more memory"
        if uncut:
            hint = f"export the model again, so that its hidden states are named; or {hint}"
        raise MissingResource(f"{error.message} to compare", why=f"{error.why}{uncut}", hint=hint) from error


def _needs(reference: Model, runs: Runs | None = None) -> Needs:
    traffic = _TRAFFIC * sum(part.weights.size for part in reference.components if part.weights)
    return Needs(disk=0, memory=comparison_memory(reference, runs), traffic=traffic)


def comparison_seconds(reference: Model) -> float:
    """Estimated seconds of comparing all components."""
    return _needs(reference).seconds


def comparison_memory(reference: Model, runs: Runs | None = None) -> int:
    """Bytes that the comparison of all components takes at most: they are compared one after the other."""
    parts = (part for part in reference.components if part.weights and part.name in GRAPHS)
    sides = (_largest_side(reference, part, runs) for part in parts)
    return COMPARED + max(sides)


def pictures_memory(reference: Model) -> int:
    """Bytes that both pipelines take: weights in fp32 for each, and the largest graph while it is opened."""
    counts = [part.weights.count for part in reference.components if part.weights]
    return COMPARED + 8 * sum(counts) + 4 * max(counts)


def missing_for_pictures(reference: Model) -> str:
    """What keeps both pipelines from memory: '' if it is enough."""
    needed, there = pictures_memory(reference), available_memory()
    return f"{bytes_text(needed)} of memory needed, {bytes_text(there)} available" if needed > there else ""


def _largest_side(reference: Model, part: Component, runs: Runs | None) -> int:
    """Bytes that a component takes in torch or in a session, whichever is more; they are not opened together."""
    in_torch, foreseen, kept = (_transformer if part is reference.transformer else _other)(reference, part)
    if runs is None:
        return kept + max(in_torch, foreseen)
    return kept + max(in_torch, *(runs[name].memory for name in GRAPHS[part.name] if name in runs), 0)


def _transformer(model: Model, part: Component) -> tuple[int, int, int]:
    """(bytes in torch, foreseen for a session, kept from block to block) of a transformer."""
    assert part.weights
    shape, weights = model.architecture, part.weights
    block = sum(math.prod(size) for size in shape.block_tensors().values())
    total = sum(math.prod(size) for size in shape.tensors().values())
    tokens = sum(case.batch * case.rows * case.columns for case in cases())
    captions = max(case.batch * case.length for case in cases())
    specs = (parts.spec for parts in weights.parts.values())
    columns = sum(spec.columns for spec in specs if spec.activations)
    kept = (3 if columns else 2) * 4 * tokens * shape.width * shape.blocks  # hidden states of all sides
    kept += 2 * tokens * columns + 5 * captions * columns // max(1, shape.blocks)  # codes, and one case in a block
    return *block_comparison(block, total - shape.blocks * block, weights.size / total), kept


def _other(_: Model, part: Component) -> tuple[int, int, int]:
    """(bytes in torch, foreseen for a session, kept) of a text encoder or an autoencoder, whose halves are graphs."""
    assert part.weights
    count, size = part.weights.count, part.weights.size
    if streams(part):
        layer = layer_parameters(part)
        return 8 * layer, session_memory(layer, layer * size // count), 0
    halves: dict[str, int] = {}
    for name, ref in part.weights.tensors.items():
        half = name.partition(".")[0] if part.name == "vae" else ""
        halves[half] = halves.get(half, 0) + ref.count
    largest = max(halves.values())
    return 4 * count + size, session_memory(largest, largest * size // count), 0
