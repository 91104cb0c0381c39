"""What a kind of fault is: its targets, how it begins, how it is shown to have taken effect, how it ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from raftflow.chaos.testbed import Testbed

CHAOS_CLUSTER: Final = "chaos-cluster"
"""What faults need that must not hit, or cannot hit, a cluster that serves others."""


class NoEffectError(Exception):
    """The fault could not be shown to have taken effect. It is not counted."""


class NotRecoveredError(Exception):
    """The cluster did not come back after a fault. It is a violation, and the run ends."""


FaultRun = Callable[[Testbed, list[str], random.Random], Iterator[Mapping[str, Any]]]
"""Begins the fault, yields the evidence that it took effect, and ends it when it is continued or closed.

Raises `NoEffectError`, `NotRecoveredError`. What must be undone is on the undo list before the fault begins.
"""
ChooseTargets = Callable[[Testbed, random.Random], list[str]]
"""Returns the replicas and agents that are hit, an empty list if none can be hit now."""


@dataclass(frozen=True, slots=True)
class ChaosFault:
    """One kind of fault."""

    name: str
    choose: ChooseTargets
    run: FaultRun
    hold_s: tuple[float, float] = (0.3, 1.4)
    """How long it stays."""
    takes_quorum: bool = False
    """No majority is left while it lasts: recovery counts from its end."""
    alone: bool = False
    """It is not paired with another one, because it hits all replicas, or waits for progress of the others."""
    rare: bool = False
    """It takes long: it is drawn half as often."""
    about: str = ""
    """For the report."""
    needs: str = ""
    """What it needs: `network`, `late-packets`, `images`, `memory-disks`, `CHAOS_CLUSTER`, or nothing."""


def free(bed: Testbed, names: list[str]) -> list[str]:
    """Return those that run and have no fault."""
    return [name for name in names if name not in bed.busy and bed.cluster.pid_of(name) is not None]


def leader(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose the leader."""
    del chance
    found = bed.leader()
    return [found] if found is not None and found not in bed.busy else []


def follower(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose one follower."""
    leads = bed.leader()
    found = [name for name in free(bed, bed.cluster.replica_names) if name != leads]
    return [chance.choice(found)] if found else []


def replica(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose one replica."""
    found = free(bed, bed.cluster.replica_names)
    return [chance.choice(found)] if found else []


def two_replicas(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose a pair of replicas."""
    found = free(bed, bed.cluster.replica_names)
    return chance.sample(found, 2) if len(found) >= 2 else []


def majority(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose a majority of the replicas."""
    names = bed.cluster.replica_names
    found = free(bed, names)
    return chance.sample(found, len(names) // 2 + 1) if len(found) == len(names) else []


def all_replicas(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose every replica."""
    del chance
    found = free(bed, bed.cluster.replica_names)
    return found if len(found) == len(bed.cluster.replica_names) else []


def agent(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose one agent."""
    found = free(bed, bed.cluster.agent_names)
    return [chance.choice(found)] if found else []


CHOICES: Final = (leader, follower, replica, two_replicas, majority, all_replicas, agent)
