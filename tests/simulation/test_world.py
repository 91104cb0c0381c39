"""The parts of the simulated world: time, processes, the network, calls."""

from __future__ import annotations

import asyncio
import contextvars
import random
from contextlib import closing
from pathlib import Path

import pytest

from raftflow.replication.members.identity import DataDir
from raftflow.replication.members.introducer import Introducer
from raftflow.simulation.world.calls import CallFailed, Calls, Server
from raftflow.simulation.world.disk import FaultyFileSystem
from raftflow.simulation.world.loop import START_S, LoopStuckError, Process, VirtualLoop, current_process
from raftflow.simulation.world.network import Network, SimLinks
from raftflow.simulation.world.trace import Trace


class End(SimLinks):
    """One end of a link that remembers what it was told."""

    def __init__(self, network: Network, name: str) -> None:
        disk = FaultyFileSystem()
        DataDir.open(disk, Path("/data"), "c1", name).close()
        super().__init__(network, Process(name), Introducer(disk, Path("/data"), level=1))
        self.seen: list[str] = []
        self.set_handlers(
            lambda peer, frame: self.seen.append(f"{peer} {frame.decode()}"),
            lambda peer: self.seen.append(f"{peer} up"),
            lambda peer: self.seen.append(f"{peer} down"),
        )


class Wire:
    """Two ends and what is between."""

    def __init__(self, loop: VirtualLoop, delay=lambda _direction: 0.01) -> None:
        self.network = Network(loop, random.Random(1), Trace(loop), delay)
        self.a, self.b = End(self.network, "a"), End(self.network, "b")

    async def connect(self) -> None:
        await self.a.start()
        await self.b.start()
        await asyncio.sleep(0.05)


def virtually(make):
    """Run a coroutine function on a fresh virtual loop."""
    with closing(VirtualLoop()) as loop:
        return loop.run_until_complete(make(loop))


def test_waiting_takes_no_time_and_the_clock_goes_on() -> None:
    async def main(loop):
        await asyncio.sleep(3600)
        return loop.time()

    assert virtually(main) == pytest.approx(START_S + 3600, abs=0.001)


def test_callbacks_of_one_moment_run_in_the_order_in_which_they_were_scheduled() -> None:
    async def main(loop):
        seen = []
        for number in range(5):
            loop.call_at(START_S + 1, seen.append, number)
        await asyncio.sleep(2)
        return seen

    assert virtually(main) == [0, 1, 2, 3, 4]


def test_a_stopped_process_finds_out_late() -> None:
    async def main(loop):
        process = Process("p")
        seen = []

        async def tick():
            assert current_process() is process
            while True:
                await asyncio.sleep(1)
                seen.append(round(loop.time() - START_S, 2))

        process.context.run(loop.create_task, tick())
        await asyncio.sleep(1.5)
        loop.freeze(process)
        await asyncio.sleep(3)
        assert seen == [1.0]
        loop.thaw(process)
        await asyncio.sleep(1.2)
        loop.kill(process)
        await asyncio.sleep(5)
        return seen

    assert virtually(main) == [1.0, 4.5, 5.5]


def test_a_wait_that_cannot_end_is_an_error() -> None:
    async def main(loop):
        await loop.create_future()

    with pytest.raises(LoopStuckError, match="never happen"):
        virtually(main)


def test_code_that_spins_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr("raftflow.simulation.world.loop.PASSES_MAX", 50)

    async def main(loop):
        while True:  # noqa: ASYNC110 - it spins on purpose
            await asyncio.sleep(0)

    with pytest.raises(LoopStuckError, match="without a pause"):
        virtually(main)


def test_frames_keep_their_order_however_long_each_takes() -> None:
    async def main(loop):
        delays = iter([0.5, 0.01, 0.2, 0.01])
        wire = Wire(loop, lambda _direction: next(delays))
        await wire.connect()
        for number in range(4):
            assert wire.a.send("b", b"%d" % number)
        await asyncio.sleep(1)
        return wire.b.seen

    assert virtually(main) == ["a up", "a 0", "a 1", "a 2", "a 3"]


def test_a_lost_connection_loses_what_is_on_it_and_is_made_again() -> None:
    async def main(loop):
        wire = Wire(loop)
        await wire.connect()
        wire.a.send("b", b"lost")
        wire.network.lose("a", "b", "test")
        await asyncio.sleep(0.1)
        wire.a.send("b", b"heard")
        await asyncio.sleep(0.1)
        return wire.b.seen

    assert virtually(main) == ["a up", "a down", "a up", "a heard"]


def test_a_short_cut_in_one_direction_holds_frames_back() -> None:
    async def main(loop):
        wire = Wire(loop)
        await wire.connect()
        wire.network.cut("a", "b")
        wire.a.send("b", b"1")
        wire.b.send("a", b"back")
        await asyncio.sleep(0.1)
        assert wire.b.seen == ["a up"]
        wire.network.heal("a", "b")
        wire.a.send("b", b"2")
        await asyncio.sleep(0.1)
        return wire.a.seen, wire.b.seen

    assert virtually(main) == (["b up", "b back"], ["a up", "a 1", "a 2"])


def test_a_long_cut_costs_the_connection() -> None:
    async def main(loop):
        wire = Wire(loop)
        await wire.connect()
        wire.network.cut("a", "b")
        wire.a.send("b", b"lost")
        await asyncio.sleep(5)
        assert wire.b.seen == ["a up", "a down"]
        assert not wire.a.send("b", b"no connection")
        wire.network.heal_all()
        await asyncio.sleep(0.1)
        return wire.b.seen

    assert virtually(main) == ["a up", "a down", "a up"]


async def _serve_calls(loop, serve, *, prepare=lambda _calls: None, die=None):
    network = Network(loop, random.Random(1), Trace(loop), lambda _direction: 0.0)
    calls = Calls(loop, random.Random(1), network, lambda: 0.01)
    process = Process("a")
    calls.servers["a"] = Server(None, process)
    prepare(calls)
    if die is not None:
        loop.call_later(
            0.1, lambda: (loop.kill(process), calls.died("a", silently=die)), context=contextvars.Context()
        )
    return await calls.call(Process("client"), "a", serve, 1.0)


def test_a_call_is_served_in_the_process_of_the_replica() -> None:
    async def serve(_replica):
        return current_process().name

    assert virtually(lambda loop: _serve_calls(loop, serve)) == "a"


@pytest.mark.parametrize("silently", [True, False])
def test_a_call_to_a_replica_that_dies_fails(silently) -> None:
    async def serve(_replica):
        await asyncio.sleep(0.5)

    with pytest.raises(CallFailed, match="does not answer" if silently else "closed the connection"):
        virtually(lambda loop: _serve_calls(loop, serve, die=silently))


def test_a_lost_answer_is_no_answer() -> None:
    served = []

    async def serve(_replica):
        served.append(True)

    def lossy(calls):
        calls.lose_answers = 1.0

    with pytest.raises(CallFailed):
        virtually(lambda loop: _serve_calls(loop, serve, prepare=lossy))
    assert served == [True]


def test_a_request_is_under_way_until_it_can_do_nothing_any_more() -> None:
    """Also when the caller has lost its patience, while it is late or a replica still works on it."""

    async def main(loop):
        network = Network(loop, random.Random(1), Trace(loop), lambda _direction: 0.0)
        calls = Calls(loop, random.Random(1), network, lambda: 2.0)
        seen = []

        async def serve(_replica):
            await asyncio.sleep(1.0)

        async def ask(target, looks):
            with pytest.raises(CallFailed):
                await calls.call(Process("client"), target, serve, 0.5)
            for wait_s in looks:
                await asyncio.sleep(wait_s)
                seen.append((target, calls.under_way("client"), calls.under_way("another")))

        calls.servers["a"], calls.servers["b"] = Server(None, Process("a")), Server(None, Process("b"))
        await ask("a", (1.4, 0.7, 0.5))  # on its way, being served, done
        loop.call_later(2.5, lambda: calls.died("b", silently=True), context=contextvars.Context())
        await ask("b", (1.9, 0.2))  # being served, and its replica is gone
        await ask("c", (1.4, 0.2))  # nobody is there
        network.cut("client", "a")
        await ask("a", (1.4, 0.2))  # cut off
        return seen

    yes, no = (True, False), (False, False)
    assert virtually(main) == [
        *(("a", *yes), ("a", *yes), ("a", *no)),
        *(("b", *yes), ("b", *no)),
        *(("c", *yes), ("c", *no)),
        *(("a", *yes), ("a", *no)),
    ]
