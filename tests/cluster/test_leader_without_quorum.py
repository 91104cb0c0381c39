"""A leader that lost its quorum says so soon, on real processes."""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from raftflow.client.errors import ClientError
from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

STEPS_DOWN_S = 2.0
SLACK_S = 2.0
"""The machine that runs the tests may be busy."""


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2.0) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        return error.code != 503


def seconds_until(condition: Callable[[], bool], timeout_s: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "did not come true in time"
        time.sleep(0.02)
    return time.monotonic() - started


def test_a_leader_without_a_quorum_steps_down_and_says_so(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    leader = cluster.wait_leader()
    url = cluster.url_of(leader)
    followers = [name for name in cluster.replica_names if name != leader]
    assert ready(url)
    workflow = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}
    try:
        for name in followers:
            assert cluster.signal(name, signal.SIGSTOP)
        silent_s = seconds_until(lambda: not ready(url), 10.0)
        assert silent_s < STEPS_DOWN_S + SLACK_S
        status = cluster.status_of(leader)
        assert status is not None and status.role != "leader" and not status.ready
        with cluster.client(timeout_s=3.0) as client, pytest.raises(ClientError) as refused:
            client.submit(workflow)
        assert "leader" in str(refused.value) or "not known" in str(refused.value)
    finally:
        for name in followers:
            cluster.signal(name, signal.SIGCONT)
    back_s = seconds_until(lambda: cluster.leader() is not None, 15.0)
    assert back_s < 5.0 + SLACK_S
    with cluster.client(timeout_s=15.0) as client:
        assert client.submit(workflow).id
    cluster.wait_ready()
