"""`sanac doctor`: what this machine can build and run."""

from dataclasses import asdict

from sanac.core.context import Context, Outcome
from sanac.runtime.doctor import examine
from sanac.runtime.settings import DoctorSettings


def run(settings: DoctorSettings, _context: Context) -> Outcome:
    """Examine the machine; the status is `error` where something that sanac always needs is broken."""
    findings = examine(settings.workspace)
    broken = any(finding.state == "broken" for finding in findings)
    data = {"findings": [asdict(finding) for finding in findings]}
    return Outcome("error" if broken else "ok", data, view=findings)
