"""Settings of `sanac grow`."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sanac.core.settings import Option, SeedSettings
from sanac.core.write.settings import WriteSettings


@dataclass(frozen=True, kw_only=True)
class GrowSettings(WriteSettings, SeedSettings):
    """Add blocks to MODEL's transformer and write a model that stock diffusers loads, ready for training.

    With --init partial, the default, the result computes exactly what MODEL computes with only its first K blocks:
    the last two are dropped unless --preserve keeps them. The same --seed gives the same bytes.

    Nothing is loaded, the input is not touched. Without MODEL it takes the workspace's source, else $SANAC_MODEL, else
    the released 4.8B model.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac grow ./Sana_1600M_1024px_diffusers --target-blocks 60 --qk-norm",
        "sanac grow MODEL --target-blocks 60 --preserve 18 --dry-run",
        "sanac grow MODEL --target-blocks 40 --init replicate --out deeper",
    )

    target_blocks: Annotated[int, Option("Number of blocks of the result.", "N", ge=1)]
    init: Annotated[
        Literal["partial", "cyclic", "replicate"],
        Option(
            "partial: new blocks that are the identity; cyclic: all blocks over and over; replicate: each block "
            "several times in its place.",
            "RULE",
        ),
    ] = "partial"
    preserve: Annotated[
        int | None,
        Option("How many of the first blocks `partial` keeps; new ones follow.", "K", "all but the last two", ge=0),
    ] = None
    qk_norm: Annotated[bool, Option("Add QK norm to a model without it. Changes the function.")] = False
