"""`sanac gate`: whether measurements keep the limits of a pipeline."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sanac.core.check import Check
from sanac.core.context import Context, Outcome
from sanac.core.view import Block
from sanac.verify.gates import check_baseline, judge, measured_in, numbers_of, read_gates, require_measured
from sanac.verify.settings import GateSettings


def run(word: str, settings: GateSettings, context: Context) -> Outcome:
    """Judge every gate of a file by the measurements beside an artifact."""
    gates = read_gates(settings.gates)
    check_baseline(gates, settings.baseline)
    opened = context.open(word)
    require_measured(opened.located.path)
    base = {name: number for one in settings.baseline for name, number in _numbers(one, context).items()}
    checks = judge(gates, numbers_of(opened), base if settings.baseline else None)
    passed = all(check.passed for check in checks)
    data = {"passed": passed, "gates": [check.to_json() for check in checks]}
    return Outcome("ok" if passed else "failed", data, opened.located.path, checks, partial(_show, checks))


def _show(checks: tuple[Check, ...]) -> Iterator[Block]:
    """A line per check, and how many failed."""
    yield from (f"{'ok' if check.passed else 'NO'}  {check.text}" for check in checks)
    failed = sum(not check.passed for check in checks)
    yield f"{failed} of {len(checks)} limits are not kept" if failed else f"all {len(checks)} limits are kept"


def _numbers(word: str, context: Context) -> dict[str, float]:
    """Sizes and measurements of a model; of a folder that only has measurements, those."""
    alone = measured_in(Path(word))
    if alone and not (Path(word) / "model_index.json").exists():
        return alone
    return numbers_of(context.open(word))
