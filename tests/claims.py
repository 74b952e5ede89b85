"""Whether pages say what was measured: reads docs/claims.toml, renders each claim from its result, finds the rest.

A figure is any numeral outside code and link targets, or a number word before a unit of time. Each must come out of a
claim's `{placeholder}` or be excused by a rule; digits that are typed in a claim's text cover nothing.
"""

import json
import operator
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from sanac.core.units import bytes_text, duration_text

ROOT = Path(__file__).parent.parent
CLAIMS, RECORDED = ROOT / "docs" / "claims.toml", "docs/results/recorded.json"
PAGES = ("README.md", "docs/status.md")
Span = tuple[int, int]

_WORDS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty|hundred"
_UNITS = "(?:milli)?seconds?|minutes?|hours?|times|percent"
FIGURE = re.compile(
    rf"(?<![A-Za-z_\d.])\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?|\b(?:{_WORDS})(?= (?:{_UNITS})\b)", re.IGNORECASE
)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_HIDDEN = re.compile(r"`[^`\n]+`|(?<=\])\([^)\n]*\)|<!--.*?-->")
_OPERATOR = re.compile(r" ([-+*/]) ")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True, eq=False)
class Claim:
    """A piece of a page with figures, and where they come from."""

    page: str
    text: str  # as on the page, {name} for each figure
    command: str
    result: str
    figures: Mapping[str, str]  # name: "path:format"


@dataclass(frozen=True)
class Rule:
    """Numerals that are not measured: those that a pattern finds, or a whole column of tables."""

    reason: str
    pattern: str = ""
    column: str = ""


@cache
def ledger() -> tuple[tuple[Claim, ...], tuple[Rule, ...]]:
    """All claims and rules."""
    read = tomllib.loads(CLAIMS.read_text(encoding="utf-8"))
    return tuple(Claim(**claim) for claim in read["claim"]), tuple(Rule(**rule) for rule in read["rule"])


@cache
def result_of(name: str) -> Any:
    """A recorded result."""
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def lookup(data: Any, path: str) -> Any:
    """The value at a dotted path; keys may hold dots themselves (the longest that fits is taken)."""
    if not path:
        return data
    if isinstance(data, list):
        index, _, rest = path.partition(".")
        return lookup(data[int(index)], rest)
    fitting = [key for key in data if path == key or path.startswith(f"{key}.")]
    if not fitting:
        raise KeyError(path)
    key = max(fitting, key=len)
    return lookup(data[key], path[len(key) + 1 :])


def evaluate(expression: str, data: Any) -> Any:
    """A path, or paths and numbers with + - * / between them, computed from left to right."""
    first, *rest = _OPERATOR.split(expression)
    value = _term(first, data)
    for sign, word in zip(rest[::2], rest[1::2], strict=True):
        other = _term(word, data)
        value = _OPERATIONS[sign](value, other)
    return value


def _term(word: str, data: Any) -> Any:
    return float(word) if re.fullmatch(r"\d+(?:\.\d+)?(?:e\d+)?", word) else lookup(data, word)


def shown(value: Any, form: str) -> str:
    """A value as pages write it: by `bytes`, `duration`, `clock`, `text`, or one of Python's format specifications."""
    if form == "bytes":
        return bytes_text(value)
    if form == "duration":
        return duration_text(value)
    if form == "clock":
        return f"{value // 60}:{value % 60:02}"
    if form == "text":
        return str(value)
    return re.sub(r"(e[-+])0+(?=\d)", r"\1", format(value, form)).replace("%", " %")


def figure(claim: Claim, name: str) -> str:
    """One figure as its result has it."""
    path, _, form = claim.figures[name].rpartition(":")
    try:
        return shown(evaluate(path, result_of(claim.result)), form)
    except (OSError, LookupError) as error:
        missing = f"{claim.result} has no {path} ({claim.page}: {claim.text[:60]!r})"
        raise AssertionError(f"{missing}: run `{claim.command}`, or correct docs/claims.toml") from error


@cache
def pieces(claim: Claim) -> list[tuple[str, str]]:
    """The claim's text in order: (name of a figure or nothing, text as it should be on the page)."""
    found, at = [], 0
    for match in _PLACEHOLDER.finditer(claim.text):
        found += [("", claim.text[at : match.start()]), (match[1], figure(claim, match[1]))]
        at = match.end()
    return [*found, ("", claim.text[at:])]


def visible(text: str) -> str:
    """The page with code and link targets blanked out, each character in its place; blocks of output stay."""
    lines, fence = [], ""
    for line in text.splitlines(keepends=True):
        if line.startswith("```"):
            fence = "" if fence else line.strip("`\n ") or "text"
            lines.append(_blank(line))
        elif fence:
            lines.append(line if fence == "text" else _blank(line))
        else:
            lines.append(_HIDDEN.sub(lambda match: _blank(match[0]), line))
    return "".join(lines)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def excused(text: str, rules: tuple[Rule, ...]) -> dict[Rule, list[Span]]:
    """Where each rule applies to a page that is `visible`."""
    return {
        rule: [match.span() for match in re.finditer(rule.pattern, text)]
        if rule.pattern
        else list(_column(text, rule.column))
        for rule in rules
    }


def _column(text: str, title: str) -> Iterator[Span]:
    """The cells below a column's title, in every table."""
    place, at = None, 0
    for line in text.splitlines(keepends=True):
        bars = [match.start() for match in re.finditer(r"\|", line)]
        cells = list(pairwise(bars)) if line.startswith("|") else []
        titles = [line[low + 1 : high].strip() for low, high in cells]
        if not cells:
            place = None
        elif title in titles:
            place = titles.index(title)
        elif place is not None and place < len(cells):
            yield at + cells[place][0], at + cells[place][1]
        at += len(line)


def places(text: str, claim: Claim) -> list[Span]:
    """Where the figures of a claim are on the page; where it says others, those, which are reported once."""
    parts = pieces(claim)
    whole = "".join(part for _, part in parts)
    if whole not in text:
        found = _alike(text, parts)
        return [found.span(number + 1) for number in range(len(found.groups()))] if found else []
    spans, start = [], text.find(whole)
    while start >= 0:
        at = start
        for name, part in parts:
            spans += [(at, at + len(part))] if name else []
            at += len(part)
        start = text.find(whole, start + 1)
    return spans


def _alike(text: str, parts: list[tuple[str, str]]) -> re.Match[str] | None:
    """The claim's text on the page, whatever its figures are there."""
    like = "".join("(.{1,160}?)" if name else re.escape(part) for name, part in parts)
    return re.search(like + ("" if parts[-1][1] else r"(?!\S)"), text)


def disagreement(text: str, claim: Claim) -> str:
    """What the page says otherwise than the result; empty if it says the same."""
    parts = pieces(claim)
    whole = "".join(part for _, part in parts)
    if whole in text:
        return ""
    found = _alike(text, parts)
    if not found:
        return f'{claim.page} doesn\'t say "{whole}" ({claim.result}): correct the page or docs/claims.toml'
    figures = [(name, part) for name, part in parts if name]
    apart = [
        f"{claim.page} says {said}, {claim.result} says {part} ({claim.figures[name]})"
        for (name, part), said in zip(figures, found.groups(), strict=True)
        if said != part
    ]
    return f"{'; '.join(apart)}: run `{claim.command}`, or correct the page"


def untied(text: str, claims: tuple[Claim, ...], rules: tuple[Rule, ...]) -> list[re.Match[str]]:
    """Figures of a page that no claim covers and no rule excuses."""
    page = visible(text)
    known = [span for claim in claims for span in places(text, claim)]
    known += [span for spans in excused(page, rules).values() for span in spans]
    return [
        match
        for match in FIGURE.finditer(page)
        if not any(low <= match.start() and match.end() <= high for low, high in known)
    ]


def problems(page: str, text: str) -> list[str]:
    """What is wrong with the text of a page: figures that part from their results, figures without a claim."""
    claims, rules = ledger()
    claims = tuple(claim for claim in claims if claim.page == page)
    found = [disagreement(text, claim) for claim in claims]
    for match in untied(text, claims, rules):
        number = text.count("\n", 0, match.start()) + 1
        near = text[max(0, match.start() - 40) : match.end() + 20].replace("\n", " ")
        found.append(
            f'{page}:{number}: no claim covers {match[0]} ("...{near}..."): add it to docs/claims.toml with '
            "the command and the result that it comes from, or take it off the page"
        )
    return [problem for problem in found if problem]
