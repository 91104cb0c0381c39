"""`raftflow cluster`: a local cluster of processes, and the status of any cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftflow.cli.cluster_commands.doctor import doctor
from raftflow.cli.terminal.exits import FAILED, UNREACHABLE, USAGE, CommandFailure
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import Duration, connect, connection_options, given_flags, output_option
from raftflow.cli.terminal.output import echo, note, plain, print_json, print_table

if TYPE_CHECKING:
    from raftflow.client.overview import ClusterStatus
    from raftflow.local.cluster import LocalCluster

_REPLICA_TITLES = ["REPLICA", "URL", "PID", "ROLE", "CONTACT", "TERM", "APPLIED", "DIGEST", "AT"]
_directory = click.option(
    "--data-dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its directory."
)


@click.group(cls=CommandGroup)
def cluster() -> None:
    """A local cluster of processes, and any cluster's status."""


@cluster.command()
@_directory
@click.option("--nodes", type=int, default=3, show_default=True, help="Coordinator replicas, an odd number.")
@click.option("--agents", type=int, default=2, show_default=True, help="Agents, on this machine as well.")
@click.option("--agent-cpus", type=float, default=4.0, show_default=True, help="CPUs that each agent offers.")
@click.option("--agent-memory", default="8GiB", show_default=True, help="Memory that each agent offers.")
@click.option("--prefetch", type=int, default=16, show_default=True, help="Attempts that may wait at each agent.")
@click.option("--token", "with_token", is_flag=True, help="Make a token; clients and agents must send it.")
@click.option("--lease", type=Duration(), default=3.0, help="An agent silent for so long is lost.  [default: 3s]")
@click.option(
    "--restore",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Continue the cluster of which FILE is a snapshot, under a new id, in an empty directory.",
)
@output_option
def up(  # noqa: PLR0917 - click passes options by name
    directory: Path,
    nodes: int,
    agents: int,
    agent_cpus: float,
    agent_memory: str,
    prefetch: int,
    with_token: bool,
    lease: float,
    restore: Path | None,
    output: str,
) -> None:
    """Start a cluster on this machine and return when it is ready; its processes go on running.

    A directory that holds a cluster already has that one started again, as it was.
    """
    from raftflow.local.cluster import LocalCluster  # noqa: PLC0415 - heavy
    from raftflow.local.cluster_file import ClusterOptions, LocalClusterError  # noqa: PLC0415 - heavy
    from raftflow.recovery.bundle_files import MISSING_BUNDLE  # noqa: PLC0415 - heavy

    try:
        if (directory / "cluster.json").exists() and restore is None:
            local = LocalCluster.load(directory)
            note(f"starting the cluster that {directory} holds, as it was made")
        else:
            options = ClusterOptions(
                nodes=nodes,
                agents=agents,
                agent_cpus=agent_cpus,
                agent_memory=agent_memory,
                prefetch=prefetch,
                lease_ms=round(lease * 1000),
                with_token=with_token,
                restore=restore,
            )
            local = LocalCluster.create(directory, options)
    except LocalClusterError as error:
        raise CommandFailure(str(error), USAGE) from error
    for digest in local.missing_bundles:
        note(MISSING_BUNDLE.format(digest))
    try:
        local.start()
    except BaseException as error:
        local.down()
        if isinstance(error, LocalClusterError):
            raise CommandFailure(str(error), FAILED) from error
        raise
    ended = [name for name in local.replica_names if local.pid_of(name) is None]
    if ended:
        raise CommandFailure(
            f"the cluster runs without {', '.join(ended)}, which stopped: {local.last_words()}", FAILED
        )
    if output == "table":
        echo(f"{len(local.replica_names)} replicas and {len(local.agent_names)} agents are ready")
        echo(f"export RAFTFLOW_PEERS={','.join(local.urls)}")
        echo(f"use it:   . {shlex.quote(str(local.client_file))}")
        echo(f"stop it:  raftflow cluster down --data-dir {shlex.quote(str(directory))}")
        return
    print_json(_local_status(local), indent=output == "json")


@cluster.command()
@_directory
def down(directory: Path) -> None:
    """Stop the processes of a local cluster, and no others. Its data stays; `cluster up` starts it again."""
    local = _load(directory)
    local.down()
    echo(f"stopped the cluster in {directory}")


@cluster.command()
@output_option
@connection_options
def status(output: str) -> None:
    """Show leader, replicas and agents. Exits with 3 if no replica answers or none leads."""
    directory = given_flags().get("local_dir")
    if directory is not None:
        found = _local_status(_load(directory))
    else:
        with connect() as client:
            found = plain(client.cluster_status())
    if output == "table":
        _print_status(found)
    else:
        print_json(found, indent=output == "json")
    if found["leader"] is None:
        raise CommandFailure("the cluster has no leader at the moment", UNREACHABLE)


cluster.add_command(doctor)


def _load(directory: Path) -> LocalCluster:
    from raftflow.local.cluster import LocalCluster  # noqa: PLC0415 - heavy
    from raftflow.local.cluster_file import LocalClusterError  # noqa: PLC0415 - heavy

    try:
        return LocalCluster.load(directory)
    except LocalClusterError as error:
        raise CommandFailure(str(error), USAGE) from error


def _local_status(local: LocalCluster) -> dict[str, Any]:
    """Return a local cluster's status: what the replicas say, with names and pids from its directory."""
    from raftflow.client.errors import Unreachable  # noqa: PLC0415 - heavy

    told: ClusterStatus | None
    try:
        with local.client() as client:
            told = client.cluster_status()
    except Unreachable:
        told = None
    answers = {} if told is None else {replica["url"]: replica for replica in plain(told)["replicas"]}
    states = {} if told is None else {agent.name: agent.state for agent in told.agents}
    nothing = dict.fromkeys(("applied", "digest", "digest_index", "term"))
    silent: dict[str, Any] = {"role": "down", "contact": "no answer", **nothing, "ready": False}

    def replica(name: str) -> dict[str, Any]:
        url = local.url_of(name)
        return {**answers.get(url, silent), "name": name, "url": url, "pid": local.pid_of(name)}

    def agent(name: str) -> dict[str, Any]:
        return {"name": name, "pid": local.pid_of(name), "state": states.pop(name, None)}

    return {
        "leader": None if told is None else told.leader,
        "term": 0 if told is None else told.term,
        "index": 0 if told is None else told.index,
        "replicas": [replica(name) for name in local.replica_names],
        "agents": [
            *[agent(name) for name in local.agent_names],
            *({"name": name, "pid": None, "state": state} for name, state in states.items()),
        ],
    }


def _print_status(found: dict[str, Any]) -> None:
    echo(f"leader {found['leader'] or 'none'}, term {found['term']}, index {found['index']}")
    keys = ("name", "url", "pid", "role", "contact", "term", "applied", "digest", "digest_index")
    rows = [[(r[key] or "")[:16] or None if key == "digest" else r[key] for key in keys] for r in found["replicas"]]
    print_table(_REPLICA_TITLES, rows)
    for address in found.get("unknown_addresses", []):
        echo(f"{address['url']} is named as a peer, and no member has this address: {address['contact']}")
    if found["agents"]:
        echo()
        print_table(["AGENT", "PID", "STATE"], [[a["name"], a["pid"], a["state"]] for a in found["agents"]])
