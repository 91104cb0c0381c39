"""Versions mixed on real processes: replicas of this feature level and the next, upgraded one by one under load.

There is no version of the next level yet: replicas play it (`LEVEL_VARIABLE`), and in it `agent forget` is new.

Nothing acknowledged is lost, and no step makes a writing client wait for much longer than a failover, which is
measured in the same test: with the start of the process that comes back, as each step of the upgrade has it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from raftflow.client import Refused
from raftflow.coordinator.build import LEVEL_VARIABLE
from raftflow.domain.features import LEVEL, NEXT_LEVEL
from raftflow.local import processes
from raftflow.local.cluster import LocalCluster
from raftflow.local.load import Acknowledged, Reporter, Writer
from tests.cluster.audited import assert_nothing_lost

LOG = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OLDER, NEWER = ({LEVEL_VARIABLE: str(level)} for level in (LEVEL, NEXT_LEVEL))
FAILOVERS = 3
NOISE = 2.0
"""How many times as long as the longest failover a step may take: clients spread their tries at random."""
BUSY_S = 2.0
"""And so much longer: tests beside this one use the same cores. A client that waits for a timeout waits longer."""
LOOKS_S = 2.5
"""Longer than the leader takes between two looks at what the members understand."""


def wait_for_more(acknowledged: Acknowledged, count: int = 10) -> None:
    submissions, reports = len(acknowledged.workflows), len(acknowledged.reports)
    deadline = time.monotonic() + 30.0
    while len(acknowledged.workflows) < submissions + count or len(acknowledged.reports) < reports + count:
        assert time.monotonic() < deadline, "the cluster does not go on"
        time.sleep(0.02)


def levels(cluster: LocalCluster) -> set[tuple[int, int]]:
    return {(s.feature_level, s.feature_level_max) for s in cluster.statuses().values() if s is not None}


def forget(cluster: LocalCluster) -> None:
    """Send the command of the next level."""
    with cluster.client() as client:
        client.forget_agent("nobody")


def failover(cluster: LocalCluster, writer: Writer) -> float:
    """Kill the leader and return how long the writer had to wait, until the old leader is back."""
    with writer.watch() as watch:
        leader = cluster.wait_leader()
        cluster.kill(leader)
        cluster.start_replica(leader, OLDER)
        cluster.wait_ready()
    return watch.longest_s


def test_replicas_are_upgraded_one_by_one_under_load(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(start=False, agents=0, replica_toml="[limits]\nsnapshot_entries = 200\n")
    for name in cluster.replica_names:
        cluster.start_replica(name, OLDER)
    cluster.wait_ready()
    acknowledged = Acknowledged()
    pauses_s: dict[str, float] = {}
    with (
        Reporter(cluster.urls, acknowledged, name="reporter"),
        Writer(lambda: cluster.urls, acknowledged, prefix="upgrade") as writer,
    ):
        wait_for_more(acknowledged)
        failovers_s = [failover(cluster, writer) for _ in range(FAILOVERS)]
        assert levels(cluster) == {(LEVEL, LEVEL)}
        with pytest.raises(Refused, match="needs feature level 2"):
            forget(cluster)
        *first, last = cluster.replica_names
        for name in first:
            with writer.watch() as watch:
                cluster.stop(name)
                cluster.start_replica(name, NEWER)
                cluster.wait_ready()
            pauses_s[f"{name} is upgraded"] = watch.longest_s
            wait_for_more(acknowledged)
            time.sleep(LOOKS_S)
            assert {level for level, _ in levels(cluster)} == {LEVEL}, "raised before all understand it"
        with writer.watch() as watch:
            cluster.stop(last)
            time.sleep(LOOKS_S)
            assert {level for level, _ in levels(cluster)} == {LEVEL}, "raised although a member was away"
            cluster.start_replica(last, NEWER)
            cluster.wait_ready()
        pauses_s[f"{last} is upgraded"] = watch.longest_s
        with writer.watch() as watch:
            cluster._wait(lambda: levels(cluster) == {(NEXT_LEVEL, NEXT_LEVEL)}, 20.0, "the level does not rise")
        pauses_s["the level rises"] = watch.longest_s
        with pytest.raises(Refused, match="there is no agent"):
            forget(cluster)
        wait_for_more(acknowledged)

        # The older version does not come back, and says why; the others go on.
        with writer.watch() as watch:
            cluster.stop(last)
            cluster.log_file(last).unlink()
            cluster.start_replica(last, OLDER)
            process = cluster._replica(last).process
            assert processes.wait_end(process, 30.0), "it runs although it does not understand the cluster's level"
        pauses_s["the older one tries to come back"] = watch.longest_s
        words = cluster.log_file(last).read_text()
        assert processes.exit_code(process) == 2, words
        assert f"understands levels up to {LEVEL}" in words
        wait_for_more(acknowledged)
        cluster.start_replica(last, NEWER)
        cluster.wait_ready()
    LOG.info("failovers %s, pauses %s", failovers_s, pauses_s)
    limit_s = NOISE * max(failovers_s) + BUSY_S
    assert {step: took for step, took in pauses_s.items() if took > limit_s} == {}, failovers_s
    assert_nothing_lost(cluster, acknowledged)
