"""What the agent holds: its queue, what runs, what has ended and is not answered yet. No I/O, no clock.

The admission rule is the ledger's (rule 7 of the design): attempts start strictly in the order of their fences, from
the head of the queue, while the head fits into what is free; nothing overtakes. The agent sees an end earlier than
the replicas do, so it is ahead of the ledger, never beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping

from raftflow.domain.contract.views import Assignment, ReportedEnd, ReportVerdict
from raftflow.domain.tasks.resources import fits


class AttemptTable:
    """One incarnation's account of attempts."""

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self.free: dict[str, int] = dict(capacity)
        self.seen = 0
        """Largest fence that was received."""
        self.queue: deque[Assignment] = deque()
        self.running: dict[int, Assignment] = {}
        self._alone = False
        """What runs is exclusive."""
        self.ends: dict[int, ReportedEnd] = {}
        """In the order in which they happened, until some answer has a verdict for them."""
        self.pressing = False
        """An attempt ended without success, and no poll has been composed since."""
        self.refused: list[ReportedEnd] = []
        """Ends that nobody took since the incarnation is over."""

    def receive(self, assignments: Iterable[Assignment]) -> None:
        """Put new attempts into the queue. Those that were received before are ignored."""
        for assignment in assignments:
            if assignment.fence > self.seen:
                self.seen = assignment.fence
                self.queue.append(assignment)

    def start_next(self) -> Assignment | None:
        """Take the head of the queue if it fits, and hold its demand. Nothing runs beside an exclusive one."""
        if not self.queue or self._alone or (self.queue[0].exclusive and self.running):
            return None
        if not fits(self.queue[0].resources, self.free):
            return None
        assignment = self.queue.popleft()
        for name, amount in assignment.resources.items():
            self.free[name] = self.free.get(name, 0) - amount
        self.running[assignment.fence] = assignment
        self._alone = assignment.exclusive
        return assignment

    def take_misfit(self) -> Assignment | None:
        """Take the head of the queue if it does not fit though nothing runs: it never would."""
        if not self.queue or self.running or fits(self.queue[0].resources, self.free):
            return None
        return self.queue.popleft()

    def give_back(self, fences: Container[int] | None = None) -> list[Assignment]:
        """Take attempts out of the queue: those of `fences`, or all. Returns them in order."""
        taken = [assignment for assignment in self.queue if fences is None or assignment.fence in fences]
        if taken:
            gone = {assignment.fence for assignment in taken}
            self.queue = deque(assignment for assignment in self.queue if assignment.fence not in gone)
        return taken

    def end(self, end: ReportedEnd) -> None:
        """An attempt ended, or was given back: free what it held, keep the end until it is answered."""
        assignment = self.running.pop(end.fence, None)
        if assignment is not None:
            self._alone = False
            for name, amount in assignment.resources.items():
                self.free[name] = self.free.get(name, 0) + amount
        self.ends[end.fence] = end
        self.pressing |= end.outcome != "succeeded"

    def answered(self, verdicts: Iterable[ReportVerdict]) -> int:
        """Forget ends that got a verdict, whatever it is. Returns how many."""
        return sum(self.ends.pop(verdict.fence, None) is not None for verdict in verdicts)

    def refuse(self, ends: Iterable[ReportedEnd]) -> None:
        """Give ends up: the coordinator takes none of this incarnation any more."""
        self.refused += [end for end in ends if self.ends.pop(end.fence, None) is not None]

    def unheard(self) -> list[ReportedEnd]:
        """Return the successes that no answer has confirmed, in the order in which they happened."""
        return [end for end in (*self.refused, *self.ends.values()) if end.outcome == "succeeded"]

    @property
    def empty(self) -> bool:
        """Nothing waits, runs or is unanswered."""
        return not (self.queue or self.running or self.ends)
