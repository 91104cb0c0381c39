"""How faults of the network are carried out: between network namespaces by the kernel, elsewhere by the proxies.

Each method is the middle of a fault: it begins it, yields the evidence that it took effect, and undoes it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from raftflow.chaos.nemesis.kinds import NoEffectError
from raftflow.chaos.nemesis.probe import connects_in_s, reaches
from raftflow.chaos.proxy import ANYBODY, ReplicaProxies
from raftflow.chaos.testbed import Testbed
from raftflow.chaos.undo import RunCommand, perform
from raftflow.local.faults.namespaces import Machines

Evidence = Iterator[Mapping[str, Any]]
Way = tuple[str, str]
"""From the first to the second process."""

_SLOW_RATE: Final = "400kbit"
_SLOW_BYTES: Final = 50_000.0
_DELAY: Final = ("delay", "80ms", "40ms")
_DELAY_S: Final = 0.08
_LOSS: Final = ("loss", "15%")
_LOSS_SHARE: Final = 0.15
_SHOWN_S: Final = 5.0


class FaultyLinks(Protocol):
    """What can be done to the links between processes."""

    def silence(self, names: Sequence[str]) -> Evidence:
        """Drop everything to and from some processes."""
        ...

    def cut(self, ways: Sequence[Way]) -> Evidence:
        """Drop what goes from the first to the second of each pair."""
        ...

    def slow(self, name: str) -> Evidence:
        """Let a process send little a second."""
        ...

    def delay(self, name: str) -> Evidence:
        """Let what a process sends arrive late."""
        ...

    def lose(self, name: str) -> Evidence:
        """Lose a part of what a process sends."""
        ...

    def prepare_flapping(self, names: Sequence[str]) -> Callable[[], None]:
        """Prepare `switch` for some processes; returns what brings their links up."""
        ...

    def switch(self, name: str, *, up: bool) -> None:
        """Take all links of a process down, or up."""
        ...


def links_of(bed: Testbed) -> FaultyLinks:
    """Return the links of a testbed that has machines or proxies."""
    return NamespaceLinks(bed, bed.machines) if bed.machines is not None else ProxyLinks(bed)


class NamespaceLinks:
    """Links between machines in network namespaces."""

    def __init__(self, bed: Testbed, machines: Machines) -> None:
        self._bed = bed
        self._machines = machines

    def silence(self, names: Sequence[str]) -> Evidence:
        """Take the ports of the machines down."""
        bring_up = self.prepare_flapping(names)
        try:
            for name in names:
                self.switch(name, up=False)
            yield {"unreachable": self._prove_silent(names)}
        finally:
            bring_up()

    def prepare_flapping(self, names: Sequence[str]) -> Callable[[], None]:
        """Note on the undo list that the ports come up again."""
        undo = self._bed.undo
        numbers = [undo.add(RunCommand(self._link(name, "up"))) for name in names]

        def bring_up() -> None:
            for number in numbers:
                undo.undo(number)

        return bring_up

    def switch(self, name: str, *, up: bool) -> None:
        """Take the port of a machine down, or up."""
        perform(RunCommand(self._link(name, "up" if up else "down")))

    def _link(self, name: str, state: str) -> list[str]:
        return ["ip", "link", "set", self._namespace(name), state]

    def _namespace(self, name: str) -> str:
        return self._machines.names[self._bed.machine_of(name)]

    def _prove_silent(self, names: Sequence[str]) -> list[str]:
        """Show that the machines are not reached. Raises `NoEffectError`."""
        bed = self._bed
        for name in names:
            if name in bed.cluster.replica_names:
                reached = connects_in_s(*bed.cluster.peer_of(name))
            else:
                reached = reaches(bed, name, bed.cluster.replica_names[0])
            if reached is not None:
                raise NoEffectError(f"{name} is reached")
        return list(names)

    def cut(self, ways: Sequence[Way]) -> Evidence:
        """Send the frames of each pair to a hardware address that nobody has."""
        bed, machines = self._bed, self._machines
        undo = []
        for source, target in ways:
            argv = ["ip", "-netns", self._namespace(source), "neigh", "delete", bed.host_of(target), "dev", "eth0"]
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

    def slow(self, name: str) -> Evidence:
        """Put a token bucket before what a machine sends."""
        bucket = ["tbf", "rate", _SLOW_RATE, "burst", "3000", "latency", "800ms"]
        with self._queue(name, bucket) as words:
            if not self._bed.wait_for(lambda: _overlimits(words) > 0, _SHOWN_S):
                raise NoEffectError("the token bucket held nothing back")
            yield {"rate": _SLOW_RATE, "held_back": _overlimits(words)}

    def delay(self, name: str) -> Evidence:
        """Delay packets with netem."""
        yield from self._impair(name, _DELAY)

    def lose(self, name: str) -> Evidence:
        """Drop packets with netem."""
        yield from self._impair(name, _LOSS)

    def _impair(self, name: str, netem: Sequence[str]) -> Evidence:
        with self._queue(name, ["netem", *netem]) as words:
            show = [*words, "show", "dev", "eth0"]
            if b"netem" not in subprocess.run(show, check=False, capture_output=True, timeout=10).stdout:
                raise NoEffectError("the kernel did not take it")
            yield {"netem": list(netem)}

    @contextlib.contextmanager
    def _queue(self, name: str, discipline: Sequence[str]) -> Iterator[list[str]]:
        """Replace the queue of packets that a machine sends; yields what begins a command about it."""
        words = ["tc", "-netns", self._namespace(name)]
        number = self._bed.undo.add(RunCommand([*words, "qdisc", "delete", "dev", "eth0", "root"]))
        try:
            perform(RunCommand([*words, "qdisc", "replace", "dev", "eth0", "root", *discipline]))
            yield [*words, "-s", "-j", "qdisc"]
        finally:
            self._bed.undo.undo(number)


def _overlimits(words: Sequence[str]) -> int:
    """Return how often the token bucket of a machine has held a packet back."""
    done = subprocess.run([*words, "show", "dev", "eth0"], check=False, capture_output=True, text=True, timeout=10)
    with contextlib.suppress(ValueError):
        return sum(int(each.get("overlimits", 0)) for each in json.loads(done.stdout or "[]"))
    return 0


class ProxyLinks:
    """Links that go through the proxies. They end with the nemesis: nothing of it has to be undone afterwards."""

    def __init__(self, bed: Testbed) -> None:
        assert bed.proxies is not None  # noqa: S101 - faults of the network are only drawn with machines or proxies
        self._bed = bed
        self._proxies: ReplicaProxies = bed.proxies

    def silence(self, names: Sequence[str]) -> Evidence:
        """Hold everything from and to the processes."""
        yield from self.cut([way for name in names for way in _all_ways(name)])

    def cut(self, ways: Sequence[Way]) -> Evidence:
        """Hold what goes from the first to the second of each pair."""
        proxies = self._proxies
        before = proxies.held
        proxies.cut(ways)
        try:
            if not self._bed.wait_for(lambda: proxies.held > before, _SHOWN_S):
                raise NoEffectError("nothing was sent that the proxies could hold")
            yield {"cut": [f"{source or 'all'} to {target or 'all'}" for source, target in ways]}
        finally:
            proxies.join(ways)

    def slow(self, name: str) -> Evidence:
        """Let each connection carry little a second of what the process sends."""
        yield from self._late(lambda amount: self._proxies.slow(name, amount), _SLOW_BYTES)

    def delay(self, name: str) -> Evidence:
        """Send on later what the process sends."""
        yield from self._late(lambda amount: self._proxies.delay(name, amount), _DELAY_S)

    def lose(self, name: str) -> Evidence:
        """Stall a part of what the process sends, and break some of the connections."""
        yield from self._late(lambda amount: self._proxies.lose(name, amount), _LOSS_SHARE)

    def _late(self, switch: Callable[[float], None], amount: float) -> Evidence:
        before = self._proxies.late
        switch(amount)
        try:
            if not self._bed.wait_for(lambda: self._proxies.late > before, _SHOWN_S):
                raise NoEffectError("nothing was sent that the proxies could delay")
            yield {"amount": amount}
        finally:
            switch(0.0)

    def prepare_flapping(self, names: Sequence[str]) -> Callable[[], None]:
        """Return what lets everything pass."""

        def bring_up() -> None:
            for name in names:
                self.switch(name, up=True)

        return bring_up

    def switch(self, name: str, *, up: bool) -> None:
        """Hold everything from and to a process, or let it pass."""
        (self._proxies.join if up else self._proxies.cut)(_all_ways(name))


def _all_ways(name: str) -> list[Way]:
    return [(name, ANYBODY), (ANYBODY, name)]
