"""What an agent could not do itself is not the task's failure, and puts the agent aside until it can again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.attempts import fitness
from raftflow.agent.attempts.fitness import Fitness
from raftflow.agent.executors import python as python_executor
from raftflow.agent.workdir import inputs as agent_inputs
from raftflow.agent.workdir.files import UnfitFileError, is_of_the_system
from raftflow.agent.workdir.folders import AttemptFolders
from raftflow.domain.limits import TROUBLE_CHARS_MAX

TRUE = ["/bin/true"]


@pytest.fixture(autouse=True)
def level(leader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "PROBE_FIRST_S", 0.05)
    monkeypatch.setattr(fitness, "PROBE_MAX_S", 0.1)


@pytest.fixture
def disk(mount: Callable[[str], Path]) -> Path:
    """A small disk for an agent."""
    return mount("256k")


def fill(path: Path) -> Callable[[], None]:
    """Fill a disk. Returns what empties it."""
    with (path / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return (path / "filler").unlink


async def fit(leader: Any, since: int = 0) -> None:
    """Wait until the agent says that it is fit again after it has said, since so many polls, that it is not."""
    await leader.until(lambda: any(poll.trouble for poll in leader.polls[since:]) and not leader.polls[-1].trouble)


# --- whose fault


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.EROFS, ""), True),
        (OSError(errno.ENOENT, ""), False),
        (PermissionError(errno.EACCES, ""), False),
        (UnfitFileError("a FIFO"), False),
        (None, False),
    ],
)
def test_what_the_machine_lacks(error: Exception | None, *, own: bool) -> None:
    assert is_of_the_system(error) is own
    outer = UnfitFileError("the result cannot be read")
    outer.__cause__ = error
    assert is_of_the_system(outer) is own


async def test_a_full_disk_is_the_agents_fault_and_puts_it_aside(leader: Any, start_agent: Any, disk: Path) -> None:
    start_agent(work_dir=str(disk / "agent"), resources={"cpu": 1}, prefetch=2)
    assert (await leader.run(command=TRUE)).outcome == "succeeded"
    empty = fill(disk)
    wants = ["sh", "-c", 'echo 1 > "$RAFTFLOW_RESULT" || exit 3']
    first, second = await leader.assign({"command": wants}, {"command": TRUE})
    end = await leader.end_of(first)
    assert (end.outcome, end.exit_code) == ("agent_fault", 3)
    assert f"the agent's work directory {disk}/agent cannot be written (No space left on device)" in end.error
    assert "the attempt ended with: exit code 3" in end.error
    assert (await leader.end_of(second)).outcome == "released"
    assert (await leader.run(command=TRUE)).outcome == "released", "it takes nothing meanwhile"
    told = next(poll for poll in leader.polls if poll.trouble)
    assert "No space left on device" in told.trouble
    assert second in {end.fence for end in told.ends}, "the queue goes back at once"
    empty()
    await fit(leader)
    end = await leader.run(command=wants)
    assert (end.outcome, json.loads(bytes(end.result))) == ("succeeded", 1)


async def test_large_inputs_that_find_no_room(leader: Any, start_agent: Any, disk: Path) -> None:
    start_agent(work_dir=str(disk / "agent"))
    await leader.run(command=TRUE)
    empty = fill(disk)
    end = await leader.end_of(await leader.assign_apart({"a": "x" * 50_000, "b": 1, "c": 2}, command=TRUE))
    assert end.outcome == "agent_fault"
    assert "No space left on device" in end.error
    empty()
    await fit(leader)


async def test_what_fails_by_itself_is_not_the_agents_fault(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent()
    for command in (["false"], ["no-such-program"], [str(tmp_path)], ["sh", "-c", "kill -9 $$"]):
        assert (await leader.run(command=command)).outcome == "failed"
    assert (await leader.run(command=TRUE, cwd="/no/such/place")).outcome == "failed"
    assert (await leader.run(python="no_such_module:function")).outcome == "failed"
    assert (await leader.run(python="os:_exit", args=[3])).outcome == "failed"
    assert not any(poll.trouble for poll in leader.polls)


async def test_a_full_disk_elsewhere_is_the_tasks_own(leader: Any, start_agent: Any, disk: Path) -> None:
    start_agent()
    fill(disk)
    end = await leader.run(command=["sh", "-c", f"echo 1 > {disk}/more || exit 3"])
    assert (end.outcome, end.exit_code) == ("failed", 3)


async def test_a_launcher_that_is_killed(leader: Any, agent_process: Any) -> None:
    agent_process(resources={"cpu": 1})
    end = await leader.run(command=["sh", "-c", "kill -9 $PPID; sleep 60"])
    assert (end.outcome, end.error) == ("agent_fault", "the agent's launcher process died")
    await fit(leader)
    assert (await leader.run(command=TRUE)).outcome == "succeeded"


async def test_programs_that_the_system_cannot_start(leader: Any, agent_process: Any, tmp_path: Path) -> None:
    """The launcher may have no more descriptors: its table is full."""
    agent = agent_process(resources={"cpu": 1})
    assert (await leader.run(command=TRUE)).outcome == "succeeded"
    (launcher,) = agent.children()
    used = len(os.listdir(f"/proc/{launcher}/fd"))
    before = resource.prlimit(launcher, resource.RLIMIT_NOFILE, (used, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    end = await leader.run(command=TRUE)
    assert (end.outcome, end.error) == ("agent_fault", "cannot start /bin/true: Too many open files")
    resource.prlimit(launcher, resource.RLIMIT_NOFILE, before)
    await fit(leader)
    assert (await leader.run(command=TRUE)).outcome == "succeeded"


async def test_an_interpreter_that_cannot_work(
    leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho cannot work >&2\nexit 7\n")
    broken.chmod(0o700)
    start_agent()
    await leader.run(command=TRUE)
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(broken))
    end = await leader.run(python="os:getpid")
    assert end.outcome == "agent_fault"
    assert end.error == "the worker died before the call began: exit code 7: cannot work"
    monkeypatch.setattr(sys, "executable", "/no/such/interpreter")
    await leader.until(lambda: "a python worker ended before" in leader.polls[-1].trouble)
    monkeypatch.setattr(sys, "executable", python)
    await fit(leader)
    assert (await leader.run(python="os:getpid")).outcome == "succeeded"


@pytest.mark.parametrize("successor", [True, False])
async def test_a_worker_that_died_before_its_call_came(
    leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch, *, successor: bool
) -> None:
    """Another one is given the call. If none can be started, it is the agent's fault."""
    start_agent(resources={"cpu": 1})
    pid = json.loads(bytes((await leader.run(python="os:getpid")).result))
    write = python_executor.PythonExecutor._write

    def late(self: Any, worker: Any, data: bytes) -> None:
        monkeypatch.undo()
        if not successor:
            monkeypatch.setattr(python_executor.PythonExecutor, "_start_worker", full)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):  # reaped
            while b"State:\tZ" not in Path(f"/proc/{pid}/status").read_bytes():
                pass
        write(self, worker, data)

    def full(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(python_executor.PythonExecutor, "_write", late)
    end = await leader.run(python="os:getpid")
    if successor:
        assert end.outcome == "succeeded"
        assert json.loads(bytes(end.result)) != pid
    else:
        assert end.outcome == "agent_fault"
        assert end.error.startswith("the worker died before the call began: signal 9")


async def test_a_work_directory_that_cannot_be_made_anew(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_agent(work_dir=str(tmp_path / "above" / "agent"), resources={"cpu": 1})
    await leader.run(command=TRUE)
    (tmp_path / "above").rename(tmp_path / "away")
    (tmp_path / "above").write_text("")
    end = await leader.run(command=TRUE)
    assert end.outcome == "agent_fault"
    assert "above is a regular file, not a directory" in end.error
    (tmp_path / "above").unlink()
    await fit(leader)
    assert (await leader.run(command=TRUE)).outcome == "succeeded"


async def test_a_folder_that_cannot_be_trusted(
    leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meddled(*_: Any) -> None:
        raise UnfitFileError("somebody meddled with it")

    start_agent()
    with monkeypatch.context() as patched:
        patched.setattr(AttemptFolders, "begin", meddled)
        end = await leader.run(command=TRUE)
    assert (end.outcome, end.error) == ("agent_fault", "the agent cannot start it: somebody meddled with it")
    await fit(leader)
    assert (await leader.run(command=TRUE)).outcome == "succeeded"


async def test_inputs_that_nobody_gives_out(leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_inputs.InputsFetcher.__init__, "__kwdefaults__", {"patience_s": 0.1})
    start_agent()
    leader.inputs_status = 503
    end = await leader.end_of(await leader.assign_apart({"a": 1, "b": 2, "c": 3}, command=TRUE))
    assert end.outcome == "agent_fault"
    assert "no replica gave out its inputs for 0.1 s" in end.error
    leader.inputs_status = 409
    await fit(leader)
    end = await leader.end_of(await leader.assign_apart({"a": 1, "b": 2, "c": 3}, command=TRUE))
    assert end.outcome == "abandoned", "the attempt is over"


async def test_what_runs_goes_on_while_the_agent_is_unfit(leader: Any, start_agent: Any, disk: Path) -> None:
    fifo = disk.parent / "fifo"
    os.mkfifo(fifo)
    start_agent(work_dir=str(disk / "agent"), resources={"cpu": 2})
    (fence,) = await leader.assign({"command": ["sh", "-c", f"cat {fifo}"]})
    await leader.until(lambda: leader.polls and fence in leader.polls[-1].running)
    empty = fill(disk)
    assert (await leader.run(command=["false"])).outcome == "agent_fault"
    await leader.until(lambda: leader.polls[-1].trouble and fence in leader.polls[-1].running)
    assert len(os.listdir(disk / "agent" / "exchange")) == 1, "what was begun in vain is removed"
    empty()
    await fit(leader)
    fifo.write_text("")
    assert (await leader.end_of(fence)).outcome == "succeeded"


async def test_a_lack_that_is_over_counts_for_what_ran_meanwhile(leader: Any, start_agent: Any, disk: Path) -> None:
    fifo = disk.parent / "fifo"
    os.mkfifo(fifo)
    start_agent(work_dir=str(disk / "agent"), resources={"cpu": 2})
    (fence,) = await leader.assign({"command": ["sh", "-c", f"cat {fifo}; exit 3"]})
    await leader.until(lambda: leader.polls and fence in leader.polls[-1].running)
    empty = fill(disk)
    assert (await leader.run(command=["false"])).outcome == "agent_fault"
    empty()
    await fit(leader)
    polls = len(leader.polls)
    fifo.write_text("")
    assert (await leader.end_of(fence)).outcome == "agent_fault"
    await fit(leader, polls)
    assert (await leader.run(command=["false"])).outcome == "failed"


# --- the state by itself


class Machine:
    """A probe that finds what the test says."""

    def __init__(self) -> None:
        self.lacks = ""
        self.wrong = [""]
        self.runs = 0

    def find_shortage(self) -> str:
        return self.lacks

    async def run(self) -> str:
        self.runs += 1
        return self.wrong.pop(0) if len(self.wrong) > 1 else self.wrong[0]


async def test_the_reason_is_the_newest_one_and_of_bounded_length() -> None:
    machine, told = Machine(), asyncio.Queue[str]()
    state = Fitness(machine, lambda: told.put_nowait(state.trouble))
    machine.wrong = ["still full", "x" * 10_000, "x" * 10_000, ""]
    state.report_fault("full")
    state.report_fault("another one")
    assert await told.get() == "full"
    assert await told.get() == "still full"
    long = await told.get()
    assert (len(long), long[-3:]) == (TROUBLE_CHARS_MAX, "...")
    assert await told.get() == ""
    assert machine.runs == 4
    state.close()


async def test_a_lack_is_remembered_for_what_began_before() -> None:
    machine = Machine()
    state = Fitness(machine, lambda: None)
    began_ns = fitness.now_ns()
    assert state.shortage_since(began_ns) == ""
    machine.lacks = "no space"
    assert state.shortage_since(fitness.now_ns()) == "no space"
    machine.lacks = ""
    assert state.shortage_since(began_ns) == "no space"
    assert state.shortage_since(fitness.now_ns()) == ""
