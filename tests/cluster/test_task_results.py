"""Whatever a task returns, raises or writes as its result, it is one ended attempt: no agent is lost by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftflow.client.client import Client
from raftflow.local.cluster import LocalCluster

LIMIT = 64 * 1024


def evaluated(expression: str) -> dict[str, Any]:
    return {"python": "builtins:eval", "args": [expression]}


def executed(code: str, last: str = "f()") -> dict[str, Any]:
    """Run statements, then evaluate an expression among what they define."""
    return evaluated(f"[exec({code!r}, ns := {{}}), eval({last!r}, ns)][1]")


def written(script: str) -> dict[str, Any]:
    """Leave what a Python program writes to `out`, a binary file, as the result of a command."""
    return {"command": ["python3", "-c", f"import os; out = open(os.environ['RAFTFLOW_RESULT'], 'wb'); {script}"]}


def raised(body: str, base: str = "Exception") -> dict[str, Any]:
    return executed(f"class E({base}):\n def __str__(self): {body}\ndef f(): raise E()")


def hostile(method: str, body: str) -> dict[str, Any]:
    return executed(f"class C:\n def {method}(self, *_): {body}\ndef f(): return C()")


OK = None
"""Stands for the error of a task that succeeds."""
NO_JSON = "not valid JSON"

TASKS: dict[str, tuple[dict[str, Any], str | None]] = {
    # --- what a python function returns
    "deep": (evaluated("__import__('json').loads('[' * 65 + ']' * 65)"), "more than 64 levels deep, at result[0]"),
    "deep-enough": (evaluated("__import__('json').loads('[' * 64 + ']' * 64)"), OK),
    "deep-within": (executed("x = {}\nfor _ in range(100): x = {'a': x, 'b': [1]}", "x"), "levels deep"),
    "very-deep": (executed("x = []\nfor _ in range(10_000): x = [x]", "x"), "levels deep"),
    "recursive": (executed("x = []\nx.append(x)", "x"), "levels deep"),
    "recursive-dict": (executed("x = {}\nx['x'] = (x,)", "x"), "levels deep"),
    "nan": (evaluated("{'a': [1, float('nan')]}"), "not finite (NaN or infinity) at result.a[1]"),
    "infinity": (evaluated("[float('-inf'), None]"), "at result[0]"),
    "null": (evaluated("[None, 'nan']"), OK),
    "minus-zero": (evaluated("-0.0"), OK),
    "huge-integer": (evaluated("10**640"), "more than 640 digits at result:"),
    "largest-integer": (evaluated("[10**640 - 1, -(2**64)]"), OK),
    "surrogate": (evaluated("'\\ud800'"), "lone surrogate"),
    "surrogate-key": (evaluated("{'\\ud800': 1}"), "lone surrogate"),
    "nul": (evaluated("'\\0' * 1_000"), OK),
    "many-keys": (evaluated("{f'{n:x}': 0 for n in range(6_500)}"), OK),
    "too-many-keys": (evaluated("{f'{n:x}': 0 for n in range(100_000)}"), "the limit is 65536"),
    "at-the-limit": (evaluated(f"'x' * {LIMIT - 2}"), OK),
    "above-the-limit": (evaluated(f"'x' * {LIMIT - 1}"), f"{LIMIT + 1} bytes, the limit is {LIMIT}"),
    "controls-at-the-limit": (evaluated(f"chr(1) * {LIMIT // 6 - 1}"), OK),
    "integer-keys": (evaluated("{1: 2}"), "is not a string"),
    "set": (evaluated("{1, 2}"), "set was returned"),
    "bytes": (evaluated("b'x'"), "bytes was returned"),
    "decimal": (evaluated("__import__('decimal').Decimal('1.1')"), "Decimal was returned"),
    "generator": (evaluated("(n for n in [1])"), "generator was returned"),
    "function": (evaluated("len"), "builtin_function_or_method was returned"),
    "array": (executed("import array\ndef f(): return array.array('d', [1.0])"), "array was returned"),
    "exception": (evaluated("ValueError('x')"), "ValueError was returned"),
    "nan-in-a-dataclass": (
        executed("import dataclasses\n@dataclasses.dataclass\nclass D:\n x: float\ndef f(): return D(float('nan'))"),
        "result.x",
    ),
    "coroutine-that-fails": (executed("async def f(): raise ValueError('later')"), "ValueError: later"),
    "hostile-repr": (hostile("__repr__", "raise SystemExit(3)"), "C was returned"),
    "hostile-eq": (hostile("__eq__", "raise RuntimeError"), "C was returned"),
    "hostile-reduce": (hostile("__reduce__", "raise RuntimeError"), "C was returned"),
    "hostile-getattribute": (hostile("__getattribute__", "raise SystemExit(3)"), ""),
    "hostile-class-name": (
        executed(
            "class M(type):\n @property\n def __name__(cls): raise SystemExit(3)\n"
            "class C(metaclass=M): pass\ndef f(): return C()"
        ),
        "C was returned",
    ),
    "hostile-dict": (
        executed("class D(dict):\n def items(self): raise SystemExit(3)\ndef f(): return D(a=float('nan'))"),
        "at result.a",
    ),
    # --- what it raises
    "huge-message": (evaluated("(_ for _ in ()).throw(ValueError('x' * 5_000_000))"), "xxxx"),
    "surrogate-message": (evaluated("(_ for _ in ()).throw(ValueError('\\ud800 end'))"), "\\ud800 end"),
    "nul-message": (evaluated("(_ for _ in ()).throw(ValueError('\\0 end'))"), "\0 end"),
    "controls-message": (evaluated("(_ for _ in ()).throw(ValueError(chr(1) * 4_000))"), "\x01" * 1_000),
    "str-raises": (raised("raise RuntimeError"), "E"),
    "str-exits": (raised("raise SystemExit(0)"), "exception str() failed"),
    "str-interrupts": (raised("raise KeyboardInterrupt"), "exception str() failed"),
    "str-is-no-str": (raised("return 7"), "E"),
    "base-exception": (raised("return 'base'", "BaseException"), "base"),
    "exit": (evaluated("(_ for _ in ()).throw(SystemExit(0))"), "SystemExit: 0"),
    "sys-exit": ({"python": "sys:exit", "args": [0]}, "SystemExit: 0"),
    "os-exit": ({"python": "os:_exit", "args": [0]}, "worker died: exit code 0"),
    "interrupt": (evaluated("(_ for _ in ()).throw(KeyboardInterrupt)"), "KeyboardInterrupt"),
    "stop-iteration": (executed("def f(): raise StopIteration(1)"), "StopIteration"),
    "task-error-without-words": (evaluated("(_ for _ in ()).throw(TaskError())"), ""),
    "too-deep-a-call": (executed("def f(): return f()"), "RecursionError"),
    "cause-loop": (executed("def f():\n e = ValueError('loop')\n e.__cause__ = e\n raise e"), "loop"),
    # --- what it says behind the worker's back
    "forged-end": (
        evaluated("[__import__('os').write(3, b'\\x04\\0\\0\\0\\x93\\xc1ab'), __import__('time').sleep(30)]"),
        "its answer cannot be read",
    ),
    "forged-size": (
        evaluated("[__import__('os').write(3, b'\\xff\\xff\\xff\\x7f'), __import__('time').sleep(30)]"),
        "its answer has 2147483647 bytes",
    ),
    "forged-numbers": (
        executed(
            "import os, struct, time, msgspec\n"
            "def f():\n"
            " fence = int(os.environ['RAFTFLOW_FENCE'])\n"
            " m = msgspec.msgpack.encode([fence, True, b'1', '', [0, 0], [False, False], False, 2**63, -5, -1, -1])\n"
            " os.write(3, struct.pack('<I', len(m)) + m)\n"
            " time.sleep(30)"
        ),
        "its answer cannot be read",
    ),
    "forged-result": (
        executed(
            "import os, struct, time, msgspec\n"
            "def f():\n"
            " fence = int(os.environ['RAFTFLOW_FENCE'])\n"
            " m = msgspec.msgpack.encode([fence, True, b'1,\"outcome\":\"x\"', '', [0, 0], [False, False], True])\n"
            " os.write(3, struct.pack('<I', len(m)) + m)\n"
            " time.sleep(30)"
        ),
        NO_JSON,
    ),
    # --- what a command leaves
    "c-empty": (written("0"), OK),
    "c-blank": (written("out.write(b' \\n')"), OK),
    "c-deep": (written("out.write(b'[' * 10_000 + b']' * 10_000)"), "levels deep"),
    "c-deep-by-one": (written("out.write(b'[' * 65 + b']' * 65)"), "levels deep, at result[0]"),
    "c-open": (written("out.write(b'[' * 60_000)"), "levels deep"),
    "c-nan": (written("out.write(b'{\"x\": [NaN]}')"), "not finite (NaN or infinity) at result.x[0]"),
    "c-infinity": (written("out.write(b'-Infinity')"), "not finite"),
    "c-1e400": (written("out.write(b'[1e400]')"), "too large for floating point at result[0]"),
    "c-10**400": (written("out.write(b'1' + b'0' * 400)"), OK),
    "c-2**64": (written("out.write(b'[18446744073709551616]')"), OK),
    "c-641-digits": (written("out.write(b'[' + b'1' * 641 + b']')"), "more than 640 digits at result[0]"),
    "c-twice": (written("out.write(b'{\"a\": 1, \"a\": 2}')"), "a key twice, at result.a"),
    "c-minus-zero": (written("out.write(b'-0')"), OK),
    "c-surrogate": (written("out.write(b'[1, \"\\\\ud800\"]')"), "lone surrogate"),
    "c-nul": (written("out.write(b'\"\\\\u0000\"')"), OK),
    "c-raw-nul": (written("out.write(b'\\0' * 100)"), NO_JSON),
    "c-bytes": (written("out.write(b'\"\\xff\\xfe\"')"), "not UTF-8"),
    "c-bom": (written("out.write(b'\\xef\\xbb\\xbf{}')"), "byte order mark"),
    "c-utf-16": (written("out.write('{}'.encode('utf-16'))"), NO_JSON),
    "c-trailing": (written("out.write(b'{} x')"), NO_JSON),
    "c-limit": (written(f"out.write(b'\"' + b'x' * {LIMIT - 2} + b'\"')"), OK),
    "c-above": (written(f"out.write(b'\"' + b'x' * {LIMIT - 1} + b'\"')"), f"the limit is {LIMIT}"),
    "c-much": (written("out.write(b'x' * 50_000_000)"), f"the limit is {LIMIT}"),
    "c-stderr": (
        {"command": ["python3", "-c", "import os; os.write(2, bytes(range(256)) * 40); os._exit(1)"]},
        "exit code 1",
    ),
    "c-no-program": ({"command": ["./no-\ufffd-such-program"]}, "no-\ufffd-such-program"),
}  # fmt: skip


def submit(client: Client, name: str, *tasks: dict[str, Any], **more: Any) -> str:
    named = [{"id": "t", **task} for task in tasks]
    return client.submit({"name": name, "tasks": named, **more}).id


def agents_of(client: Client) -> dict[str, tuple[int, int | None, str]]:
    return {agent.id: (agent.incarnation, agent.pid, agent.state) for agent in client.agents()}


@pytest.mark.slow
def test_whatever_a_task_reports_is_one_ended_attempt_and_no_agent_is_lost(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    cluster = make_cluster(nodes=3, agents=2)
    with cluster.client() as client:
        before = agents_of(client)
        leader = cluster.wait_leader()
        term = client.status(cluster.url_of(leader)).term
        deep = submit(client, "deep", TASKS["deep"][0])
        assert client.wait(deep, timeout_s=20, check=False).state == "failed"
        assert "more than 64 levels deep, at result[0]" in client.task(deep, "t").history[0].error

        tasks = [{"id": name.replace("*", "x"), **task} for name, (task, _) in TASKS.items()]
        hostile_id = submit(client, "hostile", *tasks, on_failure="continue")
        innocent = submit(client, "innocent", {"command": ["true"]})
        slept = submit(client, "slept", {"command": ["sleep", "300"]})
        assert client.wait(innocent, timeout_s=30).state == "succeeded"
        assert client.wait(hostile_id, timeout_s=60, check=False).state == "failed"
        client.cancel(slept)
        assert client.wait(slept, timeout_s=10, check=False).state == "cancelled"

        wrong = []
        for name, (_, words) in TASKS.items():
            task = client.task(hostile_id, name.replace("*", "x"))
            # One that waits at a busy agent may be called back and run at another; that is no second run.
            ran = [attempt for attempt in task.history if attempt.outcome != "released"]
            expected = "succeeded" if words is None else "failed"
            error = ran[-1].error
            if [task.state, *(attempt.outcome for attempt in ran)] != [expected] * 2 or (words or "") not in error:
                wrong.append((name, task.state, [attempt.outcome for attempt in ran], error[-300:], words))
        assert wrong == []
        assert agents_of(client) == before, "nobody was lost, nobody came back"
        assert client.status(cluster.url_of(leader)).term == term
        assert client.wait(submit(client, "after", {"command": ["true"]}), timeout_s=20).state == "succeeded"
