"""A plan: where each block of the output comes from, and what changes in the config. Frozen, hashable, JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sanac.core.errors import BadInput, Misuse

Scalar = str | int | float | bool | None
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Keep:
    """An output block that is the source's block `block`, unchanged."""

    block: int


@dataclass(frozen=True, slots=True)
class Plan:
    """An ordered list of where each output block comes from, plus a config patch."""

    source_blocks: int
    blocks: tuple[Keep, ...]
    config: tuple[tuple[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        """A plan that could not be executed is not constructed."""
        if not self.blocks:
            raise Misuse("the plan keeps no block", why="a transformer needs at least one")
        outside = sorted({origin.block for origin in self.blocks if not 0 <= origin.block < self.source_blocks})
        if outside:
            raise Misuse(
                f"there is no block {', '.join(map(str, outside[:8]))}",
                why=f"the source has {self.source_blocks} blocks, numbered 0 to {self.source_blocks - 1}",
            )

    def __str__(self) -> str:
        """'60 -> 20 blocks: keep 0-9, 50-59; num_layers = 20'."""
        kept = ranges_text(origin.block for origin in self.blocks)
        patch = "".join(f"; {key} = {value}" for key, value in self.config)
        return f"{self.source_blocks} -> {len(self.blocks)} blocks: keep {kept}{patch}"

    def to_json(self) -> dict[str, Any]:
        """The form that manifests and `--dry-run --json` carry."""
        return {
            "schema": SCHEMA,
            "source_blocks": self.source_blocks,
            "blocks": [{"keep": origin.block} for origin in self.blocks],
            "config": dict(self.config),
        }

    def then(self, later: "Plan") -> "Plan":
        """One plan that does what this one and `later` do in a row."""
        if later.source_blocks != len(self.blocks):
            raise Misuse(
                "these plans don't follow each other",
                why=f"the first yields {len(self.blocks)} blocks, the second expects {later.source_blocks}",
            )
        blocks = tuple(self.blocks[origin.block] for origin in later.blocks)
        patch = dict(self.config) | dict(later.config)
        return Plan(self.source_blocks, blocks, tuple(sorted(patch.items())))


def keep_blocks(source_blocks: int, kept: Sequence[int]) -> Plan:
    """The plan that keeps these blocks of a model of `source_blocks`, in this order."""
    return Plan(source_blocks, tuple(map(Keep, kept)), (("num_layers", len(kept)),))


def from_json(value: Any, where: str) -> Plan:
    """The plan in a manifest or file; BadInput says what is wrong with it."""
    try:
        if value["schema"] != SCHEMA:
            raise ValueError(f"its schema is {value['schema']!r}, this version reads {SCHEMA}")
        blocks = tuple(_origin(entry) for entry in value["blocks"])
        config = tuple(sorted(value["config"].items()))
        if type(value["source_blocks"]) is not int:
            raise ValueError("source_blocks is not a number")
        return Plan(value["source_blocks"], blocks, config)
    except (KeyError, TypeError, ValueError, AttributeError, Misuse) as error:
        raise BadInput(f"the plan in {where} is broken", why=str(error)) from error


def _origin(entry: Any) -> Keep:
    if not isinstance(entry, dict) or set(entry) != {"keep"} or type(entry["keep"]) is not int:
        raise ValueError(f"unknown origin {entry!r}")
    return Keep(entry["keep"])


def ranges_text(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'; a step down or a repeat starts a new range."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
