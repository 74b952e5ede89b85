"""Settings of every verb that writes an artifact, and those of `sanac convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from sanac.core.settings import ADVANCED, LoraRef, ModelRef, Option, Settings, Size

if TYPE_CHECKING:
    from sanac.core.write.job import WriteOptions

_SHARD = Size(5_000_000_000)


@dataclass(frozen=True, kw_only=True)
class StageSettings(Settings):
    """Where a stage writes, and what it may replace."""

    TITLE: ClassVar[str] = "Output options"

    out: Annotated[Path | None, Option("Where to write.", "DIR", "WORKSPACE/VERB-KEY", recipe=False)] = None
    workspace: Annotated[
        Path, Option("Folder that records the source model and the newest artifact.", "DIR", recipe=False)
    ] = Path("sanac-out")
    dry_run: Annotated[bool, Option("Print the plan and what it needs; write nothing.", recipe=False)] = False
    force: Annotated[bool, Option("Replace an artifact that is already in OUT.", recipe=False)] = False
    fresh: Annotated[bool, Option("Discard what an interrupted run left instead of continuing it.", recipe=False)] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class WriteSettings(StageSettings):
    """How the artifact of a stage is written."""

    TITLE: ClassVar[str] = "Output options"

    transformer_only: Annotated[bool, Option("Leave out the text encoder, the autoencoder and the rest.")] = False
    lora: Annotated[
        tuple[LoraRef, ...],
        Option(
            "Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.",
            "FILE[:SCALE]",
        ),
    ] = ()
    link: Annotated[
        bool,
        Option(
            "Hard-link unchanged components: no space, but editing one edits both.",
            affects_result=False,
            group=ADVANCED,
        ),
    ] = False
    shard_size: Annotated[Size, Option("Largest weight file to write.", "SIZE", "5GB", group=ADVANCED)] = _SHARD
    full_hash: Annotated[
        bool, Option("Identify the input by all its bytes, not by headers and times.", group=ADVANCED)
    ] = False

    def write_options(self, layout: str = "diffusers") -> "WriteOptions":
        """How the executor writes."""
        from sanac.core.write.job import WriteOptions

        return WriteOptions(
            shard_bytes=self.shard_size,
            transformer_only=self.transformer_only,
            link=self.link,
            force=self.force,
            fresh=self.fresh,
            full_hash=self.full_hash,
            layout=layout,
        )


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(WriteSettings):
    """Write MODEL as a diffusers folder, as NVlabs' model.pth, or as one model.safetensors with NVlabs' names.

    Family, depth and layout are read off the tensors, never off a path. Nothing is unpickled: a .pth file's tensors are
    found by their place in the file. There and back is bit-exact: what only one layout has is kept in a side file.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac convert Sana_1600M_1024px.pth --to diffusers --pipeline ./Sana_1600M_1024px_diffusers",
        "sanac convert sanac:tiny --to nvlabs --out for-training",
        "sanac convert MODEL --to single --lora style.safetensors:0.8",
    )

    to: Annotated[Literal["diffusers", "nvlabs", "single"], Option("The layout.")]
    pipeline: Annotated[
        ModelRef | None, Option("A pipeline whose other components complete a lone transformer.", "MODEL")
    ] = None
