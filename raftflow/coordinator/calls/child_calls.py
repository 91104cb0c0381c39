"""Answers what running attempts ask about children: spawn some, look at some, cancel some.

Each spawn is one command, unless a task that runs again asks for children that are there: then it needs none. Many of
many attempts share an entry of the log (group commit).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from raftflow.coordinator.calls.refusals import refusal_of
from raftflow.domain import limits
from raftflow.domain.commands import CancelChildren, ChildTask, SpawnTasks
from raftflow.domain.contract.views import (
    ChildrenFound,
    ChildrenSpawned,
    ChildrenStopped,
    RefusedCall,
)
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import TasksSpawned
from raftflow.domain.tasks.children import Positions, merge_ranges
from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.readers.json_reader import decode_json
from raftflow.machine.read import children as child_reads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.domain.contract.views import AnyAnswer, FindChildren, SpawnChildren, StopChildren
    from raftflow.domain.tasks.workflow import TaskSpec
    from raftflow.machine.machine import Machine

COUNTED_PER_TURN = 10_000
"""Children that are counted in one turn of the loop: some milliseconds."""
_OVER = "attempt {} is over, so its children are no longer its own"

_encoder = msgspec.msgpack.Encoder()


class ChildCalls:
    """Answers calls about children. Only the leader uses it.

    Args:
        barrier: confirms that this replica leads and has applied all that is committed; raises if it does not.
    """

    def __init__(
        self, *, machine: Machine, submitter: Submitter, clock: WallClock, barrier: Callable[[], Awaitable[int]]
    ) -> None:
        self._machine = machine
        self._submitter = submitter
        self._clock = clock
        self._barrier = barrier

    # --- spawn

    async def spawn(self, agent: str, incarnation: int, calls: list[SpawnChildren]) -> list[AnyAnswer]:
        """Spawn the children of each call, all or nothing."""
        return await asyncio.gather(*[self._spawn(agent, incarnation, call) for call in calls])

    async def _spawn(self, agent: str, incarnation: int, call: SpawnChildren) -> AnyAnswer:
        try:
            specs = _read_tasks(call)
        except DocumentError as error:
            return RefusedCall(type="invalid", detail=str(error))
        profiles, children = _shared(specs)
        parent = child_reads.find_parent(self._machine, agent, incarnation, call.fence)
        if parent is not None:
            known = child_reads.known_children(self._machine, *parent, profiles, children)
            if known is not None:
                return ChildrenSpawned(children=known)
        reply = await self._submitter.propose(
            SpawnTasks(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                fence=call.fence,
                profiles=profiles,
                children=children,
            )
        )
        if isinstance(reply, Rejection):
            return refusal_of(reply)
        assert isinstance(reply, TasksSpawned)  # noqa: S101 - the machine's contract
        return ChildrenSpawned(children=list(reply.positions))

    # --- look

    async def find(self, agent: str, incarnation: int, calls: list[FindChildren]) -> list[AnyAnswer]:
        """Look at children. Only what this replica does not know needs the barrier."""
        try:
            return [await self._find(agent, incarnation, call) for call in calls]
        except (_UnknownAttemptError, child_reads.UnknownChildError):
            await self._barrier()
        answers: list[AnyAnswer] = []
        for call in calls:
            try:
                answers.append(await self._find(agent, incarnation, call))
            except _UnknownAttemptError:
                answers.append(RefusedCall(type="stale", detail=_OVER.format(call.fence)))
            except child_reads.UnknownChildError as error:
                answers.append(RefusedCall(type="invalid", detail=str(error)))
        return answers

    async def _find(self, agent: str, incarnation: int, call: FindChildren) -> ChildrenFound:
        found = child_reads.find_parent(self._machine, agent, incarnation, call.fence)
        if found is None:
            raise _UnknownAttemptError
        workflow, parent = found
        numbers = child_reads.numbers_of(workflow, parent, call.keys)
        ranges: Positions = (*[(number, number) for number in numbers], *call.children)
        if not ranges:
            ranges = ((parent.position, len(workflow.tasks) - 1),)
        if call.ends:
            answer = child_reads.ends_of(workflow, parent, ranges, call.begin)
        else:
            count = child_reads.ChildCount(workflow, parent, ranges)
            while count.count(COUNTED_PER_TURN):  # noqa: ASYNC110 - every turn does a part of the work
                await asyncio.sleep(0)
            answer = count.found()
        answer.numbers = numbers
        return answer

    # --- cancel

    async def stop(self, agent: str, incarnation: int, calls: list[StopChildren]) -> list[AnyAnswer]:
        """Cancel the children of each call."""
        return await asyncio.gather(*[self._stop(agent, incarnation, call) for call in calls])

    async def _stop(self, agent: str, incarnation: int, call: StopChildren) -> AnyAnswer:
        count = limits.TASKS_GROWN_MAX
        numbers = [
            each for first, last in merge_ranges(tuple(call.children), count) for each in range(first, last + 1)
        ]
        for begin in range(0, len(numbers), limits.SPAWN_TASKS_MAX):
            reply = await self._submitter.propose(
                CancelChildren(
                    at_ms=self._clock.now_ms(),
                    actor=f"agent:{agent}",
                    agent=agent,
                    incarnation=incarnation,
                    fence=call.fence,
                    children=tuple(numbers[begin : begin + limits.SPAWN_TASKS_MAX]),
                )
            )
            if isinstance(reply, Rejection):
                return refusal_of(reply)
        return ChildrenStopped()


class _UnknownAttemptError(Exception):
    """This replica does not know the attempt as live."""


def _read_tasks(call: SpawnChildren) -> tuple[TaskSpec, ...]:
    """Read the tasks of a call as those of a document. Raises `DocumentError`."""
    tasks = b",".join([bytes(task) for task in call.tasks])
    document = b'{"name":"children","defaults":%s,"tasks":[%s]}' % (bytes(call.defaults), tasks)
    return normalize(decode_json(document)).tasks


def _shared(specs: tuple[TaskSpec, ...]) -> tuple[tuple[TaskSpec, ...], tuple[ChildTask, ...]]:
    """Return what tasks run, each once, and which of it is for each key."""
    profiles: list[TaskSpec] = []
    known: dict[bytes, int] = {}
    children: list[ChildTask] = []
    for spec in specs:
        plain = msgspec.structs.replace(spec, id="child")
        number = known.setdefault(_encoder.encode(plain), len(profiles))
        if number == len(profiles):
            profiles.append(plain)
        children.append(ChildTask(spec.id, number))
    return tuple(profiles), tuple(children)
