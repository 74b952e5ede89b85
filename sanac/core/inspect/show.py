"""What `sanac inspect` shows of a checkpoint."""

from collections.abc import Iterator

from sanac.core.artifact.summary import Summary, TokenSummary
from sanac.core.units import bytes_text
from sanac.core.view import Block, Line, Table


def show_summary(summary: Summary, *, scanned: bool, ancestry: str) -> Iterator[Block]:
    """Family, components, parts, memory, lineage and notes."""
    features = [f"{summary.blocks} blocks", f"width {summary.width}"]
    features += ["QK norm"] if summary.qk_norm else []
    features += ["guidance embedding"] if summary.guidance else []
    features += ["NVlabs' names"] if summary.layout == "nvlabs" else []
    yield Line(summary.family, "bold", f"  {summary.name}  ({summary.kind})")
    yield ", ".join(features)
    yield ""
    yield _components(summary)
    yield ""
    yield _parts(summary)
    yield ""
    together, alone = bytes_text(summary.run_bytes), bytes_text(summary.offload_bytes)
    yield f"to run: {together} for all weights in 16 bits, {alone} with model offload; activations not counted"
    for number, step in enumerate(summary.lineage):
        yield f"{'lineage:' if number == 0 else '    then'} {step}"
    if summary.in_all:
        yield f" in all: {summary.in_all}"
    if summary.schedule:
        yield f"schedule: {summary.schedule}"
    for note in summary.notes:
        yield f"note: {note}"
    if summary.graphs:
        yield f"graphs: {', '.join(summary.graphs)}"
    for name, state in summary.engines.items():
        yield f"engine: {name}, {state}"
    if summary.left_out:
        yield f"not in this folder: {', '.join(summary.left_out)}"
    if ancestry:
        yield ancestry
    if scanned:
        yield "scanned: every value is finite" + (", every digest is right" if summary.lineage else "")


def show_tokens(summary: TokenSummary, *, scanned: bool) -> Iterator[Block]:
    """Family, sizes, components and memory of a token generator."""
    yield Line(summary.family, "bold", f"  {summary.name}  ({summary.kind})")
    yield f"{summary.layers} layers, width {summary.width}, prompts of {summary.text_length} tokens"
    side = f"{summary.image_side} x {summary.image_side} pixels"
    yield f"images of {side}: {summary.image_tokens} tokens of {summary.codes:,} codes"
    yield ""
    yield _components(summary)
    yield ""
    yield f"to run: {bytes_text(summary.run_bytes)} for all weights in 16 bits; activations not counted"
    if scanned:
        yield "scanned: every value is finite"


def _components(summary: Summary | TokenSummary) -> Table:
    quantized = isinstance(summary, Summary) and summary.plain_bytes != summary.total.bytes
    before = ("before",) if quantized else ()
    rows: list[tuple[str, ...]] = []
    for part in summary.components:
        count = f"{part.amount.parameters:,}" if part.amount.parameters else "-"
        sizes = [part.plain_bytes, part.amount.bytes] if quantized else [part.amount.bytes]
        dtypes = ", ".join(part.dtypes) or "-"
        rows.append((part.name, part.class_name, count, *map(bytes_text, sizes), dtypes))
    plain = sum(part.plain_bytes for part in summary.components)
    sizes = [plain, summary.total.bytes] if quantized else [summary.total.bytes]
    rows.append(("total", "", f"{summary.total.parameters:,}", *map(bytes_text, sizes), ""))
    return Table(("component", "class"), ("parameters", *before, "on disk", "dtype"), tuple(rows))


def _parts(summary: Summary) -> Table:
    rows: list[tuple[str, ...]] = []
    weights = summary.components[0].amount.bytes
    for name, amount in summary.parts.items():
        rows.append((name, f"{amount.parameters:,}", bytes_text(amount.bytes), f"{amount.bytes / weights:.1%}"))
    rows.append(("one block", f"{summary.block.parameters:,}", bytes_text(summary.block.bytes), ""))
    return Table(("part of the transformer",), ("parameters", "on disk", "share"), tuple(rows))
