"""The command group and the one place where exceptions become exit codes."""

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from sanac import __version__
from sanac.cli import completion, recipe_run, recipes
from sanac.cli.output import Result, emit, emit_error, emit_stop, mute_stdout, report_bug
from sanac.cli.verb_group import VerbGroup
from sanac.core.errors import InvalidInput, MissingResource, SanacError, Terminated, UsageError
from sanac.core.threads import configure_threads

_STATE_SAVED = "what was finished is kept: run the same command again to continue"


_EXTRA: dict[str, tuple[Callable[[], click.Command], str]] = {
    "demo": (recipe_run.demo_command, recipe_run.DEMO_HELP),
    "run": (recipe_run.command, recipe_run.SHORT_HELP),
    "recipes": (recipes.group, recipes.SHORT_HELP),
    "completion": (completion.command, completion.SHORT_HELP),
}
_FIRST, _LAST = ("demo",), ("doctor", "completion")


class MainGroup(VerbGroup):
    """The verbs, and the commands that are none."""

    @property
    def short_helps(self) -> dict[str, str]:
        """The short help of each command by its name."""
        return super().short_helps | {name: short for name, (_, short) in _EXTRA.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the work."""
        names = [name for name in super().list_commands(ctx) if name not in (*_FIRST, *_LAST)]
        return [*_FIRST, *names, *_LAST]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        return _EXTRA[cmd_name][0]() if cmd_name in _EXTRA else super().get_command(ctx, cmd_name)


@click.group(
    cls=MainGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  sanac demo
  sanac inspect Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers
  sanac prune MODEL --keep 0-9,50-59 --dry-run
  sanac prune MODEL --keep 0-9,50-59 --out small
  sanac grow MODEL --target-blocks 60

\b
Exit codes: 0 done, 1 a bug, 2 usage, 3 invalid input, 4 a missing resource,
5 a check failed, 75 stopped with its state saved, 130 Ctrl-C.""",
)
@click.version_option(__version__, prog_name="sanac")
def app() -> None:
    """Make SANA text-to-image models smaller and deployable, and measure what was lost."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. A bug passes through as the exception it is."""
    as_json = "--json" in arguments
    color = "--no-color" not in arguments and not os.environ.get("NO_COLOR") and sys.stderr.isatty()
    try:
        result = app.main(list(arguments), prog_name="sanac", standalone_mode=False)
        code = emit(result) if isinstance(result, Result) else int(result or 0)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        return emit_stop(130, f"interrupted; {_STATE_SAVED}", as_json=as_json)
    except Terminated:
        return emit_stop(Terminated.exit_code, f"terminated; {_STATE_SAVED}", as_json=as_json)
    except BrokenPipeError:  # the reader of our output had enough
        mute_stdout()
        return 0
    except (SanacError, click.ClickException, MemoryError, OSError) as error:
        return emit_error(_translate(error), as_json=as_json, color=color)
    return code


def _translate(error: Exception) -> SanacError:
    """What a failure that isn't ours means to the user."""
    if isinstance(error, SanacError):
        return error
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        return UsageError(error.format_message(), hint=f"{context.command_path if context else 'sanac'} --help")
    if isinstance(error, PermissionError):
        return InvalidInput(f"cannot open {error.filename}", why=error.strerror or "permission denied")
    if isinstance(error, OSError):
        return MissingResource(f"the system refused: {error.strerror or error}", why=str(error.filename or ""))
    return MissingResource("out of memory")


def _terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def main() -> NoReturn:
    """The entry point of the `sanac` command."""
    configure_threads()
    signal.signal(signal.SIGTERM, _terminate)
    devnull = Path(os.devnull).open("w")  # noqa: SIM115 (stands in for a closed stream until the end)
    sys.stdout, sys.stderr = sys.stdout or devnull, sys.stderr or devnull
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names on disk need not be text
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = report_bug
    sys.exit(run(sys.argv[1:]))
