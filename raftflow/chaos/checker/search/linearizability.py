"""Is there an order of calls that explains all answers? A search after Wing, Gong and Lowe, with memoisation.

The search goes through the calls of one object in the order of time. A *configuration* is a state of the model with
the open calls that have already taken effect in it. When a call returns, every configuration is extended by open
calls until the returning call has taken effect. Equal configurations are explored once. If no configuration is left,
the calls are not linearizable.

A call without an answer stays open for ever: it may take effect at any time, or never. Two configurations may differ
in such calls alone. Then the one that has used fewer of them can do all that the other one can, and the other one is
left out. Of equal calls without answers the first one is used first.

The work grows with the concurrency of the calls, and hardly with their number. A search that takes more than its
budget ends as undecided.
"""

from __future__ import annotations

import collections
import enum
import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol


class TimedCall(NamedTuple):
    """A call of a client: what it asked, when, and what came back."""

    invoked: float
    returned: float
    """Infinite if the answer is not known: the call may have taken effect at any time, or never."""
    name: str
    argument: Hashable = None
    answer: Hashable = None


class SequentialModel(Protocol):
    """What an object does when one call comes after the other."""

    initial: Hashable

    @property
    def reads(self) -> Collection[str]:
        """Return the names of calls that no other call needs.

        One that can take effect, and leaves the state as it is, takes effect at once.
        """
        ...

    def results(self, state: Hashable, call: TimedCall) -> Iterable[Hashable]:
        """Yield the states in which a call with this answer can leave the object; nothing if it cannot happen."""
        ...


class Outcome(enum.Enum):
    """What a search found."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNDECIDED = "undecided"


class SearchResult(NamedTuple):
    """What a search found, with the first call that cannot be explained, and what it cost."""

    outcome: Outcome
    call: TimedCall | None
    explored: int


class _OverBudgetError(Exception):
    """The search has cost too much."""


_Configuration = tuple[Hashable, int]
"""A state, and the slots of open calls that have taken effect, as bits."""

_GROUP_MAX = 200
"""Configurations of one state that are compared with each other."""


class _Search:
    """One search: the open calls by slot, and the configurations that are left."""

    def __init__(self, model: SequentialModel, budget: int) -> None:
        self._model = model
        self._budget = budget
        self.explored = 0
        self._open: dict[int, TimedCall] = {}
        self._free: list[int] = []
        self._unanswered = 0
        """Slots of calls without answers, as bits."""
        self._equal: dict[int, int] = {}
        """For the slot of a call without an answer: the slots of equal ones that must be used first, as bits."""
        self._kept: dict[tuple[str, Hashable], int] = collections.defaultdict(int)
        self._configurations: set[_Configuration] = {(model.initial, 0)}

    def invoke(self, call: TimedCall) -> int:
        """A call begins; returns its slot."""
        slot = self._free.pop() if self._free else len(self._open)
        self._open[slot] = call
        if call.returned == math.inf:
            key = (call.name, call.argument)
            self._equal[slot] = self._kept[key]
            self._kept[key] |= 1 << slot
            self._unanswered |= 1 << slot
        return slot

    def complete(self, slot: int) -> bool:
        """A call returns; tells whether that can be explained."""
        bit = 1 << slot
        explained: set[_Configuration] = set()
        waiting = [self._with_reads(*configuration) for configuration in self._configurations]
        seen = set(waiting)
        while waiting:
            state, done = waiting.pop()
            if done & bit:
                explained.add((state, done & ~bit))
                continue
            for following in self._extended(state, done):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        del self._open[slot]
        self._free.append(slot)
        self._configurations = self._without_dominated(explained)
        return bool(explained)

    def _extended(self, state: Hashable, done: int) -> Iterable[_Configuration]:
        """Yield the configurations after one more open call."""
        for slot, call in self._open.items():
            bit = 1 << slot
            if done & bit or self._equal.get(slot, 0) & ~done:
                continue
            self.explored += 1
            if self.explored > self._budget:
                raise _OverBudgetError
            for after in self._model.results(state, call):
                if after != state or call.returned != math.inf:
                    yield self._with_reads(after, done | bit)

    def _with_reads(self, state: Hashable, done: int) -> _Configuration:
        """Let all open reads take effect that see this state."""
        for slot, call in self._open.items():
            bit = 1 << slot
            if call.name in self._model.reads and not done & bit and state in self._model.results(state, call):
                done |= bit
        return state, done

    def _without_dominated(self, found: set[_Configuration]) -> set[_Configuration]:
        """Leave out configurations that have used more calls without answers than another one needed."""
        if not self._unanswered or len(found) < 2:
            return found
        groups: dict[tuple[Hashable, int], list[int]] = collections.defaultdict(list)
        for state, done in found:
            groups[state, done & ~self._unanswered].append(done & self._unanswered)
        kept: set[_Configuration] = set()
        for (state, answered), used in groups.items():
            least: list[int] = []
            for bits in sorted(used, key=int.bit_count):
                if len(least) > _GROUP_MAX or not any(fewer & ~bits == 0 for fewer in least):
                    least.append(bits)
            kept.update((state, answered | bits) for bits in least)
        return kept


def search(calls: Sequence[TimedCall], model: SequentialModel, budget: int) -> SearchResult:
    """Look for an order of the calls in which the model gives all answers.

    Args:
        calls: the calls of one object. Reads without answers must be left out: they say nothing.
        model: what the object does.
        budget: how many steps of the model may be tried.
    """
    moments = [(call.invoked, 0, position) for position, call in enumerate(calls)]
    moments += [(call.returned, 1, position) for position, call in enumerate(calls) if call.returned != math.inf]
    moments.sort()
    running = _Search(model, budget)
    slots: dict[int, int] = {}
    try:
        for _time, completes, position in moments:
            if not completes:
                slots[position] = running.invoke(calls[position])
            elif not running.complete(slots.pop(position)):
                return SearchResult(Outcome.NOT_LINEARIZABLE, calls[position], running.explored)
    except _OverBudgetError:
        return SearchResult(Outcome.UNDECIDED, None, running.explored)
    return SearchResult(Outcome.LINEARIZABLE, None, running.explored)
