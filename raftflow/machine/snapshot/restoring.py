"""Building a state from the records of a snapshot, and everything that follows from them."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.tasks.states import FINAL, LIVE_ATTEMPT, AgentState, TaskState
from raftflow.machine.rules import ledger
from raftflow.machine.tables.agents import Agent
from raftflow.machine.tables.claims import Claim
from raftflow.machine.tables.state import State
from raftflow.machine.tables.tasks import Profile, Task, attempt_of
from raftflow.machine.tables.timers import BACKOFF
from raftflow.machine.tables.uploads import Upload, decode_piece
from raftflow.machine.tables.workflows import Workflow

if TYPE_CHECKING:
    from raftflow.machine.tables.copy_on_write import AgentRecord, WorkflowRecord
    from raftflow.machine.tables.kinds import Learnt
    from raftflow.machine.tables.requests import Remembered
    from raftflow.machine.tables.results import CachedResult
    from raftflow.machine.tables.uploads import UploadRecord

_profiles_decoder = msgspec.msgpack.Decoder(list[Profile])
_tasks_decoder = msgspec.msgpack.Decoder(list[Task])


class SnapshotError(ValueError):
    """Bytes that are no snapshot, or one that this version cannot use."""


class Builder:
    """Takes the records in the order of the stream."""

    def __init__(self, requests_max: int) -> None:
        self.state = State(requests_max)
        self._names: dict[str, str] = {}
        self._live: list[tuple[int, Workflow, Task]] = []
        self._current: Workflow | None = None
        self._profiles: list[Profile] = []
        self._tasks: list[Task] = []
        """Those of the present workflow that were read."""
        self._profiles_wanted = 0
        self._tasks_wanted = 0
        self._upload: Upload | None = None
        self._pieces_wanted = 0

    def add_requests(self, entries: list[Remembered]) -> None:
        """Add remembered replies, oldest first."""
        for entry in entries:
            self.state.requests.remember(entry)

    def add_kinds(self, kinds: list[Learnt]) -> None:
        """Add what was learnt of kinds of tasks, in order."""
        for learnt in kinds:
            self.state.kinds_learnt[learnt.kind] = learnt

    def add_results(self, entries: list[CachedResult]) -> None:
        """Add cached results, least recently used first."""
        for entry in entries:
            self.state.results.put(entry)

    def add_agent(self, record: AgentRecord) -> None:
        """Add an agent."""
        agent = Agent(
            record.name,
            record.instance,
            record.incarnation,
            capacity=record.capacity,
            labels=record.labels,
            prefetch=record.prefetch,
            home=record.home,
            state=record.state,
        )
        agent.void = record.void
        agent.drain_deadline_ms = record.drain_deadline_ms
        agent.losses, agent.lost_ms, agent.faults = record.losses, record.lost_ms, record.faults
        agent.streak, agent.contradicted = record.streak, record.contradicted
        agent.drained = record.drained
        agent.quarantine_until_ms = record.quarantine_until_ms
        due_ms = agent.timer_ms
        if due_ms:
            self.state.agent_timers.set(agent.name, due_ms)
        self.state.agents[agent.name] = agent
        self._names[agent.name] = agent.name
        if agent.state is AgentState.UP:
            self.state.add_kind(agent, 1)

    def add_workflow(self, record: WorkflowRecord) -> None:
        """Begin a workflow; its profiles and tasks follow."""
        self._complete()
        workflow = Workflow(
            record.number,
            record.id,
            record.name,
            priority=record.priority,
            on_failure=record.on_failure,
            submitted_ms=record.submitted_ms,
        )
        workflow.finished_ms = record.finished_ms
        workflow.finished_number = record.finished_number
        workflow.paused = record.paused
        workflow.cancelled = record.cancelled
        workflow.stopping = record.stopping
        workflow.placed = record.placed
        workflow.warnings = record.warnings
        workflow.max_parallel = record.max_parallel
        workflow.facts = record.facts
        self._current = workflow
        self._profiles = []
        self._tasks = []
        self._profiles_wanted = record.profiles
        self._tasks_wanted = record.tasks

    def add_profiles(self, payload: bytes) -> None:
        """Add profiles of the workflow that was begun last."""
        self._begun()
        for profile in _profiles_decoder.decode(payload):
            shared = self.state.shape(profile.shape)
            self._profiles.append(
                profile if shared is profile.shape else msgspec.structs.replace(profile, shape=shared)
            )

    def add_tasks(self, payload: bytes) -> None:
        """Add tasks of the workflow that was begun last."""
        workflow = self._begun()
        for task in _tasks_decoder.decode(payload):
            if (
                task.position != len(self._tasks)
                or not 0 <= task.profile < self._profiles_wanted
                or any(not 0 <= need < self._tasks_wanted for need in (*task.needs, *task.waited))
            ):
                raise SnapshotError(f"{workflow.id}/{task.id}: refers to what is not there")
            self._tasks.append(task)
            for attempt in (task.last, task.backup, *task.history):
                if attempt is not None:
                    attempt.agent = self._names.setdefault(attempt.agent, attempt.agent)
            if task.claim:
                self._claim(workflow, task)
            if task.state in LIVE_ATTEMPT:
                if task.last is None:
                    raise SnapshotError(f"{workflow.id}/{task.id}: {task.state.name.lower()} without an attempt")
                self._live.append((task.last.fence, workflow, task))
            if task.backup is not None:
                if task.state is not TaskState.RUNNING:
                    raise SnapshotError(f"{workflow.id}/{task.id}: {task.state.name.lower()} with a backup attempt")
                self._live.append((task.backup.fence, workflow, task))

    def _claim(self, workflow: Workflow, task: Task) -> None:
        """Enter a task as the owner of its claim, or in line."""
        member = (workflow.number, task.position)
        claim = self.state.claims.setdefault(task.claim, Claim(None))
        if task.state is TaskState.WAITING:
            claim.line[member] = None
        elif task.state in FINAL or claim.owner is not None:
            raise SnapshotError(f"{workflow.id}/{task.id}: holds a claim that is not its own")
        else:
            claim.owner = member

    def _begun(self) -> Workflow:
        if self._current is None:
            raise SnapshotError("tasks without a workflow")
        return self._current

    def _complete(self) -> None:
        """Enter the workflow that was begun last into the tables."""
        workflow = self._current
        if workflow is None:
            return
        workflow.profiles, workflow.tasks = tuple(self._profiles), self._tasks
        if len(workflow.profiles) != self._profiles_wanted or len(workflow.tasks) != self._tasks_wanted:
            raise SnapshotError(f"{workflow.id}: some of its tasks are missing")
        path = workflow.facts.path
        if any(not 0 <= position < self._tasks_wanted for position in path):
            raise SnapshotError(f"{workflow.id}: its critical path refers to what is not there")
        workflow.index_tasks()
        self.state.workflows[workflow.id] = workflow
        self.state.by_number[workflow.number] = workflow

    def add_upload(self, record: UploadRecord) -> None:
        """Begin an upload; its pieces follow."""
        self._complete_upload()
        upload = Upload(
            record.id,
            record.name,
            priority=record.priority,
            on_failure=record.on_failure,
            max_parallel=record.max_parallel,
            tasks=record.tasks,
            needs=record.needs,
        )
        self.state.uploads[record.id] = upload
        self.state.upload_tasks += record.tasks
        self._upload = upload
        self._pieces_wanted = record.pieces

    def add_piece(self, payload: bytes) -> None:
        """Add a piece of the upload that was begun last."""
        upload = self._upload
        if upload is None:
            raise SnapshotError("a piece without an upload")
        profiles, tasks = decode_piece(payload)
        problems = upload.problems(profiles, tasks)
        if problems:
            raise SnapshotError(f"{upload.workflow.id}: {problems[0].path}: {problems[0].message}")
        upload.add(self.state.shape, profiles, tasks)

    def _complete_upload(self) -> None:
        upload = self._upload
        if upload is not None and len(upload.pieces) != self._pieces_wanted:
            raise SnapshotError(f"{upload.workflow.id}: some of its pieces are missing")

    def finish(self, *counts: int) -> None:
        """Derive the rest. Raises `SnapshotError` if the records do not fit together.

        `counts` are those of requests, agents, workflows, kinds, cached results and uploads.
        """
        self._complete()
        self._complete_upload()
        state = self.state
        tables: tuple[Sized, ...] = (
            state.requests,
            state.agents,
            state.workflows,
            state.kinds_learnt,
            state.results,
            state.uploads,
        )
        if tuple(map(len, tables)) != counts:
            raise SnapshotError("the snapshot holds another number of records than its header says")
        ended = []
        for workflow in state.workflows.values():
            state.result_bytes += workflow.result_bytes
            if workflow.finished_ms:
                ended.append(workflow)
            else:
                state.live_tasks += len(workflow.tasks)
        ended.sort(key=lambda workflow: workflow.finished_number)
        state.finished = {workflow.id: workflow for workflow in ended}
        if any(claim.owner is None for claim in state.claims.values()):
            raise SnapshotError("tasks wait for an equal one that is not there")
        self._derive_accounts()
        self._derive_timers()

    def _derive_accounts(self) -> None:
        self._live.sort(key=lambda found: found[0])
        for fence, workflow, task in self._live:
            attempt = attempt_of(task, fence)
            agent = self.state.agents.get(attempt.agent)
            if agent is None or not agent.present or agent.incarnation != attempt.incarnation:
                raise SnapshotError(f"{workflow.id}/{task.id}: its attempt is on no agent that is present")
            shape = workflow.profiles[task.profile].shape
            if task.state is TaskState.QUEUED:
                agent.queue.append(fence)
            elif ledger.fits(agent, shape):
                ledger.allocate(agent, shape)
            else:
                raise SnapshotError(f"agent {agent.name}: more is allocated than it has")
            agent.live[fence] = (workflow, task)

    def _derive_timers(self) -> None:
        timers = self.state.timers
        for workflow in self.state.workflows.values():
            if workflow.counts[TaskState.DELAYED]:
                for task in workflow.tasks:
                    if task.state is TaskState.DELAYED:
                        timers.add(workflow, task, task.due_ms, BACKOFF)
        for fence, workflow, task in self._live:
            deadline_ms = attempt_of(task, fence).deadline_ms
            if deadline_ms:
                timers.add(workflow, task, deadline_ms, fence)
