"""The model of attempts: it knows nothing of the state machine's tables.

It follows the transitions in the audit records, and the capacities and demands in the commands, and looks whether
they make sense.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from raftflow.domain.commands import (
    AddTasks,
    BeginWorkflow,
    ContinueAgenda,
    ControlWorkflow,
    DrainAgent,
    DropUploads,
    FinishWorkflow,
    FireTimers,
    ForgetAgent,
    OfferEnds,
    RegisterAgent,
    RemoveAgent,
    ReportAttempts,
    ResumeAgent,
    SpawnTasks,
    SubmitWorkflow,
    TaskPart,
)
from raftflow.domain.limits import AGENT_FAULTS_MAX
from raftflow.domain.replies import AgentAccepted, Done, Reported, WorkflowAccepted
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.simulation.checkers.hole_checks import BlackHoles

if TYPE_CHECKING:
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.contract.views import AuditRecord, AuditTransition
    from raftflow.domain.replies import AnyReply
    from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec

Task = tuple[str, str]
"""Workflow and task id."""
_LIVE: Final = frozenset({"queued", "running"})
_FINAL: Final = frozenset({"succeeded", "failed", "cancelled"})
_STARTABLE: Final = frozenset({"ready", "delayed", "queued"})
_FAILURES: Final = frozenset({AttemptOutcome.FAILED, AttemptOutcome.TIMEOUT})
_DECISIONS: Final = frozenset({"succeeded", "failed_final"})
"""What follows at once where one of two attempts was ended because the other one decided."""
_COUNTED: Final = frozenset({"succeeded", "failed_retry", "failed_final", "cancelled", "parked"})
"""What may become of a task one of whose two attempts failed before."""


class AttemptModel:
    """Which agent holds which attempt, by the transitions alone."""

    def __init__(self) -> None:
        self.states: dict[Task, str] = {}
        self.live: dict[int, tuple[Task, str]] = {}
        """Fence to task and agent."""
        self.fence_of: dict[Task, int] = {}
        self.backup_of: dict[Task, int] = {}
        """Fence of a task's second live attempt."""
        self.backups: dict[int, None] = {}
        """Fences of all backups that ever were."""
        self.outrun: dict[int, None] = {}
        """Fences of first attempts that were given up for their backups."""
        self.running: dict[str, dict[int, dict[str, int]]] = {}
        """Agent to fence to demand."""
        self.queued: dict[str, list[int]] = {}
        """Agent to the fences in its queue, in order."""
        self.capacity: dict[str, dict[str, int]] = {}
        self.demands: dict[Task, dict[str, int]] = {}
        self.exclusive: dict[Task, None] = {}
        self.retries: dict[Task, int] = {}
        self.allowed: dict[Task, bool] = {}
        """Whether tasks allow backup attempts."""
        self.paired: dict[Task, None] = {}
        """Tasks whose present attempt has, had or is a backup."""
        self.owed: dict[Task, None] = {}
        """Those of which one of the two failed, which counts when the other ends without success."""
        self.failures: dict[Task, int] = {}
        """Failures that counted."""
        self.agent_faults: dict[Task, int] = {}
        """Attempts that their agents could not run, since the task was last revived."""
        self.holes = BlackHoles()
        self.stopped: dict[str, None] = {}
        """Workflows that were cancelled, or may be stopped since a task of them failed."""
        self.cancelled: dict[str, None] = {}
        """Workflows that were cancelled, and not retried since. From the answer on nothing of them may start."""
        self.timeouts: dict[Task, int] = {}
        """Milliseconds that an attempt may take, the grace after SIGTERM included."""
        self.limits: dict[str, int] = {}
        """`max_parallel` of the workflows that have one."""
        self.uploads: dict[str, dict[str, TaskSpec]] = {}
        """Workflows that are being uploaded: for each task, what it runs."""
        self._profiles: dict[str, list[TaskSpec]] = {}
        self._parts: dict[str, list[TaskPart]] = {}
        self.lost: dict[Task, tuple[int, str]] = {}
        """Fence and agent of the last attempt of tasks that nobody has: perhaps lost, if nobody reported its end."""
        self.incarnation: dict[str, int] = {}
        """Agents that are present."""
        self.lost_together: set[str] = set()
        """Agents whose last loss was part of a mass loss."""
        self.needs: dict[Task, tuple[str, ...]] = {}
        self.results: dict[Task, bytes | None] = {}
        """Of tasks that succeeded; None if it was an equal task's."""
        self.waits: dict[Task, TaskWait] = {}
        """Tasks of documents that wait, and run nothing."""
        self.due_inputs: dict[int, dict[str, bytes | None]] = {}
        """For each attempt what it must be given."""
        self.home: dict[str, str] = {}
        """Of the agents that were accepted last under each name."""
        self.drained: dict[str, None] = {}
        """Agents that an operator drained and did not resume, gone ones included."""
        self.fence = 0
        self.ended: dict[int, AttemptOutcome] = {}

    def unfinished(self, workflow_id: str) -> list[str]:
        """Return the tasks of a workflow that have not ended, as far as they ever moved."""
        return [
            task for (workflow, task), state in self.states.items() if workflow == workflow_id and state not in _FINAL
        ]

    def follow(self, command: AnyCommand, reply: AnyReply, record: AuditRecord) -> list[str]:
        """Take one applied command; returns what is wrong with it."""
        problems: list[str] = []
        if record.outcome == "ok":
            if isinstance(command, SubmitWorkflow) and isinstance(reply, WorkflowAccepted):
                self._learn(command.workflow_id, command.spec)
            elif isinstance(command, RegisterAgent) and isinstance(reply, AgentAccepted):
                known = self.incarnation.get(command.name, reply.incarnation)
                if known != reply.incarnation and command.home != self.home.get(command.name):
                    problems.append(f"another agent took the name {command.name} of one that is present")
                self.capacity[command.name] = command.capacity
                self.home[command.name] = command.home
            elif isinstance(command, ControlWorkflow):
                self._steer(command)
            else:
                self._follow_drain(command)
                self._follow_upload(command)
        if isinstance(reply, AgentAccepted):
            if reply.name in self.lost_together and f"agent {reply.name} is in quarantine" in record.detail:
                problems.append(f"{reply.name} comes back from a mass loss into a quarantine")
            self.lost_together.discard(reply.name)
            self.incarnation[reply.name] = reply.incarnation
        elif isinstance(command, RemoveAgent) and isinstance(reply, Done) and reply.changed:
            self.incarnation.pop(command.name, None)
            if command.mass:
                self.lost_together.add(command.name)
        if isinstance(command, ReportAttempts | OfferEnds) and isinstance(reply, Reported):
            if self.incarnation.get(command.agent) != command.incarnation:
                problems.append(f"a report of incarnation {command.incarnation} of {command.agent} counted")
            problems += self._judge_ends(command, reply)
        for transition, after in zip_longest(record.transitions, record.transitions[1:]):
            if transition.workflow_id in self.uploads:
                problems.append(f"{transition.workflow_id}/{transition.task_id} moves before all of it has come")
            if transition.event == "offered" and not isinstance(command, OfferEnds):
                problems.append(f"{transition.task_id} was offered by {type(command).__name__}")
            found = (self._move(transition), self._count(transition, after, command))
            self._follow_loss(command, transition)
            problems += [
                f"{transition.workflow_id}/{transition.task_id}: {problem}"
                for problem in found
                if problem is not None
            ]
        problems += self.holes.follow(command, reply, record, self.ended)
        return problems

    def _follow_loss(self, command: AnyCommand, step: AuditTransition) -> None:
        """Follow attempts that were lost with their agent after their backup had failed: that failure counts then.

        The loss of an agent with many attempts is carried out in pieces, by the agenda.
        """
        if step.event == "failed_retry" and isinstance(command, RegisterAgent | RemoveAgent | ContinueAgenda):
            self.lost[step.workflow_id, step.task_id] = (step.fence, step.agent)

    def _follow_drain(self, command: AnyCommand) -> None:
        """Follow who may get no work."""
        if isinstance(command, DrainAgent) and not command.leaving:
            self.drained[command.name] = None
        elif isinstance(command, ForgetAgent | ResumeAgent):
            self.drained.pop(command.name, None)

    def _learn(self, workflow: str, spec: WorkflowSpec) -> None:
        if spec.max_parallel is not None:
            self.limits[workflow] = spec.max_parallel
        for task in spec.tasks:
            self._learn_task(workflow, task.id, task)
            self.needs[workflow, task.id] = task.needs

    def _learn_task(self, workflow: str, task_id: str, runs: TaskSpec) -> None:
        self.demands[workflow, task_id] = runs.resources
        if runs.timeout_ms is not None:
            self.timeouts[workflow, task_id] = runs.timeout_ms + runs.grace_ms
        self.retries[workflow, task_id] = runs.retries
        if runs.exclusive:
            self.exclusive[workflow, task_id] = None
        self.allowed[workflow, task_id] = runs.backup
        if isinstance(runs.program, TaskWait):
            self.waits[workflow, task_id] = runs.program

    def _follow_spawn(self, command: SpawnTasks) -> None:
        """Follow what children run."""
        parent = self.live.get(command.fence)
        for child in command.children if parent is not None else ():
            workflow, task = parent[0] if parent is not None else ("", "")
            self._learn_task(workflow, f"{task}:{child.key}", command.profiles[child.profile])

    def _follow_upload(self, command: AnyCommand) -> None:
        """Follow what was accepted of a workflow in pieces, and of children."""
        if isinstance(command, SpawnTasks):
            self._follow_spawn(command)
        elif isinstance(command, BeginWorkflow):
            self.uploads[command.workflow_id], self._profiles[command.workflow_id] = {}, []
            self._parts[command.workflow_id] = []
            if command.max_parallel is not None:
                self.limits[command.workflow_id] = command.max_parallel
        elif isinstance(command, AddTasks):
            profiles = self._profiles[command.workflow_id]
            profiles += command.profiles
            self._parts[command.workflow_id] += command.tasks
            self.uploads[command.workflow_id] |= {task.id: profiles[task.profile] for task in command.tasks}
        elif isinstance(command, FinishWorkflow):
            for task_id, runs in self.uploads.pop(command.workflow_id).items():
                self._learn_task(command.workflow_id, task_id, runs)
            parts = self._parts[command.workflow_id]
            ids = {part.position: part.id for part in parts}
            for part in parts:
                self.needs[command.workflow_id, part.id] = tuple(ids[need] for need in part.needs)
        elif isinstance(command, DropUploads):
            for workflow_id in command.workflow_ids:
                self.uploads.pop(workflow_id, None)

    def _judge_ends(self, command: ReportAttempts | OfferEnds, reply: Reported) -> list[str]:
        problems = []
        for end, verdict in zip(command.ends, reply.verdicts, strict=True):
            if verdict.verdict != "accepted":
                continue
            task = (end.workflow_id, end.task_id)
            known = self.live.get(end.fence)
            if end.fence in self.ended:
                problems.append(f"the end of fence {end.fence} was accepted twice")
            elif isinstance(command, OfferEnds):
                last = self.lost.get(task)
                if last != (end.fence, command.agent):
                    problems.append(f"{command.agent} offered {task} with fence {end.fence}, but its last was {last}")
            elif known != (task, command.agent) or end.fence not in {
                self.fence_of.get(task),
                self.backup_of.get(task),
            }:
                problems.append(f"an end of {task} with fence {end.fence} by {command.agent} was accepted; it is not")
            self.ended[end.fence] = end.outcome
            if end.outcome is AttemptOutcome.AGENT_FAULT:
                self.agent_faults[task] = self.agent_faults.get(task, 0) + 1
            if end.outcome == "succeeded":
                self.results[task] = end.result or b"null"
        return problems

    def _move(self, step: AuditTransition) -> str | None:
        task = (step.workflow_id, step.task_id)
        before = self.states.get(task, step.before)
        self.states[task] = step.after
        if before != step.before:
            return f"goes from {step.before}, but was {before}"
        if step.after in _STARTABLE and step.event != "promoted" and task[0] in self.cancelled:
            return f"becomes {step.after} by {step.event}, although its workflow was cancelled"
        self._follow_inputs(task, step)
        if step.event == "backup_started":
            return self._back_up(task, step)
        if step.event == "backup_ended":
            return self._drop(task, step)
        if step.before in _LIVE:
            held = self.fence_of.get(task)
            if held != step.fence:
                return f"{step.event} of fence {step.fence}, but fence {held} is live"
            queue = self.queued.get(step.agent, [])
            if step.event == "promoted" and queue[:1] != [step.fence]:
                return f"fence {step.fence} is promoted before the head of the queue {queue}"
            if step.before == "queued" and step.fence in queue:
                queue.remove(step.fence)
            if step.after not in _LIVE:
                if step.event != "failed_retry":
                    self.lost[task] = (step.fence, step.agent)
                del self.fence_of[task]
                self.live.pop(step.fence, None)
                self.running.get(step.agent, {}).pop(step.fence, None)
        elif step.after in _LIVE and (problem := self._assign(task, step)) is not None:
            return problem
        return self._allocate(step.agent, step.fence, task) if step.after == "running" else None

    def _assign(self, task: Task, step: AuditTransition) -> str | None:
        """A task that nobody had got an attempt."""
        if step.agent in self.drained:
            return f"is placed on {step.agent}, which was drained"
        if step.fence <= self.fence:
            return f"got fence {step.fence} after fence {self.fence} was given"
        self.fence = step.fence
        self.lost.pop(task, None)
        self.fence_of[task] = step.fence
        self.live[step.fence] = (task, step.agent)
        queue = self.queued.setdefault(step.agent, [])
        if step.after == "queued":
            queue.append(step.fence)
        elif queue:
            return f"fence {step.fence} starts although {queue} wait"
        return self._beyond_limit(task[0])

    def _follow_inputs(self, task: Task, step: AuditTransition) -> None:
        """Note what an attempt that is placed now must be given, and results that come from equal tasks."""
        if step.event == "cached":
            self.results[task] = None
        elif step.event == "backup_started" or (step.after in _LIVE and step.before not in _LIVE):
            needs = self.needs.get(task, ())
            self.due_inputs[step.fence] = {need: self.results.get((task[0], need)) for need in needs}

    def _beyond_limit(self, workflow: str) -> str | None:
        """Attempts of both sorts count for the limit of a workflow."""
        limit = self.limits.get(workflow)
        if limit is None:
            return None
        live = sum(task[0] == workflow for held in (self.fence_of, self.backup_of) for task in held)
        return f"is one of {live} under way, and {limit} may be" if live > limit else None

    def _count(self, step: AuditTransition, after: AuditTransition | None, command: AnyCommand) -> str | None:
        """No failure is forgotten because another attempt of its task lived."""
        task = (step.workflow_id, step.task_id)
        if step.event == "backup_ended":
            decided = after is not None and after.event in _DECISIONS and (after.workflow_id, after.task_id) == task
            failed = isinstance(command, FireTimers) or self.ended.get(step.fence) in _FAILURES
            if decided or not failed:
                return None
            self.owed[task] = None
            if self.failures.get(task, 0) >= self.retries.get(task, 0) and task[0] not in self.stopped:
                return f"fence {step.fence} failed, no retry is left, and the other attempt goes on"
        elif step.event.startswith("revived"):
            self.failures.pop(task, None)
            self.agent_faults.pop(task, None)
        elif step.before == "running" and step.after != "running":
            self.paired.pop(task, None)
            if step.event == "failed_final":
                self.stopped[task[0]] = None
            elif step.event == "failed_retry":
                self.failures[task] = self.failures.get(task, 0) + 1
            owed = self.owed.pop(task, 0) is None
            innocent = self.ended.get(step.fence) is AttemptOutcome.AGENT_FAULT and not owed
            if innocent and step.event.startswith("failed") and self.agent_faults.get(task, 0) <= AGENT_FAULTS_MAX:
                return f"fence {step.fence} was {step.agent}'s own fault, and counted as a failure: {step.event}"
            if owed and step.event not in _COUNTED:
                return f"an attempt of it failed beside fence {step.fence}, and that was forgotten: {step.event}"
        return None

    def _steer(self, command: ControlWorkflow) -> None:
        if command.action == "cancel":
            self.stopped[command.workflow_id] = self.cancelled[command.workflow_id] = None
        elif command.action == "retry":
            self.stopped.pop(command.workflow_id, None)
            self.cancelled.pop(command.workflow_id, None)

    def _back_up(self, task: Task, step: AuditTransition) -> str | None:
        """A running task got a second attempt."""
        first = self.live.get(self.fence_of.get(task, 0))
        if task in self.backup_of or first is None or first[1] == step.agent:
            return f"got backup {step.fence} on {step.agent} beside {first}, {self.backup_of.get(task)}"
        if step.agent in self.drained:
            return f"gets a backup on {step.agent}, which was drained"
        if step.fence <= self.fence:
            return f"got fence {step.fence} after fence {self.fence} was given"
        if self.queued.get(step.agent):
            return f"backup {step.fence} starts although {self.queued[step.agent]} wait"
        if self.allowed.get(task) is False:
            return f"got backup {step.fence}, and allows none"
        if task in self.paired:
            return f"got backup {step.fence} after another one of the same attempt"
        self.paired[task] = None
        self.fence = self.backup_of[task] = step.fence
        self.backups[step.fence] = None
        self.live[step.fence] = (task, step.agent)
        return self._beyond_limit(task[0]) or self._allocate(step.agent, step.fence, task)

    def _drop(self, task: Task, step: AuditTransition) -> str | None:
        """One of two attempts is over; the other one goes on alone."""
        backup = self.backup_of.pop(task, None)
        if backup is None or step.fence not in {backup, self.fence_of.get(task)}:
            return f"fence {step.fence} ended as one of two, but {self.fence_of.get(task)} and {backup} are live"
        if step.fence != backup:
            self.outrun[step.fence] = None
            self.fence_of[task] = backup
        self.live.pop(step.fence, None)
        self.running.get(step.agent, {}).pop(step.fence, None)
        return None

    def _allocate(self, agent: str, fence: int, task: Task) -> str | None:
        running = self.running.setdefault(agent, {})
        running[fence] = self.demands.get(task, {})
        if len(running) > 1 and any(self.live[other][0] in self.exclusive for other in running):
            return f"runs on {agent} with {sorted(running)}, and one of them is exclusive"
        for resource, capacity in self.capacity.get(agent, {}).items():
            used = sum(demand.get(resource, 0) for demand in running.values())
            if used > capacity:
                return f"{used} {resource} are allocated on {agent}, which has {capacity}"
        return None
