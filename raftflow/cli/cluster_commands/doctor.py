"""`raftflow cluster doctor`: what is wrong with a cluster, and what to do."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import click

from raftflow.cli.terminal.exits import FAILED, REFUSED, UNREACHABLE, CommandFailure
from raftflow.cli.terminal.options import connection_options, given_flags, output_option, resolve
from raftflow.cli.terminal.output import echo, print_json, show

if TYPE_CHECKING:
    from raftflow.doctor.facts import ClusterFacts
    from raftflow.doctor.findings import CheckResult, Diagnosis


@click.command()
@output_option
@connection_options
def doctor(output: str) -> None:
    """Ask every replica how it and its machine are, and say what is wrong and what to do.

    It looks at replicas, clocks, disks, files, certificates, processes, snapshots and agents, and takes some seconds,
    also if replicas hang. It changes nothing. Exits with 0 if all is well, with 1 if a finding needs a hand, and with
    3 if no replica answers or none leads; the findings are printed even then. `-o json` has every check, also those
    that found nothing.
    """
    from raftflow.doctor.examine import examine  # noqa: PLC0415 - heavy

    gathered = asyncio.run(_gather())
    found = examine(gathered)
    if output == "json":
        print_json(found)
    elif output == "jsonl":
        for finding in found.findings:
            print_json(finding, indent=False)
    else:
        _print(found)
    _end(found, gathered)


async def _gather() -> ClusterFacts:
    from raftflow.client import AsyncClient  # noqa: PLC0415 - heavy
    from raftflow.doctor.gather import gather  # noqa: PLC0415 - heavy

    settings = resolve(given_flags(), os.environ)
    settings.pop("request_timeout", None)  # each question has a time of its own
    async with AsyncClient(environ={}, **settings) as client:
        return await gather(client, _local_names())


def _local_names() -> dict[str, str]:
    """Return the names of a local cluster's replicas by URL; none for another cluster."""
    directory = given_flags().get("local_dir")
    if directory is None:
        return {}
    from raftflow.local.cluster import LocalCluster  # noqa: PLC0415 - heavy

    local = LocalCluster.load(directory)
    return {local.url_of(name).rstrip("/"): name for name in local.replica_names}


def _print(found: Diagnosis) -> None:
    for finding in found.findings:
        if finding.is_ok:
            continue
        echo(f"{finding.severity.upper()} {show(finding.subject)}: {finding.code}: {show(finding.measured)}")
        echo(f"    {show(finding.meaning)}")
        echo(f"    do:  {show(finding.advice)}")
        if finding.page:
            echo(f"    see: raftflow help {finding.page}")
    echo(_summary(found.findings))


def _summary(findings: list[CheckResult]) -> str:
    bad = sum(not finding.is_ok for finding in findings)
    return f"{len(findings)} checks, {f'{bad} of them found something' if bad else 'all is well'}"


def _end(found: Diagnosis, gathered: ClusterFacts) -> None:
    """Exit with the code that the findings ask for."""
    if not found.reached:
        if any(each.refused for each in gathered.replicas):
            raise CommandFailure("the replicas refuse this client", REFUSED)
        raise CommandFailure("no coordinator answers", UNREACHABLE)
    if found.leader is None:
        raise CommandFailure("the cluster has no leader that answers", UNREACHABLE)
    if not found.ok:
        raise CommandFailure("", FAILED)
