"""Formatting and parsing of sizes and durations, in decimal units as on disks and model cards."""

import re

from sanac.core.errors import UsageError

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE | re.ASCII)
_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmb]?)", re.ASCII | re.IGNORECASE)
_TENS = {"": 0, "k": 3, "m": 6, "b": 9}
_SIDES = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?", re.ASCII)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def bytes_text(count: float) -> str:
    """9443651904 -> '9.44 GB'."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{_three_digits(count / factor)} {unit}"
    return f"{int(count)} B"


def share_text(part: float, whole: float, *, in_bytes: bool = False) -> str:
    """(1769410, 3807390) -> '1.77 of 3.81 MB' in bytes; otherwise both numbers, to four digits."""
    if not in_bytes:
        return f"{part:.4g} of {whole:.4g}"
    texts = bytes_text(part), bytes_text(whole)
    (count, unit), (_, whole_unit) = (text.split(" ") for text in texts)
    return f"{count} of {texts[1]}" if unit == whole_unit else f"{texts[0]} of {texts[1]}"


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


def parse_count(text: str) -> int:
    """'1.6B' -> 1600000000."""
    match = _COUNT.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"is {text!r}, not a number of parameters such as 1.6B or 900M")
    return round(float(match[1]) * 10.0 ** _TENS[match[2].lower()])


def parse_size(text: str) -> tuple[int, int]:
    """'1024x768' -> (1024, 768), '512' -> (512, 512)."""
    match = _SIDES.fullmatch(text)
    if match is None or not int(match[1]) or match[2] == "0":
        raise UsageError(f"is {text!r}, not a size in pixels such as 1024 or 1024x768")
    return int(match[1]), int(match[2] or match[1])
