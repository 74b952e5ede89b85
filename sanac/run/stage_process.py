"""The process of a recipe's stage, forked from a server that is kept for the stages and recipes that follow."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 120  # seconds for a stage to save its state
_LARGEST = 64  # bytes of an answer
_KILLED = -signal.SIGKILL


@dataclass
class StageServer:
    """A running `sanac.run.stage_server` and the connection to it."""

    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    owner: int  # process id
    environment: dict[str, str]  # what libraries have read while they were imported
    stage: int | None = None  # process id

    def run(self, words: Sequence[str]) -> tuple[int, str]:
        """Have a stage forked; returns its exit code and what it wrote to stdout."""
        request = json.dumps({"words": list(words), "folder": str(Path.cwd())}).encode()
        read, write = os.pipe()
        with open(read, errors="replace") as written:
            try:
                socket.send_fds(self.connection, [request], [write, 2])
            finally:
                os.close(write)
            self.stage = self._answer()
            text = written.read()
        code = self._answer()
        self.stage = None
        return (_KILLED if code is None else code), text

    def stop(self) -> None:
        """Terminate the stage, with time to save its state, and end the server."""
        with suppress(ProcessLookupError, TimeoutError):
            if self.stage is not None:
                os.kill(self.stage, signal.SIGTERM)
                self.connection.settimeout(_PATIENCE)
                self._answer()
        self.process.kill()  # a stage that still runs ends with it
        self.process.wait()
        self.connection.close()

    def _answer(self) -> int | None:
        """A number from the server; None if the server has ended."""
        with suppress(ConnectionResetError):
            answer = self.connection.recv(_LARGEST)
            return int(answer) if answer else None
        return None


_idle: list[StageServer] = []


def run_stage(words: Sequence[str]) -> tuple[int, str]:
    """Run a command line in a process of its own; returns its exit code and what it wrote to stdout.

    On an exception, a signal's among them, the process is terminated and may save its state.
    """
    server = _idle_server() or _new_server()
    try:
        ran = server.run(words)
    except BaseException:
        server.stop()
        raise
    _idle.append(server)
    return ran


def _idle_server() -> StageServer | None:
    """A server that this process started and that has seen the environment of now."""
    while _idle:
        server = _idle.pop()
        if server.owner != os.getpid():
            continue
        if server.environment == dict(os.environ) and server.process.poll() is None:
            return server
        server.stop()
    return None


def _new_server() -> StageServer:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-P", "-m", "sanac.run.stage_server", str(os.getpid()), str(theirs.fileno())]
    with theirs:  # own process group: only we forward signals, once
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0)
    return StageServer(process, ours, os.getpid(), dict(os.environ))
