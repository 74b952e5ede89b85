"""Settings of `sanac doctor`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from sanac.core.settings import Option, Settings


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """Look at Python, torch, GPU and driver, backends, memory, disk, cache and versions.

    Exits 4 when something that sanac always needs is broken; a missing extra is only reported.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("sanac doctor", "sanac doctor --json > doctor.json")

    workspace: Annotated[Path, Option("The workspace whose disk is looked at.", "DIR", recipe=False)] = Path(
        "sanac-out"
    )
