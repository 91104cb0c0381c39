"""Command groups: whole help texts, and a near name for one that is not there."""

from __future__ import annotations

import difflib

import click

_WHOLE = 10_000
"""Characters of a command's first sentence in a list of commands: all of them."""


class CommandGroup(click.Group):
    """A group of commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with the whole first sentence of each."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(_WHOLE)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that comes first, or say which one may be meant."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            ctx.fail(f"no command is called {name!r}. {self.hint(ctx, name)}")
        return super().resolve_command(ctx, args)

    def hint(self, ctx: click.Context, name: str) -> str:
        """Return what a wrong name may stand for, or all names."""
        names = self.list_commands(ctx)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        return f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
