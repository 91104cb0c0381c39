"""The examples in which people decide end with the right answer while a leader and an agent are killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import raftflow
from raftflow.domain.contract.views import ApprovalView
from raftflow.examples import cloud_operations, customer_service, research_agent
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

pytestmark = pytest.mark.slow

ZONES = ["a", "b"]
OPTIONS = ClusterOptions(
    agents=4,
    lease_ms=2_000,
    agent_labels=({"zone": "a"}, {"zone": "a"}, {"zone": "b"}, {"zone": "b"}),
)
T = TypeVar("T")


def until(found: Callable[[], T], timeout_s: float = 60) -> T:
    """Return what is found as soon as it is something."""
    deadline = time.monotonic() + timeout_s
    while not (what := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return what


class Losses:
    """Kills the leader and an agent, and brings them back at the end."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._leader = self._agent = ""

    def kill_leader(self) -> None:
        self._leader = self._cluster.wait_leader()
        self._cluster.kill(self._leader)

    def kill_agent(self, name: str) -> None:
        """Kill an agent, another one in each test: one that is lost again and again goes into quarantine."""
        self._agent = name
        self._cluster.kill(name)

    def bring_back(self) -> None:
        self._cluster.start_replica(self._leader)
        self._cluster.start_agent(self._agent)
        self._cluster.wait_equal()
        self._cluster.wait_agents()


@pytest.fixture
def losses(cluster: LocalCluster) -> Losses:
    return Losses(cluster)


def asked(client: raftflow.Client, workflow: str) -> ApprovalView:
    """Wait until a workflow asks people, and return what it asks."""
    return until(lambda: [each for each in client.approvals() if each.workflow == workflow])[0]


def test_customer_service_answers_every_request_once(client: raftflow.Client, losses: Losses, tmp_path: Path) -> None:
    requests, outbox = customer_service.make_requests(14, 2), tmp_path / "outbox"
    runs = customer_service.serve(client, requests, str(outbox))
    open_ones = until(client.approvals)
    losses.kill_agent("a1")
    number = int(open_ones[0].title.split()[-1])
    decided = client.decide(open_ones[0].id, "deny", comment="We call you.")
    assert decided.choice == "deny"
    losses.kill_leader()
    with pytest.raises(raftflow.Refused, match="deny"):  # of two people the second one is told
        client.decide(open_ones[0].id, "approve")
    answers: list[dict[str, Any]] = []
    for run in runs:
        client.wait(run.id, timeout_s=90)
        answers.append(run.results()["answer"])
    assert [(each["number"], each["sort"]) for each in answers] == customer_service.expected(requests)
    assert (answers[number]["by"], answers[number]["text"]) == ("person", "We call you.")
    assert {each["by"] for each in answers} == {"rule", "person", "deadline"}
    sent = sorted((json.loads(line) for line in outbox.read_text().splitlines()), key=lambda each: each["number"])
    assert sent == [{"number": each["number"], "text": each["text"]} for each in answers]
    losses.bring_back()


def test_a_roll_out_is_approved_and_reaches_all_zones(
    client: raftflow.Client, losses: Losses, tmp_path: Path
) -> None:
    run = client.start(cloud_operations.main, str(tmp_path), "2.0", ZONES)
    approval = asked(client, run.id)
    assert approval.details == {"tried in": "a", "next": ["b"]}
    assert cloud_operations.look(str(tmp_path), ZONES) == {"a": "2.0", "b": "1.0"}
    losses.kill_leader()
    losses.kill_agent("a3")
    client.decide(approval.id, "approve")
    assert run.result(timeout=90) == {"state": "rolled out", "zones": ZONES, "problems": []}
    assert cloud_operations.look(str(tmp_path), ZONES) == {"a": "2.0", "b": "2.0"}
    assert (tmp_path / "announcements.txt").read_text() == "2.0: rolled out\n"
    assert {
        task.id: task.agent for task in client.tasks(run.id) if task.id.startswith("main:") and task.agent
    }.keys() == {"main:install-a", "main:check-a", "main:install-b", "main:check-b"}
    losses.bring_back()


def test_a_roll_out_goes_back_from_a_zone_that_is_not_healthy_and_when_nobody_approves(
    client: raftflow.Client, tmp_path: Path
) -> None:
    run = client.start(cloud_operations.main, str(tmp_path), "3.0-not-in-b", ZONES)
    client.decide(asked(client, run.id).id, "approve")
    found = run.result(timeout=60)
    assert (found["state"], found["zones"], len(found["problems"])) == (
        "rolled back",
        ZONES,
        cloud_operations.SERVERS,
    )
    assert cloud_operations.look(str(tmp_path), ZONES) == {"a": "1.0", "b": "1.0"}
    run = client.start(cloud_operations.main, str(tmp_path), "4.0", ZONES, "200ms")
    assert run.result(timeout=60) == {
        "state": "rolled back",
        "zones": ["a"],
        "problems": ["nobody approved it within 200ms"],
    }
    assert cloud_operations.look(str(tmp_path), ZONES) == {"a": "1.0", "b": "1.0"}


def test_a_research_agent_reports_and_publishes_once(client: raftflow.Client, losses: Losses, tmp_path: Path) -> None:
    run = client.start(research_agent.main, "How does the leader of raft use the log?", str(tmp_path))
    until(lambda: client.workflow(run.id).tasks.total > 1)
    losses.kill_leader()
    losses.kill_agent("a2")
    approval = asked(client, run.id)
    assert len(approval.details.splitlines()) == 3
    client.decide(approval.id, "approve", payload="As edited by a person.")
    found = run.result(timeout=90)
    assert found == {"sources": ["leader", "raft", "log"], "report": "As edited by a person.", "published": True}
    published = list(tmp_path.iterdir())
    assert [file.read_text() for file in published] == ["As edited by a person."]
    # The stand-in computes: the same calls cost the same, whatever died on the way.
    (tokens,) = [line for line in client.budget(run.id).budgets if line.name == "tokens"]
    assert tokens.used == 159
    losses.bring_back()
