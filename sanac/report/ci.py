"""CI output: the GitHub Actions summary page and error annotations, and a JUnit file."""

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from sanac.core.atomic import write_atomically
from sanac.core.check import Check
from sanac.core.errors import InvalidInput

_SUMMARY, _ACTIONS = "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"


def summary(title: str, checks: Sequence[Check], rows: Sequence[Sequence[str]] = ()) -> str:
    """Markdown with the result, each check, and a table whose first row is its header."""
    failed = sum(not check.passed for check in checks)
    verdict = f"{failed} of {len(checks)} checks failed" if failed else f"{len(checks)} checks passed"
    lines = [f"## {title}", "", verdict if checks else "no checks", ""]
    lines += [f"- {'✅' if check.passed else '❌'} {_plain(check.text)}" for check in checks]
    if rows:
        lines += ["", _row(rows[0]), _row(["---"] * len(rows[0])), *map(_row, rows[1:])]
    return "\n".join([*lines, ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell).replace('|', '&#124;') for cell in cells)} |"


def _plain(text: str) -> str:
    """Escape markup, as names come from files."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def write_summary(text: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Append to the GitHub Actions summary page; returns its path, or None outside of GitHub Actions."""
    place = environment.get(_SUMMARY)
    if not place:
        return None
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InvalidInput(f"cannot write ${_SUMMARY}", why=error.strerror or str(error)) from error
    return Path(place)


def annotations(checks: Sequence[Check], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Failed checks as GitHub Actions error annotations; empty outside of GitHub Actions."""
    if environment.get(_ACTIONS) != "true":
        return []
    return [
        f"::error title={_escaped(check.name, ':,')}::{_escaped(check.text)}" for check in checks if not check.passed
    ]


def _escaped(text: str, more: str = "") -> str:
    """Escape text for a workflow command, in which a line break would start another command."""
    return "".join(f"%{ord(letter):02X}" if letter in "%\r\n" + more else letter for letter in text)


def junit(path: Path, title: str, checks: Sequence[Check]) -> None:
    """Write a JUnit file with a test case per check."""
    failed = [check for check in checks if not check.passed]
    about = {"name": title, "tests": str(len(checks)), "failures": str(len(failed)), "errors": "0"}
    root = ET.Element("testsuites", about)
    suite = ET.SubElement(root, "testsuite", about)
    for check in checks:
        case = ET.SubElement(suite, "testcase", {"classname": title, "name": _printable(check.name)})
        if not check.passed:
            failure = ET.SubElement(case, "failure", {"message": _printable(check.text)})
            failure.text = _printable(check.text)
        ET.SubElement(case, "system-out").text = _printable(check.text)
    ET.indent(root)
    data = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data + b"\n")
    except OSError as error:
        raise InvalidInput(
            f"cannot write {path}", why=error.strerror or str(error), hint="choose another --junit"
        ) from error


def _printable(text: str) -> str:
    """Replace control characters, which XML doesn't allow."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
