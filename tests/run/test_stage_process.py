"""Stage processes: forked from a server that has imported everything, and as separate as newly started ones."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sanac.run import stage_process
from sanac.run.stage_process import StageServer, run_stage

VERSION = (0, "sanac, version 0.1.0\n")
LONG = ("finetune", "sanac:tiny", "--steps", "100", "--samples", "12", "--workspace", "w")


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Own servers, that run this code before: on its own, one that nothing is imported in, for speed."""
    monkeypatch.chdir(tmp_path)
    os.environ.pop("PYTEST_CURRENT_TEST", None)  # pytest tells each phase of a test to the environment
    monkeypatch.setattr(stage_process, "_idle", [])
    start, before = (
        stage_process.subprocess.Popen,
        ["from sanac.run import stage_server as server", "server._preload = lambda: None"],
    )

    def started(command: list[str], **how: Any) -> Any:
        code = "; ".join([*before, "raise SystemExit(server.main())"])
        return start([*command[:2], "-c", code, *command[4:]], **how)

    monkeypatch.setattr(stage_process.subprocess, "Popen", started)
    yield before
    for left in stage_process._idle:
        left.stop()


def server() -> StageServer:
    (found,) = stage_process._idle
    return found


def test_one_server_for_all(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With the exit code, the output and the folder of each."""
    assert run_stage(["--version"]) == VERSION
    first = server()
    code, printed = run_stage(["prun"])
    assert (code, printed) == (2, "")
    assert "did you mean" in capfd.readouterr().err
    assert run_stage(["prune", "sanac:tiny", "--keep", "0-1", "--json"])[0] == 0
    assert [path.name[:6] for path in (tmp_path / "sanac-out").glob("prune-*")] == ["prune-"]
    assert server() is first


def test_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries read it while they are imported: what has imported them under another one is of no use."""
    run_stage(["--version"])
    before = server()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_stage(["--version"]) == VERSION
    assert server() is not before
    assert before.process.poll() is not None


def test_a_server_that_has_ended() -> None:
    run_stage(["--version"])
    server().process.kill()
    server().process.wait()
    assert run_stage(["--version"]) == VERSION


def while_it_runs(act: Callable[[StageServer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `act` done to the server once the stage has its process."""
    answer, acted = StageServer._answer, threading.Event()

    def watched(self: StageServer) -> int | None:
        found = answer(self)
        if found and not acted.is_set():
            acted.set()
            self.stage = found
            act(self)
        return found

    monkeypatch.setattr(StageServer, "_answer", watched)


def test_killed_with_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = []

    def kill(running: StageServer) -> None:
        stages.append(running.stage)
        running.process.kill()

    while_it_runs(kill, monkeypatch)
    assert run_stage(LONG)[0] == -signal.SIGKILL
    assert gone(stages[0])


def test_killed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory runs out: the code says so, and the server goes on."""
    while_it_runs(lambda running: os.kill(running.stage or 0, signal.SIGKILL), monkeypatch)
    assert run_stage(LONG)[0] == -signal.SIGKILL
    assert run_stage(["--version"]) == VERSION


def test_own_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal's Ctrl-C reaches neither server nor stage: only this process does, once."""
    groups = []

    def look(running: StageServer) -> None:
        time.sleep(0.5)
        groups.extend(os.getpgid(pid) for pid in (running.process.pid, running.stage or 0))
        os.kill(running.stage or 0, signal.SIGKILL)

    while_it_runs(look, monkeypatch)
    run_stage(LONG)
    assert len({*groups, os.getpgrp()}) == 3


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage is told to stop, and saves what it has, before the exception goes on."""
    seen: dict[str, Any] = {}

    def interrupt(running: StageServer) -> None:
        seen.update(server=running, stage=running.stage)
        raise KeyboardInterrupt

    while_it_runs(interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_stage(LONG)
    assert gone(seen["stage"])
    assert seen["server"].process.poll() is not None
    assert not stage_process._idle


def test_a_gpu_that_an_import_has_touched(servers: list[str], tmp_path: Path) -> None:
    """A forked process can't use it, so that a new program takes its place."""
    servers.append("import os; os.execv = lambda path, words, run=os.execv: (open('executed', 'w'), run(path, words))")
    servers.append("import torch; torch.cuda._is_in_bad_fork = lambda: True")
    assert run_stage(["--version"]) == VERSION
    assert (tmp_path / "executed").exists()


def test_nothing_runs_beside_a_fork(servers: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It takes along one thread only: importing everything has to leave it at that, and is silent."""
    servers[:] = [servers[0], "import os, sys, threading; fork = os.fork"]
    counts = "threading.active_count(), len(os.listdir('/proc/self/task')), 'diffusers' in sys.modules"
    servers.append(f"os.fork = lambda: (open('seen', 'w').write(str(({counts}))), fork())[1]")
    assert run_stage(["--version"]) == VERSION
    assert (tmp_path / "seen").read_text() == "(1, 1, True)"
    assert capfd.readouterr().err == ""


def gone(pid: int | None) -> bool:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False
