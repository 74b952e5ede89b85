"""Command groups whose commands are verbs: `sanac` itself, and one for the verbs that share their first word."""

import click

from sanac.cli.command import command_of, epilog_of
from sanac.core.settings import did_you_mean
from sanac.verbs import GROUPS, VERBS


class VerbGroup(click.Group):
    """A group that makes the command of a verb when it is named, and guesses which command was meant."""

    words: tuple[str, ...] = ()  # that come before the names of its commands: ("judge",) for `sanac judge train`

    @property
    def short_helps(self) -> dict[str, str]:
        """The short help of each command by its name, in the order of the work; no command is made for it."""
        depth, found = len(self.words), dict[str, str]()
        for verb in VERBS.values():
            path = tuple(verb.name.split())
            if path[:depth] == self.words:
                group = " ".join(path[: depth + 1])
                found.setdefault(path[depth], GROUPS.get(group, verb.short_help))
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Names in the order of the work."""
        return [*self.short_helps, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        name = " ".join((*self.words, cmd_name))
        if name in VERBS:
            return command_of(VERBS[name])
        return group_of(name) if name in GROUPS else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without making them."""
        helps = self.short_helps
        rows = [(name, helps.get(name, "")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command or say which one is close."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            near = did_you_mean(args[0], self.list_commands(ctx))
            named = " ".join((*self.words, args[0]))
            raise click.UsageError(f"there is no command {named!r}{near}", ctx)
        return super().resolve_command(ctx, args)


def group_of(name: str) -> VerbGroup:
    """The group of all verbs whose names begin with `name`."""
    inside = [verb for key, verb in VERBS.items() if key.startswith(f"{name} ")]
    examples = [line for verb in inside for line in verb.settings_class().EXAMPLES]
    found = VerbGroup(
        name.rpartition(" ")[2],
        help=GROUPS[name],
        short_help=GROUPS[name],
        epilog=epilog_of(examples),
    )
    found.words = tuple(name.split())
    return found
