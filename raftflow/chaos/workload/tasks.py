"""What the tasks of a chaos run do: they tell the collector that they run, have an effect, and compute a number.

A python task calls `raftflow.chaos.workload.tasks:work`, or `grow`, which spawns children; a command runs this module
with its arguments as JSON. Some tasks do durable steps before, and tell when a step runs and when it is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from raftflow.sdk.children import ChildHandle
from raftflow.sdk.context import Context, current

AGENT_VARIABLE: Final = "CHAOS_AGENT"
MODULUS: Final = 1_000_003
_TIMEOUT_S: Final = 30.0

Tell = Callable[..., bool]
"""Sends an event of the attempt with more keys; returns whether it was accepted."""


class AttemptFailedError(Exception):
    """The attempt was to fail, or its effect was refused."""


def combine(salt: int, inputs: Mapping[str, int]) -> int:
    """Return the result of a task: of its own number and the results of the tasks that it needs."""
    return (salt + 31 * sum(inputs.values())) % MODULUS


def work(salt: int, sleep_ms: int, fails: int, collector: str, steps: int = 0) -> int:
    """Run one attempt. The first `fails` attempts fail. `collector` is the socket of the collector."""
    return _perform(current(), salt=salt, sleep_ms=sleep_ms, fails=fails, collector=collector, steps=steps)


def grow(salt: int, children: list[dict[str, Any]], fails: int, collector: str, steps: int = 0) -> int:
    """Run one attempt that spawns children, tasks as in a document, and waits for their results."""
    context = current()
    with _told(context, collector) as tell:
        _do_steps(context, steps, tell)
        if context.attempt <= fails:
            raise AttemptFailedError(f"attempt {context.attempt} is to fail")
        keys = [str(child["id"]) for child in children]
        spawned: list[ChildHandle[int]] = [
            context.spawn(child, key=key) for key, child in zip(keys, children, strict=True)
        ]
        results: dict[str, int] = dict(zip(keys, context.gather(*spawned), strict=True))
        for key, result in results.items():
            tell("child", child=f"{context.task}:{key}", value=result)
        return _have_effect(context, combine(salt, {**context.inputs, **results}), tell)


def _perform(context: Context, *, salt: int, sleep_ms: int, fails: int, collector: str, steps: int = 0) -> int:
    with _told(context, collector) as tell:
        _do_steps(context, steps, tell)
        time.sleep(sleep_ms / 1000)
        if context.attempt <= fails:
            raise AttemptFailedError(f"attempt {context.attempt} is to fail")
        return _have_effect(context, combine(salt, context.inputs), tell)


def _do_steps(context: Context, steps: int, tell: Tell) -> None:
    """Do durable steps, and tell when each runs and what is known of it then."""
    for number in range(steps):
        step = f"s{number}"
        value = context.step(step, _run_step, context, step, tell)
        tell("known", step=step, value=value)


def _run_step(context: Context, step: str, tell: Tell) -> str:
    tell("ran", step=step)
    return f"{context.fence}-{step}"


def _have_effect(context: Context, result: int, tell: Tell) -> int:
    if not tell("effect"):
        raise AttemptFailedError(f"the outside store has seen a greater fence than {context.fence}")
    tell("end")
    return result


@contextlib.contextmanager
def _told(context: Context, collector: str) -> Iterator[Tell]:
    """Tell the collector that an attempt runs; yields what tells it more."""
    about = {
        "workflow": context.workflow,
        "task": context.task,
        "attempt": context.attempt,
        "fence": context.fence,
        "agent": os.environ.get(AGENT_VARIABLE, ""),
    }
    with _connected(collector) as connection:

        def tell(event: str, **more: Any) -> bool:
            return _tell(connection, {"event": event, **about, **more})

        tell("start")
        yield tell


@contextlib.contextmanager
def _connected(collector: str) -> Iterator[socket.socket]:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(collector)
        yield connection
    finally:
        connection.close()


def _tell(connection: socket.socket, word: Mapping[str, Any]) -> bool:
    """Send a line; returns whether it was accepted. Raises `OSError`."""
    connection.sendall(json.dumps(word).encode() + b"\n")
    return connection.recv(2) == b"+\n"


def main() -> None:
    """Run one attempt of a command task; its only argument is the arguments of `work` as JSON."""
    inputs = json.loads(Path(os.environ["RAFTFLOW_INPUTS"]).read_text(encoding="utf-8"))
    context = Context(
        workflow=os.environ["RAFTFLOW_WORKFLOW"],
        task=os.environ["RAFTFLOW_TASK"],
        attempt=int(os.environ["RAFTFLOW_ATTEMPT"]),
        fence=int(os.environ["RAFTFLOW_FENCE"]),
        inputs=inputs,
    )
    result = _perform(context, **json.loads(sys.argv[1]))
    Path(os.environ["RAFTFLOW_RESULT"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
