"""`sanac inspect`: what a checkpoint is, from its headers."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, common, workspace_option
from sanac.cli.output import Result
from sanac.core.units import bytes_text

if TYPE_CHECKING:
    from rich.table import Table

    from sanac.core.artifact.model import Model
    from sanac.core.artifact.summary import Summary


@click.command(
    "inspect",
    short_help="What a checkpoint is: family, blocks, bytes, lineage.",
    epilog="""\b
Examples:
  sanac inspect ./SANA1.5_4.8B_1024px_diffusers
  sanac inspect Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers --json
  sanac inspect sanac-out/prune-1a2b3c4d --scan""",
)
@click.argument("model", metavar="MODEL")
@click.option("--scan", is_flag=True, help="Read every byte: look for NaN and Inf, check an artifact's digests.")
@workspace_option("Where --scan looks for the artifact that a re-saved model descends from.")
@common("seed", "device")
def command(model: str, scan: bool, workspace: Path, common: Common) -> Result:
    """Say what MODEL is: family, blocks, parameters, bytes, dtypes, what it needs to run, where it comes from.

    Only headers are read, so a 10 GB checkpoint takes a moment and no memory. MODEL is a diffusers pipeline or
    transformer folder, a .safetensors or .pth file, a hub id in the local cache, or an artifact.
    """
    from sanac.core.artifact.summary import summarise

    opened = open_word(model, common)
    summary = summarise(opened)
    _announce(opened, scan, common)
    descent = _scan(opened, workspace, common) if scan else ""
    data = summary.to_json() | {"scanned": scan, "descent": descent}
    show = partial(_show, summary, scanned=scan, descent=descent, color=common.color)
    return Result("ok", show, data, as_json=common.as_json)


def _announce(model: "Model", scan: bool, common: Common) -> None:
    from sanac.core.artifact.model import streaming_memory
    from sanac.core.resources import Needs, check_room

    weights = [part.weights for part in model.components if part.weights]
    headers = sum(len(header.raw) for found in weights for header in found.headers)
    traffic = sum(found.size for found in weights) if scan else headers
    common.reporter.note(f"reads {bytes_text(traffic)}, writes nothing")
    check_room(Needs(disk=0, memory=streaming_memory(model), traffic=traffic), model.located.path, common.reporter)


def _scan(model: "Model", workspace: Path, common: Common) -> str:
    """Look at every byte; returns what the model descends from, if it has no manifest that says so."""
    from sanac.core.artifact.ancestry import find_ancestry
    from sanac.core.artifact.integrity import scan, unread
    from sanac.core.errors import InvalidInput

    for name in unread(model):
        common.reporter.warn(f"{name} was not scanned: sanac doesn't read that format")

    findings = scan(model, common.reporter)
    if findings:
        problems = [f"{found.component}: {found.name}: {found.what}" for found in findings]
        raise InvalidInput(f"{model.located.path} is damaged", why=problems[0], problems=problems)
    return "" if model.manifest else str(find_ancestry(model, workspace, common.reporter) or "")


def _show(summary: "Summary", *, scanned: bool, descent: str, color: bool) -> None:
    from sanac.cli.tables import console

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


def _components(summary: "Summary") -> "Table":
    from sanac.cli.tables import table

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


def _parts(summary: "Summary") -> "Table":
    from sanac.cli.tables import table

    rows = table(("part of the transformer",), ("parameters", "on disk", "share"))
    weights = summary.components[0].amount.bytes
    for name, amount in summary.parts.items():
        rows.add_row(name, f"{amount.parameters:,}", bytes_text(amount.bytes), f"{amount.bytes / weights:.1%}")
    rows.add_row("one block", f"{summary.block.parameters:,}", bytes_text(summary.block.bytes), "")
    return rows
