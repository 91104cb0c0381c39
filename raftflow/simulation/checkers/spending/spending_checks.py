"""What must hold of budgets and rate limits. A model that knows nothing of the machine's tables follows commands.

placed unpaid       a task was placed although a budget of its workflow is used up
overspent           an attempt began two steps after a budget of its workflow was used up, or spent three times
spending lost       what a program was told to be counted is not in the log, or not in the state at the end
spending doubled    the log, or the state at the end, has more than programs have spent
rate passed         more was taken of a rate limit in some stretch of time than burst + rate x time
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

from raftflow.domain import commands as c
from raftflow.domain.replies import Done, Placed, RatesTaken, StepsRecorded, WorkflowAccepted
from raftflow.machine.read.spending.budgets import budget_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine
    from raftflow.simulation.checkers.attempt_checks import AttemptModel
    from raftflow.simulation.world.observer import TaskKey


class _Bucket:
    """A rate limit, followed by what is owed: it grows with each unit and shrinks with time, and has a bound."""

    def __init__(self, amount: int, period_ms: int, burst: int, now_ms: int) -> None:
        self.rate = Fraction(amount, period_ms)
        self.burst = burst
        self.owed = Fraction(0)
        self.at_ms = now_ms

    def advance(self, now_ms: int) -> None:
        self.owed = max(self.owed - self.rate * (now_ms - self.at_ms), Fraction(0))
        self.at_ms = now_ms


class SpendingChecks:
    """Follows what all tasks spend and take.

    Args:
        violation: told what must never happen.
        attempts: the model of attempts.
    """

    def __init__(self, violation: Callable[[str, str], None], attempts: AttemptModel) -> None:
        self._violation = violation
        self._attempts = attempts
        self._now_ms = 0
        self._hard: dict[str, dict[str, int]] = {}
        """Hard limits of workflows."""
        self._rates: dict[str, dict[int, dict[str, int]]] = {}
        """What each task of a workflow takes when it is placed, by position."""
        self._profiles: dict[str, list[dict[str, int]]] = {}
        """The same by profile, of workflows that come in pieces."""
        self._total: dict[str, Counter[str]] = {}
        """What is counted in the log, by workflow."""
        self._counted: Counter[TaskKey] = Counter()
        """What steps of programs that tell it have spent by the log, by task."""
        self._spent: Counter[TaskKey] = Counter()
        """What programs say that they have spent in steps."""
        self._told: Counter[TaskKey] = Counter()
        """What programs were told to be counted."""
        self._late: Counter[int] = Counter()
        """Steps that attempts have begun since a budget of their workflow was used up."""
        self._loose: Counter[int] = Counter()
        """How often attempts have spent outside of steps since then: what runs, and once more."""
        self._buckets: dict[str, _Bucket] = {}
        self._removed: dict[str, _Bucket] = {}
        """Rate limits that were removed: what is owed to them is owed still if they are set again."""
        self.taken = 0
        self.used_up = 0
        """How often a budget was used up."""

    # --- the log

    def follow(self, command: AnyCommand, reply: AnyReply) -> None:
        """Follow a command that is applied for the first time."""
        self._now_ms = max(self._now_ms, command.at_ms)
        if isinstance(command, c.SubmitWorkflow) and isinstance(reply, WorkflowAccepted):
            self._hard[reply.workflow_id] = {budget.name: budget.hard for budget in command.spec.budgets}
            self._rates[reply.workflow_id] = {n: task.rates for n, task in enumerate(command.spec.tasks)}
        elif isinstance(command, c.BeginWorkflow | c.AddTasks) and isinstance(reply, Done):
            self._upload(command)
        elif isinstance(command, c.RecordSteps) and isinstance(reply, StepsRecorded):
            for step, verdict in zip(command.steps, reply.verdicts, strict=True):
                live = self._attempts.live.get(step.fence)
                if verdict.verdict == "recorded" and live is not None:
                    self._count(live[0], step)
        elif isinstance(command, c.RaiseBudget) and isinstance(reply, Done):
            self._raise(command)
        elif isinstance(command, c.CommitPlacements | c.CommitBackups) and isinstance(reply, Placed):
            for placement, fence in zip(command.placements, reply.fences, strict=True):
                if fence:
                    self._place(placement)
        else:
            self._follow_rates(command, reply)

    def _upload(self, command: c.BeginWorkflow | c.AddTasks) -> None:
        if isinstance(command, c.BeginWorkflow):
            self._hard[command.workflow_id] = {budget.name: budget.hard for budget in command.budgets}
            return
        profiles = self._profiles.setdefault(command.workflow_id, [])
        profiles += [profile.rates for profile in command.profiles]
        rates = self._rates.setdefault(command.workflow_id, {})
        for task in command.tasks:
            rates[task.position] = profiles[task.profile]

    def _count(self, task: TaskKey, step: c.StepToRecord) -> None:
        if not step.spent:
            return
        was_used_up = self._is_used_up(task[0])
        if was_used_up and step.name == "raftflow.spend":
            self._loose[step.fence] += 1
            if self._loose[step.fence] > 2:
                told = f"fence {step.fence} of {task} spends, and has {self._loose[step.fence] - 1} times before"
                self._violation("overspent", told)
        total = self._total.setdefault(task[0], Counter())
        for name, amount in step.spent:
            total[name] += amount
            if step.name != "raftflow.spend":
                self._counted[task] += amount
        if self._counted[task] > self._spent[task]:
            self._violation("spending doubled", f"{task}: {self._counted[task]} counted, {self._spent[task]} spent")
        self.used_up += self._is_used_up(task[0]) and not was_used_up

    def _is_used_up(self, workflow: str) -> bool:
        total = self._total.get(workflow, Counter())
        return any(total[name] >= hard for name, hard in self._hard.get(workflow, {}).items())

    def _raise(self, command: c.RaiseBudget) -> None:
        hard = self._hard.setdefault(command.workflow_id, {})
        for each in command.raises:
            hard[each.name] = hard.get(each.name, 0) + each.amount if each.added else each.amount
        self._late.clear()
        self._loose.clear()

    def _place(self, placement: c.Placement) -> None:
        if self._is_used_up(placement.workflow_id):
            self._violation("placed unpaid", f"{placement.workflow_id}, whose budget is used up")
        for name, count in self._rates.get(placement.workflow_id, {}).get(placement.task, {}).items():
            self._take_units(name, count)

    def _follow_rates(self, command: AnyCommand, reply: AnyReply) -> None:
        if isinstance(command, c.SetRateLimit) and isinstance(reply, Done):
            fresh = _Bucket(command.amount, command.period_ms, command.burst, self._now_ms)
            known = self._buckets.get(command.name) or self._removed.pop(command.name, None)
            if known is not None:
                known.advance(self._now_ms)
                fresh.owed = max(command.burst - (known.burst - known.owed), Fraction(0))
            self._buckets[command.name] = fresh
        elif isinstance(command, c.RemoveRateLimit) and isinstance(reply, Done):
            self._removed[command.name] = self._buckets.pop(command.name)
        elif isinstance(command, c.TakeRates) and isinstance(reply, RatesTaken):
            for take, verdict in zip(command.takes, reply.verdicts, strict=True):
                if verdict.verdict == "taken":
                    self._take_units(take.limit, take.count)

    def _take_units(self, name: str, count: int) -> None:
        bucket = self._buckets.get(name)
        if bucket is None:
            self._violation("rate passed", f"{count} taken of {name}, which is not set")
            return
        bucket.advance(self._now_ms)
        bucket.owed += count
        self.taken += count
        if bucket.owed > bucket.burst:
            self._violation("rate passed", f"{float(bucket.owed):.2f} owed to {name}, its burst is {bucket.burst}")

    # --- the programs

    def paid_step_ran(self, task: TaskKey, fence: int) -> None:
        """A program runs a step that will cost something."""
        if self._is_used_up(task[0]):
            self._late[fence] += 1
            if self._late[fence] > 1:
                self._violation("overspent", f"fence {fence} of {task} began {self._late[fence]} steps unpaid")

    def money_spent(self, task: TaskKey, amount: int) -> None:
        """A program has spent something in a step."""
        self._spent[task] += amount

    def spending_told(self, task: TaskKey, amount: int) -> None:
        """A program was told that this is counted."""
        self._told[task] += amount
        if self._told[task] > self._counted[task]:
            self._violation(
                "spending lost", f"{task}: {self._told[task]} acknowledged, {self._counted[task]} counted"
            )

    def check_end(self, name: str, machine: Machine) -> None:
        """Everything that the log has counted is in the state of a replica, unless its workflow was forgotten."""
        for workflow_id, total in self._total.items():
            view = budget_view(machine, workflow_id)
            if view is None:
                continue
            found = {line.name: round(line.used * 1_000_000) for line in view.budgets if line.used}
            if found != dict(total):
                kind = "spending doubled" if sum(found.values()) > sum(total.values()) else "spending lost"
                self._violation(kind, f"{name} has {found} of {workflow_id}, the log has {dict(total)}")
