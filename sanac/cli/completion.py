"""`sanac completion`: the script that makes a shell complete sanac's commands and options."""

import click
from click.shell_completion import get_completion_class

from sanac.cli.options import Common, common
from sanac.cli.output import Result


@click.command(
    "completion",
    short_help="Make the shell complete commands and options.",
    epilog="""\b
Examples:
  sanac completion bash >> ~/.bashrc
  sanac completion zsh >> ~/.zshrc
  sanac completion fish > ~/.config/fish/completions/sanac.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@common("seed", "device")
def command(context: click.Context, shell: str, common: Common) -> Result:
    """Print the completion script for SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "sanac", "_SANAC_COMPLETE").source()
    return Result("ok", lambda: click.echo(script), {"script": script}, as_json=common.as_json)
