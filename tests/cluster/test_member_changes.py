"""Members that change under load, as real processes: nothing acknowledged is lost, nobody waits for long.

How long is long is measured in the same test on the same machine: a failover, that is, the leader killed. No change
may make a writing client wait for longer than that, but for noise.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from raftflow.client.errors import Refused
from raftflow.local import processes
from raftflow.local.cluster import LocalCluster
from raftflow.local.load import Acknowledged, Writer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOG = logging.getLogger(__name__)
FAILOVERS = 3
FOLLOWS_S = 10.0
NOISE = 2.0
"""How many times as long as the longest failover a change may take: clients spread their tries at random."""
BUSY_S = 2.0
"""And so much longer: tests beside this one use the same cores. A client that waits for a timeout waits longer."""


class Trial:
    """A cluster under load, the failover that was measured on it, and what each change cost."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.acknowledged = Acknowledged()
        self.writer = Writer(lambda: cluster.urls, self.acknowledged, prefix="load")
        self.failover_s: list[float] = []
        self.pauses_s: dict[str, float] = {}

    def measure_failovers(self) -> None:
        """Kill the leader and start it again, several times; changes start processes as well."""
        for _ in range(FAILOVERS):
            with self.writer.watch() as watch:
                leader = self.cluster.wait_leader()
                self.cluster.kill(leader)
                self.cluster.start_replica(leader)
                self.cluster.wait_ready()
            self.failover_s.append(watch.longest_s)

    @contextmanager
    def change(self, name: str) -> Iterator[None]:
        """Measure what the block costs a writer."""
        with self.writer.watch() as watch:
            yield
        self.pauses_s[name] = watch.longest_s

    def check(self, names: set[str]) -> None:
        """Every replica shows these members, one state, everything acknowledged, and no pause was too long."""
        cluster = self.cluster
        cluster.wait_ready()
        statuses = cluster.wait_equal()
        assert set(statuses) == names
        assert len({status.digest for status in statuses.values()}) == 1
        with cluster.client() as client:
            listed = client.members()
            assert {member.name for member in listed.members if member.voting} == names
            for name in names:
                assert client.ledger_verify(cluster.url_of(name)).problems == []
                assert client.audit_verify(cluster.url_of(name)).problems == []
            # Not the audits: one that begins with a snapshot lacks what was before.
            assert set(self.acknowledged.workflows) <= {view.id for view in client.workflows()}
        LOG.info("failovers %s, pauses %s", self.failover_s, self.pauses_s)
        bound_s = NOISE * max(self.failover_s) + BUSY_S
        assert {name: took for name, took in self.pauses_s.items() if took > bound_s} == {}, self.failover_s


@pytest.fixture
def make_trial(make_cluster: Callable[..., LocalCluster]) -> Iterator[Callable[[], Trial]]:
    """Return a function that starts three replicas under load, with a failover measured."""
    trials: list[Trial] = []

    def make() -> Trial:
        cluster = make_cluster(nodes=3, agents=0, replica_toml="[limits]\nsnapshot_entries = 200\n")
        trial = Trial(cluster)
        trials.append(trial)
        trial.writer.__enter__()
        trial.measure_failovers()
        return trial

    yield make
    for trial in trials:
        trial.writer.stop()


def follower(cluster: LocalCluster) -> str:
    leader = cluster.wait_leader()
    return next(name for name in cluster.replica_names if name != leader)


def ended_as_removed(cluster: LocalCluster, process: processes.ProcessRecord, name: str) -> None:
    """A removed replica ends by itself, with exit code 0, and says why without the air of an accident."""
    words = cluster.log_file(name).read_text()
    assert processes.exit_code(process) == 0, words
    assert "removed from the cluster" in words
    assert "Traceback" not in words and "CRITICAL" not in words


def test_a_dead_replica_is_replaced_under_load(make_trial: Callable[[], Trial]) -> None:
    trial = make_trial()
    cluster = trial.cluster
    dead = follower(cluster)
    with trial.change("a follower dies"):
        cluster.kill(dead)
    with trial.change("a new one joins"):
        heir = cluster.add_replica()
    with trial.change("the dead one is removed"):
        cluster.remove_replica(dead)
    trial.writer.stop()
    trial.check({name for name in ("n1", "n2", "n3") if name != dead} | {heir})
    # The list outlives the files, which still name the dead one, and the processes.
    for name in cluster.replica_names:
        cluster.stop(name)
    for name in cluster.replica_names:
        cluster.start_replica(name)
    trial.check(set(cluster.replica_names))


def test_a_dead_leader_is_replaced_under_load(make_trial: Callable[[], Trial]) -> None:
    trial = make_trial()
    cluster = trial.cluster
    with trial.writer.watch() as watch:  # one more failover
        dead = cluster.wait_leader()
        cluster.kill(dead)
    trial.failover_s.append(watch.longest_s)
    with trial.change("a new one joins"):
        heir = cluster.add_replica()
    with trial.change("the dead one is removed"):
        cluster.remove_replica(dead)
    trial.writer.stop()
    trial.check({name for name in ("n1", "n2", "n3") if name != dead} | {heir})


def test_three_become_five_and_three_again_under_load(make_trial: Callable[[], Trial]) -> None:
    trial = make_trial()
    cluster = trial.cluster
    added = []
    for number in ("fourth", "fifth"):
        with trial.change(f"a {number} joins"):
            added.append(cluster.add_replica())
    assert added == ["n4", "n5"]
    first = follower(cluster)
    process = cluster._replica(first).process
    assert process is not None
    with trial.change("a follower is removed"):
        cluster.remove_replica(first)
    ended_as_removed(cluster, process, first)
    # The leader itself: it hands over, and the next one carries it out.
    leader = cluster.wait_leader()
    process = cluster._replica(leader).process
    assert process is not None
    with trial.change("the leader is removed"):
        cluster.remove_replica(leader)
    ended_as_removed(cluster, process, leader)
    trial.writer.stop()
    names = {"n1", "n2", "n3", "n4", "n5"} - {first, leader}
    trial.check(names)
    with cluster.client() as client:
        assert client.members().removed == sorted([first, leader])
        with pytest.raises(Refused, match="would be left"):
            client.remove_member(min(names))
        with pytest.raises(Refused, match="never used again"):
            client.add_member(first, "127.0.0.1:1", "http://127.0.0.1:1")


def test_agents_and_clients_follow_when_all_replicas_are_replaced(make_cluster: Callable[..., LocalCluster]) -> None:
    """Started with the first three URLs, an agent and a client go on when none of these replicas is left."""
    cluster = make_cluster(nodes=3, agents=1)
    first = list(cluster.replica_names)
    agent = cluster.pid_of(cluster.agent_names[0])
    with cluster.client() as client:
        for name in first:
            cluster.add_replica()
            cluster.remove_replica(name)
            created = client.submit({"name": "w", "tasks": [{"id": "t", "command": ["true"]}]})
            assert client.wait(created.id, timeout_s=60).state == "succeeded"
        deadline = time.monotonic() + FOLLOWS_S
        while set(client.peers) != set(cluster.urls):  # the replica that answers may lag behind
            assert time.monotonic() < deadline, (client.peers, cluster.urls)
            time.sleep(0.05)
            client.members()
        assert not set(first) & set(cluster.replica_names)
    assert cluster.pid_of(cluster.agent_names[0]) == agent


def test_leadership_is_handed_over_before_a_planned_stop(make_trial: Callable[[], Trial]) -> None:
    trial = make_trial()
    cluster = trial.cluster
    for number in range(2):
        old, target = cluster.wait_leader(), follower(cluster)
        with trial.change(f"transfer {number}"), cluster.client() as client:
            client.transfer_leadership(target)
        assert cluster.wait_leader() == target != old
        with trial.change(f"the old leader stops {number}"):
            cluster.stop(old)
        cluster.start_replica(old)
        cluster.wait_ready()
        # The same in one step: a leader that is asked to stop hands over by itself.
        old = cluster.wait_leader()
        with trial.change(f"a leader is asked to stop {number}"):
            assert cluster.signal(old, signal.SIGTERM)
            cluster.stop(old)
        assert "leadership was handed over" in cluster.log_file(old).read_text()
        cluster.start_replica(old)
        cluster.wait_ready()
    trial.writer.stop()
    trial.check({"n1", "n2", "n3"})
