"""`sanac completion`: the script that makes a shell complete sanac's commands and options."""

from typing import Any

import click
from click.shell_completion import get_completion_class

from sanac.cli.command import GroupedCommand, epilog_of
from sanac.cli.options import common_parameters, take_common
from sanac.cli.output import Result

SHORT_HELP = "Make the shell complete commands and options."
_EXAMPLES = (
    "sanac completion bash >> ~/.bashrc",
    "sanac completion zsh >> ~/.zshrc",
    "sanac completion fish > ~/.config/fish/completions/sanac.fish",
)


def command() -> click.Command:
    """The `completion` command."""
    shells = click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))
    return GroupedCommand(
        "completion",
        params=[shells, *common_parameters()],
        callback=_run,
        help="Print the completion script for SHELL.",
        short_help=SHORT_HELP,
        epilog=epilog_of(_EXAMPLES),
    )


@click.pass_context
def _run(context: click.Context, /, shell: str, **values: Any) -> Result:
    as_json = take_common(values).as_json
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "sanac", "_SANAC_COMPLETE").source()
    return Result("ok", lambda: click.echo(script), {"script": script}, as_json=as_json)
