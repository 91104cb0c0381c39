"""Faults of the network between machines in namespaces of their own."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.kinds import ChaosFault, FaultRun, NoEffectError
from raftflow.chaos.nemesis.probe import connects_in_s, reaches
from raftflow.chaos.testbed import LEASE_MS, Testbed
from raftflow.chaos.undo import RunCommand, perform
from raftflow.local.faults.namespaces import Machines

_AGENT_HOLD_S: Final = (LEASE_MS / 1000 * 1.3, LEASE_MS / 1000 * 1.8)
_FLAP_S: Final = (0.05, 0.4)
_SLOW_RATE: Final = "400kbit"
_NETS: Final = "namespaces"


def _machines(bed: Testbed) -> Machines:
    assert bed.machines is not None  # noqa: S101 - these faults need them
    return bed.machines


def _link(bed: Testbed, name: str, state: str) -> list[str]:
    return ["ip", "link", "set", _machines(bed).names[bed.machine_of(name)], state]


def _silenced(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Drop every packet to and from the machines."""
    del chance
    undo = [bed.undo.add(RunCommand(_link(bed, name, "up"))) for name in targets]
    try:
        for name in targets:
            perform(RunCommand(_link(bed, name, "down")))
        yield {"unreachable": _prove_silent(bed, targets)}
    finally:
        for number in undo:
            bed.undo.undo(number)


def _prove_silent(bed: Testbed, targets: Sequence[str]) -> list[str]:
    """Show that the machines are not reached. Raises `NoEffectError`."""
    for name in targets:
        if name in bed.cluster.replica_names:
            reached = connects_in_s(*bed.cluster.peer_of(name))
        else:
            reached = reaches(bed, name, bed.cluster.replica_names[0])
        if reached is not None:
            raise NoEffectError(f"{name} is reached")
    return list(targets)


def _cut(bed: Testbed, ways: Sequence[tuple[str, str]]) -> Iterator[Mapping[str, Any]]:
    """Drop the packets from the first to the second of each pair."""
    machines = _machines(bed)
    undo = []
    for source, target in ways:
        namespace, host = machines.names[bed.machine_of(source)], bed.host_of(target)
        argv = ["ip", "-netns", namespace, "neigh", "delete", host, "dev", "eth0"]
        undo.append(bed.undo.add(RunCommand(argv)))
    try:
        for source, target in ways:
            machines.cut(bed.machine_of(source), bed.host_of(target))
        for source, target in ways[:1]:
            names = bed.cluster.replica_names
            reached = reaches(bed, source, target) if target in names else reaches(bed, target, source)
            if reached is not None:
                raise NoEffectError(f"{source} reaches {target}")
        yield {"cut": [f"{source} to {target}" for source, target in ways]}
    finally:
        for number in undo:
            bed.undo.undo(number)


def _both_ways(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [way for one, other in pairs for way in ((one, other), (other, one))]


def _isolated(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Cut a replica from the other replicas; clients and agents reach all of them."""
    del chance
    (name,) = targets
    others = [each for each in bed.cluster.replica_names if each != name]
    yield from _cut(bed, _both_ways([(name, other) for other in others]))


def _pair_cut(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    one, other = targets
    yield from _cut(bed, _both_ways([(one, other)]))


def _one_way_cut(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    one, other = targets
    yield from _cut(bed, [(one, other)])


def _agent_cut_from_leader(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    agent, leader = targets
    yield from _cut(bed, _both_ways([(agent, leader)]))


def _choose_agent_and_leader(bed: Testbed, chance: random.Random) -> list[str]:
    agents, leaders = kinds.agent(bed, chance), kinds.leader(bed, chance)
    return [*agents, *leaders] if agents and leaders else []


def _choose_leader_and_follower(bed: Testbed, chance: random.Random) -> list[str]:
    leaders, followers = kinds.leader(bed, chance), kinds.follower(bed, chance)
    found = [*leaders, *followers] if leaders and followers else []
    return found if chance.random() < 0.5 else found[::-1]


def _split(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Cut a minority that has the leader in it from the majority."""
    del chance
    rest = [name for name in bed.cluster.replica_names if name not in targets]
    yield from _cut(bed, _both_ways([(one, other) for one in targets for other in rest]))


def _choose_leaders_minority(bed: Testbed, chance: random.Random) -> list[str]:
    names = bed.cluster.replica_names
    found = kinds.leader(bed, chance)
    others = [name for name in names if name not in found and name not in bed.busy]
    more = (len(names) - 1) // 2 - 1
    return [*found, *chance.sample(others, more)] if found and len(others) >= more else []


class _Flapping:
    """Takes links down and up again at random moments, in a thread."""

    def __init__(self, bed: Testbed, names: Sequence[str], chance: random.Random) -> None:
        self._bed = bed
        self._names = names
        self._chance = chance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-flap", daemon=True)
        self.times = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for state in ("down", "up"):
                for name in self._names:
                    perform(RunCommand(_link(self._bed, name, state)))
                self._stop.wait(self._chance.uniform(*_FLAP_S))
            self.times += 1


def _flapped(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    undo = [bed.undo.add(RunCommand(_link(bed, name, "up"))) for name in targets]
    flapping = _Flapping(bed, targets, random.Random(chance.random()))  # noqa: S311 - drawn from the seed
    flapping.start()
    try:
        if not bed.wait_for(lambda: flapping.times >= 2, 5.0):
            raise NoEffectError("the link did not flap")
        yield {"down_and_up": flapping.times}
    finally:
        flapping.stop()
        for number in undo:
            bed.undo.undo(number)


def _slowed(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Let a machine send little a second, and queue the rest (a token bucket)."""
    del chance
    (name,) = targets
    namespace = _machines(bed).names[bed.machine_of(name)]
    remove = ["tc", "-netns", namespace, "qdisc", "delete", "dev", "eth0", "root"]
    undo = bed.undo.add(RunCommand(remove))
    bucket = ["rate", _SLOW_RATE, "burst", "3000", "latency", "800ms"]
    try:
        perform(RunCommand(["tc", "-netns", namespace, "qdisc", "replace", "dev", "eth0", "root", "tbf", *bucket]))
        if not bed.wait_for(lambda: _overlimits(namespace) > 0, 5.0):
            raise NoEffectError("the token bucket held nothing back")
        yield {"rate": _SLOW_RATE, "held_back": _overlimits(namespace)}
    finally:
        bed.undo.undo(undo)


def _impaired(netem: Sequence[str]) -> FaultRun:
    """Return a fault that delays or drops packets that a machine sends, by netem."""

    def run(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
        del chance
        (name,) = targets
        words = ["tc", "-netns", _machines(bed).names[bed.machine_of(name)], "qdisc"]
        number = bed.undo.add(RunCommand([*words, "delete", "dev", "eth0", "root"]))
        try:
            perform(RunCommand([*words, "replace", "dev", "eth0", "root", "netem", *netem]))
            show = [*words, "show", "dev", "eth0"]
            if b"netem" not in subprocess.run(show, check=False, capture_output=True, timeout=10).stdout:
                raise NoEffectError("the kernel did not take it")
            yield {"netem": list(netem)}
        finally:
            bed.undo.undo(number)

    return run


def _overlimits(namespace: str) -> int:
    """Return how often the token bucket of a machine has held a packet back."""
    argv = ["tc", "-netns", namespace, "-s", "-j", "qdisc", "show", "dev", "eth0"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=10)
    with contextlib.suppress(ValueError):
        return sum(int(each.get("overlimits", 0)) for each in json.loads(done.stdout or "[]"))
    return 0


def _fault(name: str, choose: kinds.ChooseTargets, run: FaultRun, about: str, **more: Any) -> ChaosFault:
    return ChaosFault(name, choose, run, about=about, needs=_NETS, **more)


KINDS: Final = (
    _fault("silence-leader", kinds.leader, _silenced, "every packet to and from the leader's machine is dropped"),
    _fault("silence-follower", kinds.follower, _silenced, "every packet to and from a follower's machine is dropped"),
    _fault(
        "silence-majority",
        kinds.majority,
        _silenced,
        "a majority of the machines is silent",
        takes_quorum=True,
        alone=True,
    ),
    _fault(
        "silence-agent",
        kinds.agent,
        _silenced,
        "an agent's machine is silent for longer than its lease",
        hold_s=_AGENT_HOLD_S,
    ),
    _fault("isolate-leader", kinds.leader, _isolated, "the leader is cut from replicas, not from clients"),
    _fault("isolate-follower", kinds.follower, _isolated, "a follower is cut from replicas, not from clients"),
    _fault("split-off-leader", _choose_leaders_minority, _split, "a minority with the leader is cut off"),
    _fault("cut-pair", kinds.two_replicas, _pair_cut, "two replicas are cut from each other"),
    _fault("cut-one-way", _choose_leader_and_follower, _one_way_cut, "packets of one replica to another are dropped"),
    _fault(
        "cut-agent-from-leader",
        _choose_agent_and_leader,
        _agent_cut_from_leader,
        "an agent is cut from the leader alone, for longer than its lease",
        hold_s=_AGENT_HOLD_S,
    ),
    _fault("flap-replica", kinds.replica, _flapped, "the link of a replica goes down and up at random moments"),
    _fault("flap-agent", kinds.agent, _flapped, "the link of an agent goes down and up at random moments"),
    _fault("slow-link", kinds.replica, _slowed, "a replica sends at most 400 kbit a second", hold_s=(1.0, 3.0)),
    ChaosFault(
        "delay-link",
        kinds.replica,
        _impaired(["delay", "80ms", "40ms"]),
        (1.0, 2.5),
        needs="netem",
        about="what a replica sends arrives 40 to 120 ms later",
    ),
    ChaosFault(
        "lossy-link",
        kinds.replica,
        _impaired(["loss", "15%"]),
        (1.0, 2.5),
        needs="netem",
        about="15 % of the packets that a replica sends are lost",
    ),
)
