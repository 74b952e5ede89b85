"""Gates: unrounded, on the bound that is named, and a number that isn't there is a no."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sanac.core.artifact.measurements import write_measurement
from sanac.core.check import Check
from sanac.verify.gates import Gate, judge
from tests.conftest import Sanac

NUMBERS = {"evaluate-shapes/overall": 0.9457, "evaluate-shapes/overall.low": 0.93, "size/bytes": 400.0}
BASE = {"evaluate-shapes/overall": 1.0, "size/bytes": 1000.0, "nothing": 0.0}


def one(gate: Gate, base: dict[str, float] | None = BASE) -> Check:
    (verdict,) = judge([gate], NUMBERS, base)
    return verdict


def test_what_nearly_passes_does_not() -> None:
    found = one(Gate("evaluate-shapes/overall", min=0.95))
    assert (found.passed, "0.9457, at least 0.95: 0.0043 too little" in found.text) == (False, True)
    assert one(Gate("evaluate-shapes/overall", min=0.9457)).passed
    assert not one(Gate("evaluate-shapes/overall", bound="low", min=0.94)).passed
    assert not one(Gate("evaluate-shapes/overall", min_recovery=0.95)).passed
    assert one(Gate("size/bytes", max_ratio=0.4)).passed
    assert "400 B of 1.00 kB" in one(Gate("size/bytes", max_ratio=0.39)).text


@pytest.mark.parametrize(
    ("gate", "base", "said"),
    [
        (Gate("evaluate-shapes/mean", min=0), BASE, "was not measured (but evaluate-shapes/overall"),
        (Gate("size/bytes", bound="low", max=1e9), BASE, "without an interval"),
        (Gate("size/bytes", max_ratio=2), None, "there is no baseline"),
        (Gate("size/bytes", max_ratio=2), {}, "the baseline has no such metric"),
        (Gate("size/bytes", max_ratio=2), {"size/bytes": 0.0}, "the baseline is 0"),
    ],
)
def test_what_is_not_there(gate: Gate, base: dict[str, float] | None, said: str) -> None:
    found = one(gate, base)
    assert (found.passed, said in found.text) == (False, True), found.text


@pytest.fixture
def measured(sanac: Sanac) -> Path:
    assert sanac("prune", "sanac:tiny", "--keep", "0-5", "--out", "six").code == 0
    write_measurement(Path("six"), "evaluate-shapes", {}, {"overall": 0.9457, "overall.low": 0.93})
    return Path("six")


GATES = """
[[gate]]
metric = "evaluate-shapes/overall"
min = 0.95
[[gate]]
metric = "size/transformer_bytes"
max_ratio = 0.6
[[gate]]
metric = "evaluate-shapes/counting"
least = 0.5
"""


def test_everyone_is_told(sanac: Sanac, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 5; JSON, JUnit, GitHub's page and its marks say which, and by how much."""
    Path("gates.toml").write_text(GATES)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "page.md")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    ran = sanac("gate", measured, "--gates", "gates.toml", "--baseline", "sanac:tiny", "--junit", "x/g.xml", "--json")
    assert (ran.code, ran.json["status"], ran.json["passed"]) == (5, "failed", False)
    assert [gate["passed"] for gate in ran.json["gates"]] == [False, True, False]
    page, marks = Path("page.md").read_text(), ran.err
    suite = ET.parse("x/g.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    texts = [failure.get("message") or "" for failure in suite.iter("failure")]
    for text in (page, "\n".join(texts), ran.out):
        assert "0.9457, at least 0.95: 0.0043 too little" in text
        assert "it was not measured" in text
    assert "::error title=evaluate-shapes/overall::evaluate-shapes/overall: 0.9457, at least" in marks
    assert marks.count("::error") == 2
    about = json.loads((measured / "measurements" / "gate.json").read_text())
    assert about["gates"] == ran.json["gates"]
    assert sanac("inspect", measured).code == 0, "measurements are outside of what is sealed"
    monkeypatch.delenv("GITHUB_ACTIONS")
    ran = sanac("gate", measured, "--gates", "gates.toml", "--baseline", "sanac:tiny")
    assert ("::error" in ran.err, ran.out.count("NO  "), "2 of 3 limits are not kept" in ran.out) == (False, 2, True)


def test_what_can_t_be_judged(sanac: Sanac, measured: Path) -> None:
    for text, code, said in (
        (GATES, 2, "--baseline DIR"),
        ("[[gate]]\nmetric = 'a'\nleast = 1\nmist = 2\n[gates]", 2, "unknown key 'mist'"),
        ("", 2, "has no gates"),
        ("gate = 3", 2, "[[gate]] tables"),
        ("[[gate", 2, "not valid TOML"),
    ):
        Path("g.toml").write_text(text)
        ran = sanac("gate", measured, "--gates", "g.toml")
        assert (ran.code, said in ran.err) == (code, True), ran.err
    Path("g.toml").write_text("[[gate]]\nmetric = 'size/bytes'\nleast = 1")
    assert sanac("gate", measured, "--gates", "nowhere.toml").code == 2
    assert sanac("gate", measured, "--gates", "g.toml").code == 0
    (measured / "measurements" / "metrics.json").unlink()
    ran = sanac("gate", measured, "--gates", "g.toml")
    assert (ran.code, "has no measurements" in ran.err) == (3, True)


def test_names_from_files_are_no_markup(sanac: Sanac, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "page.md")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    Path("g.toml").write_text('[[gate]]\nmetric = "a\\n::warning::<script>\\u0001"\nleast = 1')
    ran = sanac("gate", measured, "--gates", "g.toml", "--junit", "g.xml")
    assert ran.code == 5
    assert "\n::warning" not in ran.err
    assert "<script>" not in Path("page.md").read_text()
    ET.parse("g.xml")
