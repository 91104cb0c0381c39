"""Functions as tasks: called as before, named for agents, and refused early if they cannot be a task."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.formats.documents import normalize
from raftflow.sdk import context
from raftflow.sdk.calls import TaskCalls
from raftflow.sdk.functions import import_name

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def jobs() -> Any:
    """The module of a user, under a name by which it can be imported."""
    spec = importlib.util.spec_from_file_location("sdk_jobs", Path(__file__).with_name("sdk_jobs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["sdk_jobs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sdk_jobs"]


@pytest.fixture
def attempt() -> Any:
    """An attempt that runs in this process."""
    context.set_current(raftflow.Context("wf-1", "t", 1, 7, {}))
    yield
    context.set_current(None)


def test_a_task_is_called_as_the_function_is(jobs: Any) -> None:
    assert jobs.double(4) == 8
    assert jobs.add(1, c=5) == 7
    assert asyncio.run(jobs.wait(3)) == 3
    assert jobs.Kit.helper(2) == 2
    kit = jobs.Kit()
    assert kit.method() is kit
    assert jobs.add.__doc__ == "Add."
    assert str(inspect.signature(jobs.add)) == "(a: 'int', b: 'int' = 1, *, c: 'int' = 0) -> 'int'"
    assert repr(jobs.add) == "<task sdk_jobs:add>"
    with pytest.raises(TypeError, match="missing 1 required"):
        jobs.add()


def test_a_task_is_pickled_by_its_name(jobs: Any) -> None:
    assert pickle.loads(pickle.dumps(jobs.double)) is jobs.double
    assert pickle.loads(pickle.dumps(jobs.Kit.helper)) is jobs.Kit.helper


def test_a_task_that_asks_for_its_context_gets_it(jobs: Any, attempt: Any) -> None:
    assert jobs.whoami() == "t"
    assert jobs.whoami(suffix="!") == "t!"


def test_there_is_no_context_outside_of_a_task(jobs: Any) -> None:
    with pytest.raises(RuntimeError, match=r"raftflow.current\(\) works inside a task"):
        jobs.whoami()


@pytest.mark.parametrize(
    ("pick", "name"),
    [
        (lambda jobs: jobs.double, "sdk_jobs:double"),
        (lambda jobs: jobs.plain, "sdk_jobs:plain"),
        (lambda jobs: jobs.Kit.helper, "sdk_jobs:Kit.helper"),
        (lambda jobs: jobs.Kit.build, "sdk_jobs:Kit.build"),
        (lambda _jobs: math.sqrt, "math:sqrt"),
        (lambda _jobs: len, "builtins:len"),
        (lambda _jobs: str, "builtins:str"),
    ],
)
def test_agents_import_a_function_by_name(jobs: Any, pick: Any, name: str) -> None:
    assert import_name(pick(jobs)) == name


def test_functions_that_agents_cannot_import_are_refused(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(x: int) -> int:
        return x

    def of_the_program(x: int) -> int:
        return x

    of_the_program.__module__, of_the_program.__qualname__ = "__main__", "of_the_program.<locals>.inner"
    for function, told in [
        (lambda x: x, "a lambda has no name"),
        (nested, "nested is defined inside test_functions_that"),
        (raftflow.task(nested), "nested is defined inside test_functions_that"),
        (of_the_program, "inner is defined inside of_the_program"),
        (jobs.part, "has no name, so agents cannot import it"),
        (jobs.Kit().method, "has no name"),
        ([].append, "has no function of that name|method of an object|has no name"),
        (3, "a task is a function, not 3"),
    ]:
        with pytest.raises(raftflow.UsageError, match=told):
            import_name(function)
    monkeypatch.delattr(jobs, "plain")
    with pytest.raises(raftflow.UsageError, match="the module sdk_jobs has no function of that name"):
        import_name(jobs.renamed)


def test_options_are_keys_of_a_task_in_a_document(jobs: Any) -> None:
    document = TaskCalls(jobs.add).document((1,), {"b": 2})
    assert document == {
        "name": "add",
        "tasks": [
            {
                "id": "add",
                "python": "sdk_jobs:add",
                "args": [1],
                "kwargs": {"b": 2},
                "resources": {"cpu": 1, "memory": "64MiB", "gpu": 1},
                "retries": 3,
                "retry_delay": "2s",
                "timeout": 60,
                "kind": "sum",
                "cache": True,
                "constraints": {"labels": {"zone": "a"}, "exclusive": True},
            }
        ],
    }
    assert normalize(document).tasks[0].retries == 3


@pytest.mark.parametrize(
    ("pick", "args", "kwargs", "told"),
    [
        ("add", (), {}, "add: missing a required argument: 'a'"),
        ("add", (1, 2, 3), {}, "add: too many positional arguments"),
        ("add", (1,), {"d": 1}, "add: got an unexpected keyword argument 'd'"),
        ("whoami", ("a", "b"), {}, "whoami: too many positional arguments"),
        ("double", ({1, 2},), {}, r"double: its arguments are not JSON: \[0\]"),
        ("double", (float("nan"),), {}, "not JSON"),
        ("double", ({"k": {3: 4}},), {}, "not JSON"),
        ("double", ("x" * 70_000,), {}, "its arguments have 70004 bytes, and one task takes 65536"),
        ("wrong", (), {}, "the options of wrong are wrong: retries: "),
    ],
)
def test_wrong_calls_are_refused_before_they_are_sent(
    jobs: Any, pick: str, args: tuple[Any, ...], kwargs: dict[str, Any], told: str
) -> None:
    with pytest.raises(raftflow.UsageError, match=told):
        TaskCalls(getattr(jobs, pick)).document(args, kwargs)


def test_what_is_no_function_and_unknown_options_are_refused(jobs: Any) -> None:
    with pytest.raises(raftflow.UsageError, match="is a task already"):
        raftflow.task(jobs.double)
    with pytest.raises(raftflow.UsageError, match="decorates functions, not 3"):
        raftflow.task(3)  # type: ignore[call-overload]
    with pytest.raises(raftflow.UsageError, match="has no option 'retry'; it has backup, budgets, cache,"):
        raftflow.task(retry=3)  # type: ignore[call-overload]


def test_options_of_a_task_in_a_workflow_are_refused_for_a_call_alone(jobs: Any) -> None:
    assert TaskCalls(jobs.add.options(retries=5)).document((1,), {})["tasks"][0]["retries"] == 5
    for function in (jobs.double.options(id="x"), jobs.double.options(after=["x"])):
        with pytest.raises(raftflow.UsageError, match="are for calls inside"):
            TaskCalls(function).document((1,), {})
        with pytest.raises(raftflow.UsageError, match="are for calls inside"):
            next(TaskCalls(function).map_documents([1], on_failure="stop"))


def test_a_map_is_one_bag_with_the_options_once(jobs: Any) -> None:
    (document,) = TaskCalls(jobs.add).map_documents(range(3), on_failure="stop")
    assert document["tasks"] == [{"id": str(n), "args": [n]} for n in range(3)]
    assert document["defaults"]["python"] == "sdk_jobs:add"
    assert [task.id for task in normalize(document).tasks] == ["0", "1", "2"]
    assert list(TaskCalls(jobs.add).map_documents([], on_failure="stop")) == []


def test_a_large_map_becomes_several_bags_with_all_items_in_order(jobs: Any) -> None:
    documents = list(TaskCalls(jobs.double).map_documents(("x" * 60_000 for _ in range(300)), on_failure="stop"))
    assert [len(document["tasks"]) for document in documents] == [140, 140, 20]
    assert [task["id"] for document in documents for task in document["tasks"]] == [str(n) for n in range(300)]


def test_a_wrong_item_of_a_map_is_named(jobs: Any) -> None:
    with pytest.raises(raftflow.UsageError, match="item 2: double: its arguments are not JSON"):
        list(TaskCalls(jobs.double).map_documents([1, 2, object()], on_failure="stop"))


def test_the_builder_takes_the_options_of_the_decorator(jobs: Any) -> None:
    flow = raftflow.Workflow("w")
    flow.task("a", python=jobs.add, args=[1], retries=5)
    (task,) = flow.document()["tasks"]
    assert (task["retries"], task["timeout"], task["python"]) == (5, 60, "sdk_jobs:add")
    with pytest.raises(raftflow.UsageError, match="a lambda has no name"):
        flow.task("b", python=lambda: 1)


def test_importing_raftflow_imports_little_and_a_decorator_no_client() -> None:
    code = (
        "import sys, raftflow; one = len([m for m in sys.modules if m.startswith('raftflow.')])\n"
        "raftflow.task; print(one, sys.modules.keys() & {'aiohttp', 'asyncio', 'yaml', 'raftflow.client'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split(maxsplit=1) == ["0", "set()\n"]


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    names = set(raftflow._MODULES)
    stub = (ROOT / "raftflow" / "__init__.pyi").read_text()
    assert {line.rpartition(" ")[2] for line in stub.splitlines() if line.startswith("from")} == names
    assert names < set(dir(raftflow))
    for name in sorted(names):
        found = getattr(raftflow, name)
        assert found.__doc__, name
        assert f"from {raftflow._MODULES[name]} import {name} as {name}\n" in stub
    with pytest.raises(AttributeError, match="has no attribute 'tusk'"):
        _ = raftflow.tusk
