"""What the scripts share that kill processes at random instants: the kills, the rounds, the command line."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from raftflow.bench.load.usage import descendants
from raftflow.client import Client
from raftflow.domain.limits import AGENTS_LOST_MAX
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

KINDS = ("leader", "replica", "agent", "agent", "worker", "worker")
"""What is killed, agents and workers twice as often as the others."""
AGENT_KILLS_MAX = AGENTS_LOST_MAX - 1
"""In the life of a workflow: a task fails when so many agents and one more were lost under it."""
BUSY_WITHIN_S = 0.5
"""How long a kill waits for a worker that is busy."""
UNENDED = frozenset({"pending", "running", "paused"})


class Round(Protocol):
    """Work on the cluster, while processes are killed."""

    name: str
    workflows: list[str]
    """Ids. The round is over when all have ended."""
    ends_within_s: float
    """A workflow that takes longer has lost something."""

    def busy(self) -> list[int] | None:
        """Return the pids of workers that do what should not be disturbed, now; None if all workers are alike."""

    def faults(self) -> Iterator[str]:
        """Say what is wrong with the work, after it has ended."""


Begin = Callable[[LocalCluster, Client, Path, str], AbstractContextManager[Round]]
"""Begins a round of a name, whose tasks may write into the folder. Leaving it ends what the round does by itself."""


class Outcome(NamedTuple):
    """What came of a run."""

    kills: dict[str, int]
    rounds: int
    faults: list[str]


def kill_one(cluster: LocalCluster, rng: random.Random, kinds: Sequence[str], work: Round) -> str:
    """Kill one of these, and start it again after a moment. Returns what it was.

    Of two workers that are killed one is busy with something that should not be disturbed, if there is one.
    """
    what = rng.choice(kinds)
    if what in {"leader", "replica"}:
        name = cluster.wait_leader() if what == "leader" else rng.choice(cluster.replica_names)
        cluster.kill(name)
        time.sleep(rng.uniform(0, 0.5))
        cluster.start_replica(name)
        cluster.wait_ready()
        return what
    name = rng.choice(cluster.agent_names)
    if what == "agent":
        cluster.kill(name)
        time.sleep(rng.uniform(0, 0.5))
        cluster.start_agent(name)
        return what
    workers = _below(cluster, name)
    busy = _find_busy(cluster, work) if rng.random() < 0.5 else []
    if not workers and not busy:
        return "nothing"
    try:
        os.kill(rng.choice(busy or workers), signal.SIGKILL)
    except ProcessLookupError:
        return "nothing"
    return "busy worker" if busy else what


def _find_busy(cluster: LocalCluster, work: Round) -> list[int]:
    """Return the pids of busy workers, as soon as there is one, or none after a moment."""
    until_s = time.monotonic() + BUSY_WITHIN_S
    while (found := work.busy()) is not None and time.monotonic() < until_s:
        everywhere = {pid for agent in cluster.agent_names for pid in _below(cluster, agent)}
        busy = [pid for pid in found if pid in everywhere]
        if busy:
            return busy
        time.sleep(0.01)
    return []


def _below(cluster: LocalCluster, agent: str) -> list[int]:
    """Return the pids of all that the launcher of an agent has started."""
    pid = cluster.pid_of(agent)
    return [] if pid is None else descendants(pid)[1:]  # the first one is the launcher


def run_rounds(begin: Begin, kills: int, seed: int, kinds: Sequence[str] = KINDS) -> Outcome:
    """Kill processes of a cluster of three replicas and two agents, one round of work after the other."""
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    faults: list[str] = []
    rounds = 0
    with tempfile.TemporaryDirectory(prefix="raftflow-kills-") as place:
        folder = Path(place)
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        cluster = LocalCluster.create(folder / "cluster", ClusterOptions(lease_ms=1_000))
        try:
            cluster.start()
            with cluster.client() as client:
                while done.total() - done["nothing"] < kills and not faults:
                    rounds += 1
                    agents = done["agent"] + AGENT_KILLS_MAX
                    with begin(cluster, client, folder, f"w{rounds}") as work:
                        until_s = time.monotonic() + work.ends_within_s
                        while late := _unended(client, work):
                            if time.monotonic() > until_s:
                                faults += [f"{work.name} does not end: {each}" for each in late]
                                break
                            time.sleep(rng.uniform(0.0, 0.6))
                            if done.total() - done["nothing"] < kills:
                                now = [kind for kind in kinds if kind != "agent" or done["agent"] < agents]
                                done[kill_one(cluster, rng, now, work)] += 1
                    faults += work.faults()
                for name in cluster.replica_names:
                    checked = client.ledger_verify(cluster.url_of(name)).problems
                    faults += [f"ledger of {name}: {problem}" for problem in checked]
        finally:
            cluster.down()
    del done["nothing"]
    return Outcome(dict(done), rounds, faults)


def _unended(client: Client, work: Round) -> list[str]:
    """Return how far the workflows are that have not ended."""
    views = [client.workflow(workflow) for workflow in work.workflows]
    return [f"{view.name} {msgspec.to_builtins(view.tasks)}" for view in views if view.state in UNENDED]


def arguments(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all these scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="small workflows, for a quick look")
    return parser


def report(began: float, found: dict[str, object], faults: list[str]) -> int:
    """Print what came of a run that began at this moment of `time.monotonic`. Returns the exit code."""
    told = {**found, "faults": faults[:20], "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(told))
    return 1 if faults else 0
