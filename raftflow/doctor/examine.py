"""All checks of the doctor, one after the other, over what was gathered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from raftflow.doctor.checks.agents import check_agents
from raftflow.doctor.checks.files import check_certificates, check_files, check_snapshots
from raftflow.doctor.checks.machines import check_clocks, check_disks, check_processes
from raftflow.doctor.checks.replicas import (
    check_elections,
    check_histories,
    check_identity,
    check_lag,
    check_links,
    check_replicas,
    check_versions,
)
from raftflow.doctor.checks.tokens import check_tokens
from raftflow.doctor.facts import ClusterFacts
from raftflow.doctor.findings import CheckResult, Diagnosis, worst_first

CHECKS: Final[tuple[Callable[[ClusterFacts], Iterator[CheckResult]], ...]] = (
    check_replicas,
    check_links,
    check_identity,
    check_versions,
    check_lag,
    check_elections,
    check_histories,
    check_clocks,
    check_disks,
    check_processes,
    check_files,
    check_certificates,
    check_tokens,
    check_snapshots,
    check_agents,
)


def examine(gathered: ClusterFacts) -> Diagnosis:
    """Return all findings, the worst first."""
    found = worst_first([finding for check in CHECKS for finding in check(gathered)])
    leader = gathered.leader
    return Diagnosis(
        ok=all(each.is_ok for each in found),
        leader=None if leader is None else leader.name,
        reached=[each.name for each in gathered.replicas if each.answers],
        findings=found,
    )
