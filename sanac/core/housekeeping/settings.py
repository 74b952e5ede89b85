"""Settings of `sanac ls` and `sanac clean`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from sanac.core.settings import Option, Settings


@dataclass(frozen=True, kw_only=True)
class WorkspaceSettings(Settings):
    """Which workspace."""

    workspace: Annotated[Path, Option("The workspace.", "DIR", recipe=False)] = Path("sanac-out")


@dataclass(frozen=True, kw_only=True)
class ListSettings(WorkspaceSettings):
    """List what a workspace holds, newest last: artifacts and how they were made, unfinished runs, caches, results.

    HEAD is the artifact that finetune, quantize and export continue from.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("sanac ls", "sanac ls --workspace experiments --json")


@dataclass(frozen=True, kw_only=True)
class CleanSettings(WorkspaceSettings):
    """Delete what can be made again from a workspace. Without --yes, only list it.

    HEAD, the artifacts that it was made from, the source, results and files that sanac doesn't know always stay.
    Nothing outside the workspace is touched, and no link is followed.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac clean",
        "sanac clean --partial --caches --yes",
        "sanac clean --artifacts --workspace experiments",
    )

    partial: Annotated[bool, Option("Unfinished runs: OUT.partial and training states.", recipe=False)] = False
    caches: Annotated[
        bool,
        Option("Encoded and generated data, teacher outputs, calibrations, block searches, repairs.", recipe=False),
    ] = False
    artifacts: Annotated[
        bool, Option("Artifacts that are neither HEAD nor made HEAD, with their measurements.", recipe=False)
    ] = False
    min_age: Annotated[
        int,
        Option("Leave unfinished runs and caches alone that were written to since.", "MINUTES", ge=0, recipe=False),
    ] = 60
    yes: Annotated[bool, Option("Delete it; say what with the options above.", recipe=False)] = False
