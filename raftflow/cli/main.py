"""`raftflow`: nouns, then verbs. Each noun's module is imported only when it is used, so that help comes at once."""

from __future__ import annotations

import importlib
from typing import Any

import click

from raftflow import __version__
from raftflow.cli.exits import INTERRUPTED, Failure, translate
from raftflow.cli.options import connection_options

# noun -> module, attribute, what it is about
_COMMANDS = {
    "demo": ("raftflow.cli.programs", "demo", "The main job: a workflow whose leader is killed, with a verdict."),
    "cluster": ("raftflow.cli.cluster", "cluster", "A local cluster of processes, and any cluster's status."),
    "config": ("raftflow.cli.config", "config", "The configuration files of a real cluster: init."),
    "member": ("raftflow.cli.member", "member", "The replicas of a cluster: list, add, remove, transfer."),
    "coordinator": ("raftflow.cli.programs", "coordinator", "Run one replica."),
    "agent": ("raftflow.cli.agent", "agent", "Run an agent; list, drain and resume agents."),
    "workflow": ("raftflow.cli.workflow", "workflow", "Submit workflows, watch and steer them."),
    "task": ("raftflow.cli.task", "task", "Look at tasks, their output, and why they wait."),
    "cache": ("raftflow.cli.cache", "cache", "Results that equal tasks share: list, clear."),
    "ledger": ("raftflow.cli.books", "ledger", "Who has which resources, and whether the books balance."),
    "audit": ("raftflow.cli.books", "audit", "What every replica applied, and whether all agree."),
    "simulate": ("raftflow.cli.simulate", "simulate", "Simulated clusters with faults of every kind, checked."),
    "schema": ("raftflow.cli.schema", "schema", "JSON Schema of workflow documents, for editors."),
    "bench": ("raftflow.cli.programs", "bench", "Measure raftflow on this machine."),
}


class Root(click.Group):
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

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Known failures end with their exit code, an interrupt with 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Failure("interrupted", INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            failure = translate(error)
            if failure is None:
                raise
            raise failure from error


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raftflow")
@connection_options
def root() -> None:
    """Run workflows on a fleet of machines, and survive the loss of any of them.

    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 no cluster or no leader, 4 refused by the coordinator.
    """


def main() -> None:
    """Run the command line."""
    root(prog_name="raftflow")
