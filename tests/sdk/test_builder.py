"""Workflows written in Python: what can only be a mistake is refused where it is written."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.client import UsageError, Workflow
from raftflow.formats.documents import TOP_KEYS, normalize
from raftflow.formats.readers.fields import READERS

FETCH = "fetch"


@pytest.fixture
def flow() -> Workflow:
    return Workflow("w")


@pytest.mark.parametrize(
    ("arguments", "fields", "told"),
    [
        (("t", "echo hi"), {}, r"command is a list.*write \['echo', 'hi'\], or \[\"sh\", \"-c\", 'echo hi'\]"),
        (("t", 'echo "'), {}, "command is a list"),
        (("t", b"echo"), {}, "command is a list"),
        (("t", ["sleep", 5]), {}, r"command\[1\] is a string, not 5: write '5'"),
        (("t", [FETCH, "task"]), {}, r"command\[1\] is a task"),
        (("t", ["cat", "result"]), {}, r"command\[1\] is a task"),
        (("t", "task"), {}, r"write command=\[fetch\]"),
        (("t", ["true"]), {"needs": "fetch"}, r"needs is a list: write needs=\['fetch'\]"),
        (("t", ["true"]), {"needs": "task"}, "needs is a list: write needs="),
        (("t", ["true"]), {"needs": "result"}, r"write needs=\[fetch.result\]"),
        (("t", ["true"]), {"needs": ["result"]}, "needs lists tasks, not results"),
        (("t", ["true"]), {"needs": [5]}, "needs lists ids of tasks"),
        (("t",), {"python": "a:b", "args": "abc"}, r"args is a list: write args=\['abc'\]"),
        (("t",), {"python": "a:b", "args": "result"}, r"args is a list: write args=\[fetch.result\]"),
        (("t",), {"python": "a:b", "args": ["task"]}, r"args\[0\] is the task 'fetch', not its result: pass"),
        (("t",), {"python": "a:b", "args": [{"x": ["task"]}]}, r"args\[0\].x\[0\] is the task 'fetch'"),
        (("t",), {"python": "a:b", "kwargs": {"x": "task"}}, "kwargs.x is the task 'fetch'"),
        (("t",), {"python": "a:b", "kwargs": ["x"]}, "kwargs is a dict"),
        (("t",), {"python": "task"}, "python is a function"),
        (("t",), {"python": 5}, "python is a function"),
        (("t", ["true"]), {"env": {"X": "task"}}, "env.X is the task 'fetch'"),
        (("t", ["true"]), {"env": {"X": "result"}}, "env.X is a result, and results belong in args"),
        (("t", ["true"]), {"env": "X=1"}, "env is a dict"),
    ],
)
def test_mistakes_are_refused_with_the_cure(
    flow: Workflow, arguments: tuple[Any, ...], fields: dict[str, Any], told: str
) -> None:
    fetch = flow.task("fetch", ["true"])

    def put(value: Any) -> Any:
        """Put the task and its result where their words stand."""
        if isinstance(value, dict):
            return {key: put(item) for key, item in value.items()}
        if isinstance(value, list):
            return [put(item) for item in value]
        return {"task": fetch, "result": fetch.result}.get(value, value) if isinstance(value, str) else value

    first, *rest = arguments
    with pytest.raises(UsageError, match=told):
        flow.task(first, *map(put, rest), **put(fields))
    assert [task["id"] for task in flow.document()["tasks"]] == ["fetch"], "nothing was added"


def test_needs_follow_from_the_arguments(flow: Workflow) -> None:
    a, b, c = (flow.task(name, ["true"]) for name in "abc")
    flow.task("t", python="m:f", args=[a.result, {"deep": [b.result]}], kwargs={"x": c.result}, needs=[b, "first"])
    flow.task("first", ["true"])
    assert {task.id: task.needs for task in normalize(flow.document()).tasks}["t"] == ("b", "first", "a", "c")
    flow.task("u", python="m:f", args=({"$result": "a", "other": 1},))
    assert "needs" not in flow.document()["tasks"][-1], "only a reference is one"


def test_unknown_keywords_are_type_errors(flow: Workflow) -> None:
    with pytest.raises(TypeError, match="'retry'"):
        flow.task("t", ["true"], retry=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'prio'"):
        Workflow("w", prio=3)  # type: ignore[call-arg]


def test_the_builder_knows_every_key_of_a_document() -> None:
    assert set(inspect.signature(Workflow.task).parameters) - {"self", "task_id"} == READERS.keys() - {"id"}
    assert set(inspect.signature(Workflow.__init__).parameters) - {"self"} == set(TOP_KEYS) - {"tasks", "$schema"}


def test_every_field_reaches_the_document(flow: Workflow) -> None:
    fields: dict[str, Any] = {
        "env": {"X": "1"},
        "cwd": "/tmp",
        "resources": {"cpu": 0.5, "memory": "1GiB"},
        "retries": 0,
        "retry_delay": "1s",
        "retry_delay_max": 2.5,
        "timeout": "5m",
        "grace": 0,
        "expected": "40s",
        "constraints": {"labels": {"zone": "a"}},
        "kind": "k",
        "cache": False,
        "memory_max": "2GiB",
        "backup": False,
    }
    flow.task("t", ["true"], **fields)
    assert flow.document()["tasks"] == [{"id": "t", "command": ["true"], **fields}]
    normalize(flow.document())


def test_a_task_may_wait(flow: Workflow) -> None:
    flow.task("a", wait={"signal": "go", "timeout": "3d"})
    assert flow.document()["tasks"] == [{"id": "a", "wait": {"signal": "go", "timeout": "3d"}}]
    with pytest.raises(UsageError, match="wait is a dict"):
        flow.task("b", wait="go")  # type: ignore[arg-type]
    normalize(flow.document())


def test_arguments_that_hold_themselves(flow: Workflow) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UsageError, match="hold themselves"):
        flow.task("t", python="m:f", args=loop)


def test_what_was_given_may_be_changed_afterwards(flow: Workflow) -> None:
    command = ["true"]
    flow.task("t", command)
    command.append("x")
    assert flow.document()["tasks"][0]["command"] == ["true"]


@pytest.mark.slow
def test_a_type_checker_sees_the_mistakes(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "mistakes.py"
    file.write_text(
        "from raftflow.client import Client, Workflow\n"
        "flow = Workflow('w')\n"
        "fetch = flow.task('fetch', ['true'])\n"
        "flow.task('a', ['x'], needs=[fetch], args=[fetch.result])\n"
        "flow.task('b', 'echo hi')\n"
        "flow.task('c', ['x'], needs='fetch')\n"
        "flow.task('d', ['x'], retry=3)\n"
        "flow.task('e', ['x'], retries='3')\n"
        "Workflow('w', on_failure='go on')\n"
        "text: str = Client().submit(flow).results()\n"
    )
    argv = [sys.executable, "-m", "mypy", "--no-error-summary", "--output", "json", "--follow-imports", "silent"]
    done = subprocess.run([*argv, str(file)], capture_output=True, text=True, check=False, timeout=100)
    lines = [json.loads(line)["line"] for line in done.stdout.splitlines()]
    assert lines == [5, 6, 7, 8, 9, 10], done.stdout + done.stderr


@pytest.fixture(scope="module")
def jobs() -> Iterator[Any]:
    """The module of a user, under a name by which it can be imported."""
    spec = importlib.util.spec_from_file_location("sdk_jobs", Path(__file__).with_name("sdk_jobs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["sdk_jobs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sdk_jobs"]


def test_calls_inside_a_workflow_become_tasks(jobs: Any) -> None:
    with Workflow("nightly", priority=70) as flow:
        one = jobs.double(1)
        two = jobs.double(2)
        both = jobs.plus({"parts": [one, two]}, c=one)
        jobs.double.options(id="last", after=[both], retries=2)(5)
        assert jobs.plain(1) == 2, "a function without the decorator runs as ever"
    assert flow.document() == {
        "name": "nightly",
        "priority": 70,
        "on_failure": "stop",
        "tasks": [
            {"id": "double", "python": "sdk_jobs:double", "args": [1]},
            {"id": "double-2", "python": "sdk_jobs:double", "args": [2]},
            {
                "id": "plus",
                "needs": ["double", "double-2"],
                "python": "sdk_jobs:plus",
                "args": [{"parts": [{"$result": "double"}, {"$result": "double-2"}]}],
                "kwargs": {"c": {"$result": "double"}},
            },
            {"id": "last", "needs": ["plus"], "python": "sdk_jobs:double", "args": [5], "retries": 2},
        ],
    }
    normalize(flow.document())
    assert jobs.double(2) == 4, "behind the block calls run again"


def test_a_call_that_cannot_be_a_task_is_refused_where_it_is_written(jobs: Any) -> None:
    with Workflow("w") as flow:
        one = jobs.double(1)
        with pytest.raises(UsageError, match="double: too many positional arguments"):
            jobs.double(1, 2)
        with pytest.raises(UsageError, match="the result of 'double' is not known while the workflow is built"):
            bool(one)
        with pytest.raises(UsageError, match="already"):
            flow.__enter__()
        with pytest.raises(UsageError, match="has no option 'retry'"):
            jobs.double.options(retry=1)
        with pytest.raises(UsageError, match="needs lists ids of tasks"):
            jobs.double.options(after=[3])(1)
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(UsageError, match="hold themselves"):
            jobs.double(loop)
    assert [task["id"] for task in flow.document()["tasks"]] == ["double"]


def test_a_workflow_that_is_left_by_an_error_records_no_more(jobs: Any) -> None:
    with pytest.raises(KeyError), Workflow("w"):
        raise KeyError
    assert jobs.double(2) == 4


def test_many_calls_of_one_function_have_ids_of_their_own(jobs: Any) -> None:
    with Workflow("w") as flow:
        flow.task("double-3", ["true"])
        for n in range(2_000):
            jobs.double(n)
    ids = [task["id"] for task in flow.document()["tasks"]]
    assert ids[:5] == ["double-3", "double", "double-2", "double-4", "double-5"]
    assert len(set(ids)) == 2_001
