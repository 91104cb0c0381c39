"""The journal through crashes at every step: what was promised is there, and nothing else."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_driver import Driver

from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def ordinary(driver: Driver) -> None:
    """Votes, appends, replaced entries, several segments, compaction, a clean restart."""
    driver.open()
    driver.add(1)
    driver.vote(1, "a:1")
    await driver.sync()
    for size in (10, 700, 0, 1500, 300):
        driver.add(size)
        driver.flush()
    await driver.sync()
    driver.timer()
    driver.cut(3)
    driver.vote(2, None)
    driver.add(600)
    driver.add(20)
    await driver.sync()
    for _ in range(4):
        driver.add(900)
        await driver.sync()
        await asyncio.sleep(0)
    driver.compact(len(driver.model.log) - 3)
    await driver.sync()
    driver.timer()
    await asyncio.sleep(0)
    driver.add(100)
    driver.flush()
    driver.restart()
    driver.add(30)
    driver.vote(3, "b:1")
    await driver.sync()


async def installing(driver: Driver) -> None:
    """A snapshot installed over a log, then another at start, then a log trimmed to a snapshot."""
    driver.open()
    driver.add(1)
    for _ in range(5):
        driver.add(800)
        await driver.sync()
    driver.vote(4, None)
    driver.install(50)
    await driver.sync()
    await asyncio.sleep(0)
    for _ in range(4):
        driver.add(700)
        await driver.sync()
    driver.align(53)
    driver.add(100)
    await driver.sync()
    driver.align(100)
    driver.add(10)
    await driver.sync()
    driver.cut(2)
    driver.add(11)
    driver.flush()
    driver.add(12)
    driver.sync_now()
    driver.restart()


async def overlapping(driver: Driver) -> None:
    """Writes and truncations while a sync is under way, callers that share one, a segment started meanwhile."""
    driver.open()
    driver.add(1)
    driver.vote(1, "a:1")
    tasks = []
    for turn in range(12):
        driver.add(300)
        driver.flush()
        tasks.append(asyncio.ensure_future(driver.sync_quietly()))  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        if turn % 4 == 3:
            driver.cut(len(driver.model.log) - 2)
            driver.flush()
        driver.add(40)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    await driver.sync()


async def sync_quietly(driver: Driver) -> None:
    await driver.journal.sync()
    driver.promise()


Driver.sync_quietly = sync_quietly  # type: ignore[attr-defined]

SCENARIOS = [ordinary, installing, overlapping]


def run(scenario: Callable[[Driver], Awaitable[None]], driver: Driver) -> bool:
    """Run a scenario to its end or to the crash. Returns whether it crashed."""

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        try:
            await scenario(driver)
        finally:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    try:
        asyncio.run(main())
    except SimulatedCrash:
        return True
    return False


def recover(driver: Driver, loss: Loss, rng: Random) -> None:
    """Start again after a crash, twice, and go on working."""
    driver.fs.restart(loss, rng)
    driver.reopen()
    before = driver.observed()
    driver.fs.restart(Loss.ALL, rng)
    driver.reopen()
    assert driver.observed() == before
    driver.add(77)
    driver.vote(driver.model.term + 1, "c:1")
    driver.sync_now()
    after = driver.observed()
    driver.fs.restart(Loss.ALL, rng)
    driver.reopen()
    assert driver.observed() == after


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_crash_at_every_step(scenario: Callable[[Driver], Awaitable[None]], loss: Loss) -> None:
    """The disk stops before each operation in turn; several draws of what survives, where that is random."""
    whole = FaultyFileSystem()
    assert not run(scenario, Driver(whole))
    assert whole.steps > 40
    for step in range(1, whole.steps + 2):
        for draw in range(3 if loss in {Loss.SOME, Loss.TORN} else 1):
            fs = FaultyFileSystem()
            fs.crash_at = step
            driver = Driver(fs)
            assert run(scenario, driver) == (step <= whole.steps)
            recover(driver, loss, Random(step * 10 + draw))


@pytest.mark.parametrize("loss", [Loss.ALL, Loss.SOME, Loss.TORN])
def test_crash_at_every_step_of_recovery(loss: Loss) -> None:
    """Opening after a torn write is itself stopped before each of its operations."""
    for draw in range(12):
        for step in range(1, 40):
            fs = FaultyFileSystem()
            driver = Driver(fs)
            driver.open()
            driver.add(1)
            for _ in range(3):
                driver.add(900)
                driver.sync_now()
            for size in (10, 900, 20):
                driver.add(size)
                driver.flush()
            fs.restart(Loss.SOME if draw % 2 else Loss.TORN, Random(draw))
            fs.crash_at = fs.steps + step
            try:
                driver.reopen()
            except SimulatedCrash:
                recover(driver, loss, Random(draw))
                continue
            fs.crash_at = None
            recover(driver, loss, Random(draw))
            break
        else:
            pytest.fail("recovery has more steps than were tried")


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 1800)),
        st.tuples(st.just("add"), st.integers(0, 60)),
        st.tuples(st.just("cut"), st.integers(0, 5)),
        st.tuples(st.just("compact"), st.integers(1, 6)),
        st.tuples(st.just("vote"), st.integers(0, 2)),
        st.tuples(st.just("install"), st.integers(1, 30)),
        st.tuples(st.just("align"), st.integers(0, 40)),
        st.tuples(st.sampled_from(["flush", "sync", "sync_now", "timer", "restart"]), st.just(0)),
    ),
    max_size=60,
)


async def perform(driver: Driver, operations: list[tuple[str, int]]) -> None:
    """Carry out generated operations, as far as they make sense in the present state."""
    driver.open()
    driver.add(0)
    for name, number in operations:
        log = driver.model.log
        if name == "add":
            driver.add(number)
        elif name == "cut" and len(log) - number >= 2:
            driver.cut(len(log) - number)
        elif name == "compact" and number < len(log) - 1:
            driver.compact(number)
        elif name == "vote":
            driver.vote(driver.model.term + number, ("a:1", None)[number % 2])
        elif name == "install":
            driver.install(log[-1][1] + 1 + number)
        elif name == "align" and (number > 20 or number < len(log) - 1):
            driver.align(log[-1][1] + number if number > 20 else log[number + 1][1])
        elif name == "sync":
            await driver.sync()
        elif name in {"flush", "sync_now", "timer", "restart"}:
            getattr(driver, name)()
        assert driver.observed() == driver.model


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.integers(1, 200), st.sampled_from(Loss), st.randoms(use_true_random=False))
def test_any_operations_then_a_crash(
    operations: list[tuple[str, int]], crash_at: int, loss: Loss, rng: Random
) -> None:
    """The journal equals a list of the same operations at every moment, and survives a crash at any of them."""
    fs = FaultyFileSystem()
    fs.crash_at = crash_at
    driver = Driver(fs)
    run(lambda driver: perform(driver, operations), driver)
    recover(driver, loss, rng)
