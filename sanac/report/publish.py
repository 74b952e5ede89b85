"""Who reads a verdict: the measurements, a JUnit file, the summary page and the annotations of a CI system."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sanac.core.artifact.measurements import write_measurement
from sanac.core.check import Check
from sanac.core.context import Context, Outcome
from sanac.report import ci
from sanac.verify.settings import GateSettings


def publish_checks(
    checks: Sequence[Check], title: str, junit: Path | None, rows: Sequence[Sequence[str]] = ()
) -> tuple[str, ...]:
    """Write the JUnit file and the CI system's summary; returns the lines of its annotations."""
    if junit:
        ci.junit(junit, title, checks)
    ci.write_summary(ci.summary(title, checks, rows))
    return tuple(ci.annotations(checks))


def publish_gates(outcome: Outcome, settings: GateSettings, _context: Context) -> Outcome:
    """Keep the verdict of `sanac gate` beside the artifact, and tell the CI system."""
    checks: tuple[Check, ...] = outcome.view
    assert outcome.out is not None
    failed = sum(not check.passed for check in checks)
    value: Mapping[str, Any] = outcome.data
    write_measurement(outcome.out, "gate", value, {"failed": failed, "passed": len(checks) - failed})
    lines = publish_checks(checks, f"sanac gate {outcome.out.name}", settings.junit)
    return replace(outcome, annotations=lines)
