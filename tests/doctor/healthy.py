"""What the doctor gathers of a healthy cluster, to be changed in one place by a test."""

from __future__ import annotations

from typing import Any

import msgspec

from raftflow.doctor.facts import ClockSample, ClusterFacts, ReplicaFacts
from raftflow.domain.contract.cluster import DiskFacts, FileMode, HostView, LoopLag, SyncTimes, TermCount
from raftflow.domain.contract.views import AgentView, MemberView, PeerView, ReplicaStatus

NOW_MS = 1_790_000_000_000
NAMES = ("n1", "n2", "n3")
GIB = 1024**3


def host(name: str = "n1", **changed: Any) -> HostView:
    facts: dict[str, Any] = {
        "name": name,
        "version": "0.1.0",
        "time_ms": NOW_MS,
        "running_ms": 5_000_000,
        "cluster_time_ms": NOW_MS,
        "lease_ms": 10_000,
        "election_min_ms": 300,
        "heartbeat_ms": 49,
        "cpu_count": 2,
        "load_1m": 0.1,
        "resident_bytes": 100_000_000,
        "open_fds": 30,
        "max_fds": 20_000,
        "loop": LoopLag(window_s=60, max_ms=3),
        "syncs": SyncTimes(window_s=300, count=200, mean_ms=1.0, p99_ms=5),
        "terms": TermCount(window_s=3_600, terms=1),
        "disk": DiskFacts(
            path=f"/data/{name}", free_bytes=50 * GIB, size_bytes=100 * GIB, free_files=10**6, files_max=2 * 10**6
        ),
        "files": [FileMode(setting="cluster.secret_file", path="/etc/raftflow/secret", mode="0600")],
    }
    return HostView(**{**facts, **changed})


def status(name: str = "n1", **changed: Any) -> ReplicaStatus:
    leads = name == "n1"
    indexes = ("last_index", "durable_index", "commit_index", "applied_index", "snapshot_index", "digest_index")
    facts: dict[str, Any] = {
        "name": name,
        "cluster": "c",
        "role": "leader" if leads else "follower",
        "leader": "n1",
        "leader_url": "http://n1:1",
        "term": 3,
        **dict.fromkeys(indexes, 700),
        "ready": True,
        "digest": "ab" * 32,
        "pid": 1,
        "version": "0.1.0",
        "uptime_s": 4_000.0,
        "peers": [
            PeerView(name=each, connected=True, match_index=700 if leads else None, lag=0 if leads else None)
            for each in NAMES
            if each != name
        ],
    }
    return ReplicaStatus(**{**facts, **changed})


def samples(skew_ms: float = 0, rate: float = 1.0) -> list[ClockSample]:
    """Return two readings, 0.6 s apart, each within a millisecond."""
    return [
        ClockSample(
            sent_s=at_s,
            received_s=at_s + 0.001,
            here_ms=at_s * 1000 + 0.5,
            time_ms=round(NOW_MS + at_s * 1000 + skew_ms),
            running_ms=round(at_s * 1000 * rate),
        )
        for at_s in (100.0, 100.6)
    ]


def replica(name: str, **changed: Any) -> ReplicaFacts:
    facts: dict[str, Any] = {
        "name": name,
        "url": f"http://{name}:1",
        "status": status(name),
        "status_before": status(name),
        "host": host(name),
        "samples": samples(),
    }
    return ReplicaFacts(**{**facts, **changed})


def silent(name: str, failure: str = "connection refused", **changed: Any) -> ReplicaFacts:
    """Return a replica that did not answer."""
    return ReplicaFacts(name=name, url=f"http://{name}:1", failure=failure, **changed)


def agent(name: str = "a1", state: str = "up", **changed: Any) -> AgentView:
    facts = {"id": name, "name": name, "state": state, "incarnation": 1, "resources": {}, "allocated": {}}
    return AgentView(**{**facts, **changed})


def cluster(*changed: ReplicaFacts, agents: list[AgentView] | None = None, **more: Any) -> ClusterFacts:
    """Return a healthy cluster, with some replicas in place of those of the same name."""
    replaced = {each.name: each for each in changed}
    replicas = [replaced.pop(name, None) or replica(name) for name in NAMES]
    facts: dict[str, Any] = {
        "replicas": [*replicas, *replaced.values()],
        "members": [MemberView(name=name, peer=f"{name}:2", url=f"http://{name}:1") for name in NAMES],
        "agents": [agent()] if agents is None else agents,
        "now_ms": NOW_MS,
    }
    return ClusterFacts(**{**facts, **more})


def change(name: str, **facts: Any) -> ClusterFacts:
    """Return a cluster of which one replica tells other facts of its machine."""
    return cluster(replica(name, host=msgspec.structs.replace(host(name), **facts)))
