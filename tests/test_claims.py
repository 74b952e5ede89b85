"""Each figure of README.md and docs/status.md comes from a recorded result, and says which command makes it."""

import hashlib
import re
import shlex
from pathlib import Path

import pytest

from sanac.verbs import VERBS
from tests.claims import FIGURE, PAGES, RECORDED, ROOT, Claim, excused, ledger, problems, result_of, visible

COMMANDS = {*VERBS, "run", "VERB"}  # VERB: each of those that a record names
CLAIMS, RULES = ledger()
RECORDS = result_of(RECORDED)["records"]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def command_problem(command: str) -> str:
    """Why a command can't be typed in this repository; empty if it can."""
    program, first, *rest = shlex.split(command.removeprefix("time "))
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if program == "make":
        return "" if re.search(rf"^{first}:", (ROOT / "Makefile").read_text(), re.MULTILINE) else f"no target {first}"
    if program == "sanac":
        return "" if first in COMMANDS else f"no verb {first}"
    if program != "python" or not (ROOT / first).is_file():
        return f"no script {first}"
    source = (ROOT / first).read_text()
    return "".join(f"{first} has no {option}" for option in options if f'"{option}"' not in source)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_was_measured_and_nothing_else(page: str) -> None:
    found = problems(page, text_of(page))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("page", PAGES)
def test_a_changed_digit_is_noticed(page: str) -> None:
    text = text_of(page)
    shown = visible(text)
    free = [span for spans in excused(shown, RULES).values() for span in spans]
    figures = [match.span() for match in FIGURE.finditer(shown)]
    figures = [(low, high) for low, high in figures if not any(a <= low and high <= b for a, b in free)]
    assert len(figures) > 20
    for low, high in figures:
        at = next(at for at in reversed(range(low, high)) if text[at].isdigit())
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        assert problems(page, changed), f"{page}: {text[low:high]} -> {changed[low:high]} passes"


@pytest.mark.parametrize(
    "sentence", ["It takes 3 s.", "Half of it: 0.947.", "It takes three minutes.", "5 % [-0.1, 2]"]
)
@pytest.mark.parametrize("page", PAGES)
def test_a_figure_without_a_claim_is_noticed(page: str, sentence: str) -> None:
    (found, *_) = problems(page, f"{text_of(page)}\n{sentence}\n")
    assert "no claim covers" in found
    assert "docs/claims.toml" in found


def test_what_parts_is_named_with_both_figures_and_the_command() -> None:
    changed = text_of("README.md").replace("| 12 | 0.947 | |", "| 12 | 0.957 | |")
    (found,) = problems("README.md", changed)
    assert "README.md says 0.957, docs/results/methods-sanac-tiny.json says 0.947" in found
    assert "run `python benchmarks/methods.py --model sanac:tiny`" in found


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text[:40])
def test_a_claim_names_a_command_that_makes_its_result(claim: Claim) -> None:
    assert claim.page in PAGES
    assert set(claim.figures) == set(re.findall(r"\{(\w+)\}", claim.text))
    assert not command_problem(claim.command)
    if claim.result == RECORDED:
        names = {name for name in RECORDS if any(f"records.{name}." in path for path in claim.figures.values())}
        assert {RECORDS[name]["command"] for name in names} == {claim.command}
    elif claim.command.startswith("python"):
        stem, script = Path(claim.result).stem, (ROOT / claim.command.split()[1]).read_text()
        written = (f'{stem}.json"', f'report("{stem}"', f'"{stem.split("-")[0]}-{{')  # the last: a file per model
        assert any(name in script for name in written), f"{claim.command} doesn't write {claim.result}"


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_recorded_by_hand_says_how_and_where(name: str) -> None:
    assert not command_problem(RECORDS[name]["command"])
    assert RECORDS[name]["machine"]
    assert any(f"records.{name}." in path for claim in CLAIMS for path in claim.figures.values()), "no page says it"


def test_differences_are_of_the_journals_as_they_are() -> None:
    for name, digest in result_of("docs/results/differences.json")["journals"].items():
        now = hashlib.sha256((ROOT / "docs" / "results" / name).read_bytes()).hexdigest()
        assert now == digest, f"{name} has changed: run `python benchmarks/differences.py`"


def test_each_rule_is_used_and_says_why() -> None:
    pages = [visible(text_of(page)) for page in PAGES]
    for rule in RULES:
        assert rule.reason
        assert bool(rule.pattern) != bool(rule.column)
        assert any(excused(page, (rule,))[rule] for page in pages), f"{rule.pattern or rule.column}: excuses nothing"
