"""Formatting and parsing of sizes and durations, in decimal units as on disks and model cards."""

import re

from sanac.core.errors import UsageError

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE | re.ASCII)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def bytes_text(count: float) -> str:
    """9443651904 -> '9.44 GB'."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{_three_digits(count / factor)} {unit}"
    return f"{int(count)} B"


def _three_digits(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}"


def duration_text(seconds: float) -> str:
    """3725 -> '1 h 02 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def parse_bytes(text: str) -> int:
    """'5GB' -> 5000000000, '5GiB' -> 5368709120. UsageError unless it is a positive size."""
    match = _SIZE.fullmatch(text)
    size = 0
    if match:
        size = int(float(match[1]) * (1024 if match[3] else 1000) ** _POWER[match[2].lower()])
    if size <= 0:
        raise UsageError(f"{text!r} is not a size", hint="write it like 500MB or 5GB")
    return size
