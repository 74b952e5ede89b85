"""`sanac doctor`: what this machine can build and run."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sanac.cli.options import Common, common
from sanac.cli.output import Result

if TYPE_CHECKING:
    from sanac.runtime.doctor import Finding

_MARKS = {"ok": ("ok", "green"), "warn": ("!!", "yellow"), "missing": ("--", "bright_black"), "broken": ("XX", "red")}


@click.command(
    "doctor",
    short_help="What this machine can build and run.",
    epilog="""\b
Examples:
  sanac doctor
  sanac doctor --json > doctor.json""",
)
@click.option("--workspace", type=click.Path(path_type=Path), default="sanac-out", show_default=True, metavar="DIR")
@common("seed", "device")
def command(workspace: Path, common: Common) -> Result:
    """Look at Python, torch, GPU and driver, backends, memory, disk, cache and versions.

    Exits 4 when something that sanac always needs is broken; a missing extra is only reported.
    """
    from sanac.runtime.doctor import examine

    findings = examine(workspace)
    broken = [finding for finding in findings if finding.state == "broken"]
    return Result(
        "error" if broken else "ok",
        lambda: _show(findings, color=common.color),
        {"findings": [asdict(finding) for finding in findings]},
        as_json=common.as_json,
        exit_code=4 if broken else 0,
    )


def _show(findings: "tuple[Finding, ...]", *, color: bool) -> None:
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            click.echo(group)
        mark, tint = _MARKS[finding.state]
        click.echo(f"  {click.style(mark, fg=tint) if color else mark} {finding.name:<16} {finding.text}")
        if finding.hint:
            click.echo(f"     {'':<16} {finding.hint}")
