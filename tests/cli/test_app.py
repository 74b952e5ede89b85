"""The command line's promises: exit codes, one JSON object, help without heavy imports."""

import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sanac.cli.app import app, run
from sanac.core.errors import CheckFailed, InvalidInput, MissingResource, SanacError, Terminated, UsageError
from sanac.core.settings import settings_of
from sanac.verbs import VERBS
from tests.conftest import Sanac

COMMANDS = app.list_commands(click.Context(app))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    """A command `planted` that raises what the test puts into the returned dict."""
    what: dict[str, BaseException] = {}

    @click.command("planted")
    @click.option("--json", "as_json", is_flag=True)
    def command(as_json: bool) -> None:
        raise what["error"]

    monkeypatch.setitem(app.commands, "planted", command)
    return what


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (UsageError("m", why="w", hint="h", problems=["p", "q"]), 2, "error"),
        (InvalidInput("m", why="w", hint="h", problems=["p", "q"]), 3, "error"),
        (MissingResource("m", why="w", hint="h", problems=["p", "q"]), 4, "error"),
        (CheckFailed("m", why="w", hint="h", problems=["p", "q"]), 5, "failed"),
    ],
)
def test_each_failure_has_its_code_and_its_json(
    error: SanacError, code: int, status: str, planted: dict[str, BaseException], sanac: Sanac
) -> None:
    planted["error"] = error
    ran = sanac("planted", "--json")
    detail = {"kind": type(error).__name__, "message": "m", "why": "w", "hint": "h", "problems": ["p", "q"]}
    assert (ran.code, ran.json) == (code, {"status": status, "out": None, "exit": code, "error": detail})
    plain = sanac("planted")
    assert (plain.code, plain.out) == (code, "")
    assert all(text in plain.err for text in ("m", "- p", "- q", "try: h"))
    assert "Traceback" not in plain.err


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 75, "terminated"),
        (MemoryError(), 4, "out of memory"),
        (OSError(28, "No space left on device", "/x"), 4, "No space left"),
        (PermissionError(13, "Permission denied", "/x"), 3, "cannot open /x"),
    ],
)
def test_what_comes_from_outside(
    error: BaseException, code: int, word: str, planted: dict[str, BaseException], sanac: Sanac
) -> None:
    planted["error"] = error
    ran = sanac("planted", "--json")
    assert ran.code == ran.json["exit"] == code
    assert ran.json["status"] == "error"
    assert word in ran.json["error"]["message"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_bug_exits_1_with_a_traceback(as_json: bool) -> None:
    code = (
        "import click, sys\nfrom sanac.cli import app, main\n"
        "@click.command('buggy')\n@click.option('--json', is_flag=True)\n"
        "def buggy(json): raise ZeroDivisionError('oops')\n"
        "app.app.add_command(buggy)\nmain()"
    )
    flags = ["--json"] if as_json else []
    done = subprocess.run([sys.executable, "-c", code, "buggy", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "bug in sanac" in done.stderr
    if as_json:
        failure = json.loads(done.stdout)
        assert (failure["status"], failure["exit"], failure["error"]["kind"]) == ("error", 1, "ZeroDivisionError")
    else:
        assert done.stdout == ""


def test_debug_shows_where_a_users_error_came_from(
    planted: dict[str, BaseException], sanac: Sanac, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted["error"] = InvalidInput("m")
    assert "try: fetch the file again" in sanac("planted").err
    monkeypatch.setenv("SANAC_DEBUG", "1")
    assert "Traceback" in sanac("planted").err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["prun"], "did you mean 'prune'?"),
        (["xyz"], "there is no command 'xyz'"),
        (["inspect"], "MODEL is missing"),
        (["inspect", "x", "--jsn"], "--json"),
        (["prune", "x"], "--keep"),
        (["prune", "x", "--keep", "0", "--seed", "-1"], "--seed"),
    ],
)
def test_usage_errors(arguments: list[str], word: str, sanac: Sanac) -> None:
    ran = sanac(*arguments)
    assert ran.code == 2
    assert word in ran.err
    in_json = sanac(*arguments, "--json")
    if "--jsn" not in arguments:
        assert in_json.json["error"]["kind"] == "UsageError"
        assert "--help" in in_json.json["error"]["hint"]


@pytest.mark.parametrize("command", [name for name, verb in VERBS.items() if verb.models in {"one", "several"}])
def test_a_missing_model_is_named_with_an_example(command: str, sanac: Sanac) -> None:
    ran = sanac(*command.split(), "--json")
    assert ran.code == 2
    error = ran.json["error"]
    word = VERBS[command].argument
    assert error["problems"][0].startswith(f"{word} is missing: ")
    assert error["hint"].startswith(f"sanac {command} ")
    required = [one for one in settings_of(VERBS[command].settings_class()).values() if one.required]
    judged = command == "judge samples"  # its verifier, which reinforce can do without
    assert len(error["problems"]) == 1 + len(required) + judged, "everything that is missing, at once"


def test_what_else_is_missing(sanac: Sanac) -> None:
    prune = sanac("prune")
    assert "one of --target-blocks, --target-params, --keep is required" in prune.err
    assert "MODEL was left out, too" in prune.err
    assert "try: sanac prune sanac:tiny --target-blocks" in prune.err
    generate = sanac("generate", "a red circle")
    assert "PROMPT is required" in generate.err
    assert "'a red circle' was taken as MODEL" in generate.err
    run = sanac("run")
    assert "RECIPE is missing" in run.err
    assert "try: sanac run demo" in run.err
    assert run.code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_few_options_under_each_title(command: str, sanac: Sanac) -> None:
    groups = re.findall(r"^([A-Z][\w ]*):\n((?:  +\S.*\n)+)", sanac(command, "--help").out, re.MULTILINE)
    sizes = {title: len(re.findall(r"^  -", text, re.MULTILINE)) for title, text in groups if title != "Commands"}
    assert sizes, "options are listed"
    assert max(sizes.values()) <= 8, sizes
    titles = [title for title in sizes if title != "Examples"]
    if "Common options" in titles:
        assert titles[-1] == "Common options"
    if "Advanced options" in titles:
        assert titles[-2] == "Advanced options"


SEEDED = (
    "analyze",
    "prune",
    "grow",
    "finetune",
    "reinforce",
    "quantize",
    "schedule",
    "verify",
    "evaluate",
    "compare",
    "generate",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_seed_is_shown_where_something_is_random(command: str, sanac: Sanac) -> None:
    shown = re.search(r"^  --seed", sanac(command, "--help").out, re.MULTILINE)
    assert bool(shown) == (command in SEEDED)


def test_bare_recipes_lists_them(sanac: Sanac) -> None:
    assert sanac("recipes").out == sanac("recipes", "ls").out
    assert "demo" in sanac("recipes").out


def test_no_arguments_is_help(sanac: Sanac) -> None:
    ran = sanac()
    assert ran.code == 2
    assert "Usage: sanac" in ran.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_the_common_options(command: str, sanac: Sanac) -> None:
    ran = sanac(command, "--help")
    if isinstance(app.get_command(click.Context(app), command), click.Group):
        assert (ran.code, f"sanac {command} " in ran.out) == (0, True)
        return
    assert ran.code == 0
    assert f"Examples:\n    sanac {command} " in ran.out or f"Examples:\n    sanac {command}\n" in ran.out
    for option in ("--json", "-v, --verbose", "-q, --quiet", "--no-color"):
        assert option in ran.out


def test_help_and_version(sanac: Sanac) -> None:
    ran = sanac("--help")
    assert ran.code == 0
    assert all(command in ran.out for command in COMMANDS)
    assert "Exit codes:" in ran.out
    assert sanac("--version").out == "sanac, version 0.1.0\n"


def test_help_is_quick_and_loads_no_framework() -> None:
    code = (
        "import sys\nfrom sanac.cli.app import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnx', 'onnxruntime', 'tensorrt', 'torchao', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "sanac", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(times) < 0.3, "seconds of a processor: others may be busy on it"


def test_ignored_options_are_said(sanac: Sanac) -> None:
    ran = sanac("completion", "bash", "--seed", "3", "--device", "cuda")
    assert "warning: --seed has no effect here" in ran.err
    assert "warning: --device has no effect here" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, sanac: Sanac) -> None:
    assert "_SANAC_COMPLETE" in sanac("completion", shell).out
    assert "_SANAC_COMPLETE" in sanac("completion", shell, "--json").json["script"]
    environment = os.environ | {"_SANAC_COMPLETE": "bash_complete", "COMP_WORDS": "sanac pr", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from sanac.cli.app import app; app(prog_name='sanac')"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "prune" in done.stdout


def test_a_reader_that_stops_reading_is_no_error(pipeline: Path) -> None:
    command = f"{sys.executable} -m sanac inspect {pipeline} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_run_does_not_touch_signal_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(["--version"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
