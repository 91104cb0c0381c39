"""Any sequence of commands: fair ones, late ones, repeated ones, wrong ones, with all invariants after each.

Two replicas get every entry; one of them is replaced by its own snapshot now and then. The agents are played by a
small model that runs attempts by the rules of a real one: it starts its queue in order as far as it fits, and keeps
what it has not been answered. After a while of peace every workflow that can end has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from raftflow.domain import commands as c
from raftflow.domain.events import Event, TaskNotReady, TaskReady, WorkflowNotReady, WorkflowReady
from raftflow.domain.features import LEVEL, NEEDS, NEXT_LEVEL, NEXT_VERSION
from raftflow.domain.pieces import Draft
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import AgentAccepted, Done, Rejection
from raftflow.domain.tasks.feasibility import fits_now, suits
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.commands import attempts
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.rules import cache, context
from raftflow.machine.rules.audit_chain import verify_chain
from raftflow.machine.rules.context import COALESCE_MIN
from raftflow.machine.rules.step_limits import STEP_LIMITS, StepLimits
from raftflow.machine.tables.tasks import ORDER_NONE

AGENTS = st.sampled_from(["a1", "a2", "a3"])
WORKFLOWS = st.integers(0, 3).map(lambda number: f"wf-{number}")
OUTCOMES = st.sampled_from([outcome.value for outcome in AttemptOutcome])
NUMBERS = st.integers(0, 30)
SIGNALS = st.sampled_from(["go", "stop"])
KEYS = st.sets(st.sampled_from("abc"), min_size=1)


@st.composite
def specs(draw: Callable[..., Any]) -> WorkflowSpec:
    count = draw(st.integers(1, 8))
    alone = draw(st.sampled_from([-1, -1, 0, 1]))
    caches = draw(st.sampled_from([[None], [None, "", "k"], [None, "", "k-${t0.digest}"]]))
    tasks = []
    for position in range(count):
        needs = draw(st.lists(st.integers(0, position - 1), unique=True, max_size=2)) if position % 2 else []
        cache = draw(st.sampled_from(caches))
        tasks.append(
            TaskSpec(
                id=f"t{position}",
                needs=tuple(f"t{need}" for need in needs),
                program=CommandLine(("true",)),
                resources={
                    "cpu": draw(st.sampled_from([500, 1000, 1000, 2000, 0])),
                    "gpu": draw(st.sampled_from([0, 0, 0, 1])),
                    "memory": draw(st.sampled_from([0, 0, 100])),
                },
                labels=draw(st.sampled_from([{}, {}, {"zone": "a"}])),
                exclusive=position % 4 == alone,
                retries=draw(st.integers(0, 2)),
                retry_delay_ms=draw(st.sampled_from([0, 10])),
                timeout_ms=draw(st.sampled_from([None, 50])),
                cache="k" if cache is not None and "t0" in cache and 0 not in needs else cache,
                backup=draw(st.booleans()),
            )
        )
    return WorkflowSpec(
        name="model",
        tasks=tuple(tasks),
        on_failure=draw(st.sampled_from(["stop", "continue"])),
        priority=count,
        max_parallel=draw(st.sampled_from([None, None, 1, 2])),
    )


class FakeAgent:
    """What an agent process knows: its incarnation, what runs, what waits, and which ends are not answered yet."""

    def __init__(self, incarnation: int, capacity: dict[str, int]) -> None:
        self.incarnation = incarnation
        self.free = dict(capacity)
        self.seen = 0
        self.running: dict[int, Any] = {}
        self.waiting: dict[int, Any] = {}
        self.ends: list[c.AttemptEnd] = []

    def fetch(self, machine: Machine, name: str) -> None:
        known = machine.state.agents.get(name)
        if known is None or known.incarnation != self.incarnation:
            return
        for assignment in queries.assignments(machine, name, self.seen):
            self.seen = assignment.fence
            self.waiting[assignment.fence] = assignment
        stop, release = queries.orders(machine, name)
        for fence in [*stop, *release]:
            if fence in self.waiting:
                self._end(self.waiting.pop(fence), "released")
        for fence in stop:
            if fence in self.running:
                self.finish(fence, "cancelled")
        self.start()

    def start(self) -> None:
        for fence, assignment in list(self.waiting.items()):
            if any(amount > self.free.get(name, 0) for name, amount in assignment.resources.items()):
                return
            if self.running and (assignment.exclusive or any(other.exclusive for other in self.running.values())):
                return
            for name, amount in assignment.resources.items():
                self.free[name] -= amount
            self.running[fence] = self.waiting.pop(fence)

    def finish(self, fence: int, outcome: str, result: bytes = b"") -> None:
        assignment = self.running.pop(fence)
        for name, amount in assignment.resources.items():
            self.free[name] += amount
        self._end(assignment, outcome, result)
        self.start()

    def _end(self, assignment: Any, outcome: str, result: bytes = b"") -> None:
        self.ends.append(
            c.AttemptEnd(
                assignment.fence,
                assignment.workflow_id,
                assignment.task_id,
                AttemptOutcome(outcome),
                result=b'"done"' if outcome == "succeeded" else result,
                duration_ms=assignment.fence,
                cpu_ms=assignment.fence,
                peak_mib=assignment.fence * 20,
            )
        )


class Model(RuleBasedStateMachine):
    limits = STEP_LIMITS

    def __init__(self) -> None:
        super().__init__()
        self.replicas = [self.new_machine(), self.new_machine()]
        self.index = 0
        self.now_ms = 1_000
        self.records: list[Any] = []
        self.ready: dict[tuple[str, int], None] = {}
        self.agents: dict[str, FakeAgent] = {}
        self.gone: list[tuple[str, FakeAgent]] = []
        self.sent: list[c.AnyCommand] = []
        self.succeeded: dict[tuple[str, str], int] = {}
        self.fence = 0
        self.pieces: Any = None
        self.uploads: dict[str, list[c.AnyCommand]] = {}
        """What is still to come of each upload."""

    def new_machine(self) -> Machine:
        return Machine(requests_max=8, level_max=NEXT_LEVEL, limits=self.limits)

    @property
    def machine(self) -> Machine:
        return self.replicas[0]

    def apply(self, *commands: c.AnyCommand) -> tuple[Any, ...]:
        self.index += 1
        entry = c.encode_entry(commands)
        first, second = (machine.apply(self.index, 1, entry) for machine in self.replicas)
        assert first.replies == second.replies
        assert first.events == second.events
        assert first.audit == second.audit
        self.records += first.audit
        self._follow(first.events)
        for reply in first.replies:
            if isinstance(reply, Rejection):
                assert reply.message
        self.sent += commands
        return first.replies

    def _follow(self, events: list[Event]) -> None:
        """Keep the table of ready tasks, as the leader does."""
        whole = [event.workflow_id for event in events if isinstance(event, WorkflowReady)]
        for event in events:
            if isinstance(event, TaskReady):
                assert (event.workflow_id, event.task) not in self.ready or event.workflow_id in whole
                self.ready[event.workflow_id, event.task] = None
            elif isinstance(event, WorkflowReady):
                found, _ = queries.ready_positions(self.machine, event.workflow_id, 0, 100)
                self.ready.update(dict.fromkeys((event.workflow_id, position) for position in found))
            elif isinstance(event, TaskNotReady):
                self.ready.pop((event.workflow_id, event.task), None)
            elif isinstance(event, WorkflowNotReady):
                self.ready = {key: None for key in self.ready if key[0] != event.workflow_id}

    def do(self, kind: Any, /, **fields: Any) -> Any:
        return self.apply(kind(at_ms=self.now_ms, actor="model", **fields))[0]

    @initialize(spec=specs(), another=specs(), prefetch=st.integers(1, 3), level=st.sampled_from([LEVEL, NEXT_LEVEL]))
    def a_cluster_at_work(self, *, spec: WorkflowSpec, another: WorkflowSpec, prefetch: int, level: int) -> None:
        self.do(c.RaiseFeatureLevel, level=level, supported=(c.Supported("n1", level),))
        self.register(name="a1", restart=True, cpu=2000, prefetch=prefetch, home="home")
        self.register(name="a2", restart=True, cpu=2000, prefetch=2, home="home")
        self.submit("wf-0", spec, 30)
        self.submit("wf-1", another, 30)

    # --- clients

    @rule(workflow_id=WORKFLOWS, spec=specs(), request=NUMBERS)
    def submit(self, workflow_id: str, spec: WorkflowSpec, request: int) -> None:
        self.do(c.SubmitWorkflow, workflow_id=workflow_id, spec=spec, request_id=f"r{request}" if request < 9 else "")

    @rule(workflow_id=WORKFLOWS, spec=specs(), request=NUMBERS, size=st.integers(1, 3), at_once=st.booleans())
    def upload(self, *, workflow_id: str, spec: WorkflowSpec, request: int, size: int, at_once: bool) -> None:
        """Begin to bring a workflow in pieces, or bring all of it."""
        draft = Draft(spec)
        draft.rank([None] * len(draft.kinds()))
        fields = {"at_ms": self.now_ms, "actor": "model", "workflow_id": workflow_id}
        commands: list[c.AnyCommand] = [
            c.BeginWorkflow(
                **fields,
                name=spec.name,
                tasks=len(spec.tasks),
                needs=draft.needs,
                priority=spec.priority,
                on_failure=spec.on_failure,
                max_parallel=spec.max_parallel,
            )
        ]
        for number, piece in enumerate(draft.cut(size)):
            profiles, tasks = msgspec.Raw(piece.profiles), msgspec.Raw(piece.tasks)
            commands.append(c.AddTasks(**fields, number=number, profiles=profiles, tasks=tasks))
        commands.append(
            c.FinishWorkflow(
                **fields,
                request_id=f"r{request}" if request < 9 else "",
                fingerprint=bytes([size]) * 16,
                path=draft.path(),
            )
        )
        commands = list(c.decode_entry(c.encode_entry(tuple(commands))).commands)
        if isinstance(self.apply(commands[0])[0], Rejection):
            return
        self.uploads[workflow_id] = commands[1:]
        while at_once and self.uploads.get(workflow_id):
            self._send_piece(workflow_id)

    @precondition(lambda self: self.uploads)
    @rule(number=NUMBERS)
    def send_piece(self, number: int) -> None:
        self._send_piece(list(self.uploads)[number % len(self.uploads)])

    def _send_piece(self, workflow_id: str) -> None:
        reply = self.apply(self.uploads[workflow_id].pop(0))[0]
        if isinstance(reply, Rejection) or not self.uploads[workflow_id]:
            del self.uploads[workflow_id]

    @precondition(lambda self: self.uploads)
    @rule(count=st.integers(1, 3))
    def another_leader(self, count: int) -> None:
        """It drops what it finds."""
        self.do(c.DropUploads, workflow_ids=tuple(self.machine.state.uploads)[:count])
        self.uploads = {name: left for name, left in self.uploads.items() if name in self.machine.state.uploads}

    @rule(workflow_id=WORKFLOWS, action=st.sampled_from(["cancel", "pause", "resume", "retry"]), request=NUMBERS)
    def control(self, workflow_id: str, action: Any, request: int) -> None:
        self.do(
            c.ControlWorkflow, workflow_id=workflow_id, action=action, request_id=f"r{request}" if request < 5 else ""
        )

    @rule(number=NUMBERS)
    def send_again(self, number: int) -> None:
        """Any command arrives once more, as after a failover."""
        if self.sent:
            command = self.sent[-1 - number % len(self.sent)]
            if not isinstance(command, c.RegisterAgent):
                self.apply(command)

    @rule(before=st.integers(0, 200), count=st.integers(0, 2))
    def retire(self, before: int, count: int) -> None:
        self.do(c.RetireWorkflows, before_ms=self.now_ms - before, count_max=count)

    @precondition(lambda self: len(self.machine.state.results) > 0)
    @rule(prefix=st.sampled_from(["", "k", "sha256:"]))
    def clear_cache(self, prefix: str) -> None:
        self.do(c.ClearCache, prefix=prefix)

    # --- agents

    @rule(
        name=AGENTS,
        restart=st.booleans(),
        cpu=st.sampled_from([1000, 2000]),
        prefetch=st.integers(0, 3),
        home=st.sampled_from(["home", "home", "another"]),
    )
    def register(self, *, name: str, restart: bool, cpu: int, prefetch: int, home: str) -> None:
        capacity = {"cpu": cpu, "gpu": 1} if name == "a1" else {"cpu": cpu, "memory": 300}
        known = self.machine.state.agents.get(name)
        instance = known.instance if known is not None and not restart else f"i{self.index}"
        if known is not None and known.present and not restart:
            capacity = dict(known.capacity)
        reply = self.do(
            c.RegisterAgent,
            name=name,
            instance=instance,
            capacity=capacity,
            prefetch=prefetch,
            labels={"zone": "a"} if name == "a2" else {},
            home=home,
        )
        if isinstance(reply, Rejection) and reply.code is RejectionCode.PENDING:
            assert self.machine.state.agents[name] is known
            return
        if known is not None and known.present and restart and home != known.home:
            assert reply.code is RejectionCode.NAME_IN_USE
            return
        assert isinstance(reply, AgentAccepted)
        agent = self.machine.state.agents[name]
        assert agent.drained == (known is not None and known.drained), "a drain lasts until it is resumed"
        if name not in self.agents or self.agents[name].incarnation != reply.incarnation:
            if name in self.agents:
                self.gone.append((name, self.agents[name]))
            self.agents[name] = FakeAgent(reply.incarnation, capacity)

    @rule(name=AGENTS)
    def resume(self, name: str) -> None:
        self.do(c.ResumeAgent, name=name)

    @rule(name=AGENTS, deadline_ms=st.sampled_from([0, 1, 1, 10]), leaving=st.booleans())
    def drain(self, *, name: str, deadline_ms: int, leaving: bool) -> None:
        self.do(c.DrainAgent, name=name, deadline_ms=deadline_ms, leaving=leaving)

    @rule(name=AGENTS)
    def forget(self, name: str) -> None:
        known = self.machine.state.agents.get(name)
        reply = self.do(c.ForgetAgent, name=name)
        if self.machine.state.feature_level < NEXT_LEVEL:
            assert reply.code is RejectionCode.FEATURE_LEVEL
            assert self.machine.state.agents.get(name) is known
            return
        assert (name in self.machine.state.agents) == (known is not None and known.present)
        assert isinstance(reply, Rejection) == (known is None or known.present)

    @rule(name=AGENTS, reason=st.sampled_from(["lost", "lost", "left", "lost_together"]), stale=st.booleans())
    def remove(self, *, name: str, reason: Any, stale: bool) -> None:
        if name in self.agents:
            self.do(c.RemoveAgent, name=name, incarnation=self.agents[name].incarnation - stale, reason=reason)

    @precondition(lambda self: self.agents)
    @rule(name=AGENTS)
    def fetch(self, name: str) -> None:
        if name in self.agents:
            self.agents[name].fetch(self.machine, name)

    @precondition(lambda self: any(agent.running for agent in self.agents.values()))
    @rule(name=AGENTS, number=NUMBERS, outcome=OUTCOMES)
    def work(self, name: str, number: int, outcome: str) -> None:
        agent = self.agents.get(name)
        if agent is not None and agent.running:
            fences = list(agent.running)
            fence = fences[number % len(fences)]
            agent.finish(fence, "abandoned" if outcome in {"lost", "released"} else outcome)

    @precondition(lambda self: any(agent.running for agent in self.agents.values()))
    @rule(name=AGENTS, outcome=st.sampled_from(["succeeded", "succeeded", "failed", "outgrown"]))
    def finish_one(self, name: str, outcome: str) -> None:
        """The oldest attempt ends and is reported at once."""
        agent = self.agents.get(name)
        if agent is not None and agent.running:
            agent.finish(next(iter(agent.running)), outcome)
            self._report(name, agent)
            agent.ends.clear()

    @precondition(lambda self: any(agent.ends for agent in self.agents.values()))
    @rule(name=AGENTS, answered=st.booleans(), forgotten=st.booleans())
    def report(self, *, name: str, answered: bool, forgotten: bool) -> None:
        agent = self.agents.get(name)
        if agent is None:
            return
        missing = tuple(list(agent.running)[:1]) if forgotten else ()
        if forgotten and agent.running:
            agent.finish(missing[0], "abandoned")
            agent.ends.pop()
        self._report(name, agent, missing)
        if answered:
            agent.ends.clear()

    def _report(self, name: str, agent: FakeAgent, missing: tuple[int, ...] = ()) -> None:
        ends = tuple(agent.ends)
        reply = self.do(c.ReportAttempts, agent=name, incarnation=agent.incarnation, ends=ends, missing=missing)
        if isinstance(reply, Rejection):
            return
        assert [verdict.fence for verdict in reply.verdicts] == [end.fence for end in agent.ends]

    @precondition(lambda self: any(agent.running for agent in self.agents.values()))
    @rule(
        name=AGENTS, number=NUMBERS, keys=st.sets(st.sampled_from("abc"), min_size=1), cpu=st.sampled_from([500, 900])
    )
    def spawn(self, *, name: str, number: int, keys: set[str], cpu: int) -> None:
        agent = self.agents.get(name)
        if agent is None or not agent.running:
            return
        fence = list(agent.running)[number % len(agent.running)]
        spec = TaskSpec(id="child", program=CommandLine(("true",)), resources={"cpu": cpu}, retries=number % 2)
        children = tuple(c.ChildTask(key, 0) for key in sorted(keys))
        stamp = {"agent": name, "incarnation": agent.incarnation, "fence": fence}
        reply = self.do(c.SpawnTasks, profiles=(spec,), children=children, **stamp)
        if isinstance(reply, Rejection):
            known = {RejectionCode.STALE_INCARNATION, RejectionCode.STALE_FENCE, RejectionCode.REQUEST_MISMATCH}
            assert reply.code in known, reply
            return
        found = self.machine.state.agents[name].live[fence][0]
        tasks = [found.tasks[position] for position in reply.positions]
        assert [task.id.rpartition(":")[2] for task in tasks] == sorted(keys)
        if number % 3 == 0:
            self.do(c.CancelChildren, children=reply.positions[:1], **stamp)

    @precondition(lambda self: any(agent.running for agent in self.agents.values()))
    @rule(name=AGENTS, number=NUMBERS, begin=NUMBERS, outcome=st.sampled_from(["", "done", "not_done", "uncertain"]))
    def effect(self, *, name: str, number: int, begin: int, outcome: Any) -> None:
        agent = self.agents.get(name)
        if agent is None or not agent.running:
            return
        fence = list(agent.running)[number % len(agent.running)]
        told = {"agent": name, "incarnation": agent.incarnation, "fence": fence, "name": "send", "begin": begin}
        told["occurrence"] = 1 + number % 2
        reply = self.do(c.BeginEffect, function="f", **told)
        if isinstance(reply, Rejection):
            assert reply.code in {RejectionCode.STALE_INCARNATION, RejectionCode.STALE_FENCE}, reply
        elif outcome and reply.status != "busy":
            ended = self.do(c.EndEffect, outcome=outcome, result=b"1" if outcome == "done" else b"", **told)
            if reply.status in {"begun", "open"}:
                assert not isinstance(ended, Rejection), ended

    @precondition(lambda self: self.machine.state.effects.unrecorded)
    @rule(number=NUMBERS, resolution=st.sampled_from(["done", "retry", "fail"]))
    def resolve(self, *, number: int, resolution: Any) -> None:
        numbers = list(self.machine.state.effects.unrecorded)
        result = b"2" if resolution == "done" else b""
        reply = self.do(c.ResolveEffect, number=numbers[number % len(numbers)], resolution=resolution, result=result)
        assert not isinstance(reply, Rejection) or reply.code is RejectionCode.CONFLICT, reply

    @precondition(lambda self: any(agent.running for agent in self.agents.values()))
    @rule(name=AGENTS, number=NUMBERS)
    def park(self, name: str, number: int) -> None:
        agent = self.agents.get(name)
        if agent is not None and agent.running:
            agent.finish(list(agent.running)[number % len(agent.running)], "parked")

    @precondition(lambda self: any(agent.running for agent in self.agents.values()))
    @rule(name=AGENTS, number=NUMBERS, signal=SIGNALS, timeout_ms=st.sampled_from([0, 500]), parks=st.booleans())
    def wait(self, *, name: str, number: int, signal: str, timeout_ms: int, parks: bool) -> None:
        agent = self.agents.get(name)
        if agent is None or not agent.running:
            return
        fence = list(agent.running)[number % len(agent.running)]
        stamp = {"agent": name, "incarnation": agent.incarnation, "fence": fence, "kind": "signal", "name": signal}
        reply = self.do(c.BeginWait, occurrence=1 + number % 2, timeout_ms=timeout_ms, **stamp)
        if isinstance(reply, Rejection):
            assert reply.code in {RejectionCode.STALE_INCARNATION, RejectionCode.STALE_FENCE}, reply
        elif reply.number and parks:
            agent.finish(fence, "parked", msgspec.json.encode({"waits": [reply.number]}))

    @rule(workflow=WORKFLOWS, signal=SIGNALS, key=st.sampled_from(["", "k", "l"]))
    def signal(self, workflow: str, signal: str, key: str) -> None:
        reply = self.do(c.SendSignal, workflow_id=workflow, name=signal, payload=b"1", key=key)
        if isinstance(reply, Rejection):
            known = {RejectionCode.NOT_FOUND, RejectionCode.CONFLICT, RejectionCode.REQUEST_MISMATCH}
            assert reply.code in known, reply

    @precondition(lambda self: self.gone)
    @rule(number=NUMBERS)
    def a_voice_from_the_past(self, number: int) -> None:
        """An agent that was replaced reports: nothing changes."""
        name, agent = self.gone[number % len(self.gone)]
        for fence in list(agent.running):
            agent.finish(fence, "succeeded")
        before = [[task.state for task in workflow.tasks] for workflow in self.machine.state.workflows.values()]
        self._report(name, agent)
        assert before == [
            [task.state for task in workflow.tasks] for workflow in self.machine.state.workflows.values()
        ]

    @precondition(lambda self: self.gone)
    @rule(number=NUMBERS)
    def an_offer(self, number: int) -> None:
        """An agent that was replaced is back, and offers what it never got answered."""
        name, former = self.gone[number % len(self.gone)]
        for fence in list(former.running):
            former.finish(fence, "succeeded" if fence % 2 else "failed")
        agent = self.agents[name]
        reply = self.do(c.OfferEnds, agent=name, incarnation=agent.incarnation, ends=tuple(former.ends))
        if not isinstance(reply, Rejection):
            former.ends.clear()

    @rule(
        name=AGENTS,
        fence=NUMBERS,
        workflow_id=WORKFLOWS,
        task=st.integers(0, 6),
        outcome=OUTCOMES,
        result=st.sampled_from([b"", b"1", b"{"]),
    )
    def lie(self, *, name: str, fence: int, workflow_id: str, task: int, outcome: str, result: bytes) -> None:
        """A report about anything at all."""
        known = self.machine.state.agents.get(name)
        end = c.AttemptEnd(fence, workflow_id, f"t{task}", AttemptOutcome(outcome), result=result)
        self.do(c.ReportAttempts, agent=name, incarnation=1 if known is None else known.incarnation, ends=(end,))

    # --- the leader

    @precondition(lambda self: self.ready and self.agents)
    @rule(numbers=st.lists(st.integers(0, 7), min_size=1, max_size=6), name=AGENTS)
    def assign_and_fetch(self, numbers: list[int], name: str) -> None:
        """A good decision: ready tasks for an agent that takes them at once."""
        if name in self.agents:
            self.place([(number, name) for number in numbers])
            self.agents[name].fetch(self.machine, name)

    @rule(numbers=st.lists(st.tuples(NUMBERS, AGENTS), max_size=6))
    def place(self, numbers: list[tuple[int, str]]) -> None:
        ready = list(self.ready)
        placements = []
        for number, agent in numbers:
            workflow_id, task = ready[number % len(ready)] if ready else ("wf-0", number)
            known = self.machine.state.agents.get(agent)
            placements.append(c.Placement(workflow_id, task, agent, 0 if known is None else known.incarnation))
        self._placed(self.do(c.CommitPlacements, placements=tuple(placements)))

    def _placed(self, reply: Any) -> None:
        for fence in reply.fences:
            assert fence == 0 or fence > self.fence
            self.fence = max(self.fence, fence)

    @rule(number=NUMBERS, name=AGENTS)
    def back_up_anything(self, number: int, name: str) -> None:
        known = self.machine.state.agents.get(name)
        placement = c.Placement("wf-0", number % 8, name, 0 if known is None else known.incarnation)
        possible = placement in self._backups()
        reply = self.do(c.CommitBackups, placements=(placement,))
        assert not reply.fences[0] or possible
        self._placed(reply)

    @precondition(lambda self: self._backups())
    @rule(number=NUMBERS)
    def back_up(self, number: int) -> None:
        """A second attempt of something that runs, where there is room for it."""
        backups = self._backups()
        placement = backups[number % len(backups)]
        reply = self.do(c.CommitBackups, placements=(placement,))
        assert reply.fences[0]
        self._placed(reply)
        self.agents[placement.agent].fetch(self.machine, placement.agent)

    def _backups(self) -> list[c.Placement]:
        """Backups that could be started."""
        return [
            c.Placement(workflow.id, task.position, agent.name, agent.incarnation)
            for agent in self.machine.state.agents.values()
            if agent.state is AgentState.UP and not agent.queue
            for workflow in self.machine.state.workflows.values()
            if not workflow.held
            for task in workflow.tasks
            if task.state is TaskState.RUNNING and not (task.mishaps and task.mishaps.paired)
            if workflow.profiles[task.profile].backup
            if workflow.max_parallel is None or self._under_way(workflow) < workflow.max_parallel
            if task.last.agent != agent.name and task.last.order == ORDER_NONE
            if fits_now(
                workflow.profiles[task.profile].shape,
                agent.free,
                running=len(agent.live) - len(agent.queue),
                alone=agent.alone,
            )
            if suits(workflow.profiles[task.profile].shape, agent.capacity, agent.labels)
        ]

    @staticmethod
    def _under_way(workflow: Any) -> int:
        live = [task for task in workflow.tasks if task.state in {TaskState.QUEUED, TaskState.RUNNING}]
        return len(live) + sum(task.backup is not None for task in live)

    @rule(name=AGENTS, numbers=st.lists(NUMBERS, max_size=4), at_once=st.booleans())
    def recall(self, *, name: str, numbers: list[int], at_once: bool) -> None:
        """Some of what waits in a queue, or anything at all, is asked back."""
        known = self.machine.state.agents.get(name)
        fences = numbers if known is None else [*numbers, *known.queue]
        incarnation = 0 if known is None else known.incarnation
        self.do(c.RecallAttempts, agent=name, incarnation=incarnation, fences=tuple(fences))
        if at_once and name in self.agents:
            self.agents[name].fetch(self.machine, name)

    @rule(after=st.sampled_from([0, 1, 10, 50, 70_000]))
    def fire(self, after: int) -> None:
        self.now_ms += after
        self.do(c.FireTimers)
        due = self.machine.state.next_timer_ms
        assert due is None or due > self.now_ms

    @precondition(lambda self: len(self.machine.state.agenda))
    @rule(times=st.integers(1, 3))
    def continue_agenda(self, times: int) -> None:
        for _ in range(times):
            self.do(c.ContinueAgenda)

    @rule()
    def raise_level(self) -> None:
        self.do(c.RaiseFeatureLevel, level=NEXT_LEVEL, supported=(c.Supported("n1", NEXT_LEVEL),))

    # --- snapshots

    @rule()
    def restart_a_replica(self) -> None:
        fresh = self.new_machine()
        fresh.restore(self.replicas[1].snapshot())
        self.replicas[1] = fresh

    @rule()
    def open_snapshot(self) -> None:
        if self.pieces is not None:
            pieces, expected = self.pieces
            self.pieces = None
            assert b"".join(pieces) == expected
        else:
            expected = b"".join(self.machine.snapshot())
            self.pieces = (self.machine.snapshot(), expected)

    # --- what always holds

    @invariant()
    def everything_fits_together(self) -> None:
        assert check(self.machine) == []
        assert list(queries.ready_tasks(self.machine)) == sorted(
            self.ready, key=lambda key: (self.machine.state.workflows[key[0]].number, key[1])
        )
        assert self.replicas[0].chain == self.replicas[1].chain

    @invariant()
    def nothing_is_done_twice(self) -> None:
        """A task that succeeded keeps its attempt and its result, whatever is reported later."""
        for workflow in self.machine.state.workflows.values():
            for task in workflow.tasks:
                if task.state is TaskState.SUCCEEDED and task.last is not None:
                    assert self.succeeded.setdefault(
                        (workflow.id, f"{workflow.number}/{task.id}"), task.last.fence
                    ) == (task.last.fence)

    def teardown(self) -> None:
        from raftflow.machine.rules.audit_chain import decode_record

        assert verify_chain([decode_record(data) for data in self.records]) == (self.machine.chain, [])
        first, second = (b"".join(machine.snapshot()) for machine in self.replicas)
        assert first == second
        self._peace()

    def _work_off(self) -> None:
        while len(self.machine.state.agenda):
            assert self.do(c.ContinueAgenda) == Done(changed=True)
            assert check(self.machine) == []

    def _peace(self) -> None:
        """With an agent that can do everything and reports at once, all work comes to its end."""
        for name in list(self.agents):
            self.do(c.RemoveAgent, name=name, incarnation=self.agents[name].incarnation, reason="lost")
        self._work_off()
        reply = self.do(
            c.RegisterAgent,
            name="peace",
            instance="i",
            capacity={"cpu": 4000, "gpu": 4, "memory": 4000},
            labels={"zone": "a"},
            prefetch=2,
        )
        agent = FakeAgent(reply.incarnation, {"cpu": 4000, "gpu": 4, "memory": 4000})
        for workflow_id in list(self.machine.state.workflows):
            self.do(c.ControlWorkflow, workflow_id=workflow_id, action="resume")
        for _ in range(200):
            self.now_ms += 70_000
            self._work_off()
            self.do(c.FireTimers)
            self._work_off()
            self.do(
                c.CommitPlacements,
                placements=tuple(c.Placement(*key, "peace", reply.incarnation) for key in self.ready),
            )
            agent.fetch(self.machine, "peace")
            for fence in list(agent.running):
                agent.finish(fence, "succeeded")
            self._report("peace", agent)
            agent.ends.clear()
            for workflow in list(self.machine.state.workflows.values()):
                for signal in {} if workflow.waits is None else list(workflow.waits.listening):
                    self.do(c.SendSignal, workflow_id=workflow.id, name=signal, payload=b"1")
            if all(workflow.finished_ms for workflow in self.machine.state.workflows.values()):
                break
        assert all(workflow.finished_ms for workflow in self.machine.state.workflows.values())
        assert check(self.machine) == []
        assert self.machine.state.agents["peace"].free == {"cpu": 4000, "gpu": 4, "memory": 4000}


class Twins(Model):
    """One machine does every command at once, the other in pieces until nothing is left of it. Both come to the same.

    Between two pieces the other one may be replaced by its own snapshot.
    """

    def new_machine(self) -> Machine:
        limits = STEP_LIMITS if not hasattr(self, "replicas") else self.limits
        return Machine(requests_max=8, level_max=NEXT_LEVEL, limits=limits)

    def __init__(self) -> None:
        super().__init__()
        self.replicas[1] = self.new_machine()

    def apply(self, *commands: c.AnyCommand) -> tuple[Any, ...]:
        replies: list[Any] = []
        for command in commands:
            if isinstance(command, c.RegisterAgent):
                self._give_up_former(command)
            replies += self._apply_to_both(command)
        return tuple(replies)

    def _give_up_former(self, command: c.RegisterAgent) -> None:
        """A large agent is removed before another process takes its place."""
        known = self.machine.state.agents.get(command.name)
        if known is not None and known.present and known.instance != command.instance and known.home == command.home:
            self.do(c.RemoveAgent, name=known.name, incarnation=known.incarnation, reason="lost")

    def _apply_to_both(self, command: c.AnyCommand) -> tuple[Any, ...]:
        self.index += 1_000
        entry = c.encode_entry((command,))
        first, second = (machine.apply(self.index, 1, entry) for machine in self.replicas)
        assert first.replies == second.replies
        self._follow(first.events)
        index = self.index
        while len(self.replicas[1].state.agenda):
            index += 1
            if index % 5 == 0:
                fresh = self.new_machine()
                fresh.restore(self.replicas[1].snapshot())
                self.replicas[1] = fresh
            piece = c.ContinueAgenda(at_ms=self.now_ms, actor="model")
            self.replicas[1].apply(index, 1, c.encode_entry((piece,)))
            assert check(self.replicas[1]) == []
        self.sent.append(command)
        return first.replies

    def _report(self, name: str, agent: FakeAgent, missing: tuple[int, ...] = ()) -> None:
        """Where results are shared, ends are reported one by one.

        The second end of a report may be cached before a piece looks for it on behalf of the first.
        """
        if not any(workflow.caches for workflow in self.machine.state.workflows.values()):
            super()._report(name, agent, missing)
            return
        ends, agent.ends = agent.ends, []
        for end in ends:
            agent.ends = [end]
            super()._report(name, agent)
        agent.ends = []
        if missing:
            super()._report(name, agent, missing)
        agent.ends = ends

    @invariant()
    def everything_fits_together(self) -> None:
        assert check(self.machine) == []
        assert facts(self.replicas[0]) == facts(self.replicas[1])

    @rule()
    def restart_a_replica(self) -> None:
        """It happens between pieces."""

    @rule()
    def open_snapshot(self) -> None:
        """The bytes are compared after every command."""

    def teardown(self) -> None:
        self._peace()


def facts(machine: Machine) -> bytes:
    """The tables as bytes, without the log position and the chain."""
    copy = Machine(requests_max=8, level_max=NEXT_LEVEL)
    copy.restore(machine.snapshot())
    copy.applied_index = copy.applied_term = 0
    copy.chain = bytes(32)
    return b"".join(copy.snapshot())


@pytest.mark.no_cover
@pytest.mark.parametrize("limits", [StepLimits(1, 1), StepLimits(6, 4)])
def test_commands_in_pieces_come_to_the_same_as_at_once(monkeypatch, limits):
    monkeypatch.setattr(Twins, "limits", limits)
    for command, level in NEXT_VERSION.items():
        monkeypatch.setitem(NEEDS, command, level)
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=30,
            derandomize=True,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("bulk", "limits", "examples"),
    [
        (COALESCE_MIN, STEP_LIMITS, 80),
        (2, STEP_LIMITS, 80),
        (COALESCE_MIN, StepLimits(2, 1), 40),
        (2, StepLimits(5, 3), 40),
    ],
)
def test_any_sequence_of_commands_keeps_every_invariant(monkeypatch, bulk, limits, examples):
    """Also where one event stands for many moves, and where commands are carried out in small pieces.

    The newest version is one of the next feature level.
    """
    monkeypatch.setattr(Model, "limits", limits)
    for command, level in NEXT_VERSION.items():
        monkeypatch.setitem(NEEDS, command, level)
    for module in (attempts, cache, context):
        monkeypatch.setattr(module, "COALESCE_MIN", bulk)
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=examples,
            derandomize=True,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
