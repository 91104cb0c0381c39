"""Levels, redundant needs and the critical path of graphs."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain.tasks import preparation
from raftflow.domain.tasks.preparation import critical_path, levels_of, without_redundant


def reduce(needs):
    order = list(range(len(needs)))
    return without_redundant(needs, order, levels_of(needs, order))


def test_levels():
    assert levels_of([(), (0,), (0, 1), (), (3, 2)], [0, 1, 2, 3, 4]) == [0, 1, 2, 0, 3]


def test_a_need_that_another_one_needs_is_redundant():
    assert reduce([(), (0,), (0, 1)]) == {2: (1,)}
    assert reduce([(), (0,), (1,), (2, 0)]) == {3: (2,)}, "however long the way is"
    assert reduce([(), (0,), (0,), (1, 2)]) == {}, "a diamond has none"
    assert reduce([(), (), (0,), (0, 1, 2)]) == {3: (1, 2)}


def test_the_work_is_bounded(monkeypatch):
    monkeypatch.setattr(preparation, "WORK_MIN", 3)
    monkeypatch.setattr(preparation, "WORK_PER_EDGE", 0)
    assert reduce([(), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]) == {2: (1,)}


@st.composite
def graphs(draw):
    return [
        tuple(draw(st.lists(st.integers(0, position - 1), unique=True, max_size=5))) if position else ()
        for position in range(draw(st.integers(1, 14)))
    ]


def ancestors(needs):
    found = []
    for wanted in needs:
        found.append(set(wanted) | {above for need in wanted for above in found[need]})
    return found


@settings(max_examples=300, deadline=None, derandomize=True)
@given(needs=graphs(), durations=st.lists(st.integers(0, 5), min_size=14, max_size=14))
def test_what_is_dropped_follows_from_the_rest_and_nothing_more_could_go(needs, durations):
    reduced = reduce(needs)
    after = [reduced.get(position, wanted) for position, wanted in enumerate(needs)]
    above = ancestors(needs)
    assert ancestors(after) == above
    for left in after:
        assert all(need not in above[other] for need in left for other in left)
    below = [[p for p, wanted in enumerate(needs) if need in wanted] for need in range(len(needs))]
    ranks = [0] * len(needs)
    for position in reversed(range(len(needs))):
        ranks[position] = durations[position] + max((ranks[p] for p in below[position]), default=0)
    order = list(range(len(needs)))
    for graph in (needs, after):
        path = critical_path(graph, order, ranks)
        assert sum(durations[position] for position in path) == max(ranks)
        assert all(first in needs[second] for first, second in pairwise(path))


def test_an_empty_graph_has_no_path():
    assert critical_path([], [], []) == []
