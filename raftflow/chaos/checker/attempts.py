"""Attempts and their effects, as the tasks themselves told them to the collector."""

from __future__ import annotations

import collections
import itertools
import math
from typing import TYPE_CHECKING

from raftflow.chaos.checker.history.reader import fail, integer, number, optional_integer, optional_text, text
from raftflow.chaos.checker.history.records import differs

if TYPE_CHECKING:
    from raftflow.chaos.checker.findings import Findings
    from raftflow.chaos.checker.history.reader import HistoryLine
    from raftflow.chaos.checker.history.records import SeenTask

TOLD = "told"
"""The attempt itself told its end; any other reason is that its process is gone or frozen."""
THAWED = "thawed"
"""The attempt was frozen, and goes on."""
UNKNOWN_FENCE = -1

TaskKey = tuple[str, str]
"""Workflow and task."""


class AttemptRecord:
    """One attempt: what it told, and what reads said about it."""

    __slots__ = (
        "agent",
        "alive",
        "attempt",
        "effect",
        "end",
        "fence",
        "late",
        "result",
        "start",
        "succeeded",
        "task",
    )

    def __init__(self, task: TaskKey, attempt: int | None, fence: int) -> None:
        self.task = task
        self.attempt = attempt
        self.fence = fence
        self.agent = ""
        self.start = math.inf
        self.end = math.inf
        """When it told that it came to its end."""
        self.alive = -math.inf
        """When it was last heard."""
        self.late = False
        """True if `alive` is when a message arrived, which may have been long after it was sent."""
        self.effect = False
        """True if an effect of it was accepted."""
        self.succeeded = math.inf
        """When a read showed it first as the one that succeeded."""
        self.result: str | None = None

    @property
    def name(self) -> str:
        """Return how it is called in texts."""
        number = "" if self.attempt is None else f" attempt {self.attempt}"
        return f"task {self.task[0]}/{self.task[1]}{number} (fence {self.fence})"


class AttemptLog:
    """All attempts, by fence and by task."""

    def __init__(self, findings: Findings, *, is_collector_local: bool = False) -> None:
        self._findings = findings
        self._is_collector_local = is_collector_local
        """No fault reaches the way to the collector, so messages arrive when they are sent."""
        self.by_fence: dict[int, AttemptRecord] = {}
        self.by_task: dict[TaskKey, list[AttemptRecord]] = {}
        self.cached: set[TaskKey] = set()
        self._greatest: dict[TaskKey, int] = {}
        """The greatest fence of a task that the collector has seen in an effect."""
        self._restored_at = -math.inf
        self.count = 0
        self.effects = 0

    def attempt(self, line: HistoryLine, at: float) -> None:
        """An attempt starts or ends."""
        record = self._record(line, at)
        event = text(line, "event")
        agent = optional_text(line, "agent") or ""
        why = optional_text(line, "why")
        if event == "start":
            if why != THAWED:
                self._started(record, agent, at)
        elif event == "end":
            if why in {None, TOLD}:
                record.end = min(record.end, at)
        else:
            fail(f"{event!r} is not an event of an attempt")
        record.agent = record.agent or agent
        self._heard(record, line, at)

    def effect(self, line: HistoryLine, at: float) -> None:
        """An attempt had an effect outside, or tried to."""
        record = self._record(line, at)
        accepted = line.get("accepted")
        if not isinstance(accepted, bool):
            fail("'accepted' must be true or false")
        greatest = self._greatest.get(record.task, -1)
        self.effects += 1
        if accepted and record.fence < greatest:
            self._findings.add("effect", f"{record.name}: an effect was accepted after one of fence {greatest}", at)
        if not accepted and all(each.fence <= record.fence for each in self.by_task[record.task]):
            told = f"{record.name}: the collector refused an effect though no greater fence is known"
            self._findings.add("effect", told, at)
        record.effect |= accepted
        self._greatest[record.task] = max(greatest, record.fence)
        self._heard(record, line, at)

    def shown(self, workflow: str, task: str, seen: SeenTask, *, cached: bool) -> None:
        """A read showed the newest attempt of a task."""
        key = (workflow, task)
        if cached:
            self.cached.add(key)
            return
        if seen.fence != UNKNOWN_FENCE:
            record = self.known(key, seen.attempt or None, seen.fence, seen.returned)
        elif seen.state == "succeeded" and seen.attempt:
            record = self.numbered(key, seen.attempt)
        else:
            return
        if seen.state == "succeeded":
            record.succeeded = min(record.succeeded, seen.returned)
            self.tell_result(record, seen.result, seen.returned)

    def tell_result(self, record: AttemptRecord, result: str | None, at: float) -> None:
        """Remember the result of an attempt; it never changes."""
        if result is None:
            return
        if differs(record.result, result):
            self._findings.add("wrong-result", f"{record.name}: has the results {record.result} and {result}", at)
        record.result = record.result or result

    def restore(self, at: float) -> None:
        """The cluster was made again: fences go on growing, numbers of attempts may not."""
        self._restored_at = at

    def known(self, task: TaskKey, attempt: int | None, fence: int, at: float) -> AttemptRecord:
        """Return the attempt of a fence; a fence has one attempt only."""
        record = self.by_fence.get(fence)
        if record is None:
            record = self._without_fence(task, attempt)
            record.fence = fence
            self.by_fence[fence] = record
            return record
        if record.task != task or (attempt is not None and record.attempt not in {None, attempt}):
            other = AttemptRecord(task, attempt, fence)
            self._findings.add("fence", f"{other.name} has the fence of {record.name}", at)
            return other
        if record.attempt is None:
            record.attempt = attempt
        return record

    def numbered(self, task: TaskKey, attempt: int) -> AttemptRecord:
        """Return an attempt of which only the number is known: the newest one with it."""
        for record in reversed(self.by_task.get(task, ())):
            if record.attempt == attempt:
                return record
        return self._without_fence(task, attempt)

    def _without_fence(self, task: TaskKey, attempt: int | None) -> AttemptRecord:
        records = self.by_task.setdefault(task, [])
        for record in records:
            if record.fence == UNKNOWN_FENCE and record.attempt == attempt:
                return record
        record = AttemptRecord(task, attempt, UNKNOWN_FENCE)
        records.append(record)
        return record

    def check_growth(self) -> None:
        """The fences of a task grow with its attempts."""
        if self._restored_at > -math.inf:
            return
        for records in self.by_task.values():
            numbered = sorted(
                (each.attempt, each.fence)
                for each in records
                if each.attempt is not None and each.fence != UNKNOWN_FENCE
            )
            for (one, fence), (other, larger) in itertools.pairwise(numbered):
                if one == other or fence >= larger:
                    name = "/".join(records[0].task)
                    told = f"task {name}: attempt {one} has fence {fence}, and attempt {other} has fence {larger}"
                    self._findings.add("fence", told, max(_first_heard(each) for each in records))

    def _record(self, line: HistoryLine, at: float) -> AttemptRecord:
        key = (text(line, "workflow"), text(line, "task"))
        return self.known(key, optional_integer(line, "attempt"), integer(line, "fence"), at)

    def _started(self, record: AttemptRecord, agent: str, at: float) -> None:
        if record.start == math.inf:
            self.count += 1
            record.start = at
            record.agent = agent or record.agent
            return
        # The same message may arrive twice; another process may not start under the same fence.
        if record.end < at or record.start < self._restored_at < at or (agent and agent != record.agent):
            told = f"{record.name}: started at {record.start:.3f} and again at {at:.3f}"
            self._findings.add("fence", told, at)

    def _heard(self, record: AttemptRecord, line: HistoryLine, at: float) -> None:
        moment = number(line, "sent") if "sent" in line else at
        late = "sent" not in line and not self._is_collector_local
        if moment > record.alive:
            record.alive = moment
            record.late = late


def _first_heard(record: AttemptRecord) -> float:
    known = [moment for moment in (record.start, record.alive) if math.isfinite(moment)]
    return min(known, default=0.0)


def by_workflow(log: AttemptLog) -> dict[str, list[AttemptRecord]]:
    """Return the attempts of each workflow."""
    found: dict[str, list[AttemptRecord]] = collections.defaultdict(list)
    for (workflow, _), records in log.by_task.items():
        found[workflow].extend(records)
    return found
