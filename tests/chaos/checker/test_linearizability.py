"""The search for linearizability agrees with trying all orders, and it is bounded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.chaos.checker.search.linearizability import Outcome, SequentialModel, TimedCall, search
from raftflow.chaos.checker.search.models import RegisterModel, WorkflowModel

VALUES = st.sampled_from([None, "1", "2"])
BUDGET = 1_000_000


@st.composite
def intervals(draw: st.DrawFn) -> tuple[float, float]:
    began = draw(st.integers(0, 6))
    return began, draw(st.one_of(st.integers(began, 8), st.integers(began, 8), st.just(math.inf)))


@st.composite
def register_calls(draw: st.DrawFn) -> TimedCall:
    began, ended = draw(intervals())
    verb = draw(st.sampled_from(["write", "cas", "get"]))
    if verb == "get" and ended < math.inf:
        return TimedCall(began, ended, "get", None, draw(VALUES))
    if verb == "cas":
        return TimedCall(began, ended, "cas", (draw(VALUES), draw(VALUES)))
    return TimedCall(began, ended, "write", draw(VALUES))


@st.composite
def workflow_calls(draw: st.DrawFn) -> TimedCall:
    began, ended = draw(intervals())
    verb = draw(st.sampled_from(["submit", "read", "read", "cancel", "pause", "resume", "retry"]))
    if verb == "read":
        states = ["absent", "pending", "running", "paused", "succeeded", "failed", "cancelled"]
        return TimedCall(began, min(ended, 9.0), "read", None, draw(st.sampled_from(states)))
    return TimedCall(began, ended, verb)


def has_order(calls: Sequence[TimedCall], model: SequentialModel) -> bool:
    """Try all orders of all calls, those without answers present or not."""
    certain = [call for call in calls if call.returned < math.inf]
    open_calls = [call for call in calls if call.returned == math.inf]
    for count in range(len(open_calls) + 1):
        for some in itertools.combinations(open_calls, count):
            for order in itertools.permutations([*certain, *some]):
                if _respects_time(order) and _explains(order, model):
                    return True
    return False


def _respects_time(order: Sequence[TimedCall]) -> bool:
    return all(later.returned >= earlier.invoked for earlier, later in itertools.combinations(order, 2))


def _explains(order: Sequence[TimedCall], model: SequentialModel) -> bool:
    states: set[Hashable] = {model.initial}
    for call in order:
        states = {after for state in states for after in model.results(state, call)}
    return bool(states)


@pytest.mark.parametrize("model", [RegisterModel(), WorkflowModel()], ids=["register", "workflow"])
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_search_agrees_with_all_orders(model: SequentialModel, data: st.DataObject) -> None:
    each = register_calls() if isinstance(model, RegisterModel) else workflow_calls()
    calls = data.draw(st.lists(each, max_size=6))
    found = search(calls, model, BUDGET)
    assert (found.outcome is Outcome.LINEARIZABLE) == has_order(calls, model)
    assert (found.call is None) == (found.outcome is Outcome.LINEARIZABLE)


def test_work_grows_with_concurrency_and_hardly_with_length() -> None:
    calls = []
    for turn in range(20_000):
        calls += [TimedCall(turn, turn + 0.9, "write", turn), TimedCall(turn + 0.1, turn + 0.95, "get", None, turn)]
    found = search(calls, RegisterModel(), BUDGET)
    assert found.outcome is Outcome.LINEARIZABLE
    assert found.explored < 5 * len(calls)


def test_equal_calls_without_answers_cost_little() -> None:
    calls = [TimedCall(turn, math.inf, "write", turn % 3) for turn in range(200)]
    calls += [TimedCall(300 + turn, 300.5 + turn, "get", None, turn % 3) for turn in range(100)]
    found = search(calls, RegisterModel(), BUDGET)
    assert found.outcome is Outcome.LINEARIZABLE


def test_hard_search_is_undecided_within_its_budget() -> None:
    calls = [TimedCall(0, 10, "write", turn) for turn in range(30)]
    calls += [TimedCall(0, 10, "cas", (turn, turn + 1)) for turn in range(30)]
    calls.append(TimedCall(11, 12, "get", None, "never written"))
    found = search(calls, RegisterModel(), 10_000)
    assert found.outcome is Outcome.UNDECIDED
    assert found.explored <= 10_001
