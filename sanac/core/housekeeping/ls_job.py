"""`sanac ls`: what a workspace holds."""

from collections.abc import Iterator
from functools import partial

from sanac.core.context import Context, Outcome
from sanac.core.housekeeping.contents import Contents, Entry, read_contents
from sanac.core.housekeeping.settings import ListSettings
from sanac.core.units import bytes_text
from sanac.core.view import Block, Table


def run(settings: ListSettings, context: Context) -> Outcome:  # noqa: ARG001 (as every verb is called)
    """List the entries of a workspace, newest last."""
    found = read_contents(settings.workspace)
    data = {
        "workspace": str(settings.workspace),
        "head": found.workspace.head,
        "source": found.workspace.source,
        "bytes": found.size,
        "entries": [entry.to_json() for entry in found.entries],
    }
    return Outcome("ok", data, view=found, show=partial(_show, found))


def _show(found: Contents) -> Iterator[Block]:
    if found.entries:
        yield entry_table(found.entries)
    yield f"{len(found.entries)} entries, {bytes_text(found.size)}"
    yield f"HEAD: {found.workspace.head or 'none'}; source: {found.workspace.source or 'none'}"


def entry_table(entries: tuple[Entry, ...]) -> Table:
    """A row per entry."""
    rows = tuple(
        (
            entry.name,
            entry.kind if entry.kind == "unfinished" else entry.verb or entry.kind,
            entry.description,
            bytes_text(entry.size),
            entry.made_from,
            entry.role,
        )
        for entry in entries
    )
    return Table(("name", "kind", "what"), ("size",), rows, ("made from", ""))
