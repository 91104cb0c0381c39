"""What a register and a workflow do when one call comes after the other."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple

from raftflow.chaos.checker.search.linearizability import TimedCall

ABSENT: Final = "absent"
PRESENT: Final = "present"
"""The answer of a read that tells no state."""
ENDED_STATES: Final = frozenset({"succeeded", "failed", "cancelled"})
WORKFLOW_STATES: Final = frozenset({"pending", "running", "paused"}) | ENDED_STATES


class RegisterModel:
    """A value under a key, None at first: `write`, `get`, and `cas`, of which the argument is a pair of values."""

    initial: Hashable = None
    reads = frozenset({"get"})

    def results(self, state: Hashable, call: TimedCall) -> Iterator[Hashable]:
        """Yield the value after a call."""
        if call.name == "write":
            yield call.argument
        elif call.name == "get":
            if call.answer == state:
                yield state
        else:
            assert isinstance(call.argument, tuple)  # noqa: S101 - a pair
            if call.argument[0] == state:
                yield call.argument[1]


class WorkflowPhase(NamedTuple):
    """Where a workflow is: the earliest phase that is possible, because only reads tell how far it has come."""

    phase: str
    """`absent`, `pending`, `running` or how it ended."""
    paused: bool = False
    cancelled: bool = False
    """A cancel took effect: it can only end as cancelled."""


class WorkflowModel:
    """A workflow: absent, then pending, running, ended. Clients create, cancel, pause, resume and retry it.

    It starts and ends by itself, at any time. It is cancelled, and it leaves an end, only if a client asked for it.
    """

    initial: Hashable = WorkflowPhase(ABSENT)
    reads = frozenset({"read"})

    def results(self, state: Hashable, call: TimedCall) -> Iterator[Hashable]:
        """Yield the phases after a call."""
        assert isinstance(state, WorkflowPhase)  # noqa: S101 - all states are
        if call.name == "read":
            found = _observed(state, call.answer)
            if found is not None:
                yield found
        elif call.name == "submit":
            yield WorkflowPhase("pending") if state.phase == ABSENT else state
        elif state.phase != ABSENT:
            yield from _CONTROLS[call.name](state)


def _observed(state: WorkflowPhase, answer: Hashable) -> WorkflowPhase | None:
    """Return the phase after a read with this answer, None if it cannot see that."""
    if ABSENT in {answer, state.phase}:
        return state if answer == state.phase else None
    if answer == PRESENT:
        return state
    if answer == state.phase and (answer in ENDED_STATES or not state.paused):
        return state
    if state.phase in ENDED_STATES:
        return None
    if answer in ENDED_STATES:
        # What has ended is not paused any more, also after a retry.
        ended = state._replace(phase=str(answer), paused=False)
        return ended if state.cancelled == (answer == "cancelled") else None
    if answer == "paused":
        return state if state.paused else None
    if answer == "running" and not state.paused:
        return state._replace(phase="running")
    return None


def _cancelled(state: WorkflowPhase) -> Iterator[WorkflowPhase]:
    if state.phase not in ENDED_STATES:
        yield state._replace(paused=False, cancelled=True)
    elif state.cancelled:
        yield state


def _paused(state: WorkflowPhase) -> Iterator[WorkflowPhase]:
    if state.paused or (state.phase not in ENDED_STATES and not state.cancelled):
        yield state._replace(paused=True)


def _resumed(state: WorkflowPhase) -> Iterator[WorkflowPhase]:
    if state.phase not in ENDED_STATES:
        yield state._replace(paused=False)


def _retried(state: WorkflowPhase) -> Iterator[WorkflowPhase]:
    if state.phase != "succeeded":
        # It may have ended a moment ago, before any attempt was placed or after.
        yield WorkflowPhase("pending")


_CONTROLS: Final = {"cancel": _cancelled, "pause": _paused, "resume": _resumed, "retry": _retried}
