"""`raftflow`: nouns, then verbs. Each noun's module is imported only when it is used, so that help comes at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from raftflow import __version__
from raftflow.cli.terminal.exits import DONE, report, translate, unknown
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connection_options
from raftflow.cli.terminal.streams import OutputError, abandon, flush, prepare

_COMMANDS = {
    "demo": ("local_commands.demo", "The main job: a workflow whose leader is killed, with a verdict."),
    "cluster": ("cluster_commands.cluster", "A local cluster of processes, and any cluster's status."),
    "config": ("local_commands.provision.config", "The configuration files of a real cluster: init, join."),
    "cert": ("local_commands.provision.cert", "Certificates of a cluster: init, issue, renew, list, revoke."),
    "member": ("cluster_commands.member", "The replicas of a cluster: list, add, remove, transfer."),
    "coordinator": ("local_commands.coordinator", "Run one replica, or restore one from a snapshot."),
    "agent": ("cluster_commands.agent", "Run an agent; list, drain and resume agents."),
    "workflow": ("cluster_commands.workflow", "Submit workflows, watch and control them."),
    "task": ("cluster_commands.task", "Look at tasks, their output, and why they wait."),
    "cache": ("cluster_commands.cache", "Results that equal tasks share: list, clear."),
    "bundle": ("cluster_commands.bundle", "Code that travels with workflows: list, show, send."),
    "effect": ("cluster_commands.effects.effect", "Calls that must not happen twice: list, show, resolve."),
    "signal": ("cluster_commands.waits.signal", "Signals, which tasks wait for: send."),
    "approval": ("cluster_commands.waits.approval", "What tasks ask people: list, show, approve, deny."),
    "limit": ("cluster_commands.spending.limit", "Rates that all tasks share: set, list, remove."),
    "token": ("cluster_commands.identities.token", "Who is let in, and for what: create, list, rotate, revoke."),
    "ledger": ("cluster_commands.ledger", "Who uses which resources, and whether all invariants hold."),
    "events": ("cluster_commands.events.events", "What changes, as it happens, and what has changed."),
    "audit": ("cluster_commands.audit", "What every replica applied, and whether all agree."),
    "snapshot": ("cluster_commands.snapshot", "A backup of a whole cluster in one file: save, inspect, verify."),
    "recover": ("local_commands.recover", "The one replica that is left becomes a snapshot of the cluster."),
    "simulate": ("local_commands.simulate", "Simulated clusters with faults of every kind, checked."),
    "chaos": ("local_commands.chaos", "Real faults on a cluster of processes, and a verdict."),
    "schema": ("local_commands.schema", "JSON Schema of workflow documents, for editors."),
    "bench": ("local_commands.bench", "Measure raftflow on this machine."),
    "completion": ("local_commands.completion", "A script that lets bash, zsh or fish complete commands."),
    "help": (
        "local_commands.help",
        "Explain a command, or connecting, exit-codes, output, document, policies, failures, environment.",
    ),
}
"""Noun -> its module in `raftflow.cli`, and what it is about. The module has the command under the noun's name."""


class LazyCommandGroup(CommandGroup):
    """The group of all nouns. It imports a noun when it is used, and turns failures into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the nouns in the order of the table."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a noun's module and return its command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"raftflow.cli.{_COMMANDS[cmd_name][0]}")
        command = module.help_ if cmd_name == "help" else getattr(module, cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above says so
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of nouns without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])

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


@click.group(cls=LazyCommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
