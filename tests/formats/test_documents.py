"""Normalising: what a document becomes, and that every fault is named with its path."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raftflow.formats
from raftflow.domain import limits
from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.tasks.checks import check_task_values, check_workflow_values
from raftflow.domain.tasks.program import CommandLine, PythonCall, TaskWait
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec, check_graph
from raftflow.domain.values.ids import name_problem
from raftflow.formats.documents import PROBLEMS_MAX, DocumentError, normalize
from raftflow.formats.readers.fields import READERS
from raftflow.formats.readers.json_reader import decode_json


def task(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "command": ["true"], **fields}


def only(**fields: Any) -> TaskSpec:
    """Normalise a document of one task and return it."""
    return normalize({"name": "w", "tasks": [task(**fields)]}).tasks[0]


def faults(document: object) -> dict[str, str]:
    with pytest.raises(DocumentError) as caught:
        normalize(document)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_whole_document() -> None:
    document = {
        "name": "nightly",
        "priority": 70,
        "on_failure": "continue",
        "defaults": {"retries": 3, "env": {"A": "1", "B": "2"}, "resources": {"memory": "1GiB"}},
        "tasks": [
            {"id": "fetch", "command": ["python3", "fetch.py"]},
            {
                "id": "train",
                "needs": ["fetch"],
                "python": "pack.mod:fit.run",
                "args": [{"$result": "fetch"}, 2],
                "kwargs": {"rate": 0.5},
                "env": {"B": "3", "N": 7},
                "cwd": "/tmp",
                "resources": {"cpu": 1.5, "gpu": 1},
                "retries": 0,
                "retry_delay": "250ms",
                "retry_delay_max": "1m",
                "timeout": "1h30m",
                "grace": 2,
                "expected": "40s",
                "constraints": {"labels": {"zone": "a"}},
            },
        ],
    }
    assert normalize(document) == WorkflowSpec(
        name="nightly",
        priority=70,
        on_failure="continue",
        tasks=(
            TaskSpec(
                id="fetch",
                program=CommandLine(("python3", "fetch.py")),
                env={"A": "1", "B": "2"},
                resources={"cpu": 1000, "memory": 1024},
                retries=3,
            ),
            TaskSpec(
                id="train",
                needs=("fetch",),
                program=PythonCall("pack.mod:fit.run", b'[{"$result":"fetch"},2]', b'{"rate":0.5}'),
                env={"A": "1", "B": "3", "N": "7"},
                cwd="/tmp",
                resources={"cpu": 1500, "memory": 1024, "gpu": 1000},
                retries=0,
                retry_delay_ms=250,
                retry_delay_max_ms=60_000,
                timeout_ms=5_400_000,
                grace_ms=2_000,
                expected_ms=40_000,
                labels={"zone": "a"},
            ),
        ),
    )


def test_a_demand_without_cpu_asks_for_one_and_zero_is_kept() -> None:
    assert only(resources={"gpu": 1}).resources == {"cpu": 1000, "gpu": 1000}
    assert only(resources={"cpu": 0}).resources == {"cpu": 0}
    assert only().resources == {"cpu": 1000}


def test_a_task_chooses_between_command_and_python_whatever_the_defaults_say() -> None:
    defaults = {"python": "m:f", "args": [1]}
    spec = normalize({"name": "w", "defaults": defaults, "tasks": [task(), {"id": "b"}, {"id": "c", "args": [2]}]})
    assert [t.program for t in spec.tasks] == [
        CommandLine(("true",)),
        PythonCall("m:f", b"[1]"),
        PythonCall("m:f", b"[2]"),
    ]
    spec = normalize({"name": "w", "defaults": {"command": ["x"]}, "tasks": [{"id": "a", "python": "m:f"}]})
    assert spec.tasks[0].program == PythonCall("m:f")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("40s", 40_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("250ms", 250),
        ("1.5s", 1_500),
        ("1d", 86_400_000),
        (2, 2_000),
        (0.25, 250),
        (0.0001, 1),
        (0, 0),
        (" 3s ", 3_000),
        ("1m 30s", 90_000),
    ],
)
def test_durations(value: object, expected: int) -> None:
    assert only(expected=value).expected_ms == expected


BAD_DURATIONS = [
    "",
    "40",
    "fast",
    "-3s",
    "1h30",
    -1,
    float("nan"),
    float("inf"),
    True,
    [],
    10**400,
    "9" * 5000,
    "400d",
]


@pytest.mark.parametrize("value", BAD_DURATIONS, ids=lambda value: repr(value)[:12])
def test_bad_durations(value: object) -> None:
    assert list(faults({"name": "w", "tasks": [task(timeout=value)]})) == ["tasks[0].timeout"]


def test_back_off_bounds_follow_each_other() -> None:
    assert only(retry_delay="5m").retry_delay_max_ms == 300_000
    assert only(retry_delay_max="10ms").retry_delay_ms == 10
    assert faults({"name": "w", "tasks": [task(retry_delay=9, retry_delay_max=8)]}) == {
        "tasks[0].retry_delay": "is longer than retry_delay_max"
    }


def test_the_longest_delay_of_the_defaults_holds_for_a_task_that_shortens_the_first() -> None:
    document = {"name": "w", "defaults": {"retry_delay_max": "2s"}, "tasks": [task(retry_delay="100ms")]}
    assert (normalize(document).tasks[0].retry_delay_ms, normalize(document).tasks[0].retry_delay_max_ms) == (
        100,
        2000,
    )


def test_every_fault_is_named_at_once() -> None:
    document = {
        "name": "no spaces",
        "prioriti": 3,
        "priority": 101,
        "on_failure": "explode",
        "defaults": {"id": "x", "retrys": 1},
        "tasks": [
            {"id": "a", "command": ["x"], "resources": {"cpu": -1, "memory": "big", "b ad": 1}},
            {"id": "a", "command": "x"},
            {"command": ["x"], "needs": ["zz"]},
            {"id": "d"},
            {"id": "e", "command": ["x"], "python": "m:f", "cache": {"key": 1, "kye": 2}},
            {"id": "f", "python": "nofunction", "kwargs": {"x": {"$result": "a"}}, "retries": 1.5},
            {"id": "g", "command": ["x"], "args": [1], "env": {"A=B": "1", "RAFTFLOW_TASK": "x", "C": None}},
            {"id": "h", "command": [], "timeout": 0, "constraints": {"label": {}, "labels": {"a": 1}}},
            "i",
            {"id": 9, "command": ["x"]},
        ],
    }
    expected = """
        name prioriti priority on_failure defaults.id defaults.retrys
        tasks[0].resources.cpu tasks[0].resources.memory tasks[0].resources
        tasks[1].id tasks[1].command tasks[2].id tasks[2].needs[0] tasks[3].command
        tasks[4].command tasks[4].cache.key tasks[4].cache.kye tasks[5].python tasks[5].kwargs.x tasks[5].retries
        tasks[6].args tasks[6].env tasks[6].env.RAFTFLOW_TASK tasks[6].env.C
        tasks[7].command tasks[7].timeout tasks[7].constraints.label tasks[7].constraints.labels.a
        tasks[8] tasks[9].id
    """
    assert sorted(faults(document)) == sorted(expected.split())


def test_unknown_keys_come_with_a_guess() -> None:
    found = faults({"name": "w", "task": [], "tasks": [task(retires=3)]})
    assert found["task"] == "unknown key 'task'; did you mean 'tasks'?"
    assert found["tasks[0].retires"] == "unknown key 'retires'; did you mean 'retries'?"
    assert "known keys" in faults({"name": "w", "tasks": [task(zzzzzz=3)]})["tasks[0].zzzzzz"]


def test_what_is_learnt_cached_and_limited() -> None:
    document = {
        "name": "w",
        "max_parallel": 10,
        "defaults": {"cache": True, "constraints": {"exclusive": True}, "kind": "fit"},
        "tasks": [
            task(),
            task(id="b", needs=["a"], cache={"key": "b-${a.digest}"}, kind="other", constraints={"exclusive": False}),
            task(id="c", cache=False, memory_max="2GiB", resources={"memory": "1GiB"}),
        ],
    }
    spec = normalize(document)
    assert spec.max_parallel == 10
    first, second, third = spec.tasks
    assert (first.cache, first.exclusive, first.kind) == ("", True, "fit")
    assert (second.cache, second.exclusive, second.kind) == ("b-${a.digest}", False, "other")
    assert (third.cache, third.exclusive, third.memory_max_mib) == (None, True, 2048)


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"cache": "x"}, "cache", 'must be true, false, or a table such as { key = "train-${fetch.digest}" }'),
        ({"cache": {}}, "cache.key", "must be a string; `cache = true` makes a key from all that the task runs"),
        ({"cache": {"key": "x", "kye": 1}}, "cache.kye", "unknown key 'kye'; did you mean 'key'?"),
        ({"cache": {"key": "${b}"}}, "cache.key", "'${b}' is not a reference: write ${ID.digest} or ${ID.result}"),
        ({"cache": {"key": "${b.digest}"}}, "cache.key", "the key refers to 'b', so it must be in `needs`"),
        ({"kind": "a b"}, "kind", f"'a b' {name_problem('a b')}"),
        ({"kind": 1}, "kind", "a int is not a string"),
        ({"memory_max": "x;"}, "memory_max", "'x;' is not an amount"),
        ({"memory_max": 1, "resources": {"memory": 2}}, "memory_max", "is less than the demand, 2 MiB"),
        ({"constraints": {"exclusive": 1}}, "constraints.exclusive", "must be true or false"),
    ],
)  # fmt: skip
def test_faults_of_those(fields: dict[str, Any], path: str, message: str) -> None:
    assert faults({"name": "w", "tasks": [task(**fields)]}) == {f"tasks[0].{path}": message}


@pytest.mark.parametrize("value", [0, 1.5, True, "3", 100_001])
def test_max_parallel_is_a_count(value: object) -> None:
    assert faults({"name": "w", "max_parallel": value, "tasks": [task()]}) == {
        "max_parallel": "must be a whole number from 1 to 100000"
    }


def test_cycles_are_named() -> None:
    tasks = [task(id="a", needs=["b"]), task(id="b", needs=["a"])]
    assert faults({"name": "w", "tasks": tasks}) == {
        "tasks[0].needs": "tasks need each other in a circle: a -> b -> a"
    }


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"python": "m:f", "args": [{"$result": "b"}]}, "tasks[0].args[0]"),
        ({"python": "m:f", "kwargs": {"x": [{"y": {"$result": "b"}}]}}, "tasks[0].kwargs.x[0].y"),
        ({"python": "m:f", "args": [{"$result": 3}]}, "tasks[0].args[0]"),
        ({"python": "m:f", "args": [{"$result": "b", "more": 1}]}, "tasks[0].args[0]"),
        ({"python": "m:f", "kwargs": {"$result": "b"}}, "tasks[0].kwargs"),
        ({"python": "m:f", "args": [float("nan")]}, "tasks[0].args[0]"),
        ({"python": "m:f", "args": [10**640]}, "tasks[0].args[0]"),
        ({"python": "m:f", "args": ["\ud800"]}, "tasks[0].args[0]"),
        ({"python": "m:f", "args": [{1: 2}]}, "tasks[0].args[0]"),
        ({"python": "m:f", "args": [{"\ud800": 2}]}, "tasks[0].args[0]"),
        ({"python": "m:f", "args": [object()]}, "tasks[0].args[0]"),
        ({"command": ["a\0b"]}, "tasks[0].command[0]"),
        ({"command": ["\ud800"]}, "tasks[0].command[0]"),
        ({"command": ["x", 1]}, "tasks[0].command[1]"),
        ({"command": ["x"], "env": {"\ud800": "1"}}, "tasks[0].env"),
        ({"command": ["x"], "env": {"A": "\ud800"}}, "tasks[0].env.A"),
        ({"command": ["x"], "cwd": ""}, "tasks[0].cwd"),
        ({"command": ["x"], "needs": "b"}, "tasks[0].needs"),
        ({"command": ["x"], "resources": {"cpu": True}}, "tasks[0].resources.cpu"),
        ({"command": ["x"], "resources": {"cpu": 10**5000}}, "tasks[0].resources.cpu"),
        ({"command": ["x"], "resources": {"cpu": "1e999999999"}}, "tasks[0].resources.cpu"),
        ({"command": ["x"], "resources": {"cpu": float("inf")}}, "tasks[0].resources.cpu"),
        ({"command": ["x"], "resources": {1: 1}}, "tasks[0].resources"),
        ({"command": ["x"], "resources": {f"r{i}": 1 for i in range(20)}}, "tasks[0].resources"),
        ({"command": ["x"], "constraints": {"labels": {"a": "\ud800"}}}, "tasks[0].constraints.labels.a"),
        ({"command": ["x"], 7: 1}, "tasks[0]"),
    ],
)
def test_one_bad_value(fields: dict[Any, Any], path: str) -> None:
    assert list(faults({"name": "w", "tasks": [{"id": "a", **fields}]})) == [path]


def test_true_is_no_amount_even_after_one_was_seen() -> None:
    """Equal demands are read once; True equals 1 and must not slip in that way."""
    tasks = [task(resources={"cpu": 1}), task(id="b", resources={"cpu": True})]
    assert list(faults({"name": "w", "tasks": tasks})) == ["tasks[1].resources.cpu"]


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    (message,) = faults({"name": "w", "tasks": [{"id": "a", "python": "m:f", "args": value}]}).values()
    assert "deeper than" in message


def test_limits_are_told_apart_from_other_faults() -> None:
    def limit_of(document: object) -> int | None:
        with pytest.raises(DocumentError) as caught:
            normalize(document)
        return caught.value.limit

    big = "x" * (limits.SPEC_BYTES_MAX + 1)
    too_many = [None] * (limits.TASKS_PER_WORKFLOW_MAX + 1)
    assert limit_of({"name": "w", "tasks": too_many}) == limits.TASKS_PER_WORKFLOW_MAX
    assert limit_of({"name": "w", "tasks": [task(command=["x", big])]}) == limits.SPEC_BYTES_MAX
    assert limit_of({"name": "w", "tasks": [task(env={"A": big})]}) == limits.SPEC_BYTES_MAX
    assert limit_of({"name": "w", "tasks": [task(command=["x"] * 1001)]}) == limits.COMMAND_ARGS_MAX
    assert limit_of({"name": "w", "tasks": [task(needs=["b"] * 10_001)]}) == limits.NEEDS_PER_TASK_MAX
    assert limit_of({"tasks": [task(command=["x", big])]}) is None


def test_a_workflow_too_large_for_a_log_entry_is_refused() -> None:
    tasks = [task(id=f"t{i}", command=["x", "y" * 60_000]) for i in range(300)]
    with pytest.raises(DocumentError, match="the limit is") as caught:
        normalize({"name": "w", "tasks": tasks})
    assert caught.value.limit is not None


def test_the_list_of_faults_is_bounded_and_counts_the_rest() -> None:
    with pytest.raises(DocumentError) as caught:
        normalize({"name": "w", "tasks": [task(id=f"t{i}", nonsense=1) for i in range(5_000)]})
    assert len(caught.value.problems) == PROBLEMS_MAX + 1
    assert caught.value.problems[-1].message == "and 4900 more faults"


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


BYTES = limits.SPEC_BYTES_MAX
EDGES = [
    ({"python": "m:f", "args": deep(64)}, {"python": "m:f", "args": deep(65)}),
    ({"command": ["x", "y" * (BYTES - 1)]}, {"command": ["x", "y" * BYTES]}),
    ({"command": ["x", "y" * (BYTES - 5)], "cwd": "/tmp"}, {"command": ["x", "y" * (BYTES - 4)], "cwd": "/tmp"}),
    ({"command": ["x"] * 1_000}, {"command": ["x"] * 1_001}),
    ({"command": ["x"], "retries": 1_000}, {"command": ["x"], "retries": 1_001}),
    ({"command": ["x"], "timeout": 0.001}, {"command": ["x"], "timeout": 0}),
    ({"command": ["x"], "expected": "366d"}, {"command": ["x"], "expected": "8785h"}),
    ({"command": ["x"], "resources": {"memory": 2**53}}, {"command": ["x"], "resources": {"memory": 2**53 + 1}}),
    (
        {"command": ["x"], "resources": {f"r{i}": 1 for i in range(15)}},
        {"command": ["x"], "resources": {f"r{i}": 1 for i in range(16)}},
    ),
    (
        {"command": ["x"], "constraints": {"labels": {f"l{i}": "" for i in range(64)}}},
        {"command": ["x"], "constraints": {"labels": {f"l{i}": "" for i in range(65)}}},
    ),
]


@pytest.mark.parametrize(("within", "beyond"), EDGES, ids=[list(edge[1])[-1] for edge in EDGES])
@pytest.mark.parametrize("in_defaults", [False, True])
def test_the_edge_of_every_limit_is_the_state_machines_edge(
    within: dict[str, Any], beyond: dict[str, Any], *, in_defaults: bool
) -> None:
    """What passes here must pass there: a refusal by the machine would come without a path into the document."""

    def document(fields: dict[str, Any]) -> dict[str, Any]:
        if in_defaults:
            return {"name": "w", "defaults": fields, "tasks": [{"id": "a"}]}
        return {"name": "w", "tasks": [{"id": "a", **fields}]}

    (task,) = normalize(document(within)).tasks
    assert check_task_values(task, "") == []
    assert len(faults(document(beyond))) >= 1


@pytest.mark.parametrize("document", [None, 3, "x", [], {}, {"name": "w"}, {"name": "w", "tasks": []}])
def test_no_document_at_all(document: object) -> None:
    assert faults(document)


def test_a_hundred_thousand_tasks_take_about_a_second() -> None:
    tasks = [
        {"id": f"t{i}", "needs": [f"t{i - 1}"] if i else [], "command": ["run", str(i)], "expected": "2s"}
        for i in range(100_000)
    ]
    started = time.process_time()
    normalize({"name": "w", "tasks": tasks})
    assert time.process_time() - started < 5, "an order of magnitude slower than it was"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from([*READERS, "$result", "labels", "cpu"])


@settings(max_examples=300, deadline=None)
@given(
    name=st.just("w") | json_like,
    defaults=st.just({}) | st.dictionaries(keys, json_like, max_size=3),
    tasks=st.lists(st.dictionaries(keys, json_like | st.just(["a"]) | st.just("a"), max_size=6), max_size=4),
)
def test_whatever_comes_in_it_is_a_sound_workflow_or_named_faults(
    name: object, defaults: object, tasks: object
) -> None:
    problems: list[FieldProblem] = []
    try:
        spec = normalize({"name": name, "defaults": defaults, "tasks": tasks})
    except DocumentError as error:
        problems = error.problems
    else:
        assert check_graph(spec) == []
        assert check_workflow_values(spec.name, spec.priority) == []
        assert [problem for task in spec.tasks for problem in check_task_values(task, "")] == []
        return
    assert problems
    msgspec.json.encode(problems)


def test_the_reference_names_every_key() -> None:
    text = (Path(raftflow.formats.__file__).parent / "DOCUMENT.md").read_text(encoding="utf-8")
    named = {
        key for cell in re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)
    }
    assert named == {
        *READERS,
        "name",
        "priority",
        "on_failure",
        "max_parallel",
        "code",
        "budgets",
        "defaults",
        "tasks",
    }


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 66, 500, 5_000])
def test_json_is_nested_so_deeply_and_no_deeper(depth: int) -> None:
    """As deep as its brackets; those in texts do not count."""
    texts = (
        b"[" * depth + b"]" * depth,
        b'{"[[": ' * depth + b'"{{"' + b"}" * depth,
        b"[" * depth + b"1" + b"]" * depth,
    )
    for text in texts:
        if depth > limits.JSON_DEPTH_MAX:
            with pytest.raises(DocumentError, match="more than 64 levels"):
                decode_json(text)
        else:
            decode_json(text)
    with pytest.raises(DocumentError, match="is not valid JSON"):
        decode_json(b"[1")


def test_a_task_that_waits_ignores_what_defaults_say_of_runs() -> None:
    document = {
        "name": "w",
        "defaults": {"python": "a:b", "args": [1], "env": {"A": "b"}, "retries": 3, "timeout": "5s", "cache": True},
        "tasks": [
            {"id": "a"},
            {"id": "b", "needs": ["a"], "wait": {"signal": "go", "timeout": "3d", "on_timeout": {"x": 1}}},
            {"id": "c", "wait": {"approval": "P?", "details": 1, "choices": ["x"], "timeout": 1, "on_timeout": "x"}},
            {"id": "d", "wait": {"approval": "P?"}},
        ],
    }
    bare: dict[str, Any] = {"resources": {}, "expected_ms": 0}
    asked = b'{"title":"P?","details":1,"choices":["x"]}'
    plain = b'{"title":"P?","details":null,"choices":["approve","deny"]}'
    assert normalize(document).tasks[1:] == (
        TaskSpec(id="b", needs=("a",), program=TaskWait("signal", "go", 259_200_000, b'{"x":1}'), **bare),
        TaskSpec(id="c", program=TaskWait("approval", "P?", 1_000, b'"x"', asked), **bare),
        TaskSpec(id="d", program=TaskWait("approval", "P?", request=plain), **bare),
    )


@pytest.mark.parametrize(
    ("wait", "path", "message"),
    [
        (1, "", 'must be a table with one of `signal` and `approval`: { signal = "go", timeout = "3d" }'),
        ({"signal": "a", "timeuot": 1}, ".timeuot", "unknown key 'timeuot'; did you mean 'timeout'?"),
        ({"signal": ""}, ".signal", "must not be empty"),
        ({"signal": "\ud800"}, ".signal", "is not valid Unicode (a lone surrogate)"),
        ({"approval": "\ud800"}, ".approval", "is not valid Unicode (a lone surrogate)"),
        ({"approval": 1}, ".approval", "must be a string: quote it"),
        ({"signal": "a", "timeout": 0}, ".timeout", "must be longer than zero"),
        ({"signal": "a", "timeout": "x"}, ".timeout",
            "'x' is not a duration: write \"40s\", \"5m\", \"1h30m\", \"250ms\", or a number of seconds"),
        ({"signal": "a", "on_timeout": 1}, ".on_timeout", 'needs a `timeout`: add for example timeout = "3d"'),
        ({"signal": "a", "timeout": 1, "on_timeout": float("nan")}, ".on_timeout",
            "must be a finite number, not NaN or infinity"),
        ({"signal": "a", "timeout": 1, "on_timeout": [{"$result": "b"}]}, ".on_timeout[0]",
            "is a reference to a result, and those belong in `args` and `kwargs` only"),
        ({"signal": "a", "timeout": 1, "on_timeout": "x" * 2_000}, ".on_timeout",
            "has 2002 bytes, the limit is 1024: leave large values in files"),
        ({"approval": "a", "choices": "x"}, ".choices",
            'must be a list of strings: write choices = ["approve", "deny"]'),
        ({"approval": "a", "choices": []}, ".choices", "must have 1 to 20 choices"),
        ({"approval": "a", "choices": ["x", "x"]}, ".choices[1]", "'x' is there twice"),
        ({"approval": "a", "choices": ["x" * 101]}, ".choices[0]", "is 101 characters long, the limit is 100"),
        ({"approval": "a", "choices": [1]}, ".choices[0]", "must be a string: quote it"),
        ({"approval": "a", "timeout": 1, "on_timeout": "later"}, ".on_timeout",
            "must be one of the choices: it counts if nobody decides in time"),
    ],
)  # fmt: skip
def test_faults_of_waits(wait: Any, path: str, message: str) -> None:
    assert faults({"name": "w", "tasks": [{"id": "a", "wait": wait}]}) == {f"tasks[0].wait{path}": message}


def test_what_a_task_runs_has_no_meaning_where_it_waits() -> None:
    found = faults({"name": "w", "tasks": [{"id": "a", "wait": {"signal": "b"}, "timeout": 1, "retries": 3}]})
    assert found == {
        "tasks[0].timeout": "is the longest run of an attempt, and a task that waits has none: write wait.timeout",
        "tasks[0].retries": "has no meaning for a task that waits, because no agent runs it: remove it",
    }
    both = faults({"name": "w", "tasks": [{"id": "a", "wait": {"signal": "b"}, "command": ["x"]}]})
    assert both == {"tasks[0].command": "a task must have one of `command` or `python` or `container` or `wait`"}
