"""`sanac doctor`: what this machine can build and run."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from sanac.core.context import Context, Outcome
from sanac.core.view import Block, Line
from sanac.runtime.doctor import Finding, examine
from sanac.runtime.settings import DoctorSettings

_MARKS = {"ok": ("ok", "green"), "warn": ("!!", "yellow"), "missing": ("--", "bright_black"), "broken": ("XX", "red")}


def run(settings: DoctorSettings, _context: Context) -> Outcome:
    """Examine the machine; the status is `error` where something that sanac always needs is broken."""
    findings = examine(settings.workspace)
    broken = any(finding.state == "broken" for finding in findings)
    data = {"findings": [asdict(finding) for finding in findings]}
    return Outcome("error" if broken else "ok", data, view=findings, show=partial(_show, findings))


def _show(findings: tuple[Finding, ...]) -> Iterator[Block]:
    """Findings under the titles of their groups."""
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            yield group
        mark, color = _MARKS[finding.state]
        yield Line(f"  {mark}", color, f" {finding.name:<16} {finding.text}")
        if finding.hint:
            yield f"     {'':<16} {finding.hint}"
