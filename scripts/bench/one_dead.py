"""Writes while one replica of three is dead or stopped: throughput and latency.

usage: scripts/bench/one_dead.py [--seconds S] [--clients N] [--rounds R]

Clients submit workflows of one task, one after the other, to a local cluster. Each round measures with all three
replicas, with one follower killed, and with one stopped (SIGSTOP: its connections stay open). Prints one line of JSON
with the medians over the rounds, and the ratios to the healthy cluster.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from raftflow.client.client import Client
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

SETTLE_S = 2.0
WORKFLOW = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}


def measure(cluster: LocalCluster, seconds: float, clients: int) -> dict[str, float]:
    """Submit for a while; returns rate and latencies in milliseconds."""
    latencies: list[float] = []
    url = cluster.url_of(cluster.wait_leader())  # asks everybody, so it takes its time while one stands still
    until = time.monotonic() + seconds

    def submit() -> None:
        with Client([url], timeout_s=30.0) as client:
            while time.monotonic() < until:
                started = time.monotonic()
                client.submit(WORKFLOW)
                latencies.append(time.monotonic() - started)

    threads = [threading.Thread(target=submit) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cut = statistics.quantiles(latencies, n=1000)
    return {"per_s": len(latencies) / seconds, "p50_ms": cut[499] * 1e3, "p99_ms": cut[989] * 1e3}


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    found: dict[str, list[dict[str, float]]] = {"healthy": [], "one_dead": [], "one_stopped": []}
    with tempfile.TemporaryDirectory() as place:
        cluster = LocalCluster.create(Path(place) / "cluster", ClusterOptions(agents=0))
        try:
            cluster.start()
            for _ in range(given.rounds):
                found["healthy"].append(measure(cluster, given.seconds, given.clients))
                victim = next(name for name in cluster.replica_names if name != cluster.wait_leader())
                cluster.kill(victim)
                time.sleep(SETTLE_S)
                found["one_dead"].append(measure(cluster, given.seconds, given.clients))
                cluster.start_replica(victim)
                cluster.wait_ready()
                cluster.signal(victim, signal.SIGSTOP)
                time.sleep(SETTLE_S)
                found["one_stopped"].append(measure(cluster, given.seconds, given.clients))
                cluster.signal(victim, signal.SIGCONT)
                cluster.wait_ready()
        finally:
            cluster.down()
    medians = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in found.items()
    }
    healthy = medians["healthy"]
    ratios = {
        name: {key: round(values[key] / healthy[key], 2) for key in values}
        for name, values in medians.items()
        if name != "healthy"
    }
    rounded = {name: {key: round(value, 2) for key, value in values.items()} for name, values in medians.items()}
    print(json.dumps({**rounded, "ratio_to_healthy": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
