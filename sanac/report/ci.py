"""What a CI system wants to be told: a summary page, lines that it marks, a JUnit file."""

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from sanac.core.atomic import write_atomically
from sanac.core.check import Check
from sanac.core.errors import InvalidInput

_SUMMARY, _ACTIONS = "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"


def summary(title: str, checks: Sequence[Check], rows: Sequence[Sequence[str]] = ()) -> str:
    """Markdown: the verdict, each check, and a table whose first row are its titles."""
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
    """Names come from files: nothing in them is markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def write_summary(text: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Onto the page of this step, where GitHub Actions has one."""
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
    """Lines that GitHub Actions shows as errors; none elsewhere."""
    if environment.get(_ACTIONS) != "true":
        return []
    return [
        f"::error title={_escaped(check.name, ':,')}::{_escaped(check.text)}" for check in checks if not check.passed
    ]


def _escaped(text: str, more: str = "") -> str:
    """As workflow commands want it: a line break would begin another command."""
    return "".join(f"%{ord(letter):02X}" if letter in "%\r\n" + more else letter for letter in text)


def junit(path: Path, title: str, checks: Sequence[Check]) -> None:
    """A JUnit file: a test case for each check."""
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
    """XML knows no control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
