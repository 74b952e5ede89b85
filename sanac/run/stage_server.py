"""`python -m sanac.run.stage_server PARENT SOCKET`: forks a process per stage, with the frameworks imported already.

Importing torch, diffusers and transformers takes longer than many a stage does. The server imports them once and
computes nothing: a stage forked from it starts where a new process would be after its imports. A request is a command
line with the files for its stdout and stderr; the answers to it are the process id, then the exit code.
"""

import gc
import importlib
import json
import os
import runpy
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from sanac.core.process import end_with
from sanac.core.threads import configure_threads
from sanac.nn.silence_libraries import quiet

_PRELOADED = ("torch", "diffusers.pipelines.sana.pipeline_sana")  # the latter imports transformers, too
_LARGEST = 1 << 17  # bytes of a request


def main() -> int:
    """Answer requests until the connection is closed; a forked process returns from here, too, after its stage."""
    parent, number = map(int, sys.argv[1:])
    if not end_with(parent):
        return 1
    _preload()
    connection = socket.socket(fileno=number)
    while True:
        request, (*files,), *_ = socket.recv_fds(connection, _LARGEST, 2)
        if not request:
            return 0
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            connection.close()
            return _run(server, files, **json.loads(request))
        for file in files:
            os.close(file)
        connection.send(str(pid).encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.send(str(code).encode())


def _preload() -> None:
    configure_threads()
    with suppress(ImportError), quiet():  # a stage that needs what is missing says so
        for name in _PRELOADED:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # objects of imports: left out of every collection, and their memory stays shared


def _run(server: int, files: Sequence[int], words: Sequence[str], folder: str) -> int:
    """Run a stage's command line in this forked process; it exits with its own code."""
    os.setpgid(0, 0)
    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(file, stream)
        os.close(file)
    for name, stream in (("stdout", 1), ("stderr", 2)):  # the server's own were made for other files
        encoding = getattr(sys, name).encoding
        setattr(sys, name, open(stream, "w", 1, encoding, closefd=False))  # noqa: SIM115 (open until the process ends)
    os.chdir(folder)
    if _gpu_was_touched():
        command = [sys.executable, "-P", "-m", "sanac.run.child", str(server), *words]
        os.execv(sys.executable, command)  # noqa: S606 (no shell is wanted)
    if not end_with(server):
        return 1
    sys.argv = ["sanac", *words]
    runpy.run_module("sanac", run_name="__main__")
    return 0


def _gpu_was_touched() -> bool:
    """Whether an import has used CUDA before the fork: a forked process can't use it then, a new program can."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())  # noqa: SLF001 (torch has no public name for it)


if __name__ == "__main__":
    sys.exit(main())
