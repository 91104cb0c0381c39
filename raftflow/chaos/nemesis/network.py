"""Faults of the network: machines that fall silent, cuts, links that flap, are slow, late or lossy."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from raftflow.chaos.failpoints import KILL_PLACES
from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.data import compacted_beyond
from raftflow.chaos.nemesis.disks import failpoint
from raftflow.chaos.nemesis.kinds import ChaosFault, FaultRun, NoEffectError
from raftflow.chaos.nemesis.links import FaultyLinks, links_of
from raftflow.chaos.testbed import LEASE_MS, Testbed
from raftflow.local import processes

_AGENT_HOLD_S: Final = (LEASE_MS / 1000 * 1.3, LEASE_MS / 1000 * 1.8)
_FLAP_S: Final = (0.05, 0.4)
_COMPACTED_S: Final = 25.0
_NETWORK: Final = "network"


def _silenced(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Drop everything to and from the processes."""
    del chance
    yield from links_of(bed).silence(targets)


def _both_ways(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [way for one, other in pairs for way in ((one, other), (other, one))]


def _isolated(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Cut a replica from the other replicas; clients and agents reach all of them."""
    del chance
    (name,) = targets
    others = [each for each in bed.cluster.replica_names if each != name]
    yield from links_of(bed).cut(_both_ways([(name, other) for other in others]))


def _left_behind(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Isolate the leader until the others have removed log entries that it lacks: it comes back to a snapshot."""
    with contextlib.contextmanager(_isolated)(bed, targets, chance) as evidence:
        yield {**evidence, **_await_compaction(bed, targets[0])}


def _left_behind_and_killed(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Do the same, and kill it when the snapshot arrives: it has its own last entries still."""
    (name,) = targets
    record = bed.process_of(name)
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.contextmanager(_isolated)(bed, targets, chance):
                evidence = _await_compaction(bed, name)
                stack.enter_context(failpoint(bed, name, "kill_at", KILL_PLACES["snapshot-begun"]))
            if not processes.wait_end(record, _COMPACTED_S):
                raise NoEffectError("no snapshot arrived")
        yield evidence
    finally:
        bed.start_process(name)


def _await_compaction(bed: Testbed, name: str) -> Mapping[str, Any]:
    """Wait until the leader lacks entries that a replica needs. Raises `NoEffectError`."""
    status = bed.cluster.status_of(name)
    known = 0 if status is None else status.last_index
    if not bed.wait_for(lambda: compacted_beyond(bed, known), _COMPACTED_S):
        raise NoEffectError("the others did not compact their logs in time")
    return {"behind_from": known}


def _pair_cut(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    one, other = targets
    yield from links_of(bed).cut(_both_ways([(one, other)]))


def _one_way_cut(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    one, other = targets
    yield from links_of(bed).cut([(one, other)])


def _agent_cut_from_leader(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    agent, leader = targets
    yield from links_of(bed).cut(_both_ways([(agent, leader)]))


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
    yield from links_of(bed).cut(_both_ways([(one, other) for one in targets for other in rest]))


def _choose_leaders_minority(bed: Testbed, chance: random.Random) -> list[str]:
    names = bed.cluster.replica_names
    found = kinds.leader(bed, chance)
    others = [name for name in names if name not in found and name not in bed.busy]
    more = (len(names) - 1) // 2 - 1
    return [*found, *chance.sample(others, more)] if found and len(others) >= more else []


class _Flapping:
    """Takes links down and up again at random moments, in a thread."""

    def __init__(self, links: FaultyLinks, names: Sequence[str], chance: random.Random) -> None:
        self._links = links
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
            for up in (False, True):
                for name in self._names:
                    self._links.switch(name, up=up)
                self._stop.wait(self._chance.uniform(*_FLAP_S))
            self.times += 1


def _flapped(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    links = links_of(bed)
    bring_up = links.prepare_flapping(targets)
    flapping = _Flapping(links, targets, random.Random(chance.random()))  # noqa: S311 - drawn from the seed
    flapping.start()
    try:
        if not bed.wait_for(lambda: flapping.times >= 2, 5.0):
            raise NoEffectError("the link did not flap")
        yield {"down_and_up": flapping.times}
    finally:
        flapping.stop()
        bring_up()


def _slowed(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    yield from links_of(bed).slow(targets[0])


def _delayed(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    yield from links_of(bed).delay(targets[0])


def _lost(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    yield from links_of(bed).lose(targets[0])


def _fault(name: str, choose: kinds.ChooseTargets, run: FaultRun, about: str, **more: Any) -> ChaosFault:
    return ChaosFault(name, choose, run, about=about, needs=_NETWORK, **more)


KINDS: Final = (
    _fault("silence-leader", kinds.leader, _silenced, "everything to and from the leader's machine is dropped"),
    _fault("silence-follower", kinds.follower, _silenced, "everything to and from a follower's machine is dropped"),
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
    _fault(
        "outdate-leader",
        kinds.leader,
        _left_behind,
        "the leader is cut from replicas until they have removed log entries that it lacks",
        hold_s=(0.1, 0.5),
        alone=True,
        rare=True,
    ),
    _fault(
        "kill-outdated-leader",
        kinds.leader,
        _left_behind_and_killed,
        "the same, and it is killed when a snapshot arrives",
        hold_s=(0.1, 0.5),
        alone=True,
        rare=True,
    ),
    _fault("isolate-follower", kinds.follower, _isolated, "a follower is cut from replicas, not from clients"),
    _fault("split-off-leader", _choose_leaders_minority, _split, "a minority with the leader is cut off"),
    _fault("cut-pair", kinds.two_replicas, _pair_cut, "two replicas are cut from each other"),
    _fault("cut-one-way", _choose_leader_and_follower, _one_way_cut, "what one replica sends to another is dropped"),
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
        _delayed,
        (1.0, 2.5),
        needs="late-packets",
        about="what a replica sends arrives about 80 ms later",
    ),
    ChaosFault(
        "lossy-link",
        kinds.replica,
        _lost,
        (1.0, 2.5),
        needs="late-packets",
        about="15 % of what a replica sends is lost, and sent again later",
    ),
)
