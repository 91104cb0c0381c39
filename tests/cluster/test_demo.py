"""The main job passes its own verdict, and the verdict can fail."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from raftflow.demo import census
from raftflow.demo.verdict import Evidence, judge
from raftflow.domain.contract.views import AuditCheck, AuditLine, AuditTransition, LedgerCheck


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_demo_passes() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "raftflow", "demo"], capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "killed the leader" in run.stdout
    assert "killed the agent" in run.stdout
    assert "all of it holds" in run.stdout
    assert "FAILS" not in run.stdout


def test_the_census_document_has_enough_tasks_in_one_graph() -> None:
    document = census.document()
    ids = [task["id"] for task in document["tasks"]]
    assert len(ids) == len(set(ids)) >= 60
    assert all(set(task.get("needs", [])) <= set(ids) for task in document["tasks"])


def test_the_census_of_one_shard_adds_up() -> None:
    plan = census.split()
    assert plan["bounds"][0] == 0
    assert plan["bounds"][-1] == plan["files"]
    assert plan["bounds"] == sorted(plan["bounds"])
    counted = census.count_shard(plan, 0, census.parse_shard(plan, 0))
    twice = census.merge([counted, counted])
    assert twice["totals"]["files"] == 2 * plan["bounds"][1]
    assert (
        counted["totals"]["code"] + counted["totals"]["comments"]
        <= counted["totals"]["lines"] + counted["totals"]["files"]
    )


# --- the judge


def moves(*rows: tuple[str, str, int, str]) -> list[AuditLine]:
    """Build audit lines, one for each (task, event, fence, agent)."""
    lines = []
    for number, (task, event, fence, agent) in enumerate(rows):
        move = AuditTransition("w", task, "", event, "", 1, fence, agent)
        lines.append(
            AuditLine(
                index=number + 1, position=0, term=1, at="2026-01-01T00:00:00.000Z", actor="x", command="c",
                subject="", request_id="", outcome="ok", detail="", transitions=[move], chain="00",
            )
        )  # fmt: skip
    return lines


GOOD = [
    ("t", "started", 1, "a1"),
    ("t", "agent_lost", 1, "a1"),
    ("t", "started", 2, "a2"),
    ("t", "succeeded", 2, "a2"),
]


AUDIT = AuditCheck(ok=True, replica="n1", records=4, first_index=1, last_index=4, chain="ab", gaps=[], problems=[])


def evidence(**changes: object) -> Evidence:
    base = Evidence(
        workflow_id="w", task_ids=["t"], dead_agent="a1", records={"n1": moves(*GOOD)},
        audits={"n1": AUDIT},
        ledgers={"n1": LedgerCheck(ok=True, index=4, problems=[])}, statuses={}, failover_s=0.5, failover_limit_s=5.0,
        census={"files": 1}, census_directly={"files": 1},
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def failing(found: Evidence) -> set[str]:
    # Statuses are left out here: without any, the digests cannot be equal.
    return {check.name for check in judge(found) if not check.ok} - {"live replicas on the same digest"}


def test_the_verdict_passes_a_good_history() -> None:
    assert failing(evidence()) == set()


@pytest.mark.parametrize(
    ("rows", "broken"),
    [
        (GOOD[:3], {"n1: every task succeeded exactly once", "n1: no assignment lost"}),
        ([*GOOD, ("t", "started", 3, "a2"), ("t", "succeeded", 3, "a2")], {"n1: every task succeeded exactly once"}),
        ([*GOOD, ("t", "started", 3, "a2")], {"n1: no assignment lost"}),
        (
            [*GOOD, ("t", "failed_final", 2, "a2")],
            {"n1: no assignment lost", "n1: attempts re-run only for the dead agent"},
        ),
        (
            [("t", "started", 1, "a3"), ("t", "agent_lost", 1, "a3"), *GOOD[2:]],
            {"n1: attempts re-run only for the dead agent"},
        ),
    ],
)
def test_the_verdict_finds_faults_in_a_history(rows: list[tuple[str, str, int, str]], broken: set[str]) -> None:
    assert failing(evidence(records={"n1": moves(*rows)})) == broken


def test_the_verdict_finds_a_slow_failover_a_wrong_census_and_an_unbalanced_ledger() -> None:
    assert failing(evidence(census={"files": 2})) == {"census equals the one computed in one process"}
    assert failing(evidence(failover_s=None)) == {"failover"}
    assert failing(evidence(failover_s=6.0)) == {"failover"}
    unbalanced = LedgerCheck(ok=False, index=4, problems=["cpu of a1"])
    assert failing(evidence(ledgers={"n1": unbalanced})) == {"n1: ledger balanced"}
