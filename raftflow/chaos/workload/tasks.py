"""What the tasks of a chaos run do: they tell the collector that they run, have an effect, and compute a number.

A python task calls `raftflow.chaos.workload.tasks:work`; a command runs this module with its arguments as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from raftflow.sdk.context import Context, current

AGENT_VARIABLE: Final = "CHAOS_AGENT"
MODULUS: Final = 1_000_003
_TIMEOUT_S: Final = 30.0


class AttemptFailedError(Exception):
    """The attempt was to fail, or its effect was refused."""


def combine(salt: int, inputs: Mapping[str, int]) -> int:
    """Return the result of a task: of its own number and the results of the tasks that it needs."""
    return (salt + 31 * sum(inputs.values())) % MODULUS


def work(salt: int, sleep_ms: int, fails: int, collector: str) -> int:
    """Run one attempt. The first `fails` attempts fail. `collector` is the socket of the collector."""
    return _perform(current(), salt, sleep_ms, fails, collector)


def _perform(context: Context, salt: int, sleep_ms: int, fails: int, collector: str) -> int:
    about = {
        "workflow": context.workflow,
        "task": context.task,
        "attempt": context.attempt,
        "fence": context.fence,
        "agent": os.environ.get(AGENT_VARIABLE, ""),
    }
    with _connected(collector) as connection:
        _tell(connection, {"event": "start", **about})
        time.sleep(sleep_ms / 1000)
        if context.attempt <= fails:
            raise AttemptFailedError(f"attempt {context.attempt} is to fail")
        result = combine(salt, context.inputs)
        if not _tell(connection, {"event": "effect", **about}):
            raise AttemptFailedError(f"the outside store has seen a greater fence than {context.fence}")
        _tell(connection, {"event": "end", **about})
        return result


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
