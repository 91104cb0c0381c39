"""What a task tries against its agent as the agent's own user, who is not root: SECURITY.md promises the outcome.

Where the tests run as root, the agent gets another user, and keeps one right of root: to read the files of the
interpreter, which that user may not have.
"""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

USER = 65_431
"""Of nobody else on this machine."""
AS_USER = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all,+dac_read_search"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)

HEAD = """
import ctypes, json, os, resource, signal, socket, subprocess, sys, time
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
parent = lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
launcher = os.getppid()
agent = parent(launcher)
result = lambda value: Path(os.environ["RAFTFLOW_RESULT"]).write_text(json.dumps(value))

def tries(action):
    try:
        return action() or "done"
    except OSError as error:
        return type(error).__name__

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
"""


@pytest.fixture
def unprivileged(agent_process: Any, trusted_folder: Path) -> Callable[..., Any]:
    """Return a function that starts an agent of a user who is not root."""

    def start(**settings: Any) -> Any:
        prefix: tuple[str, ...] = ()
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("no setpriv here")
            os.chown(trusted_folder, USER, USER)
            prefix = AS_USER
        return agent_process(prefix=prefix, work_dir=str(trusted_folder), **settings)

    return start


async def run(leader: Any, code: str) -> Any:
    end = await leader.run(command=[sys.executable, "-S", "-c", HEAD + code], grace_ms=200)
    assert end.outcome == "succeeded", end.error
    return json.loads(bytes(end.result))


async def test_a_task_cannot_look_into_its_agent_or_its_launcher(leader: Any, unprivileged: Any) -> None:
    """Neither memory, nor environment, nor open files: the token is in the memory of the agent."""
    agent = unprivileged(resources={"cpu": 1})
    code = """
found = {}
for name, pid in (("agent", agent), ("launcher", launcher)):
    found[name] = pid
    for file in ("environ", "mem", "auxv", "io"):
        found[f"{name} {file}"] = tries(lambda: open(f"/proc/{pid}/{file}", "rb").read(1))
    found[f"{name} fds"] = tries(lambda: os.listdir(f"/proc/{pid}/fd") and [
        os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")])
    found[f"{name} attach"] = tries(lambda: call("ptrace", 16, pid, 0, 0))
    found[f"{name} seize"] = tries(lambda: call("ptrace", 0x4206, pid, 0, 0))
    for fd in range(3, 30):
        found[f"{name} descriptor {fd}"] = tries(lambda: call("syscall", 438, os.pidfd_open(pid), fd, 0))
result(found)
"""
    found = await run(leader, code)
    assert (found.pop("agent"), found.pop("launcher")) == (agent.pid, *agent.children())
    assert {key: value for key, value in found.items() if value != "PermissionError"} == {}


async def test_a_task_cannot_raise_its_limits_or_its_rights(leader: Any, unprivileged: Any) -> None:
    """In a user namespace of its own it is root, and cannot either."""
    unprivileged(resources={"cpu": 1}, task_files_max=100, task_file_mib_max=1, task_processes_max=4_000)
    code = """
def attempt(action):
    try:
        return action()
    except ValueError as error:  # of setrlimit: not allowed
        return str(error)

def each():
    limits = (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, 10)
    return [attempt(lambda: resource.setrlimit(which, (resource.getrlimit(which)[1] + 1,) * 2)) for which in limits]

found = {"as it is": each()}
CLONE_NEWUSER = 0x10000000
found["namespace"] = tries(lambda: call("unshare", CLONE_NEWUSER))
found["in it"] = each()
found["privileges"] = [line for line in Path("/proc/self/status").read_text().splitlines() if "NoNewPrivs" in line]
result(found)
"""
    found = await run(leader, code)
    refused = ["not allowed to raise maximum limit"] * 5
    assert found == {
        "as it is": refused,
        "namespace": found["namespace"],
        "in it": refused,
        "privileges": ["NoNewPrivs:\t1"],
    }


async def test_a_fork_bomb_is_bounded_and_ends_with_its_attempt(leader: Any, unprivileged: Any) -> None:
    """Others get their turn meanwhile: the limit counts when the bomb makes a process, not when the agent does."""
    agent = unprivileged(resources={"cpu": 2}, task_processes_max=60)
    code = """
os.environ.clear()
while True:
    try:
        os.fork() or os.setsid()
    except BlockingIOError:
        time.sleep(0.05)
"""
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    (launcher,) = agent.children()
    (bomb,) = await leader.assign({"command": [sys.executable, "-S", "-c", HEAD + code], "timeout_ms": 2_500})
    most = 0
    while bomb not in leader.accepted:
        most = max(most, _count_of(launcher))
        assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert leader.accepted[bomb].outcome == "timeout"
    assert 20 < most <= 62
    await asyncio.to_thread(_wait_for_none, launcher)
    assert agent.children() == [launcher]


def _wait_for_none(launcher: int) -> None:
    deadline = time.monotonic() + 30
    while left := _count_of(launcher):
        assert time.monotonic() < deadline, f"{left} processes are left"
        time.sleep(0.01)


def _count_of(launcher: int) -> int:
    """Return how many processes descend from the launcher."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = 0, [launcher]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += len(below)
        waiting += below
    return found


async def test_a_hidden_process_in_a_namespace_of_its_own_ends_with_its_attempt(
    leader: Any, unprivileged: Any, gone: Any
) -> None:
    """Where the system allows such a namespace; else it hides without one."""
    unprivileged(resources={"cpu": 2})
    (other,) = await leader.assign({"command": ["sleep", "300"]})
    code = """
read, write = os.pipe()
if not os.fork():
    tries(lambda: call("unshare", 0x10000000))
    os.setsid()
    if not os.fork():
        os.setsid()
        try:
            resource.setrlimit(10, (7, 7))
        except ValueError:
            pass
        os.write(write, b"%d" % os.getpid())
        os.closerange(0, 64)
        os.execve("/bin/sleep", ["sleep", "300"], {})
    os._exit(0)
os.wait()
result(int(os.read(read, 99)))
"""
    pid = await run(leader, code)
    await gone(pid)
    assert other not in leader.accepted
