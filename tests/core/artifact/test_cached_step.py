"""Known? Else the budget is checked, and only then computed; a dry run computes and deletes nothing."""

from dataclasses import dataclass, field

import pytest

from sanac.core.artifact.cached_step import CachedStep, load_or_check, run_step
from sanac.core.errors import MissingResource
from sanac.core.progress import NULL_REPORTER, Reporter


@dataclass
class Counted(CachedStep[int]):
    """A step that says what was asked of it."""

    kept: int | None = None
    affordable: bool = True
    asked: list[str] = field(default_factory=list)

    @property
    def what(self) -> str:
        return "the answer"

    @property
    def key(self) -> str:
        return "k"

    def load(self) -> int | None:
        self.asked.append("load")
        return self.kept

    def check_budget(self, reporter: Reporter) -> None:
        self.asked.append("check")
        if not self.affordable:
            raise MissingResource("too long")

    def forget(self) -> None:
        self.asked.append("forget")

    def compute(self, reporter: Reporter) -> int:
        self.asked.append("compute")
        self.kept = 42
        return 42


def test_computed_once() -> None:
    step = Counted()
    assert run_step(step, NULL_REPORTER) == run_step(step, NULL_REPORTER) == 42
    assert step.asked == ["load", "check", "compute", "load"]


@pytest.mark.parametrize("kept", [0, 7])
def test_what_is_known_is_neither_checked_nor_computed(kept: int) -> None:
    step = Counted(kept, affordable=False)
    assert run_step(step, NULL_REPORTER, dry=True) == load_or_check(step, NULL_REPORTER) == kept
    assert step.asked == ["load", "load"]


def test_fresh_ignores_and_deletes_what_was_there() -> None:
    step = Counted(7)
    assert run_step(step, NULL_REPORTER, fresh=True) == 42
    assert step.asked == ["check", "forget", "compute"]


def test_nothing_is_deleted_or_computed_where_it_would_take_too_long_or_in_a_dry_run() -> None:
    step = Counted(7, affordable=False)
    with pytest.raises(MissingResource, match="too long"):
        run_step(step, NULL_REPORTER, fresh=True)
    step.affordable = True
    with pytest.raises(MissingResource) as refused:
        run_step(step, NULL_REPORTER, dry=True, fresh=True)
    assert "it depends on the answer, which has not been computed yet" in refused.value.message
    assert step.asked == ["check", "check"]
