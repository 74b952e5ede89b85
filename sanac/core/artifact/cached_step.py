"""The contract of what is computed on the way to an artifact: load it, or check the budget, compute and store it.

A step is kept in the workspace under its content key, so that a rerun reads it. Inside `compute`, a step resumes what a
stopped run left in whatever way suits it.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from sanac.core.errors import MissingResource
from sanac.core.progress import Reporter

T = TypeVar("T")


class CachedStep(ABC, Generic[T]):
    """A computation whose result is kept; what it depends on is decided before, and covered by its key."""

    __slots__ = ()

    @property
    @abstractmethod
    def what(self) -> str:
        """The result as a noun, for messages: 'the search'."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The content key: equal where the result is."""

    @abstractmethod
    def load(self) -> T | None:
        """The result of an earlier run, if it is whole and of this key; None otherwise."""

    @abstractmethod
    def compute(self, reporter: Reporter) -> T:
        """Compute the result, going on from what a stopped run left, and store it."""

    def check_budget(self, reporter: Reporter) -> None:
        """Say how long computing will take; raise MissingResource where that is more than the user agreed to."""

    def forget(self) -> None:
        """Delete what earlier runs left, so that `compute` begins at the beginning."""


def load_or_check(step: CachedStep[T], reporter: Reporter, *, fresh: bool = False) -> T | None:
    """The result of an earlier run; where there is none, check the budget and return None."""
    known = None if fresh else step.load()
    if known is None:
        step.check_budget(reporter)
    return known


def run_step(step: CachedStep[T], reporter: Reporter, *, dry: bool = False, fresh: bool = False) -> T:
    """The result of a step, loaded or computed. A dry run computes nothing; `fresh` ignores what earlier runs left."""
    known = load_or_check(step, reporter, fresh=fresh)
    if known is not None:
        return known
    if dry:
        raise NotComputedYet(step.what)
    if fresh:
        step.forget()
    return step.compute(reporter)


class NotComputedYet(MissingResource):
    """A dry run's plan depends on a result that isn't in the cache; its cost was reported already."""

    def __init__(self, what: str) -> None:
        message = f"--dry-run can't finish the plan: it depends on {what}, which has not been computed yet"
        super().__init__(message, hint="run the command without --dry-run")
        self.what = what
