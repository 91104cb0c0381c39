"""`raftflow agent`: run one; list, show, drain, resume and forget them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import (
    Duration,
    config_option,
    connection_options,
    given_flags,
    local_settings,
    log_option,
    name_values,
)

if TYPE_CHECKING:
    pass


@click.group(cls=CommandGroup)
def agent() -> None:
    """Run an agent; list, drain, resume and forget agents."""


add_verbs(agent)


@agent.command()
@config_option("The agent's TOML file.")
@click.option("--name", help="Unique in the cluster; the host's name by default.")
@click.option("--cpus", type=float, help="CPUs to offer; all of the machine by default.")
@click.option("--memory", help="Memory to offer, such as 8GiB; 80 % of the machine by default.")
@click.option(
    "--resource", "resources", multiple=True, metavar="NAME=N", callback=name_values, help="A custom resource."
)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", callback=name_values, help="For constraints.")
@click.option("--prefetch", type=int, help="Attempts that may wait here for a free place.")
@click.option("--work-dir", type=click.Path(path_type=Path), help="For the attempts' output; this agent's alone.")
@click.option(
    "--output-bytes-max",
    type=int,
    metavar="BYTES",
    help="Kept of each standard stream of an attempt, half from its beginning, half from its end (default 1 MiB).",
)
@click.option("--keep-age-max", "keep_age_max_s", type=Duration(), help="How long output is kept (default 7d).")
@click.option("--keep-bytes-max", type=int, metavar="BYTES", help="Output that is kept in all (default 1 GiB).")
@click.option("--keep-attempts-max", type=int, metavar="N", help="Attempts whose output is kept (default 10000).")
@click.option(
    "--log-store",
    metavar="PLACE",
    help="Keep output here as well when an attempt has ended: a path, file:///path, or s3://bucket/prefix.",
)
@click.option(
    "--python-path",
    multiple=True,
    metavar="FOLDER",
    help="Where modules of python tasks are looked for; may be repeated. Default: the folder in which the agent is "
    "started.  [env: RAFTFLOW_PYTHON_PATH, folders joined by colons]",
)
@click.option("--own-folder", is_flag=True, default=None, help="Tasks without cwd begin in a folder of their own.")
@click.option("--run-as", metavar="USER", help="As whom an agent of root works and runs its tasks.")
@click.option(
    "--allow-command",
    "allow_commands",
    multiple=True,
    metavar="PATTERN",
    help="Programs that tasks may start, by name or absolute path; may be repeated. Default: every program.",
)
@click.option(
    "--allow-callable",
    "allow_callables",
    multiple=True,
    metavar="PATTERN",
    help="Functions that tasks may call, such as jobs:*; may be repeated. Default: every function.",
)
@click.option(
    "--allow-image",
    "allow_images",
    multiple=True,
    metavar="PATTERN",
    help="Images of containers that tasks may run; may be repeated. Default: every image.",
)
@click.option(
    "--pass-env",
    multiple=True,
    metavar="NAME",
    help="A variable of this environment that tasks inherit; may be repeated. AWS_* means all that begin with AWS_.",
)
@log_option
@connection_options
def run(  # noqa: PLR0917 - click passes options by name
    config_file: Path | None,
    cpus: float | None,
    memory: str | None,
    resources: dict[str, str] | None,
    work_dir: Path | None,
    log_level: str,
    **flags: Any,
) -> None:
    """Run an agent until SIGTERM; it then lets its attempts end and says goodbye.

    It takes its settings from flags, else the environment, else the [agent] table of the file.
    """
    from raftflow.agent.config import load_config  # noqa: PLC0415 - heavy
    from raftflow.agent.main import run as run_agent  # noqa: PLC0415 - heavy
    from raftflow.log_output import start_logging  # noqa: PLC0415 - as above

    connection = given_flags()
    peers = connection.get("peers")
    if connection.get("local_dir") is not None:
        local = local_settings(connection["local_dir"])
        peers = ",".join(local["peers"])
        connection.setdefault("token", local["token"])
    offered: dict[str, float | str] = {**(resources or {})}
    if cpus is not None:
        offered["cpu"] = cpus
    if memory is not None:
        offered["memory"] = memory
    start_logging(log_level)  # first: what overrides what is logged
    config = load_config(
        config_file,
        os.environ,
        {
            **{key: (list(value) or None) if isinstance(value, tuple) else value for key, value in flags.items()},
            **{key: connection.get(key) for key in ("token", "token_file", "cacert", "client_cert", "client_key")},
            "peers": peers,
            "resources": offered or None,
            "work_dir": None if work_dir is None else str(work_dir),
        },
    )
    click.get_current_context().exit(run_agent(config))
