"""The verdict of the demo: what must hold after two kills, judged from the own audit of the replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from raftflow.domain.contract.views import AuditCheck, AuditLine, LedgerCheck, ReplicaStatus
from raftflow.local.accounts import account_of


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the verdict."""

    name: str
    ok: bool
    detail: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge looks at."""

    workflow_id: str
    task_ids: Sequence[str]
    dead_agent: str | None
    """Name of the agent that was killed, None if none was."""
    records: Mapping[str, Sequence[AuditLine]]
    """Audit of each live replica."""
    audits: Mapping[str, AuditCheck]
    ledgers: Mapping[str, LedgerCheck]
    statuses: Mapping[str, ReplicaStatus]
    failover_s: float | None
    """From the kill of the leader to the next acknowledged assignment."""
    failover_limit_s: float
    census: Any
    census_directly: Any


def judge(evidence: Evidence) -> list[Check]:
    """Return every line of the verdict; the demo has passed if all of them are `ok`."""
    checks: list[Check] = []
    for replica, records in sorted(evidence.records.items()):
        checks += _judge_replica(evidence, replica, records)
    for replica, check in sorted(evidence.audits.items()):
        detail = f"{check.records} records, chain {check.chain[:12]}" if check.ok else "; ".join(check.problems)
        checks.append(Check(name=f"{replica}: audit chain holds", ok=check.ok, detail=detail))
    for replica, ledger in sorted(evidence.ledgers.items()):
        detail = f"at index {ledger.index}" if ledger.ok else "; ".join(ledger.problems)
        checks.append(Check(name=f"{replica}: ledger balanced", ok=ledger.ok, detail=detail))
    digests = {(status.digest_index, status.digest) for status in evidence.statuses.values()}
    shown = ", ".join(f"{digest[:12]} at {index}" for index, digest in sorted(digests))
    checks.append(Check(name="live replicas on the same digest", ok=len(digests) == 1, detail=shown))
    checks.append(_judge_failover(evidence))
    same = evidence.census == evidence.census_directly
    files = evidence.census.get("files") if isinstance(evidence.census, dict) else None
    lines = evidence.census.get("lines") if isinstance(evidence.census, dict) else None
    detail = (
        f"{files} files, {lines} lines" if same else f"cluster {evidence.census}, direct {evidence.census_directly}"
    )
    checks.append(Check(name="census equals the one computed in one process", ok=same, detail=detail))
    return checks


def _judge_replica(evidence: Evidence, replica: str, records: Sequence[AuditLine]) -> list[Check]:
    account = account_of(records, evidence.workflow_id)
    expected = set(evidence.task_ids)
    once = {task for task, count in account.succeeded.items() if count == 1}
    done = expected == once and not account.doubly_completed
    missing = sorted(expected - once)
    whole = not account.lost and not account.ended_twice
    reruns = account.rerun_agents()
    strangers = sorted(agent for agent in reruns if agent != evidence.dead_agent)
    failures = account.failures()
    again = sum(reruns.values())
    overtaken = account.overtaken_agents()[evidence.dead_agent or ""]
    return [
        Check(
            name=f"{replica}: every task succeeded exactly once",
            ok=done,
            detail=f"{len(once)} of {len(expected)} tasks"
            if done
            else f"not once: {missing + account.doubly_completed}",
        ),
        Check(
            name=f"{replica}: no assignment lost",
            ok=whole,
            detail=f"{len(account.assigned)} assigned, {len(account.ended)} ended"
            + ("" if whole else f", never ended {account.lost}, ended twice {account.ended_twice}"),
        ),
        Check(
            name=f"{replica}: attempts re-run only for the dead agent",
            ok=not strangers and not failures and (evidence.dead_agent is None or again + overtaken > 0),
            detail=f"{again} taken back from {evidence.dead_agent or 'nobody'}"
            + (f", {overtaken} overtaken by backups" if overtaken else "")
            + (f", also from {strangers}" if strangers else "")
            + (f", failed: {failures}" if failures else ""),
        ),
    ]


def _judge_failover(evidence: Evidence) -> Check:
    took = evidence.failover_s
    if took is None:
        return Check(name="failover", ok=False, detail="no assignment after the leader was killed")
    return Check(
        name="failover",
        ok=took <= evidence.failover_limit_s,
        detail=f"{took:.2f} s from the kill to the next assignment (limit {evidence.failover_limit_s:g} s)",
    )
