"""The error hierarchy, and the exit code of each kind of failure."""

from collections.abc import Sequence
from typing import ClassVar


class SanacError(Exception):
    """An expected failure: what happened and to which file (message), why, and what to type next (hint).

    `problems` lists every problem when there is more than one.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[str] = "error"
    usual_hint: ClassVar[str] = ""  # used when the caller passes no hint

    def __init__(self, message: str, *, why: str = "", hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.hint = hint or self.usual_hint
        self.problems = tuple(problems)


class UsageError(SanacError):
    """The command line or a recipe is invalid or contradictory."""

    exit_code = 2


class InvalidInput(SanacError):
    """An input file is damaged, malformed, or not of the expected kind."""

    exit_code = 3
    usual_hint = "fetch the file again, or rerun the command that wrote it"


class MissingResource(SanacError):
    """The environment is missing a resource: an extra, a GPU, memory, disk space, a download, a free lock."""

    exit_code = 4


class CheckFailed(SanacError):
    """A gate or a parity check failed. Everything was written."""

    exit_code = 5
    status = "failed"


class Terminated(BaseException):
    """SIGTERM arrived. A BaseException, so that no `except Exception` swallows it."""

    exit_code: ClassVar[int] = 75
