"""How talk looks, and that a download is only ever offered."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sanac import console
from sanac.cli import model_argument
from sanac.console import ConsoleReporter
from tests.conftest import Sanac

Said = Callable[..., list[str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """What a job says that advances by these amounts, each so many seconds after the one before."""

    def run(*begun: object, steps: Sequence[tuple[float, int]]) -> list[str]:
        now = [100.0]
        monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
        reporter = ConsoleReporter(0, color=False)
        reporter.begin(*begun)
        for seconds, amount in steps:
            now[0] += seconds
            reporter.advance(amount)
        reporter.end()
        return capsys.readouterr().err.splitlines()

    return run


def test_a_line_every_few_seconds_where_there_is_no_terminal(said: Said) -> None:
    assert said("writing", 1000, steps=[(2.0, 100)] * 10) == [
        "writing: 30% of 1.00 kB, 14 s left",
        "writing: 60% of 1.00 kB, 8 s left",
        "writing: 90% of 1.00 kB, 2 s left",
    ]


def test_what_was_done_before_a_stop_is_not_pace(said: Said) -> None:
    lines = said("training", 1000, "steps", steps=[(0.0, 800), (3.0, 30), (3.0, 30)])
    assert lines == ["training: 86% of 1,000 steps, 14 s left"]


def test_quiet_leaves_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(-1, color=False)
    reporter.note("note")
    reporter.detail("detail")
    reporter.warn("look")
    assert capsys.readouterr().err == "warning: look\n"


@pytest.mark.parametrize("answer", [True, False])
def test_a_download_is_offered_on_a_terminal_only(
    answer: bool, pipeline: Path, sanac: Sanac, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sanac.core.checkpoint import locate

    asked: list[str] = []
    monkeypatch.setattr(model_argument.click, "confirm", lambda text, **_: asked.append(text) or answer)
    monkeypatch.setattr(locate, "download", lambda repo, revision: locate.locate(str(pipeline)))
    assert sanac("inspect", "some-org/model").code == 4
    assert asked == []
    monkeypatch.setattr("sanac.cli.options.Common.interactive", property(lambda _: True))
    assert sanac("inspect", "some-org/model").code == (0 if answer else 4)
    assert asked == ["some-org/model is not in the local cache. Download it now?"]
