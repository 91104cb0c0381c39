"""Graphs: what is wrong with them is told with its path; orders and ranks of sound ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain import limits
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import (
    TaskSpec,
    WorkflowSpec,
    check_graph,
    find_cycles,
    topological_order,
    upward_ranks,
)
from raftflow.domain.values.ids import name_problem


def graph(needs: dict[str, str], **expected: int) -> WorkflowSpec:
    """`{"b": "a"}`: b needs a."""
    return WorkflowSpec(
        name="w",
        tasks=tuple(
            TaskSpec(
                id=name, program=CommandLine(("x",)), needs=tuple(wanted.split()), expected_ms=expected.get(name)
            )
            for name, wanted in needs.items()
        ),
    )


BROKEN = {
    "no tasks": ({}, [("tasks", "at least one")]),
    "a bad id": ({"a b": ""}, [("tasks[0].id", "may hold letters")]),
    "an unknown need": ({"a": "z"}, [("tasks[0].needs[0]", "no task has the id 'z'")]),
    "a need of itself": ({"a": "a"}, [("tasks[0].needs[0]", "needs itself")]),
    "a need listed twice": ({"a": "", "b": "a a"}, [("tasks[1].needs[1]", "listed twice")]),
    "a circle": ({"a": "c", "b": "a", "c": "b"}, [("tasks[0].needs", "in a circle: a -> c -> b -> a")]),
    "a circle with more behind it": ({"x": "", "d": "c", "b": "c x", "c": "b"}, [("tasks[3].needs", "circle")]),
    "several": ({"a": "z", "": "a"}, [("tasks[1].id", "must not be empty"), ("tasks[0].needs[0]", "no task")]),
}


KEYS = [
    ("x-${a.digest}", []),
    ("${a.result}", []),
    ("plain", []),
    ("${b.digest}", ["the key refers to 'b', so it must be in `needs`"]),
    ("${a.size}", ["'${a.size}' is not a reference: write ${ID.digest} or ${ID.result}"]),
]


@pytest.mark.parametrize(("key", "messages"), KEYS)
def test_cache_keys_refer_to_needs(key, messages):
    tasks = (
        TaskSpec(id="a", program=CommandLine(("x",))),
        TaskSpec(id="b", program=CommandLine(("x",)), needs=("a",), cache=key),
    )
    problems = check_graph(WorkflowSpec(name="w", tasks=tasks))
    assert [(problem.path, problem.message) for problem in problems] == [("tasks[1].cache.key", m) for m in messages]


@pytest.mark.parametrize("case", BROKEN)
def test_faults_are_told_with_their_path(case):
    needs, expected = BROKEN[case]
    problems = check_graph(graph(needs))
    assert [problem.path for problem in problems] == [path for path, _ in expected]
    for problem, (_, message) in zip(problems, expected, strict=True):
        assert message in problem.message


def test_an_id_is_used_once():
    spec = WorkflowSpec(name="w", tasks=(TaskSpec(id="a", program=CommandLine(("x",))),) * 2)
    assert [problem.path for problem in check_graph(spec)] == ["tasks[1].id"]


def test_every_circle_is_told_beside_every_other_fault():
    spec = graph({"a": "b", "b": "a", "c": "c d", "d": "nobody", "e": "f", "f": "g", "g": "e a", "h": "g", "i": ""})
    assert [(problem.path, problem.message) for problem in check_graph(spec)] == [
        ("tasks[2].needs[0]", "'c' needs itself"),
        ("tasks[3].needs[0]", "no task has the id 'nobody'"),
        ("tasks[0].needs", "tasks need each other in a circle: a -> b -> a"),
        ("tasks[4].needs", "tasks need each other in a circle: e -> f -> g -> e"),
    ]
    rows = [("a", "b"), ("b", "a"), ("a", "a")]
    twice = WorkflowSpec(
        name="w", tasks=tuple(TaskSpec(id=i, needs=(need,), program=CommandLine(("x",))) for i, need in rows)
    )
    assert [problem.path for problem in check_graph(twice)] == ["tasks[2].id", "tasks[2].needs[0]", "tasks[0].needs"]


def test_circles_are_listed_up_to_a_bound():
    pairs = {f"{side}{n}": f"{other}{n}" for n in range(20) for side, other in (("a", "b"), ("b", "a"))}
    assert len(check_graph(graph(pairs))) == 10


def test_a_long_circle_is_cut():
    names = [f"t{n}" for n in range(20)]
    (problem,) = check_graph(graph({name: names[n - 1] for n, name in enumerate(names)}))
    assert problem.message.endswith("...")


def test_limits(monkeypatch):
    spec = graph({"a": "", "b": "a", "c": "a b"})
    monkeypatch.setattr(limits, "EDGES_PER_WORKFLOW_MAX", 2)
    assert [problem.message for problem in check_graph(spec)] == ["3 needs in all, the limit is 2"]
    monkeypatch.setattr(limits, "NEEDS_PER_TASK_MAX", 1)
    assert "more than 1 needs" in check_graph(spec)[0].message
    monkeypatch.setattr(limits, "TASKS_PER_WORKFLOW_MAX", 2)
    assert "3 tasks, the limit is 2" in check_graph(spec)[0].message


def test_names():
    assert name_problem("a-1.b:c@d+e") is None
    assert "201 characters" in (name_problem("a" * 201) or "")
    assert "starts with" in (name_problem("-a") or "")


def test_ranks_are_the_longest_way_to_the_end():
    spec = graph({"a": "", "b": "a", "c": "a", "d": "b c"}, a=1, b=10, c=2, d=5)
    assert upward_ranks(spec) == [16, 15, 7, 5]
    assert upward_ranks(graph({"a": "", "b": "a"}), [0, 1]) == [2_000, 1_000]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=12))
def test_every_graph_is_either_ordered_or_has_a_circle(edges):
    names = [f"t{n}" for n in range(len(edges))]
    spec = graph(
        {name: " ".join(sorted({names[n % len(edges)] for n in edges[at]} - {name})) for at, name in enumerate(names)}
    )
    order = topological_order(spec)
    if check_graph(spec):
        cycles = find_cycles(spec)
        needs = {task.id: task.needs for task in spec.tasks}
        for cycle in cycles:
            assert all(after in needs[before] for before, after in pairwise([*cycle, cycle[0]]))
        assert len({name for cycle in cycles for name in cycle}) == sum(map(len, cycles)) > 0
    else:
        assert find_cycles(spec) == []
        place = {position: at for at, position in enumerate(order)}
        assert all(
            place[names.index(need)] < place[position]
            for position, task in enumerate(spec.tasks)
            for need in task.needs
        )
