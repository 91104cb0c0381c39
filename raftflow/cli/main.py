"""`raftflow`: nouns, then verbs. Each noun's module is imported only when it is used, so that help comes at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from raftflow import __version__
from raftflow.cli.terminal.exits import DONE, report, translate, unknown
from raftflow.cli.terminal.groups import Nouns
from raftflow.cli.terminal.options import connection_options
from raftflow.cli.terminal.streams import OutputError, abandon, flush, prepare

# noun -> module, attribute, what it is about
_COMMANDS = {
    "demo": (
        "raftflow.cli.tools.programs",
        "demo",
        "The main job: a workflow whose leader is killed, with a verdict.",
    ),
    "cluster": ("raftflow.cli.nouns.cluster", "cluster", "A local cluster of processes, and any cluster's status."),
    "config": ("raftflow.cli.tools.config", "config", "The configuration files of a real cluster: init, join."),
    "member": ("raftflow.cli.nouns.member", "member", "The replicas of a cluster: list, add, remove, transfer."),
    "coordinator": ("raftflow.cli.tools.programs", "coordinator", "Run one replica."),
    "agent": ("raftflow.cli.nouns.agent", "agent", "Run an agent; list, drain and resume agents."),
    "workflow": ("raftflow.cli.nouns.workflow", "workflow", "Submit workflows, watch and steer them."),
    "task": ("raftflow.cli.nouns.task", "task", "Look at tasks, their output, and why they wait."),
    "cache": ("raftflow.cli.nouns.cache", "cache", "Results that equal tasks share: list, clear."),
    "ledger": (
        "raftflow.cli.nouns.ledger_and_audit",
        "ledger",
        "Who uses which resources, and whether all invariants hold.",
    ),
    "audit": ("raftflow.cli.nouns.ledger_and_audit", "audit", "What every replica applied, and whether all agree."),
    "simulate": ("raftflow.cli.tools.simulate", "simulate", "Simulated clusters with faults of every kind, checked."),
    "schema": ("raftflow.cli.tools.schema", "schema", "JSON Schema of workflow documents, for editors."),
    "bench": ("raftflow.cli.tools.programs", "bench", "Measure raftflow on this machine."),
    "completion": (
        "raftflow.cli.tools.completion",
        "completion",
        "A script that lets bash, zsh or fish complete commands.",
    ),
    "help": (
        "raftflow.cli.tools.help",
        "help_",
        "Explain a command, or connecting, exit-codes, output, document, environment.",
    ),
}


class Root(Nouns):
    """The command group with lazy sub-commands; failures become messages and exit codes here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the nouns in the order of the table."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a noun's module and return its command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above says so
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of nouns without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in _COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and exit as it ended, whatever happens to it."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        arguments = sys.argv[1:] if args is None else list(args)
        name = prog_name or "raftflow"
        prepare()
        try:
            self._main_shell_completion(extra, name, complete_var)
            with self.make_context(name, arguments, **extra) as context:
                self.invoke(context)
            flush()
        except BaseException as error:  # noqa: BLE001 - each is told or raised again
            sys.exit(_end(error, arguments))
        sys.exit(DONE)

    def hint(self, ctx: click.Context, name: str) -> str:
        """Return what a wrong name may stand for: a noun, or a verb of one."""
        owners = [noun for noun in _COMMANDS if name in getattr(self.get_command(ctx, noun), "commands", {})]
        return (
            f"Did you mean {' or '.join(f'`{noun} {name}`' for noun in owners)}?"
            if owners
            else super().hint(ctx, name)
        )


def _in_echo(error: BaseException) -> bool:
    """Tell whether click failed to print, which it does for `--help` and `--version`."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_code is click.echo.__code__


def _end(error: BaseException, arguments: Sequence[str]) -> int:
    """Tell how a command line ended and return its exit code. Raises what is a bug in a replica or an agent."""
    if isinstance(error, SystemExit):
        raise error
    try:
        flush()  # what was printed before the end
    except OutputError as closed:
        abandon()
        if isinstance(error, click.exceptions.Exit):
            error = closed
    if isinstance(error, OSError) and error.filename is None and _in_echo(error):
        abandon()
        error = OutputError.of(error)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    failure = translate(error) or unknown(error)
    if failure is None:
        raise error
    return report(failure, arguments)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raftflow")
@connection_options
def root() -> None:
    """Run workflows on a fleet of machines, and survive the loss of any of them.

    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 no cluster or no leader, 4 refused by the coordinator, 5
    the wait timed out, 130 interrupted, 141 output closed; see `raftflow help exit-codes`.
    """


def main() -> None:
    """Run the command line."""
    root(prog_name="raftflow")
