"""`raftflow completion`: scripts that let a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from raftflow.cli.terminal.output import echo

_VARIABLE = "_RAFTFLOW_COMPLETE"


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that lets SHELL complete `raftflow` commands with the Tab key.

    In bash it is `eval "$(raftflow completion bash)"` in ~/.bashrc, in zsh the same with `zsh` in ~/.zshrc behind
    compinit. fish reads it from ~/.config/fish/completions/raftflow.fish.
    """
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - the choices are click's own
    echo(made(ctx.find_root().command, {}, "raftflow", _VARIABLE).source())
