"""What `cluster doctor` prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from raftflow.doctor.facts import ClusterFacts
from tests.cli.answers import status
from tests.doctor.healthy import NAMES, agent, cluster, replica, silent
from tests.doctor.healthy import status as status_of

Run = Callable[..., Result]


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> Callable[[ClusterFacts], None]:
    """Return a function that says what the doctor gathers."""

    def gather(found: ClusterFacts) -> None:
        async def answer(_client: Any, _names: Any) -> ClusterFacts:
            return found

        monkeypatch.setattr("raftflow.doctor.gather.gather", answer)

    return gather


def test_a_healthy_cluster(run: Run, gathered: Any) -> None:
    gathered(cluster())
    shown = run("cluster", "doctor")
    assert (shown.exit_code, shown.stdout.splitlines()) == (0, [f"{len(all_findings(run))} checks, all is well"])
    found = json.loads(run("cluster", "doctor", "-o", "json").stdout)
    assert (found["ok"], found["leader"], found["reached"]) == (True, "n1", list(NAMES))
    keys = {"code", "severity", "subject", "measured", "meaning", "advice", "page", "value", "unit"}
    assert {frozenset(each) for each in found["findings"]} == {frozenset(keys)}


def all_findings(run: Run) -> list[Any]:
    return [json.loads(line) for line in run("cluster", "doctor", "-o", "jsonl").stdout.splitlines()]


def test_findings_are_shown_with_advice_and_a_page(run: Run, gathered: Any) -> None:
    gathered(cluster(silent("n3"), agents=[agent(), agent("a\x1b[2J2", "lost")]))
    shown = run("cluster", "doctor")
    assert shown.exit_code == 1
    assert shown.stdout.splitlines()[:4] == [
        "PROBLEM n3: replica: connection refused",
        "    It is down, or the network to it is cut.",
        "    do:  start it: `raftflow coordinator run --config FILE`; its log says why it stopped",
        "    see: raftflow help replica-down",
    ]
    assert shown.stdout.splitlines()[-1].endswith("checks, 3 of them found something")
    assert "\x1b" not in shown.stdout and "a\\x1b[2J2" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("found", "code", "told"),
    [
        (cluster(*(silent(name) for name in NAMES), members=[]), 3, "no coordinator answers"),
        (cluster(silent("n1")), 3, "the cluster has no leader that answers"),
        (
            cluster(
                replica("n1", status=status_of("n1", role="candidate", leader=None, ready=False)),
                silent("n2"),
                silent("n3"),
            ),
            3,
            "the cluster has no leader that answers",
        ),
        (
            cluster(*(silent(name, "refused: 401 x", refused=True) for name in NAMES)),
            4,
            "the replicas refuse this client",
        ),
    ],
    ids=["unreachable", "leader not reached", "no quorum", "refused"],
)
def test_the_exit_code_says_what_kind_of_trouble_it_is(
    run: Run, gathered: Any, found: ClusterFacts, code: int, told: str
) -> None:
    """The findings are printed in every case."""
    gathered(found)
    shown = run("cluster", "doctor")
    assert (shown.exit_code, shown.stderr) == (code, f"raftflow: {told}\n")
    assert "PROBLEM" in shown.stdout
    in_json = run("cluster", "doctor", "-o", "json")
    assert json.loads(in_json.stdout)["ok"] is False
    assert json.loads(in_json.stderr)["error"]["exit_code"] == code


def test_a_replica_that_knows_nothing_of_the_question(run: Run, fake: Any) -> None:
    """A real exchange, with a replica of an older version."""
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "/v1/members"] = {
        "replica": "n1",
        "leader": "n1",
        "term": 3,
        "members": [{"name": "n1", "peer": "h:1", "url": fake.url}],
    }
    fake.routes["GET", "/v1/agents"] = {"agents": []}
    found = json.loads(run("cluster", "doctor", "-o", "json").stdout)
    bad = [(each["subject"], each["code"]) for each in found["findings"] if each["severity"] != "ok"]
    assert bad == [("n1", "host-facts")]


def test_something_that_is_not_a_replica(run: Run) -> None:
    """The fake knows no path: it answers 404 to everything."""
    shown = run("cluster", "doctor")
    assert (shown.exit_code, shown.stderr) == (3, "raftflow: no coordinator answers\n")
    assert "Something else answers at this address" in shown.stdout


def test_without_an_address_it_is_wrong_usage(run: Run) -> None:
    assert run("cluster", "doctor", env={}).exit_code == 2
