"""What `sanac verify` shows: each value with its limit and verdict, and what would have passed."""

from collections.abc import Iterator
from pathlib import Path

from sanac.core.check import Check
from sanac.core.view import Block, Table, path_text
from sanac.verify.end_to_end import VerifyReport
from sanac.verify.rank_correlation import RankReport


def show_report(found: VerifyReport, sheet: Path | None = None) -> Iterator[Block]:
    """Every value of a comparison, the sheet of its images, and why it failed if it did."""
    yield from show_checks(found.figures, found.notes)
    yield from show_sheet(sheet)
    yield "the same function, within these limits" if found.passed else f"NOT the same function: {_why(found)}"


def show_sheet(sheet: Path | None) -> Iterator[Block]:
    """Where the compared images are."""
    if sheet:
        yield f"the images, side by side: {path_text(sheet)}"


def show_checks(checks: tuple[Check, ...], notes: tuple[str, ...]) -> Iterator[Block]:
    """A row per value, then notes."""
    rows = tuple(
        (
            one.name,
            f"{one.value:.6g}",
            f"{'at most' if one.most else 'at least'} {one.limit:g}",
            "ok" if one.passed else "NO",
        )
        for one in checks
    )
    yield Table(("figure",), ("found", "limit", "verdict"), rows)
    yield from (f"note: {note}" for note in notes)


def _why(found: VerifyReport) -> str:
    """The first bad block, and the limit that would have passed; else what failed."""
    parity = found.parity
    if parity.passed:
        return ", ".join(figure.name for figure in found.figures if not figure.passed)
    block = parity.first_bad_block
    where = f"they differ from block {block} on" if block is not None else "no single block makes the difference"
    rounded = f"; the inputs of {parity.misrounded[0]} are rounded differently" if parity.misrounded else ""
    passing = f"; a limit of {parity.passing:.3g} would pass" if parity.passing else ""
    return f"{where}{rounded}{passing}"


def show_ranks(found: RankReport) -> Iterator[Block]:
    """The correlations beside what chance would give, and the verdict where there is a limit."""
    rows = tuple(
        (name, *(f"{one:.3f}" for one in (interval.value, interval.low, interval.high, found.chance[name])))
        for name, interval in found.correlations.items()
    )
    yield Table(("",), ("found", "from", "to", "by chance"), rows)
    yield f"{len(found.grades)} prompts with {found.settings.noises} noises each"
    if found.undecided:
        yield f"{found.undecided} of them decide nothing: one model makes all noises equally good"
    if figure := found.figure:
        verdict = "ok" if figure.passed else "NO"
        yield f"{figure.name}: {figure.value:.3f}, at least {figure.limit:g}: {verdict}"
