"""How a long job says what it is doing, without knowing whether anyone listens or how it is shown."""

from typing import Protocol


class Reporter(Protocol):
    """What a library function may say while it works. Only `cli` decides how it looks."""

    def note(self, text: str) -> None:
        """Something worth knowing: what was chosen, what will be needed."""

    def detail(self, text: str) -> None:
        """Something for those who want to see more."""

    def warn(self, text: str) -> None:
        """Something the user should look at: a setting that is ignored, a doubt."""

    def begin(self, label: str, total: int, unit: str = "") -> None:
        """A job of `total` bytes starts, or of whatever `unit` names: steps, images."""

    def advance(self, amount: int) -> None:
        """`amount` more of it is done."""

    def end(self) -> None:
        """The job is over."""


class NullReporter:
    """A Talk for callers who don't listen."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def detail(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def begin(self, label: str, total: int, unit: str = "") -> None:
        """Say nothing."""

    def advance(self, amount: int) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""


NULL_REPORTER: Reporter = NullReporter()
