"""The time of every verb of the command line while one machine of three is off.

usage: scripts/bench/machine_off.py [--calls N] [--verbs WORD,WORD,...] [--json]

Each replica of a local cluster has a network namespace of its own. One machine after the other is powered off: every
packet to and from it is dropped, so nothing is refused. Then every verb that talks to the cluster is run N times
as a process of its own, with the peers in their usual order, in turn with and without the cache of the user. Prints
for every verb the median and the worst over all machines, in seconds, and exits with 1 if a median is above 1.0, a
single call is above 1.5, or a call fails. Needs root and iproute2; exits with 2 where machines cannot be made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from raftflow.client.client import Client
from raftflow.client.errors import ClientError
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions
from raftflow.local.faults.namespaces import NamespaceError, machines

MEDIAN_S, WORST_S = 1.0, 1.5
QUICK = {"name": "quick", "tasks": [{"id": "t", "command": ["echo", "hello"]}]}
LONG = {"name": "long", "tasks": [{"id": "t", "command": ["sleep", "600"], "resources": {"cpu": 0.001}}]}
BAD = {"name": "bad", "tasks": [{"id": "t", "command": ["false"], "retries": 0}]}
TIMEOUT = ("--request-timeout", "2s")
EXPECTED = {"member remove": 4, "agent forget": 4}
"""Verbs that the leader refuses here, since they can be carried out once only; and the exit code of that."""


class Bench:
    """A cluster, what its verbs work on, and the times."""

    def __init__(self, cluster: LocalCluster, place: Path) -> None:
        self.cluster = cluster
        self.client: Client = cluster.client()
        self.times: dict[str, list[float]] = {}
        self.failures: list[str] = []
        self._cache = place / "cache"
        self._document = place / "quick.json"
        self._document.write_text(json.dumps(QUICK))
        self.done = self.client.submit(QUICK).id
        self.failed = self.client.submit(BAD).id
        for workflow in (self.done, self.failed):
            self.client.wait(workflow, timeout_s=30.0, check=False)

    def started(self) -> str:
        """Return a workflow that goes on."""
        return self.client.submit(LONG).id

    def paused(self) -> str:
        """Return one that is paused."""
        return self.client.pause(self.started()).id

    def ended(self) -> str:
        """Return one that can be tried again."""
        return self.client.cancel(self.started()).id

    def follower(self) -> str:
        """Return a replica that can take leadership over."""
        members = self.client.members().members
        return next(each.name for each in members if each.voting and each.connected and not each.leader)

    def verbs(self) -> dict[str, Callable[[], tuple[str, ...]]]:
        """Return what makes the arguments of each verb; it is not timed."""
        agent = self.cluster.agent_names[0]
        n1 = self.cluster.replica_names[0]
        peer = ":".join(map(str, self.cluster.peer_of(n1)))
        fixed: dict[str, tuple[str, ...]] = {
            "cluster status": (),
            "agent list": (),
            "agent show": (agent,),
            "agent drain": (agent,),
            "agent resume": (agent,),
            "workflow submit": (str(self._document),),
            "workflow submit --wait": (str(self._document),),
            "workflow list": ("--limit", "20"),
            "workflow show": (self.done,),
            "workflow watch": (self.done,),
            "workflow wait": (self.done,),
            "task list": (self.done,),
            "task show": (self.done, "t"),
            "task logs": (self.done, "t"),
            "task explain": (self.done, "t"),
            "task kinds": (),
            "cache list": (),
            "cache clear": ("--all",),
            "ledger show": (),
            "ledger verify": (),
            "audit list": ("--limit", "5"),
            "audit verify": (),
            "member list": (),
            "member add": (n1, "--peer", peer, "--url", self.cluster.url_of(n1)),
            "member remove": ("n9",),
            "agent forget": ("a9",),
        }
        made = {
            "workflow cancel": self.started,
            "workflow pause": self.started,
            "workflow resume": self.paused,
            "workflow retry": self.ended,
            "member transfer": self.follower,
        }
        found: dict[str, Callable[[], tuple[str, ...]]] = {
            verb: lambda arguments=arguments: arguments for verb, arguments in fixed.items()
        }
        return found | {verb: lambda make=make: (make(),) for verb, make in made.items()}

    def run(self, verb: str, arguments: tuple[str, ...], *, cold: bool) -> None:
        """Run a verb once and keep its time."""
        if cold:
            shutil.rmtree(self._cache, ignore_errors=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTFLOW_")}
        environment |= {"RAFTFLOW_PEERS": ",".join(self.cluster.urls), "RAFTFLOW_TOKEN": self.cluster.token or ""}
        environment |= {"XDG_CACHE_HOME": str(self._cache.parent / "cache")}
        self._cache.mkdir(exist_ok=True)
        argv = [sys.executable, "-m", "raftflow", *verb.split(), *arguments, *TIMEOUT]
        began = time.monotonic()
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
        self.times.setdefault(verb, []).append(time.monotonic() - began)
        if done.returncode != EXPECTED.get(verb, 0):
            self.failures.append(f"{verb}: exit {done.returncode}: {done.stderr.strip()[-300:]}")

    def clear(self) -> None:
        """End what goes on, so that it does not add up."""
        for view in self.client.workflows():
            if view.finished_at is None:
                self.client.cancel(view.id)


def measure(place: Path, calls: int, chosen: list[str]) -> Bench:
    """Power off one machine after the other and run all verbs each time."""
    with machines(3) as hosts:
        places = tuple((host, hosts.command(number)) for number, host in enumerate(hosts.hosts))
        options = ClusterOptions(agents=1, with_token=True, hosts=places, lease_ms=10_000)
        cluster = LocalCluster.create(place / "cluster", options)
        try:
            cluster.start()
            bench = Bench(cluster, place)
            for number, name in enumerate(cluster.replica_names):
                hosts.silence(number)
                settle(cluster, name)
                for verb, make in bench.verbs().items():
                    if chosen and not any(word in verb for word in chosen):
                        continue
                    for call in range(calls):
                        bench.run(verb, make(), cold=call % 2 == 0)
                bench.clear()
                hosts.heal(number)
                cluster.wait_ready()
            bench.client.close()
            return bench
        finally:
            cluster.down()


def settle(cluster: LocalCluster, off: str) -> None:
    """Wait until the others have a leader, and know that this one is gone."""
    urls = [cluster.url_of(name) for name in cluster.replica_names if name != off]
    until = time.monotonic() + 30.0
    with Client(urls, token=cluster.token, environ={}) as client:
        while time.monotonic() < until:
            try:
                members = client.members()
            except ClientError:
                continue
            if members.leader not in (None, off) and not any(m.connected for m in members.members if m.name == off):
                return
            time.sleep(0.1)
    raise SystemExit(f"no other leader, or {off} still counts as connected, after 30 s")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=17, help="of each verb and machine (default 17)")
    parser.add_argument("--verbs", default="", help="only verbs that hold one of these words")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        try:
            bench = measure(Path(place), given.calls, [word for word in given.verbs.split(",") if word])
        except NamespaceError as error:
            print(error, file=sys.stderr)
            return 2
    found = {verb: (statistics.median(times), max(times)) for verb, times in bench.times.items()}
    slow = [verb for verb, (median, worst) in found.items() if median > MEDIAN_S or worst > WORST_S]
    if given.json:
        rows = {verb: {"median": round(m, 3), "worst": round(w, 3)} for verb, (m, w) in found.items()}
        print(json.dumps({"calls": 3 * given.calls, "verbs": rows, "slow": slow, "failures": bench.failures}))
    else:
        print(f"{'VERB':<26}{'CALLS':>6}{'MEDIAN_S':>10}{'WORST_S':>9}")
        for verb, (median, worst) in found.items():
            mark = "  too slow" if verb in slow else ""
            print(f"{verb:<26}{len(bench.times[verb]):>6}{median:>10.3f}{worst:>9.3f}{mark}")
        for failure in bench.failures[:20]:
            print(f"failed: {failure}")
    return 1 if slow or bench.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
