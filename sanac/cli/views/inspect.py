"""Prints the summary of `sanac inspect`."""

from rich.table import Table

from sanac.cli.tables import console, table
from sanac.core.artifact.summary import Summary
from sanac.core.context import Outcome
from sanac.core.inspect.job import InspectView
from sanac.core.units import bytes_text


def show(outcome: Outcome, *, color: bool) -> None:
    """Print family, components, parts, memory, lineage and notes."""
    view: InspectView = outcome.view
    summary, scanned, descent = view.summary, view.scanned, view.ancestry
    screen = console(color=color)
    features = [f"{summary.blocks} blocks", f"width {summary.width}"]
    features += ["QK norm"] if summary.qk_norm else []
    features += ["guidance embedding"] if summary.guidance else []
    features += ["NVlabs' names"] if summary.layout == "nvlabs" else []
    screen.print(summary.family, style="bold" if color else "", end="")
    screen.print(f"  {summary.name}  ({summary.kind})")
    screen.print(", ".join(features))
    screen.print()
    screen.print(_components(summary))
    screen.print()
    screen.print(_parts(summary))
    screen.print()
    together, alone = bytes_text(summary.run_bytes), bytes_text(summary.offload_bytes)
    screen.print(f"to run: {together} for all weights in 16 bits, {alone} with model offload; activations not counted")
    for number, step in enumerate(summary.lineage):
        screen.print(f"{'lineage:' if number == 0 else '    then'} {step}")
    if summary.in_all:
        screen.print(f" in all: {summary.in_all}")
    for note in summary.notes:
        screen.print(f"note: {note}")
    if summary.graphs:
        screen.print(f"graphs: {', '.join(summary.graphs)}")
    for name, state in summary.engines.items():
        screen.print(f"engine: {name}, {state}")
    if summary.left_out:
        screen.print(f"not in this folder: {', '.join(summary.left_out)}")
    if descent:
        screen.print(descent)
    if scanned:
        screen.print("scanned: every value is finite" + (", every digest is right" if summary.lineage else ""))


def _components(summary: Summary) -> Table:
    quantized = summary.plain_bytes != summary.total.bytes
    before = ("before",) if quantized else ()
    rows = table(("component", "class"), ("parameters", *before, "on disk", "dtype"))
    for part in summary.components:
        count = f"{part.amount.parameters:,}" if part.amount.parameters else "-"
        sizes = [part.plain_bytes, part.amount.bytes] if quantized else [part.amount.bytes]
        rows.add_row(part.name, part.class_name, count, *map(bytes_text, sizes), ", ".join(part.dtypes) or "-")
    sizes = [summary.plain_bytes, summary.total.bytes] if quantized else [summary.total.bytes]
    rows.add_row("total", "", f"{summary.total.parameters:,}", *map(bytes_text, sizes), "")
    return rows


def _parts(summary: Summary) -> Table:
    rows = table(("part of the transformer",), ("parameters", "on disk", "share"))
    weights = summary.components[0].amount.bytes
    for name, amount in summary.parts.items():
        rows.add_row(name, f"{amount.parameters:,}", bytes_text(amount.bytes), f"{amount.bytes / weights:.1%}")
    rows.add_row("one block", f"{summary.block.parameters:,}", bytes_text(summary.block.bytes), "")
    return rows
