"""One leader in miniature: the state machine, the planner and the rebalancer of production, driven by text commands.

Transcripts of `tests/scheduler/transcripts` and `tests/machine/transcripts` consist of these commands
(`tests/transcripts.py` has the format). After every command all invariants of the machine are checked. The output
says what the command changed: transitions of tasks and workflows, states of agents, orders to agents.

    agent NAME cpu=4 memory=8GiB prefetch=2 label=zone:a      an agent registers; again: its process was restarted
    workflow ID priority=50 max_parallel=2                    submits a workflow; each line of the body is a task:
    TASK needs=a,b cpu=2 retries=1 cache=KEY exclusive
    place                     the leader places until nothing more can be placed
    rebalance                 the leader places, then looks once for work that is better off elsewhere
    end WORKFLOW/TASK OUTCOME on=AGENT duration=5s            an agent reports the end of an attempt
    silent AGENT, heard AGENT the leader has not heard an agent for a while, or hears it again
    lose AGENT reason=lost    the lease of an agent ran out
    drain AGENT deadline=30s, resume-agent AGENT, forget AGENT
    cancel, pause, resume or retry WORKFLOW
    priority WORKFLOW NUMBER  changes the priority of a workflow
    advance 30s               time passes, and the timers that are due fire
    tasks WORKFLOW            every task and its attempts
    agents                    every agent, what is allocated on it, and its queue
    explain WORKFLOW/TASK     why the task is where it is
    propose policy=NAME       what a policy would place now; nothing is committed
    plan WORKFLOW policy=NAME what a policy would plan on the agents, as if they were empty
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from transcripts import TranscriptCommand

from raftflow.coordinator.placement.agent_stats import AgentStats
from raftflow.coordinator.placement.explanation import explain
from raftflow.coordinator.placement.planner import QueuePlanner
from raftflow.coordinator.placement.rebalancer import Rebalancer
from raftflow.coordinator.placement.usage import UsageStore
from raftflow.domain import commands as c
from raftflow.domain.replies import Placed, Reported
from raftflow.domain.tasks.resources import parse_amount, show_amount
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.formats.documents import normalize
from raftflow.formats.readers.durations import parse_duration_ms
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.rules.audit_chain import decode_record
from raftflow.scheduler.place import place
from raftflow.scheduler.plan.plan import PlanAgent, PlanningProblem
from raftflow.scheduler.policies import make_plan

START_MS = 1_700_000_000_000
PLACEMENTS_MAX = 100
RESOURCES = ("cpu", "memory", "gpu", "disk")
LEADER = "leader:r1"
CLIENT = "client:test"


class Scenario:
    """A machine with the leader's planner and rebalancer beside it."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.now_ms = START_MS
        self.stats = AgentStats()
        self.planner = QueuePlanner(self.machine, lambda: self.now_ms, self.stats)
        self.rebalancer = Rebalancer(
            machine=self.machine,
            planner=self.planner,
            agent_stats=self.stats,
            usage=UsageStore(),
            actor=LEADER,
            delivered_s=lambda _agent, _fence: -math.inf,
            now_ms=lambda: self.now_ms,
            now_s=lambda: self.now_ms / 1000,
        )
        self.instances = 0
        self.agents: dict[str, dict[str, str]] = {}
        """Options of each agent, as the scenario gave them."""
        self._specs: dict[str, Any] = {}
        self._states: dict[str, str] = {}
        """States of workflows and agents, as they were told last."""
        self._orders: dict[str, tuple[list[int], list[int]]] = {}
        self._reserved: dict[str, str] = {}
        self.planner.reset()

    def run(self, command: TranscriptCommand) -> str:
        """Run one command and return what it printed."""
        handler: Callable[[TranscriptCommand], Iterator[str]] | None = getattr(
            self, f"do_{command.name.replace('-', '_')}", None
        )
        if handler is None:
            raise ValueError(f"line {command.line}: there is no command {command.name!r}")
        return "\n".join(handler(command))

    # --- agents

    def do_agent(self, command: TranscriptCommand) -> Iterator[str]:
        (name,) = command.arguments
        options = self.agents[name] = command.options
        self.instances += 1
        yield from self._apply(
            c.RegisterAgent(
                **self._stamp(f"agent:{name}"),
                name=name,
                instance=f"process {self.instances}",
                home=f"home of {name}",
                capacity=amounts(options),
                labels=labels(options),
                prefetch=int(options.get("prefetch", "0")),
            )
        )

    def do_silent(self, command: TranscriptCommand) -> Iterator[str]:
        self.planner.suspect(command.arguments[0], silent=True)
        return iter(())

    def do_heard(self, command: TranscriptCommand) -> Iterator[str]:
        self.planner.suspect(command.arguments[0], silent=False)
        return iter(())

    def do_lose(self, command: TranscriptCommand) -> Iterator[str]:
        (name,) = command.arguments
        reason: Any = command.options.get("reason", "lost")
        self.planner.suspect(name, silent=False)
        incarnation = self.machine.tables.agents[name].incarnation
        return self._apply(c.RemoveAgent(**self._stamp(LEADER), name=name, incarnation=incarnation, reason=reason))

    def do_drain(self, command: TranscriptCommand) -> Iterator[str]:
        deadline_ms = parse_duration_ms(command.options.get("deadline", "0s"))
        return self._apply(c.DrainAgent(**self._stamp(CLIENT), name=command.arguments[0], deadline_ms=deadline_ms))

    def do_resume_agent(self, command: TranscriptCommand) -> Iterator[str]:
        return self._apply(c.ResumeAgent(**self._stamp(CLIENT), name=command.arguments[0]))

    def do_forget(self, command: TranscriptCommand) -> Iterator[str]:
        return self._apply(c.ForgetAgent(**self._stamp(CLIENT), name=command.arguments[0]))

    # --- workflows

    def do_workflow(self, command: TranscriptCommand) -> Iterator[str]:
        (workflow_id,) = command.arguments
        options = command.options
        document: dict[str, Any] = {"name": workflow_id, "tasks": [task_document(line) for line in command.body]}
        document |= {key: int(options[key]) for key in ("priority", "max_parallel") if key in options}
        document |= {key: options[key] for key in ("on_failure",) if key in options}
        spec = self._specs[workflow_id] = normalize(document)
        yield from self._apply(c.SubmitWorkflow(**self._stamp(CLIENT), workflow_id=workflow_id, spec=spec))
        workflow = self.machine.tables.workflows.get(workflow_id)
        for task in () if workflow is None else workflow.tasks:
            yield f"{workflow_id}/{task.id}: {task.state.name.lower()}"

    def _control(self, command: TranscriptCommand) -> Iterator[str]:
        action: Any = command.name
        return self._apply(c.ControlWorkflow(**self._stamp(CLIENT), workflow_id=command.arguments[0], action=action))

    do_cancel = do_pause = do_resume = do_retry = _control

    def do_priority(self, command: TranscriptCommand) -> Iterator[str]:
        workflow_id, number = command.arguments
        return self._apply(c.SetPriority(**self._stamp(CLIENT), workflow_id=workflow_id, priority=int(number)))

    # --- the leader

    def do_place(self, command: TranscriptCommand) -> Iterator[str]:
        del command
        changes = list(self._place())
        yield from changes or ["nothing can be placed"]
        yield from self._reservations()

    def _place(self) -> Iterator[str]:
        while True:
            while self.planner.behind:
                self.planner.catch_up()
            placements = self.planner.plan()
            if not placements:
                return
            yield from self._apply(c.CommitPlacements(**self._stamp(LEADER), placements=placements))

    def do_rebalance(self, command: TranscriptCommand) -> Iterator[str]:
        del command
        yield from self._place()
        proposed = self.rebalancer.decide()
        for each in proposed:
            yield from self._apply(each)
        if not proposed:
            yield "nothing is better off elsewhere"

    def do_advance(self, command: TranscriptCommand) -> Iterator[str]:
        self.now_ms += parse_duration_ms(command.arguments[0])
        return self._apply(c.FireTimers(**self._stamp(LEADER)))

    def do_propose(self, command: TranscriptCommand) -> Iterator[str]:
        view = self.planner.view_now()
        ready = sorted(self.planner.first_ready(PLACEMENTS_MAX), key=lambda task: task.task)
        groups = self.planner._queue.groups(PLACEMENTS_MAX)
        agents = tuple(self._with_speed_and_cost(room) for room in view.agents)
        placements = place(
            msgspec.structs.replace(view, agents=agents, groups=groups, policy=command.options["policy"])
        )
        where = {(each.workflow_id, each.task): each.agent for each in placements}
        for task in ready:
            label = self._label(task.workflow_id, task.task)
            yield f"{label} -> {where.get((task.workflow_id, task.task), 'nowhere')}"

    def _with_speed_and_cost(self, room: Any) -> Any:
        options = self.agents[room.name]
        speed, cost = (int(float(options.get(key, "1")) * 1000) for key in ("speed", "cost"))
        return msgspec.structs.replace(room, speed=speed, cost=cost)

    def do_plan(self, command: TranscriptCommand) -> Iterator[str]:
        (workflow_id,) = command.arguments
        agents = [
            PlanAgent(
                name=name,
                capacity=amounts(options),
                labels=labels(options),
                speed_milli=int(float(options.get("speed", "1")) * 1000),
                cost_rate_milli=int(float(options.get("cost", "1")) * 1000),
            )
            for name, options in self.agents.items()
        ]
        problem = PlanningProblem(self._specs[workflow_id], agents)
        made = make_plan(problem, command.options["policy"])
        for slot in made.slots:
            where = f"{problem.agents[slot.agent].name} from {slot.start_ms / 1000:g} s to {slot.end_ms / 1000:g} s"
            yield f"{workflow_id}/{problem.ids[slot.task]} on {where}"

    # --- reports

    def do_end(self, command: TranscriptCommand) -> Iterator[str]:
        label, outcome = command.arguments
        options = command.options
        workflow_id, _, task_id = label.partition("/")
        task = self.machine.tables.workflows[workflow_id].by_id[task_id]
        live = [each for each in (task.last, task.backup) if each is not None and each.outcome is None]
        number = int(options["attempt"]) if "attempt" in options else None
        known = [*live, *task.history, *([task.last] if task.last is not None else [])]
        found = [
            each for each in known if options.get("on", each.agent) == each.agent and number in {None, each.number}
        ]
        if not found:
            raise ValueError(f"line {command.line}: {label} has no such attempt; it is {task.state.name}")
        attempt = found[0]
        incarnation = self.machine.tables.agents[attempt.agent].incarnation
        end = c.AttemptEnd(
            attempt.fence,
            workflow_id,
            task_id,
            AttemptOutcome(outcome),
            exit_code=int(options["exit"]) if "exit" in options else None,
            result=options.get("result", "").encode(),
            duration_ms=parse_duration_ms(options.get("duration", "0s")),
            peak_mib=parse_amount("memory", options["peak"]) if "peak" in options else 0,
        )
        yield from self._apply(
            c.ReportAttempts(
                **self._stamp(f"agent:{attempt.agent}"),
                agent=attempt.agent,
                incarnation=int(options.get("incarnation", incarnation)),
                ends=(end,),
            )
        )

    # --- looks

    def do_tasks(self, command: TranscriptCommand) -> Iterator[str]:
        (workflow_id,) = command.arguments
        for task in self.machine.tables.workflows[workflow_id].tasks:
            view = queries.task_view(self.machine, workflow_id, task.id)
            assert view is not None
            line = f"{task.id}: {task.state.name.lower()}"
            if task.state is TaskState.DELAYED:
                line += f", next attempt in {(task.due_ms - self.now_ms) / 1000:g} s"
            if view.cached:
                line += ", from the cache"
            yield line + "".join(
                f"; attempt {each.attempt} on {each.agent}: {each.outcome or 'live'}" for each in view.history
            )

    def do_agents(self, command: TranscriptCommand) -> Iterator[str]:
        del command
        for name, agent in self.machine.tables.agents.items():
            used = ", ".join(
                f"{key} {show_amount(key, amount - agent.free.get(key, 0))} of {show_amount(key, amount)}"
                for key, amount in agent.capacity.items()
            )
            waiting = [self._label(agent.live[fence][0].id, agent.live[fence][1].position) for fence in agent.queue]
            yield f"{name}: {agent.state.value}, {used}" + (f", queue {' '.join(waiting)}" if waiting else "")

    def do_explain(self, command: TranscriptCommand) -> Iterator[str]:
        workflow_id, _, task_id = command.arguments[0].partition("/")
        told = explain(
            self.machine,
            self.planner,
            workflow_id,
            task_id,
            now_ms=self.now_ms,
            usage=UsageStore(),
            missing_code=lambda _: False,
        )
        assert told is not None
        yield told.reason
        for each in told.candidates:
            yield f"{each.agent}: {each.where}, {each.why}"

    # --- inside

    def _stamp(self, actor: str) -> dict[str, Any]:
        return {"at_ms": self.now_ms, "actor": actor}

    def _label(self, workflow_id: str, position: int) -> str:
        return f"{workflow_id}/{self.machine.tables.workflows[workflow_id].tasks[position].id}"

    def _apply(self, command: c.AnyCommand) -> Iterator[str]:
        """Apply a command as an entry of its own and say what it changed."""
        result = self.machine.apply(self.machine.applied_index + 1, 1, c.encode_entry((command,)))
        problems = check(self.machine)
        assert problems == []
        self.planner.observe(result.events)
        return iter(list(self._changes(command, result)))

    def _changes(self, command: c.AnyCommand, result: Any) -> Iterator[str]:
        (reply,) = result.replies
        (record,) = map(decode_record, result.audit)
        if record.outcome != "ok":
            yield f"refused: {record.outcome}: {record.detail}"
        elif record.detail:
            yield f"note: {record.detail}"
        if isinstance(reply, Placed):
            for placement, fence in zip(command.placements, reply.fences, strict=True):
                if not fence:
                    yield f"skipped: {self._label(placement.workflow_id, placement.task)} on {placement.agent}"
        if isinstance(reply, Reported):
            yield from (f"{each.verdict} report" for each in reply.verdicts if each.verdict != "accepted")
        for each in record.transitions:
            where = f", attempt {each.attempt} on {each.agent}" if each.agent else ""
            event = each.event.replace("_", " ")
            yield f"{each.workflow_id}/{each.task_id}: {each.before} -> {each.after} ({event}){where}"
        yield from self._state_changes()
        yield from self._new_orders()

    def _state_changes(self) -> Iterator[str]:
        tables = self.machine.tables
        states = {f"workflow {name}": workflow.state.value for name, workflow in tables.workflows.items()}
        for name, agent in tables.agents.items():
            states[f"agent {name}"] = f"{agent.state.value}, incarnation {agent.incarnation}"
        for subject, state in states.items():
            if self._states.get(subject) != state:
                yield f"{subject} is {state}"
        yield from (f"{subject} is forgotten" for subject in self._states if subject not in states)
        self._states = states

    def _new_orders(self) -> Iterator[str]:
        for name in self.machine.tables.agents:
            orders = queries.orders(self.machine, name)
            before = self._orders.get(name, ([], []))
            for verb, known, fences in zip(("stop", "give back"), before, orders, strict=True):
                yield from (f"{name} must {verb} {self._owner(fence)}" for fence in fences if fence not in known)
            self._orders[name] = orders

    def _owner(self, fence: int) -> str:
        for workflow in self.machine.tables.workflows.values():
            for task in workflow.tasks:
                for attempt in (task.last, task.backup, *task.history):
                    if attempt is not None and attempt.fence == fence:
                        return f"{workflow.id}/{task.id} (attempt {attempt.number})"
        return f"fence {fence}"

    def _reservations(self) -> Iterator[str]:
        reserved = {
            name: " ".join(f"{key}={show_amount(key, amount)}" for key, amount in shape.demand)
            for name, shape in self.planner.reserved().items()
        }
        for name, demand in reserved.items():
            if self._reserved.get(name) != demand:
                yield f"{name} is reserved for tasks of {demand}"
        yield from (f"{name} is no longer reserved" for name in self._reserved if name not in reserved)
        self._reserved = reserved


def amounts(options: dict[str, str]) -> dict[str, int]:
    """Return the resources among options, in integer units."""
    return {name: parse_amount(name, number(options[name])) for name in RESOURCES if name in options}


def labels(options: dict[str, str]) -> dict[str, str]:
    """Return the label among options (`label=zone:a`)."""
    key, colon, value = options.get("label", "").partition(":")
    return {key: value} if colon else {}


def number(text: str) -> Any:
    """Return a number where a text is one."""
    return float(text) if text.replace(".", "", 1).isdigit() else text


def task_document(line: str) -> dict[str, Any]:
    """Return a task of a workflow document from a line such as `train needs=fetch cpu=2 exclusive`."""
    task_id, *words = line.split()
    options = dict(word.split("=", 1) for word in words if "=" in word)
    task: dict[str, Any] = {"id": task_id, "command": ["true"]}
    task |= {word: True for word in words if "=" not in word}
    resources = {name: number(options.pop(name)) for name in RESOURCES if name in options}
    if resources:
        task["resources"] = resources
    if "needs" in options:
        task["needs"] = options.pop("needs").split(",")
    if "cache" in options:
        task["cache"] = {"key": options.pop("cache")}
    constraints: dict[str, Any] = {"labels": labels(options)} if "label" in options else {}
    options.pop("label", None)
    if task.pop("exclusive", False):
        constraints["exclusive"] = True
    if constraints:
        task["constraints"] = constraints
    if "retries" in options:
        task["retries"] = int(options.pop("retries"))
    return task | options
