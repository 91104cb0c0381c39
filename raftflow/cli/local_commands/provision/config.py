"""`raftflow config`: the configuration files of a real cluster."""

from __future__ import annotations

import secrets
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.output import echo

if TYPE_CHECKING:
    from raftflow.provision.files import ClusterPlan


@click.group(cls=CommandGroup)
def config() -> None:
    """Configuration files of a real cluster: init, join."""


@config.command()
@click.option(
    "--hosts", required=True, metavar="HOST,HOST,...", help="One host for each replica; HOST:PORT is allowed."
)
@click.option("--nodes", type=int, help="Number of replicas: 3, 5, 7 or 9. Default: the number of hosts.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("raftflow-cluster"),
    show_default=True,
    help="Where the files are written.",
)
@click.option(
    "--cluster-id", metavar="NAME", help="The same on all replicas; it never changes. Default: a random one."
)
@click.option(
    "--data-dir",
    "data_dir",
    default="/var/lib/raftflow",
    show_default=True,
    metavar="DIR",
    help="Where the replica and the agent of each machine keep their data.",
)
@click.option(
    "--tls",
    "certificates",
    is_flag=True,
    help="Also make an authority, in DIR-ca, and certificates for the replicas.",
)
@click.option("--force", is_flag=True, help="Write over configuration files that exist. Secret and token stay.")
def init(  # noqa: PLR0917 - click passes options by name
    hosts: str,
    nodes: int | None,
    directory: Path,
    cluster_id: str | None,
    data_dir: str,
    certificates: bool,
    force: bool,
) -> None:
    """Write the files of a cluster, with a new secret and a new token, and print the next steps.

    One file for each replica (n1.toml, ...), agent.toml for agents, client.env for clients. The directory and all
    files are private (modes 0700 and 0600).

    \b
    raftflow config init --nodes 3 --hosts 10.0.0.1,10.0.0.2,10.0.0.3 --dir my-cluster
    """  # noqa: D301 - click's mark has to be one character
    from raftflow.domain.values.ids import name_problem  # noqa: PLC0415 - heavy
    from raftflow.provision.files import ClusterPlan, write  # noqa: PLC0415 - heavy
    from raftflow.provision.hosts import parse_hosts, shared_machines  # noqa: PLC0415 - heavy

    cluster_id = cluster_id if cluster_id is not None else f"cluster-{secrets.token_hex(4)}"
    if wrong := name_problem(cluster_id):
        raise click.BadParameter(f"{cluster_id!r} {wrong}", param_hint="--cluster-id")
    if not Path(data_dir).is_absolute() or not data_dir.isprintable() or set(data_dir) & set('"\\'):
        raise click.BadParameter(
            f"{data_dir!r} is not an absolute path, such as /var/lib/raftflow, without quotes",
            param_hint="--data-dir",
        )
    if not data_dir.isascii():
        raise click.BadParameter(f"{data_dir!r} has characters beyond ASCII", param_hint="--data-dir")
    plan = ClusterPlan(
        cluster_id=cluster_id,
        hosts=parse_hosts(hosts, nodes),
        data_dir=data_dir.rstrip("/") or "/",
        certificates=certificates,
    )
    written = write(plan, directory, force=force)
    echo(f"wrote {directory}: {' '.join(written)}")
    if shared := shared_machines(plan.hosts):
        echo(f"note: {', '.join(shared)} has more than one replica; the loss of that machine loses all of them")
    _print_next_steps(plan, directory)


@config.command()
@click.argument("name")
@click.option("--host", required=True, metavar="HOST", help="The new machine; HOST:PORT is allowed.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("raftflow-cluster"),
    show_default=True,
    help="Where the files of the cluster are.",
)
def join(name: str, host: str, directory: Path) -> None:
    """Write the file of a new replica NAME for a cluster that runs, and print the next steps.

    It lists the members that the first file of the directory lists, and itself.
    """
    from raftflow.provision.files import write_joining  # noqa: PLC0415 - heavy
    from raftflow.provision.hosts import parse_host  # noqa: PLC0415 - heavy

    place = parse_host(host)
    written = write_joining(directory, name, place)
    click.echo(f"wrote {directory / written}")
    click.echo("\nNext steps:")
    click.echo(f"1. Compare [timing] and [limits] with the other files. Copy the directory to {place.host}.")
    click.echo(f"2. Start it there, on an empty disk: raftflow coordinator run --config {directory.name}/{written}")
    click.echo(f"3. Add it: raftflow member add {name} --peer {place.peer} --url http://{place.api}")


def _print_next_steps(plan: ClusterPlan, directory: Path) -> None:
    from raftflow.provision.files import authority_folder  # noqa: PLC0415 - heavy

    folder = shlex.quote(str(directory))
    machines = list(dict.fromkeys(host.host for host in plan.hosts))
    echo("\nNext steps:")
    echo("1. Copy the directory to every machine; keep the modes. It contains the cluster's secret and token.")
    for machine in machines:
        target = f"[{machine}]" if ":" in machine else machine
        echo(f"     scp -pr {folder} {target}:")
    if plan.certificates:
        names = [f"{name}.key" for name in plan.names]
        echo(f"   Then remove the keys of the other replicas there: each needs its own of {' '.join(names)}.")
        echo(f"   {authority_folder(directory)} stays here: with its key one can be anybody in the cluster.")
    echo(f"2. Make {plan.data_dir} on every machine, for the user that runs raftflow.")
    echo("3. Start each replica. The cluster begins when all of them run.")
    for name, host in zip(plan.names, plan.hosts, strict=True):
        echo(f"     on {host.host}: raftflow coordinator run --config {directory.name}/{name}.toml")
    echo("4. Start an agent on every machine that runs tasks.")
    trust = f"RAFTFLOW_CACERT={directory.name}/ca.pem " if plan.certificates else ""
    run = f"raftflow agent run --config {directory.name}/agent.toml"
    echo(f"     {trust}RAFTFLOW_TOKEN=$(cat {directory.name}/token) {run}")
    echo("5. Use the cluster.")
    echo(f"     . {folder if '/' in folder else './' + folder}/client.env && raftflow cluster status")
