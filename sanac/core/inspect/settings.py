"""Settings of `sanac inspect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from sanac.core.settings import Option, Settings


@dataclass(frozen=True, kw_only=True)
class InspectSettings(Settings):
    """Say what MODEL is: family, blocks, parameters, bytes, dtypes, what it needs to run, where it comes from.

    Only headers are read, so a 10 GB checkpoint takes a moment and no memory. MODEL is a diffusers pipeline or
    transformer folder, a .safetensors or .pth file, a hub id in the local cache, or an artifact.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac inspect sanac:tiny",
        "sanac inspect ./SANA1.5_4.8B_1024px_diffusers",
        "sanac inspect Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers --json",
        "sanac inspect sanac-out/prune-1a2b3c4d --scan",
    )

    scan: Annotated[bool, Option("Read every byte: look for NaN and Inf, check an artifact's digests.")] = False
    workspace: Annotated[
        Path, Option("Where --scan looks for the artifact that a re-saved model descends from.", "DIR", recipe=False)
    ] = Path("sanac-out")
