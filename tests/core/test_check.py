"""A check: compared unrounded, a NaN never passes, and what it says would have passed does."""

import json
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sanac.core.check import Check, distinct_digits

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.floats()
CHECKS = st.builds(Check, st.text(max_size=8), VALUES, FINITE, st.booleans(), st.text(max_size=8))


@given(CHECKS)
def test_the_verdict_is_the_unrounded_comparison(check: Check) -> None:
    if check.value is None or not math.isfinite(check.value):
        assert (check.passed, check.margin, check.would_pass) == (False, None, None)
    else:
        assert check.passed == (check.value <= check.limit if check.most else check.value >= check.limit)
        assert check.margin is not None
        assert check.passed == (check.margin >= 0)


@given(CHECKS)
def test_what_would_have_passed_passes_and_nothing_tighter(check: Check) -> None:
    if check.would_pass is not None:
        tighter = math.nextafter(check.would_pass, -math.inf if check.most else math.inf)
        assert replace(check, limit=check.would_pass).passed
        assert not replace(check, limit=tighter).passed


@given(FINITE, FINITE, st.booleans())
def test_a_looser_limit_passes_what_a_tighter_one_does(one: float, other: float, most: bool) -> None:
    tight, loose = sorted((one, other), reverse=not most)
    for value in (one, other, (one / 2 + other / 2)):
        assert Check("x", value, loose, most).passed or not Check("x", value, tight, most).passed


@given(FINITE, FINITE)
def test_one_direction_is_the_other_mirrored(value: float, limit: float) -> None:
    up, down = Check("x", value, limit), Check("x", -value, -limit, most=False)
    assert (up.passed, up.margin) == (down.passed, down.margin)


@given(FINITE, FINITE)
def test_a_value_is_never_rounded_onto_or_across_its_limit(value: float, limit: float) -> None:
    shown = float(distinct_digits(value, limit))
    assert (shown < limit, shown > limit) == (value < limit, value > limit)


@given(CHECKS)
def test_json_has_every_field_and_no_nan(check: Check) -> None:
    found = json.loads(json.dumps(check.to_json(), allow_nan=False))
    assert list(found) == ["name", "value", "limit", "most", "note", "passed", "would pass", "text"]
    assert (found["value"], found["passed"], found["would pass"]) == (check.finite, check.passed, check.would_pass)


def test_what_is_said() -> None:
    short = Check("score", 0.9457, 0.95, most=False)
    assert short.text == "score: 0.9457, at least 0.95: 0.0043 too little"
    assert replace(short, most=True, note="a share").text == "score: 0.9457 (a share), at most 0.95: 0.0043 to spare"
    assert replace(short, value=0.949996).text.startswith("score: 0.949996, at least 0.95")
    assert replace(short, value=math.nan).text == "score: nan, at least 0.95: not a finite number"
    assert replace(short, value=None).text == "score: it was not measured; the limit is at least 0.95"
    assert replace(short, value=None, note="no baseline").text == "score: no baseline; the limit is at least 0.95"
