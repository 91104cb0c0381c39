"""Thousands of large results go into one task: nothing large goes through the poll, and nobody else waits for it."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any, Self

import pytest

from raftflow.client import Client
from raftflow.local.cluster import LocalCluster

RESULT_CHARS = 65_500
SMALL = {"name": "small", "tasks": [{"id": "t", "command": ["true"]}]}


def fan_in(count: int, *more: dict[str, Any]) -> dict[str, Any]:
    parts = [f"t{number}" for number in range(count)]
    tasks: list[dict[str, Any]] = [
        {"id": part, "python": "operator:mul", "args": ["x", RESULT_CHARS]} for part in parts
    ]
    tasks.append({"id": "join", "needs": parts, "command": ["sh", "-c", "wc -c < $RAFTFLOW_INPUTS"]})
    return {"name": "fan-in", "tasks": [*tasks, *more]}


def size_of_inputs(count: int) -> int:
    """Return the bytes of the file that holds the results of so many parts."""
    return sum(len(f'"t{number}":"",') + RESULT_CHARS for number in range(count)) + 1


def longest_turn_s(cluster: LocalCluster) -> float:
    """Return the longest turn of any replica's loop, in CPU time, since it was started."""
    longest_s = []
    for name in cluster.replica_names:
        with urllib.request.urlopen(f"{cluster.url_of(name)}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        longest_s += [float(line.split()[1]) for line in lines if line.startswith("raftflow_turn_seconds_max ")]
    return max(longest_s)


class Others:
    """Somebody who submits one small workflow after the other, and waits for each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.took_s: list[float] = []
        self.failed: list[Exception] = []

    def _work(self) -> None:
        try:
            while not self._over.is_set():
                began_s = time.monotonic()
                created = self._client.submit(SMALL)
                assert self._client.wait(created.id, timeout_s=60).state == "succeeded"
                self.took_s.append(time.monotonic() - began_s)
                self._over.wait(0.2)
        except Exception as error:  # noqa: BLE001 - told by the test
            self.failed.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(90)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_thousand_large_results_go_into_one_task(online: Callable[..., LocalCluster]) -> None:
    """A program, and a function that is given them all, get them; lists come in pages; cancelling works meanwhile."""
    count = 2_000
    cluster = online(agents=3)
    everything = [{"$result": f"t{number}"} for number in range(count)]
    needs = [f"t{number}" for number in range(count)]
    counted = {"id": "count", "needs": needs, "python": "builtins:len", "args": [everything]}
    stopped = {"id": "stopped", "needs": [*needs, "count"], "command": ["sleep", "600"]}
    with cluster.client() as client, cluster.client() as other, Others(other) as others:
        term = client.status(cluster.url_of(cluster.wait_leader())).term
        created = client.submit(fan_in(count, counted, stopped))
        until_s = time.monotonic() + 100
        while (
            client.task(created.id, "stopped").state != "running"
            or client.task(created.id, "join").state == "running"
        ):
            assert time.monotonic() < until_s
            time.sleep(0.05)
        client.cancel(created.id)
        assert client.wait(created.id, timeout_s=30, check=False).state == "cancelled"
        assert client.task(created.id, "count").result == count
        assert int(client.task_log(created.id, "join").text) == size_of_inputs(count)
        results = [task.result for task in client.tasks(created.id)]
        assert results[:count] == ["x" * RESULT_CHARS] * count
        url = f"{cluster.url_of(cluster.wait_leader())}/v1/workflows/{created.id}/tasks?limit=1000"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert len(answer.read()) < 2 << 20
    assert not others.failed
    took_s = sorted(others.took_s)
    assert took_s[len(took_s) // 2] < 2.0
    assert took_s[-1] < 5.0, "on a machine that does other things too"
    assert longest_turn_s(cluster) < 0.05
    with cluster.client() as client:
        assert client.status(cluster.url_of(cluster.wait_leader())).term == term


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_task_gets_as_many_large_results_as_it_may_need(online: Callable[..., LocalCluster]) -> None:
    count = 10_000
    cluster = online(agents=3)
    with cluster.client() as client, cluster.client() as other, Others(other) as others:
        term = client.status(cluster.url_of(cluster.wait_leader())).term
        created = client.submit(fan_in(count))
        assert client.wait(created.id, timeout_s=300).state == "succeeded"
        assert int(client.task_log(created.id, "join").text) == size_of_inputs(count)
        assert client.status(cluster.url_of(cluster.wait_leader())).term == term
    assert not others.failed
    assert max(others.took_s) < 2.0
    assert longest_turn_s(cluster) < 0.05
