"""A machine with a short way to say things: every command is encoded, applied, and followed by all invariants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain.events import Event
from raftflow.domain.pieces import Draft
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import EntryResult, Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.read.queries import expected_times
from raftflow.machine.rules.audit_chain import decode_record, verify_chain
from raftflow.machine.rules.step_limits import STEP_LIMITS, StepLimits
from raftflow.machine.tables.requests import fingerprint_of

START_MS = 1_700_000_000_000


class Drive:
    """Applies commands to a machine, one per entry, at a time that the test moves."""

    def __init__(self, *, checked: bool = True, requests_max: int = 65_536, limits: StepLimits = STEP_LIMITS) -> None:
        self.machine = Machine(requests_max, limits=limits)
        self.now_ms = START_MS
        self.index = 0
        self.records: list[Any] = []
        self.events: list[Event] = []
        self.checked = checked

    # --- entries

    def entry(self, *commands: c.AnyCommand) -> EntryResult:
        self.index += 1
        result = self.machine.apply(self.index, 1, c.encode_entry(commands))
        self.records += [decode_record(data) for data in result.audit]
        self.events = result.events
        if self.checked:
            assert check(self.machine) == []
        return result

    def do(self, command: c.AnyCommand) -> Any:
        (reply,) = self.entry(command).replies
        return reply

    # --- commands

    def submit(self, spec: WorkflowSpec | None = None, workflow_id: str = "wf-1", request_id: str = "") -> Any:
        return self.do(
            c.SubmitWorkflow(
                at_ms=self.now_ms,
                actor="client:test",
                request_id=request_id,
                workflow_id=workflow_id,
                spec=self.chain(1) if spec is None else spec,
            )
        )

    def pieces(
        self, spec: WorkflowSpec, workflow_id: str = "wf-1", request_id: str = "", tasks_max: int = 2, **more: Any
    ) -> list[c.AnyCommand]:
        """Make the commands that bring a workflow in pieces."""
        stamp = {"at_ms": self.now_ms, "actor": "client:test", "workflow_id": workflow_id}
        draft = Draft(spec)
        known = expected_times(self.machine)
        draft.rank([known.get(kind) for kind in draft.kinds()])
        whole = c.SubmitWorkflow(**{**stamp, "request_id": request_id}, spec=spec)
        begin = c.BeginWorkflow(
            **stamp,
            name=spec.name,
            tasks=len(spec.tasks),
            needs=draft.needs,
            priority=spec.priority,
            on_failure=spec.on_failure,
            max_parallel=spec.max_parallel,
            budgets=spec.budgets,
        )
        adds = [
            c.AddTasks(**stamp, number=number, profiles=msgspec.Raw(piece.profiles), tasks=msgspec.Raw(piece.tasks))
            for number, piece in enumerate(draft.cut(tasks_max, **more))
        ]
        finish = c.FinishWorkflow(
            **stamp, request_id=request_id, fingerprint=fingerprint_of(whole), path=draft.path()
        )
        entry = c.decode_entry(c.encode_entry((begin, *adds, finish)))
        return list(entry.commands)

    def upload(
        self, spec: WorkflowSpec | None = None, workflow_id: str = "wf-1", request_id: str = "", **more: Any
    ) -> Any:
        """Bring a workflow in pieces, one per entry, and return the last reply, or the first refusal."""
        reply = None
        for command in self.pieces(self.chain(1) if spec is None else spec, workflow_id, request_id, **more):
            reply = self.do(command)
            if isinstance(reply, Rejection):
                break
        return reply

    def control(self, action: Any, workflow_id: str = "wf-1", request_id: str = "") -> Any:
        return self.do(
            c.ControlWorkflow(
                at_ms=self.now_ms,
                actor="client:test",
                request_id=request_id,
                workflow_id=workflow_id,
                action=action,
            )
        )

    def register(
        self, name: str = "a1", instance: str = "i1", cpu: int = 1, home: str | None = None, **more: Any
    ) -> Any:
        """Register an agent. By default it takes the place of the one before it under that name."""
        return self.do(
            c.RegisterAgent(
                at_ms=self.now_ms,
                actor=f"agent:{name}",
                name=name,
                instance=instance,
                capacity=more.pop("capacity", {"cpu": cpu * 1000}),
                home=f"home of {name}" if home is None else home,
                **more,
            )
        )

    def drain_leaving(self, name: str = "a1") -> Any:
        """Drain an agent as it asks for itself before it leaves."""
        return self.do(c.DrainAgent(at_ms=self.now_ms, actor=f"agent:{name}", name=name, leaving=True))

    def resume(self, name: str = "a1") -> Any:
        return self.do(c.ResumeAgent(at_ms=self.now_ms, actor="client:test", name=name))

    def drain(self, deadline_ms: int = 0, name: str = "a1") -> Any:
        return self.do(c.DrainAgent(at_ms=self.now_ms, actor="client:test", name=name, deadline_ms=deadline_ms))

    def forget(self, name: str = "a1") -> Any:
        return self.do(c.ForgetAgent(at_ms=self.now_ms, actor="client:test", name=name))

    def remove(self, name: str = "a1", reason: Any = "lost", incarnation: int | None = None) -> Any:
        if incarnation is None:
            incarnation = self.machine.state.agents[name].incarnation
        return self.do(
            c.RemoveAgent(at_ms=self.now_ms, actor="leader:r1", name=name, incarnation=incarnation, reason=reason)
        )

    def place(self, *tasks: int, agent: str = "a1", workflow_id: str = "wf-1", incarnation: int | None = None) -> Any:
        """Place tasks (by position) and return the fences."""
        if incarnation is None:
            incarnation = self.machine.state.agents[agent].incarnation
        placements = tuple(c.Placement(workflow_id, task, agent, incarnation) for task in tasks)
        reply = self.do(c.CommitPlacements(at_ms=self.now_ms, actor="leader:r1", placements=placements))
        return reply.fences

    def back_up(
        self, *tasks: int, agent: str = "a2", workflow_id: str = "wf-1", incarnation: int | None = None
    ) -> Any:
        """Start backups of tasks (by position) and return the fences."""
        if incarnation is None:
            incarnation = self.machine.state.agents[agent].incarnation
        placements = tuple(c.Placement(workflow_id, task, agent, incarnation) for task in tasks)
        return self.do(c.CommitBackups(at_ms=self.now_ms, actor="leader:r1", placements=placements)).fences

    def end(self, fence: int, outcome: str = "succeeded", **more: Any) -> c.AttemptEnd:
        """Make the end of an attempt; where it is not given, the task is looked up by its fence."""
        workflow_id, task_id = more.pop("workflow_id", "wf-1"), more.pop("task_id", None)
        for workflow in self.machine.state.workflows.values():
            for task in workflow.tasks:
                if task_id is None and any(
                    attempt is not None and attempt.fence == fence
                    for attempt in (task.last, task.backup, *task.history)
                ):
                    workflow_id, task_id = workflow.id, task.id
        return c.AttemptEnd(fence, workflow_id, task_id or "nobody", AttemptOutcome(outcome), **more)

    def report(
        self, *ends: c.AttemptEnd, agent: str = "a1", missing: tuple[int, ...] = (), incarnation: int | None = None
    ) -> Any:
        if incarnation is None:
            incarnation = self.machine.state.agents[agent].incarnation
        reply = self.do(
            c.ReportAttempts(
                at_ms=self.now_ms,
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                ends=ends,
                missing=missing,
            )
        )
        return [verdict.verdict for verdict in reply.verdicts] if hasattr(reply, "verdicts") else reply

    def finish(self, fence: int, outcome: str = "succeeded", agent: str = "a1", **more: Any) -> Any:
        """Report one end and return its verdict."""
        (verdict,) = self.report(self.end(fence, outcome, **more), agent=agent)
        return verdict

    def spawn(
        self,
        fence: int,
        *keys: str,
        specs: tuple[TaskSpec, ...] | None = None,
        agent: str = "a1",
        incarnation: int | None = None,
        **each: Any,
    ) -> Any:
        """Spawn a child for each key, all alike or each with one of `specs`; returns positions, or a refusal."""
        if incarnation is None:
            incarnation = self.machine.state.agents[agent].incarnation
        profiles = (
            (TaskSpec(**{"id": "child", "program": CommandLine(("true",)), **each}),) if specs is None else specs
        )
        children = tuple(c.ChildTask(key, number % len(profiles)) for number, key in enumerate(keys))
        self.last_spawn = c.SpawnTasks(
            at_ms=self.now_ms,
            actor=f"agent:{agent}",
            agent=agent,
            incarnation=incarnation,
            fence=fence,
            profiles=profiles,
            children=children,
        )
        reply = self.do(self.last_spawn)
        return reply if isinstance(reply, Rejection) else reply.positions

    def cancel_children(self, fence: int, *positions: int, agent: str = "a1", incarnation: int | None = None) -> Any:
        if incarnation is None:
            incarnation = self.machine.state.agents[agent].incarnation
        return self.do(
            c.CancelChildren(
                at_ms=self.now_ms,
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                fence=fence,
                children=positions,
            )
        )

    def park(self, fence: int, *ranges: tuple[int, int], mode: str = "all", agent: str = "a1") -> Any:
        """Report that an attempt parked, and return the verdict."""
        condition = msgspec.json.encode({"mode": mode, "children": ranges})
        return self.finish(fence, "parked", agent=agent, result=condition)

    def offer(self, *ends: c.AttemptEnd, agent: str = "a1", incarnation: int | None = None) -> Any:
        """Offer results of a former incarnation and return the verdicts."""
        if incarnation is None:
            incarnation = self.machine.state.agents[agent].incarnation
        reply = self.do(
            c.OfferEnds(at_ms=self.now_ms, actor=f"agent:{agent}", agent=agent, incarnation=incarnation, ends=ends)
        )
        return [verdict.verdict for verdict in reply.verdicts] if hasattr(reply, "verdicts") else reply

    def recall(self, *fences: int, agent: str = "a1", incarnation: int | None = None) -> Any:
        """Ask an agent to give queued attempts back."""
        if incarnation is None:
            incarnation = self.machine.state.agents[agent].incarnation
        return self.do(
            c.RecallAttempts(
                at_ms=self.now_ms, actor="leader:r1", agent=agent, incarnation=incarnation, fences=fences
            )
        )

    def piece(self) -> Any:
        """Do the next piece of what is on the agenda."""
        return self.do(c.ContinueAgenda(at_ms=self.now_ms, actor="leader:r1"))

    def work_off(self) -> int:
        """Do everything that is on the agenda. Returns how many pieces it took."""
        count = 0
        while len(self.machine.state.agenda):
            assert self.piece().changed
            count += 1
        return count

    def jobs(self) -> list[str]:
        """The kinds of the jobs on the agenda."""
        return [job.kind.value for job in self.machine.state.agenda]

    def fire(self, after_ms: int = 0) -> int:
        self.now_ms += after_ms
        return self.do(c.FireTimers(at_ms=self.now_ms, actor="leader:r1")).count

    def retire(self, before_ms: int | None = None, count_max: int = 1_000) -> Any:
        return self.do(
            c.RetireWorkflows(
                at_ms=self.now_ms,
                actor="leader:r1",
                before_ms=self.now_ms if before_ms is None else before_ms,
                count_max=count_max,
            )
        ).workflow_ids

    # --- specs

    @staticmethod
    def tasks(*needs: tuple[int, ...], on_failure: Any = "stop", priority: int = 50, **each: Any) -> WorkflowSpec:
        """A workflow of tasks t0, t1, ... that need those at the given positions."""
        each.setdefault("program", CommandLine(("true",)))
        return WorkflowSpec(
            name="test",
            on_failure=on_failure,
            priority=priority,
            tasks=tuple(
                TaskSpec(id=f"t{position}", needs=tuple(f"t{need}" for need in wanted), **each)
                for position, wanted in enumerate(needs)
            ),
        )

    @classmethod
    def chain(cls, length: int, **more: Any) -> WorkflowSpec:
        return cls.tasks(*[(n - 1,) if n else () for n in range(length)], **more)

    @classmethod
    def bag(cls, size: int, **more: Any) -> WorkflowSpec:
        return cls.tasks(*[()] * size, **more)

    # --- looks

    def states(self, workflow_id: str = "wf-1") -> str:
        """Letters of the tasks' states: Waiting Delayed rEady Queued Running Succeeded Failed Cancelled Parked."""
        letters = dict(zip(TaskState, "WDEQRSFCP", strict=True))
        return "".join(letters[task.state] for task in self.machine.state.workflows[workflow_id].tasks)

    def state(self, workflow_id: str = "wf-1") -> str:
        return self.machine.state.workflows[workflow_id].state.value

    def task(self, position: int, workflow_id: str = "wf-1") -> Any:
        return self.machine.state.workflows[workflow_id].tasks[position]

    def free(self, agent: str = "a1", name: str = "cpu") -> int:
        return self.machine.state.agents[agent].free[name]

    def queue(self, agent: str = "a1") -> list[int]:
        return list(self.machine.state.agents[agent].queue)

    def orders(self, agent: str = "a1") -> tuple[list[int], list[int]]:
        return queries.orders(self.machine, agent)

    def encoding(self) -> bytes:
        """The whole state as bytes."""
        return b"".join(self.machine.snapshot())

    def facts(self) -> list[Any]:
        """The tables as bytes, without what every command moves: log position, clock, chain."""
        machine = Machine()
        machine.restore([self.encoding()])
        machine.applied_index = machine.applied_term = 0
        machine.chain = bytes(32)
        machine._step.clock_ms = 0
        return [b"".join(machine.snapshot())]

    def transitions(self) -> list[str]:
        """What the last command moved: `task before event after`."""
        return [f"{t.task_id} {t.before} {t.event} {t.after}" for t in self.records[-1].transitions]


@pytest.fixture(scope="session")
def new_drive() -> Callable[..., Drive]:
    """Make further drives: replicas, or others with other settings."""
    return Drive


@pytest.fixture
def drive(new_drive: Callable[..., Drive]) -> Any:
    """A drive whose audit chain and snapshot are checked when the test is over."""
    made = new_drive()
    yield made
    _, problems = verify_chain(made.records)
    assert problems == []
    assert not made.records or made.records[-1].chain == made.machine.chain
    copy = Machine()
    copy.restore(made.machine.snapshot())
    assert check(copy) == []
    assert b"".join(copy.snapshot()) == made.encoding()
