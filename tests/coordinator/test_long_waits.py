"""A wait for days costs its record and nothing else: no entry of the log, and no work of the leader."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raftflow.coordinator.config.replica_config import Limits, Timing
from raftflow.coordinator.leader import pauses
from raftflow.domain.commands import FireTimers, SubmitWorkflow, decode_entry
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.simulation.world.loop import VirtualLoop
from tests.coordinator import conftest
from tests.coordinator.conftest import Bench

THREE_DAYS_S = 3 * 24 * 3600
LOOKS_AN_HOUR = 2
"""The leader looks at its next timer once an hour, because a wall clock may have been set."""


class VirtualClock:
    """A wall clock that follows the virtual time of a loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return 1_700_000_000_000 + round(self._loop.time() * 1000)

    def running_s(self) -> float:
        return self._loop.time()


class LoopWithoutThreads(VirtualLoop):
    """Does at once what would be done by a thread: the audit syncs its file so."""

    def run_in_executor(self, executor: object, func: Any, *args: Any) -> Any:
        future = self.create_future()
        future.set_result(func(*args))
        return future


@pytest.fixture
def loop() -> Any:
    made = LoopWithoutThreads()
    yield made
    made.close()


def test_a_wait_for_three_days_costs_nothing_while_it_lasts(
    tmp_path: Path, loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "FakeClock", lambda: VirtualClock(loop))
    monkeypatch.setattr(pauses, "BEAT_S", 600.0)  # else most of the test is five million beats
    monkeypatch.setattr(pauses, "PAUSE_MAX_S", 1800.0)
    looks: list[float] = []
    entries: list[tuple[float, list[Any]]] = []

    async def live() -> None:
        one = Bench(tmp_path, Timing(), Limits(), leads=True)
        replica = one.replica
        await replica.start()
        leader, apply = replica.leader, one.machine.apply

        def look(*, look_at_timer: Any = leader._timer_due) -> None:
            looks.append(loop.time())
            look_at_timer()

        def applied(index: int, term: int, entry: bytes) -> Any:
            entries.append((loop.time(), list(decode_entry(entry).commands)))
            return apply(index, term, entry)

        leader._timer_due = look  # type: ignore[method-assign]
        one.machine.apply = applied  # type: ignore[method-assign]
        wait = TaskWait("signal", "go", THREE_DAYS_S * 1000, b'"nobody came"')
        spec = WorkflowSpec(name="w", tasks=(TaskSpec(id="t", program=wait, resources={}, expected_ms=0),))
        await one.until(lambda: one.machine.state.feature_level > 0)
        began_s = loop.time()
        await replica.propose(SubmitWorkflow(at_ms=one.clock.now_ms(), actor="x", workflow_id="wf", spec=spec))
        task = one.machine.state.workflows["wf"].tasks[0]
        entries.clear()
        await asyncio.sleep(THREE_DAYS_S - 60)
        assert task.state is TaskState.PARKED and entries == []
        assert len(looks) <= LOOKS_AN_HOUR * THREE_DAYS_S / 3600
        await asyncio.sleep(3600)
        ((fired_s, commands),) = entries
        assert [type(each) for each in commands] == [FireTimers] and abs(fired_s - began_s - THREE_DAYS_S) < 1
        assert task.result == b'"nobody came"'
        await replica.stop()
        one.fs.close()

    loop.run_until_complete(live())
