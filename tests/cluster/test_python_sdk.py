"""Functions run on a real cluster: single calls, maps and an executor, also while a leader and an agent die."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster

JOBS = "sdk_jobs"
CALLS = 300


def test_a_call_runs_on_the_cluster_with_the_options_of_its_function(client: raftflow.Client, jobs: Any) -> None:
    assert client.run(jobs.double, 21) == 42
    assert client.run(jobs.wait, 7) == 7
    assert client.run(jobs.plain, x=1) == 2
    assert client.run(jobs.whoami, suffix="!") == "whoami!"
    run = client.start(jobs.Kit.build)
    assert run.result(timeout=30) == "Kit"
    assert run.status() == "succeeded"
    run.cancel()
    assert run.status() == "succeeded"


def test_a_call_that_fails_raises_its_error(client: raftflow.Client, jobs: Any) -> None:
    with pytest.raises(raftflow.TaskFailed, match=r"(?s)fail_on failed \(wf-.*ValueError: 3 is not wanted") as caught:
        client.run(jobs.fail_on, 3)
    assert caught.value.index is None
    with pytest.raises(raftflow.TaskFailed, match="the result has 70002 bytes"):
        client.run(jobs.large, 1)


def test_a_call_that_is_cancelled_ends(client: raftflow.Client, jobs: Any) -> None:
    run = client.start(jobs.nap, 600)
    with pytest.raises(raftflow.WaitTimeout):
        run.result(timeout=0.05)
    run.cancel()
    with pytest.raises(raftflow.WorkflowFailed, match="was cancelled"):
        run.result(timeout=30)
    assert run.status() == "cancelled"


def test_a_map_has_its_results_in_order(client: raftflow.Client, jobs: Any) -> None:
    assert client.map(jobs.double, range(1_200)) == [2 * n for n in range(1_200)]
    assert client.map(jobs.double, []) == []


def test_a_failed_item_of_a_map_is_named(client: raftflow.Client, jobs: Any) -> None:
    with pytest.raises(
        raftflow.TaskFailed, match=r"(?s)fail_on: item 4 failed .*ValueError: 3 is not wanted"
    ) as caught:
        client.map(jobs.fail_on, [0, 1, 2, 5, 3])
    assert caught.value.index == 4
    mixed: list[Any] = client.map(jobs.fail_on, [0, 3, 2, 3], return_exceptions=True)
    assert [mixed[0], mixed[2]] == [0, 2]
    assert [(type(each), each.index) for each in (mixed[1], mixed[3])] == [
        (raftflow.TaskFailed, 1),
        (raftflow.TaskFailed, 3),
    ]


def test_a_map_that_takes_too_long_says_so(client: raftflow.Client, jobs: Any) -> None:
    with pytest.raises(raftflow.WaitTimeout, match=r"the map has not ended within 0\.2 s"):
        client.map(jobs.nap, [2], timeout=0.2)


async def test_the_asynchronous_client_does_the_same(cluster: LocalCluster, jobs: Any) -> None:
    async with raftflow.AsyncClient(cluster.urls, token=cluster.token) as client:
        run = await client.start(jobs.double, 1)
        assert (await run.result(timeout=30), await run.status()) == (2, "succeeded")
        assert await asyncio.gather(client.run(jobs.wait, 3), client.map(jobs.double, range(3))) == [3, [0, 2, 4]]


def test_an_executor_runs_calls(client: raftflow.Client, jobs: Any) -> None:
    with client.executor() as executor:
        futures = [executor.submit(jobs.double, n) for n in range(700)]
        bad = executor.submit(jobs.fail_on, 3)
        assert [future.result(30) for future in futures] == [2 * n for n in range(700)]
        assert isinstance(bad.exception(30), raftflow.TaskFailed)
        with pytest.raises(raftflow.UsageError, match="a lambda has no name"):
            executor.submit(lambda: 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(jobs.double, 1)


def test_a_shutdown_cancels_what_runs_and_what_waits(client: raftflow.Client, jobs: Any) -> None:
    executor = client.executor()
    futures = [executor.submit(jobs.nap, 600) for _ in range(3)]
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    for future in futures:
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()


def test_futures_end_when_their_client_is_closed(cluster: LocalCluster, jobs: Any) -> None:
    with cluster.client() as client:
        executor = client.executor()
        future = executor.submit(jobs.nap, 5)
    assert isinstance(future.exception(10), raftflow.ClientError)
    with pytest.raises(raftflow.UsageError, match="the client is closed"):
        executor.submit(jobs.double, 1)
    executor.shutdown()


@pytest.mark.slow
def test_calls_outlive_their_leader_and_run_once(
    cluster: LocalCluster, client: raftflow.Client, jobs: Any, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"

    def lines() -> list[str]:
        return marks.read_text().split() if marks.exists() else []

    with client.executor() as executor:
        futures = [executor.submit(jobs.mark, n, str(marks)) for n in range(CALLS)]
        next(concurrent.futures.as_completed(futures))
        leader = cluster.wait_leader()
        cluster.kill(leader)
        futures += [executor.submit(jobs.mark, n, str(marks)) for n in range(CALLS, 2 * CALLS)]
        assert [future.result(60) for future in futures] == list(range(2 * CALLS))
    assert sorted(map(int, lines())) == list(range(2 * CALLS)), "each ran once"
    cluster.start_replica(leader)
    cluster.wait_equal()


@pytest.mark.slow
def test_a_map_outlives_its_leader_and_an_agent(
    cluster: LocalCluster, client: raftflow.Client, jobs: Any, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    found: list[list[int]] = []
    items = [(n, str(marks)) for n in range(CALLS)]
    mapping = threading.Thread(target=lambda: found.append(client.map(jobs.mark_pair, items)))
    mapping.start()
    while not marks.exists():
        mapping.join(0.01)
    cluster.kill(cluster.wait_leader())
    cluster.kill(cluster.agent_names[0])
    mapping.join(60)
    assert found == [list(range(CALLS))]
