"""The reporter protocol: how library code reports progress, notes and warnings without printing."""

from typing import Protocol


class Reporter(Protocol):
    """Receives notes, warnings and progress from library functions. Only `cli` decides how they are shown."""

    def note(self, text: str) -> None:
        """Report a fact for every user: a default that was chosen, a resource estimate."""

    def detail(self, text: str) -> None:
        """Report a detail for --verbose."""

    def warn(self, text: str) -> None:
        """Report something the user should check: an ignored setting, an unreliable result."""

    def begin(self, label: str, total: int, unit: str = "") -> None:
        """Start a progress bar of `total` bytes, or of `total` times `unit` (steps, images)."""

    def advance(self, amount: int, state: str = "") -> None:
        """Advance the progress bar by `amount`; `state` is shown beside it, such as the loss."""

    def end(self) -> None:
        """Close the progress bar."""


class NullReporter:
    """A Reporter that discards everything."""

    def note(self, text: str) -> None:
        """Discard it."""

    def detail(self, text: str) -> None:
        """Discard it."""

    def warn(self, text: str) -> None:
        """Discard it."""

    def begin(self, label: str, total: int, unit: str = "") -> None:
        """Discard it."""

    def advance(self, amount: int, state: str = "") -> None:
        """Discard it."""

    def end(self) -> None:
        """Discard it."""


NULL_REPORTER: Reporter = NullReporter()
