"""The socket between an agent and its worker belongs to these two alone, and what comes on it is bounded."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.launcher.messages import CONTROL_FD, MESSAGE_BYTES_MAX
from raftflow.agent.worker.control import WorkerControl

FUNCTIONS = f"""
import os, struct, subprocess, sys
import msgspec
from raftflow.agent.launcher.messages import Returned

def frame():
    data = msgspec.msgpack.encode(Returned(int(os.environ["RAFTFLOW_FENCE"]), True, b'"forged"'))
    return struct.pack("<I", len(data)) + data

def forked():
    pid = os.fork()
    if not pid:
        os.write({CONTROL_FD}, frame())
        os._exit(0)
    os.waitpid(pid, 0)
    return "own"

def thief():
    pid = os.fork()
    if not pid:
        os._exit(1 if os.read({CONTROL_FD}, 1) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def started():
    code = "import os; print(sorted(n for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)))"
    return subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True).stdout

def spawned():
    code = "import os\\nfor fd in range(3, 64):\\n  try: os.fstat(fd)\\n  except OSError: pass\\n  else: os._exit(fd)"
    pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", code], os.environ)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def functions(tmp_path: Path) -> str:
    (tmp_path / "control_functions.py").write_text(FUNCTIONS)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("function", "result"), [("forked", "own"), ("thief", 0), ("started", "['0', '1', '2']\n"), ("spawned", 0)]
)
async def test_no_child_of_a_call_has_the_socket_of_its_worker(
    leader: Any, agent_process: Any, functions: str, function: str, result: Any
) -> None:
    """Nor any other file of the worker that is not its output."""
    agent_process(resources={"cpu": 1}, python_path=[functions])
    for _ in range(2):
        end = await leader.run(python=f"control_functions:{function}")
        assert (end.outcome, json.loads(bytes(end.result))) == ("succeeded", result), end.error


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, WorkerControl]]:
    ours, theirs = socket.socketpair()
    with ours:
        yield ours, WorkerControl(theirs)


def test_messages_come_one_by_one_however_they_are_cut(pair: tuple[socket.socket, WorkerControl]) -> None:
    ours, control = pair
    sent = b"".join(struct.pack("<I", len(each)) + each for each in (b"one", b"", b"three" * 50_000))
    pid = os.fork()
    if not pid:
        for at in range(0, len(sent), 50_001):
            ours.sendall(sent[at : at + 50_001])
        os._exit(0)
    assert [control.receive() for _ in range(3)] == [b"one", b"", b"three" * 50_000]
    os.waitpid(pid, 0)
    ours.shutdown(socket.SHUT_WR)
    assert control.receive() is None


@pytest.mark.parametrize("size", [MESSAGE_BYTES_MAX + 1, 1 << 30, (1 << 32) - 1])
def test_a_length_that_no_message_has_is_refused_before_its_content_is_there(
    pair: tuple[socket.socket, WorkerControl], size: int
) -> None:
    ours, control = pair
    ours.sendall(struct.pack("<I", size))
    with pytest.raises(ValueError, match=f"a message of {size} bytes"):
        control.receive()


def test_a_forked_process_has_the_null_device_in_place_of_the_socket(
    pair: tuple[socket.socket, WorkerControl],
) -> None:
    ours, control = pair
    pid = os.fork()
    if not pid:
        try:
            control.send(b"forged")
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    control.send(b"true")
    assert ours.recv(99) == struct.pack("<I", 4) + b"true"
