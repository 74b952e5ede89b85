"""What `compare` shows: tables of figures, then what differs from the first model."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sanac.core.units import bytes_text
from sanac.core.view import Block, Line, Table

_NUMBERS = ("blocks", "transformer", "pipeline", "steps", "per picture")
Entry = Mapping[str, Any]


def show_comparison(data: Entry, files: Sequence[str], *, cached: bool) -> Iterator[Block]:
    """The figures of all models, then the differences of each to the first, then the files."""
    entries: list[Entry] = data["models"]
    first = entries[0]["model"]
    scored = entries[0]["score"] is not None
    titles = (*_NUMBERS, *(("score", "from", "to") if scored else ()))
    yield Table(("model",), titles, tuple(_row(entry, scored=scored) for entry in entries))
    if doubts := next(filter(None, (entry["seconds"]["doubts"] for entry in entries)), ()):
        yield f"times (?) can't be trusted: {'; '.join(doubts)}; sanac bench measures in turns"
    yield f"against {first}, with the same prompts and noises:"
    titles = (*(("score", "from", "to") if scored else ()), "PSNR dB", "SSIM")
    yield Table(("model",), titles, tuple(_against_row(entry, scored=scored) for entry in entries[1:]))
    if scored:
        yield f"scores: shapes suite, {data['images']} images, 95 % intervals; differences paired by prompt"
    for entry in entries[1:]:
        yield Line(entry["model"], "bold", f" differs from {first}:")
        yield from (f"  {line}" for line in _differences(entries[0], entry))
    yield from files
    if cached:
        yield "cached: the same comparison was made before; --force makes it again"


def time_text(entry: Entry) -> str:
    """The median time per picture; a question mark where it can't be trusted."""
    seconds = entry["seconds"]
    return f"{seconds['median']:.2f} s{' ?' if seconds['doubts'] else ''}"


def similarity_text(found: Mapping[str, float] | None) -> str:
    """Text such as 'PSNR 23.1 dB, SSIM 0.912'."""
    return f"PSNR {found['psnr']:.1f} dB, SSIM {found['ssim']:.3f}" if found else "another size"


def header_of(entry: Entry) -> Iterator[str]:
    """The lines above a model's pictures on the sheet."""
    sizes = entry["bytes"]
    yield entry["model"]
    yield f"{entry['blocks']} blocks, transformer {bytes_text(sizes['transformer'])}"
    yield f"pipeline {bytes_text(sizes['pipeline'])}, {time_text(entry)}"
    if score := entry["score"]:
        yield f"score {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def _row(entry: Entry, *, scored: bool) -> tuple[str, ...]:
    sizes = (bytes_text(entry["bytes"][part]) for part in ("transformer", "pipeline"))
    cells = (entry["model"], str(entry["blocks"]), *sizes, str(entry["steps"]), time_text(entry))
    return (*cells, *_interval(entry["score"])) if scored else cells


def _against_row(entry: Entry, *, scored: bool) -> tuple[str, ...]:
    against = entry["against_first"]
    alike = [one for one in against["similarity"] if one]
    cells = (
        [f"{statistics.median(one[name] for one in alike):{form}}" for name, form in _METRICS] if alike else ["", ""]
    )
    return (entry["model"], *(_interval(against["score"], "+") if scored else ()), *cells)


_METRICS = (("psnr", ".1f"), ("ssim", ".3f"))


def _interval(found: Mapping[str, float], sign: str = "") -> tuple[str, ...]:
    return tuple(f"{found[name]:{sign}.3f}" for name in ("value", "low", "high"))


def _differences(first: Entry, entry: Entry) -> Iterator[str]:
    """A line per kind of difference."""
    found = entry["against_first"]["difference"]
    yield f"blocks: {found['blocks']}"
    for part in ("transformer", "pipeline"):
        before, now = first["bytes"][part], entry["bytes"][part]
        yield f"{part}: {bytes_text(before)} -> {bytes_text(now)} ({now / before:.0%})"
    for name, (before, now) in found["components"].items():
        yield f"{name}: {before} -> {now}"
    for step in found["only_other"]:
        yield f"made by {step}"
    for step in found["only_first"]:
        yield f"lacks {step}"
    if first["image_size"] != entry["image_size"]:
        before, now = ("x".join(map(str, one["image_size"])) for one in (first, entry))
        yield f"pictures: {before} -> {now} pixels"
    if first["steps"] != entry["steps"]:
        yield f"sampler steps: {first['steps']} -> {entry['steps']}"
