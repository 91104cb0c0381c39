"""Values inside commands: each limit and form, with the path under which it is told."""

from __future__ import annotations

import pytest

from raftflow.domain import limits
from raftflow.domain.commands import Entry, EntryError, FireTimers, decode_entry, encode_entry
from raftflow.domain.tasks.checks import (
    check_task_values,
    check_workflow_values,
    label_problems,
    rate_problems,
    resource_problems,
    result_problem,
)
from raftflow.domain.tasks.program import CommandLine, PythonCall
from raftflow.domain.tasks.workflow import TaskSpec


def paths(**fields):
    task = TaskSpec(**{"id": "t", "program": CommandLine(("true",)), **fields})
    return [problem.path for problem in check_task_values(task, "T")]


GOOD = [
    {},
    {"program": PythonCall("a.b:c.d", b"[1]", b'{"a":2}')},
    {"env": {"A": "b=c"}, "cwd": "/tmp", "timeout_ms": 1, "expected_ms": 0, "retries": limits.RETRIES_MAX},
    {"resources": {}, "labels": {"zone": ""}},
    {"kind": "fit", "memory_max_mib": 64, "resources": {"memory": 64}},
]


@pytest.mark.parametrize("fields", GOOD)
def test_good_values(fields):
    assert paths(**fields) == []


BAD = [
    ({"program": CommandLine(())}, "command"),
    ({"program": CommandLine(("",))}, "command"),
    ({"program": CommandLine(("x", "a\0b"))}, "command"),
    ({"program": CommandLine(("x",) * 1_001)}, "command"),
    ({"program": CommandLine(("x" * 70_000,))}, "command"),
    ({"program": PythonCall("a.b")}, "python"),
    ({"program": PythonCall("a:b", b"{}")}, "args"),
    ({"program": PythonCall("a:b", kwargs=b"[]")}, "kwargs"),
    ({"program": PythonCall("a:b", b"[" * 100 + b"]" * 100)}, "args"),
    ({"program": PythonCall("a:b", b'["\xff"]')}, "args"),
    ({"env": {"": "x"}}, "env"),
    ({"env": {"A=B": "x"}}, "env"),
    ({"env": {"A": "\0"}}, "env"),
    ({"cwd": ""}, "cwd"),
    ({"retries": -1}, "retries"),
    ({"retry_delay_ms": -1}, "retry_delay"),
    ({"retry_delay_max_ms": limits.DURATION_MS_MAX + 1}, "retry_delay_max"),
    ({"timeout_ms": 0}, "timeout"),
    ({"grace_ms": -1}, "grace"),
    ({"expected_ms": -1}, "expected"),
    ({"kind": "a b"}, "kind"),
    ({"memory_max_mib": 63, "resources": {"memory": 64}}, "memory_max"),
    ({"memory_max_mib": 2**60}, "memory_max"),
    ({"resources": {"cpu": -1}}, "resources"),
    ({"labels": {"a b": "x"}}, "labels"),
]


@pytest.mark.parametrize(("fields", "path"), BAD)
def test_bad_values(fields, path):
    assert paths(**fields) == [f"T.{path}"]


def test_workflow_values():
    assert check_workflow_values("a", 100) == check_workflow_values("a", 0, 1) == []
    found = check_workflow_values("a b", 101, 0)
    assert [problem.path for problem in found] == ["name", "priority", "max_parallel"]


def test_rates_of_a_task():
    assert rate_problems({f"r{n}": 1 for n in range(17)}) == ["17 rates, the limit is 16"]
    assert len(rate_problems({"a b": 0})) == 2
    assert paths(rates={"a b": 1}) == ["T.rates"]


def test_resources_and_labels():
    assert resource_problems({f"r{n}": 1 for n in range(17)}) == ["17 resources, the limit is 16"]
    assert len(resource_problems({"a b": 2**60})) == 2
    assert label_problems({f"l{n}": "" for n in range(65)}) == ["65 labels, the limit is 64"]
    assert len(label_problems({"a": "x" * 201})) == 1
    assert label_problems({"a": "\udcff"}) == ["the value of 'a' is not valid Unicode (a lone surrogate)"]


DEEP = b'{"a":' * 70 + b"1" + b"}" * 70
WIDE = b"[" + b",".join([b'["[[[\\"{"]'] * 200) + b"]"


@pytest.mark.parametrize("result", [b"", b"null", b'{"a":[1]}', WIDE])
def test_results(result):
    assert result_problem(result) is None


@pytest.mark.parametrize("result", [b"{", b"nul", b"1 2", DEEP, b'"' + b"x" * limits.RESULT_BYTES_MAX + b'"'])
def test_what_is_no_result(result):
    assert "result" in (result_problem(result) or "")


def test_entries():
    command = FireTimers(at_ms=1, actor="a")
    assert decode_entry(encode_entry((command,))) == Entry(1, (command,))
    data = encode_entry((command,))
    for bad in (b"", data[:-1], b"\x92\x02\x90", bytes(limits.ENTRY_BYTES_MAX + 1)):
        with pytest.raises(EntryError):
            decode_entry(bad)
