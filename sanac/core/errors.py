"""What can go wrong, and the exit code that each kind of failure ends in."""

from collections.abc import Sequence
from typing import ClassVar


class SanacError(Exception):
    """An expected failure: what and where (message), why, and what to try next (hint).

    `problems` lists everything that is wrong when there is more than one thing to say.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[str] = "error"
    usual_hint: ClassVar[str] = ""  # what helps most often, where nothing better is known

    def __init__(self, message: str, *, why: str = "", hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.hint = hint or self.usual_hint
        self.problems = tuple(problems)


class UsageError(SanacError):
    """The command line or a recipe asks for something that makes no sense."""

    exit_code = 2


class InvalidInput(SanacError):
    """A file the user pointed at is not what it should be."""

    exit_code = 3
    usual_hint = "get the file again from where it came, or run again what wrote it"


class MissingResource(SanacError):
    """The environment lacks something: an extra, a GPU, memory, disk space, a download, a free lock."""

    exit_code = 4


class VerdictNo(SanacError):
    """A gate or a parity check said no. Everything was written."""

    exit_code = 5
    status = "failed"


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that nothing on the way out swallows it."""

    exit_code: ClassVar[int] = 75
