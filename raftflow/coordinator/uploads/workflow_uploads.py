"""Large workflows go into the log piece by piece. Uploads that nobody will finish are dropped.

Only one piece of all uploads is in the log at a time, and uploads take turns. So other commands go in between, and
every entry is small enough to apply without a pause of the replica.

An upload belongs to one leadership. A leader drops uploads of earlier leaders, and its own that failed, as soon as it
sees them. An upload has no effect before its last command. If it fails earlier, the client is told that nothing was
done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import msgspec

from raftflow.coordinator.commit.coalesced_task import CoalescedTask
from raftflow.coordinator.commit.submitter import BusyError, NoLeaderError, OutcomeUnknownError
from raftflow.domain import limits
from raftflow.domain.commands import AddTasks, BeginWorkflow, DropUploads, FinishWorkflow
from raftflow.domain.rejections import Rejection, RejectionCode

if TYPE_CHECKING:
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.coordinator.uploads.submission import WorkflowSubmission
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.pieces import TaskPiece
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine


class ClientGoneError(Exception):
    """Nobody waits for the answer any more: the upload was dropped."""


class WorkflowUploads:
    """The leader's uploads.

    Args:
        name: of this replica.
        now_ms: the cluster's time.
        on_bug: told about an exception that is none of the expected ones; the replica must stop.
    """

    def __init__(
        self,
        *,
        name: str,
        machine: Machine,
        submitter: Submitter,
        now_ms: Callable[[], int],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._actor = f"leader:{name}"
        self._machine = machine
        self._submitter = submitter
        self._now_ms = now_ms
        self._leading = False
        self._stretch = 0
        """Counts the times that this replica began to lead."""
        self._active: dict[str, None] = {}
        """Uploads of this stretch that go on."""
        self._dropping = CoalescedTask("uploads", self._drop, on_bug)
        self._piece = asyncio.Lock()
        self._room = asyncio.Semaphore(limits.UPLOADS_MAX)
        self._requests: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        """Large submissions with a request id: a lock, and who holds it or waits for it."""

    def start(self) -> None:
        """This replica leads: whatever the state machine holds is of others."""
        self._leading = True
        self._stretch += 1
        self._active.clear()
        self._dropping.start()
        self.drop_abandoned()

    def stop(self) -> None:
        """It does no longer."""
        self._leading = False
        self._active.clear()
        self._dropping.stop()

    def drop_abandoned(self) -> None:
        """Drop uploads that nobody continues. Call it after every applied entry while leading."""
        uploads = self._machine.tables.uploads
        if uploads and any(workflow_id not in self._active for workflow_id in uploads):
            self._dropping.kick()

    async def _drop(self) -> None:
        stale = [workflow_id for workflow_id in self._machine.tables.uploads if workflow_id not in self._active]
        if stale:
            await self._submitter.propose(
                DropUploads(at_ms=self._now_ms(), actor=self._actor, workflow_ids=tuple(stale))
            )

    @asynccontextmanager
    async def alone(self, request_id: str) -> AsyncIterator[None]:
        """Let one submission of a request id be worked on at a time: the next finds what became of the first."""
        if not request_id:
            yield
            return
        lock, users = self._requests.setdefault(request_id, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._requests[request_id]

    async def submit(
        self,
        submission: WorkflowSubmission,
        *,
        workflow_id: str,
        request_id: str,
        actor: str,
        wanted: Callable[[], bool] = lambda: True,
    ) -> AnyReply:
        """Take a workflow in and return what `SubmitWorkflow` would be answered with.

        `wanted` is asked before every piece whether anybody still waits for the answer. Raises `ClientGoneError` if
        nobody does, and `ProposeError`s; after `OutcomeUnknownError` alone the workflow may be there.
        """
        async with self._room:
            if request_id and self._machine.tables.requests.get(request_id) is not None:
                reply = await self._finish(submission, workflow_id, request_id, actor)
                if not isinstance(reply, Rejection) or reply.code is not RejectionCode.NOT_FOUND:
                    return reply  # else it was forgotten just now
            stretch = self._stretch
            self._active[workflow_id] = None
            try:
                refused = await self._fill(submission, workflow_id, actor, wanted)
                self._check(stretch)
                return refused or await self._finish(submission, workflow_id, request_id, actor)
            except GeneratorExit:  # torn down with the event loop: there is nothing left that could be dropped
                stretch = -1
                raise
            finally:
                if stretch == self._stretch:
                    self._active.pop(workflow_id, None)
                    self.drop_abandoned()

    async def _fill(
        self, submission: WorkflowSubmission, workflow_id: str, actor: str, wanted: Callable[[], bool]
    ) -> Rejection | None:
        """Begin and send the pieces; returns a refusal."""
        stretch = self._stretch
        begin = BeginWorkflow(
            at_ms=self._now_ms(),
            actor=actor,
            workflow_id=workflow_id,
            name=submission.name,
            tasks=submission.tasks,
            needs=submission.needs,
            priority=submission.priority,
            on_failure=submission.on_failure,
            max_parallel=submission.max_parallel,
            code=submission.code,
            budgets=submission.budgets,
        )
        reply = await self._send(begin)
        if isinstance(reply, Rejection):
            if reply.code is RejectionCode.LIMIT and len(self._machine.tables.uploads) >= limits.UPLOADS_MAX:
                raise BusyError(reply.message)
            return reply
        for number, piece in enumerate(submission.pieces):
            async with self._piece:
                self._check(stretch)
                if not wanted():
                    raise ClientGoneError
                reply = await self._send(_add(self._now_ms(), actor, workflow_id, number, piece))
            if isinstance(reply, Rejection):
                return reply
        return None

    async def _send(self, command: AnyCommand) -> AnyReply:
        """Propose a command without which there is no workflow."""
        try:
            return await self._submitter.propose(command, bounded=True)
        except OutcomeUnknownError as error:
            raise NoLeaderError(f"a large workflow was not taken in: {error}") from error

    def _check(self, stretch: int) -> None:
        """Raise unless this replica leads as it did when the upload began: its successor has dropped it."""
        if not self._leading or stretch != self._stretch:
            raise self._submitter.no_leader_error()

    async def _finish(
        self, submission: WorkflowSubmission, workflow_id: str, request_id: str, actor: str
    ) -> AnyReply:
        return await self._submitter.propose(
            FinishWorkflow(
                at_ms=self._now_ms(),
                actor=actor,
                request_id=request_id,
                workflow_id=workflow_id,
                fingerprint=submission.fingerprint,
                path=submission.path,
            ),
            bounded=True,
        )


def _add(at_ms: int, actor: str, workflow_id: str, number: int, piece: TaskPiece) -> AddTasks:
    # Profiles and tasks are encoded already; `Raw` puts those bytes into the command as they are.
    profiles, tasks = (cast("Any", msgspec.Raw(data)) for data in piece)
    return AddTasks(at_ms=at_ms, actor=actor, workflow_id=workflow_id, number=number, profiles=profiles, tasks=tasks)
