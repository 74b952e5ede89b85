"""Block plans: where each output block comes from, and which config keys change. Frozen, hashable, stored as JSON."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sanac.core.errors import InvalidInput, UsageError

Scalar = str | int | float | bool | None
SCHEMA = 1
RULES = ("partial",)  # initialisations of a new block; their constants are in sanac.core.family


@dataclass(frozen=True, slots=True)
class Keep:
    """An unchanged copy of the source's block `block`. QK norm weights that the config patch adds start at 1."""

    block: int

    def __str__(self) -> str:
        """'3'."""
        return str(self.block)


@dataclass(frozen=True, slots=True)
class New:
    """A new output block. Its weights depend on these three fields alone, not on its position."""

    rule: str
    seed: int
    number: int  # distinguishes new blocks of one seed: its position when it was made, unless that number was taken

    def __post_init__(self) -> None:
        """Accept only rules, seeds and numbers that the executor can produce."""
        if self.rule not in RULES:
            raise UsageError(f"there is no rule {self.rule!r} for new blocks", hint=f"it is one of {', '.join(RULES)}")
        if self.seed < 0 or self.number < 0:
            raise UsageError("the seed and the number of a new block can't be negative", why=repr(self))

    def __str__(self) -> str:
        """'new (partial, seed 0)'."""
        return f"new ({self.rule}, seed {self.seed})"


Origin = Keep | New


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The origin of each output block, in order, and a config patch."""

    source_blocks: int
    blocks: tuple[Origin, ...]
    config: tuple[tuple[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        """Reject plans without blocks or with block numbers that the source doesn't have."""
        if not self.blocks:
            raise UsageError("the plan keeps no block", why="a transformer needs at least one")
        outside = sorted({block for block in self.sources if block is not None and not 0 <= block < self.source_blocks})
        if outside:
            raise UsageError(
                f"there is no block {', '.join(map(str, outside[:8]))}",
                why=f"the source has {self.source_blocks} blocks, numbered 0 to {self.source_blocks - 1}",
            )

    @property
    def sources(self) -> tuple[int | None, ...]:
        """Each output block's number in the source; None for a new block."""
        return tuple(origin.block if isinstance(origin, Keep) else None for origin in self.blocks)

    @property
    def moves(self) -> bool:
        """Whether any block is moved, removed, repeated or new."""
        return self.sources != tuple(range(self.source_blocks))

    def __str__(self) -> str:
        """'20 -> 60 blocks: keep 0-17, new 18-59 (partial, seed 0); num_layers = 60'."""
        patch = "".join(f"; {key} = {value}" for key, value in self.config)
        return f"{self.source_blocks} -> {len(self.blocks)} blocks: {origins_text(self.blocks)}{patch}"

    def to_json(self) -> dict[str, Any]:
        """The plan as stored in manifests and printed by `--dry-run --json`."""
        return {
            "schema": SCHEMA,
            "source_blocks": self.source_blocks,
            "blocks": [_origin_json(origin) for origin in self.blocks],
            "config": dict(self.config),
        }

    def then(self, later: "BlockPlan") -> "BlockPlan":
        """The composition: this plan, then `later`."""
        if later.source_blocks != len(self.blocks):
            raise UsageError(
                "these plans can't be composed",
                why=f"the first yields {len(self.blocks)} blocks, the second expects {later.source_blocks}",
            )
        blocks = tuple(self.blocks[o.block] if isinstance(o, Keep) else o for o in later.blocks)
        patch = dict(self.config) | dict(later.config)
        return BlockPlan(self.source_blocks, blocks, tuple(sorted(patch.items())))


def keep_blocks(source_blocks: int, kept: Sequence[int]) -> BlockPlan:
    """The plan that keeps the blocks `kept` of a model with `source_blocks` blocks, in this order."""
    return BlockPlan(source_blocks, tuple(map(Keep, kept)), (("num_layers", len(kept)),))


def from_json(value: Any, where: str) -> BlockPlan:
    """The plan in a parsed JSON value; InvalidInput says what is wrong. `where` names the file in the message."""
    try:
        if value["schema"] != SCHEMA:
            raise ValueError(f"its schema is {value['schema']!r}, this version reads {SCHEMA}")
        blocks = tuple(_origin(entry) for entry in value["blocks"])
        config = tuple(sorted(value["config"].items()))
        if type(value["source_blocks"]) is not int:
            raise ValueError("source_blocks is not a number")
        return BlockPlan(value["source_blocks"], blocks, config)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise InvalidInput(f"the plan in {where} is broken", why=str(error)) from error


def _origin_json(origin: Origin) -> dict[str, Any]:
    if isinstance(origin, Keep):
        return {"keep": origin.block}
    return {"new": origin.number, "rule": origin.rule, "seed": origin.seed}


def _origin(entry: Any) -> Origin:
    if isinstance(entry, dict) and set(entry) == {"keep"} and type(entry["keep"]) is int:
        return Keep(entry["keep"])
    if isinstance(entry, dict) and set(entry) == {"new", "rule", "seed"}:
        rule, seed, number = entry["rule"], entry["seed"], entry["new"]
        if isinstance(rule, str) and type(seed) is int and type(number) is int:
            return New(rule, seed, number)
    raise ValueError(f"unknown origin {entry!r}")


def origins_text(origins: Iterable[Origin]) -> str:
    """Text such as 'keep 0-17, new 18-59 (partial, seed 0)': runs of equal origins, each with its block numbers."""
    parts = []
    for kind, group in itertools.groupby(origins, lambda origin: "keep" if isinstance(origin, Keep) else str(origin)):
        word, _, made = kind.partition(" ")
        text = f"{word} {ranges_text(o.block if isinstance(o, Keep) else o.number for o in group)}"
        parts.append(f"{text} {made}" if made else text)
    return ", ".join(parts)


def ranges_text(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5', [0, 0, 1, 1, 7, 7] -> '0-1 twice each, 7 twice'; a step down starts a new range."""
    runs: list[list[int]] = []  # first, last, repeats of each
    for number, group in itertools.groupby(numbers):
        times = len(list(group))
        if runs and runs[-1][1:] == [number - 1, times]:
            runs[-1][1] = number
        else:
            runs.append([number, number, times])
    return ", ".join(_run_text(*run) for run in runs)


def _run_text(first: int, last: int, times: int) -> str:
    span = str(first) if first == last else f"{first}-{last}"
    if times == 1:
        return span
    often = "twice" if times == 2 else f"{times} times"
    return f"{span} {often}" if first == last else f"{span} {often} each"
