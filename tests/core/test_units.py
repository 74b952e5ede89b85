"""Sizes, counts and times, written and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import UsageError
from sanac.core.units import bytes_text, duration_text, parse_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_500, "1.50 kB"), (9_443_651_904, "9.44 GB"), (2 * 10**12, "2.00 TB")],
)
def test_bytes_text(count: int, text: str) -> None:
    assert bytes_text(count) == text


@given(st.integers(1, 10**15))
def test_what_is_written_can_be_read(count: int) -> None:
    assert parse_bytes(bytes_text(count)) == pytest.approx(count, rel=0.01)


@pytest.mark.parametrize("text", ["", "0GB", "-1GB", "GB", "5XB", "1e9", "five", "5 5GB", "\u0665GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (125, "2 min"), (7_500, "2 h 05 min")])
def test_duration_text(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
