"""What one attempt knows of the steps of its task: which records there are, and which occurrence comes next. Pure.

The assignment says how many steps earlier attempts have recorded. A lookup that finds one brings those after it too,
so most steps of an attempt that resumes need no exchange of their own. Once all of them are found, the attempt knows
without asking that a step has no record.
"""

from __future__ import annotations

from bisect import insort
from typing import Final

from raftflow.domain.contract.views import KnownStep
from raftflow.domain.limits import STEPS_PER_TASK_MAX

Key = tuple[str, int]
"""Name and occurrence."""

READ_AHEAD_MAX: Final = 1_024
UNASKED_MAX: Final = 500
"""Steps that an attempt may run without asking before, until it asks for the next one."""
READ_AHEAD_BYTES_MAX: Final = 1 << 20


class AttemptSteps:
    """The steps of one attempt.

    Args:
        recorded: how many steps earlier attempts have recorded; -1 if others may record some at the same time.
    """

    def __init__(self, recorded: int) -> None:
        self._recorded = recorded
        self._found = 0
        self._given = 0
        """Occurrences that were given out and not given back."""
        self._begun: dict[str, int] = {}
        """By name: how many occurrences were given out."""
        self._failed: dict[str, list[int]] = {}
        """By name: occurrences of steps that failed, smallest first. They are given out again."""
        self._ahead: dict[Key, KnownStep] = {}
        """Records that came with others and were not asked for yet, in the order of recording."""
        self._ahead_bytes = 0

    @property
    def others_record(self) -> bool:
        """True if another attempt of the task may record steps at the same time."""
        return self._recorded < 0

    def begin(self, name: str) -> int | None:
        """Return the occurrence of the next step of this name. None if the attempt has begun too many."""
        if self._given >= STEPS_PER_TASK_MAX or (name not in self._begun and len(self._begun) >= STEPS_PER_TASK_MAX):
            return None
        self._given += 1
        failed = self._failed.get(name)
        if failed:
            return failed.pop(0)
        occurrence = self._begun[name] = self._begun.get(name, 0) + 1
        return occurrence

    def is_begun(self, key: Key) -> bool:
        """Tell whether a step was given out."""
        name, occurrence = key
        return occurrence <= self._begun.get(name, 0)

    def fail(self, key: Key) -> bool:
        """Let the next step of the name have this occurrence. False if it was not given out, or waits already."""
        name, occurrence = key
        failed = self._failed.setdefault(name, [])
        if not self.is_begun(key) or occurrence in failed:
            return False
        insort(failed, occurrence)
        self._given -= 1
        return True

    def take(self, key: Key) -> KnownStep | None:
        """Return the record of a step if it came with another one."""
        step = self._ahead.pop(key, None)
        if step is not None:
            self._ahead_bytes -= len(bytes(step.result))
            self._found += 1
        return step

    @property
    def must_ask(self) -> bool:
        """True if the coordinator may have a record that did not come yet."""
        return self._recorded < 0 or self._recorded > self._found + len(self._ahead)

    @property
    def unasked(self) -> int:
        """How many steps the attempt may run without asking before: none of them can have a record."""
        if self.must_ask or self._ahead:
            return 0
        return min(UNASKED_MAX, STEPS_PER_TASK_MAX - self._given)

    def learn(self, steps: list[KnownStep]) -> None:
        """Take what a lookup brought: the record that was asked for, and those after it."""
        if not steps:
            return
        self._found += 1
        for step in steps[1:]:
            key = (step.name, step.occurrence)
            if key not in self._ahead and not self.is_begun(key):
                self._ahead[key] = step
                self._ahead_bytes += len(bytes(step.result))
        while len(self._ahead) > READ_AHEAD_MAX or self._ahead_bytes > READ_AHEAD_BYTES_MAX:
            self._ahead_bytes -= len(bytes(self._ahead.pop(next(iter(self._ahead))).result))
