"""Tasks get less of a busy machine's time: their processes and their sessions are nice, where the system has that."""

from __future__ import annotations

import errno
import os
import sys
from collections import deque
from typing import Any

import pytest

from raftflow.agent.launcher import niceness
from raftflow.agent.launcher.niceness import AGAIN_S, TaskNiceness

SHOW = """
import os, pathlib, time
group = pathlib.Path("/proc/self/autogroup")
until = time.monotonic() + 20
while group.exists() and "nice {wanted}" not in group.read_text() and time.monotonic() < until:
    time.sleep(0.01)
print(os.getpriority(os.PRIO_PROCESS, 0), group.read_text().split()[-1] if group.exists() else {wanted})
"""


@pytest.mark.parametrize("wanted", [0, 5, 19])
async def test_a_command_runs_with_the_niceness_of_the_agents_setting(
    leader: Any, agent_process: Any, wanted: int
) -> None:
    agent_process(resources={"cpu": 1}, task_niceness=wanted)
    end = await leader.run(command=[sys.executable, "-c", SHOW.format(wanted=wanted)])
    assert end.outcome == "succeeded"
    assert (await leader.log_of(end.fence, "stdout")).data == f"{wanted} {wanted}\n".encode()


class Kernel:
    """A kernel that changes one group each tenth of a second, as for users who are not root."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.nice: dict[int, int] = {}
        self.refused: deque[int] = deque()
        self._free_at_s = 0.0
        monkeypatch.setattr(niceness.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(niceness.os.path, "exists", lambda _path: True)
        monkeypatch.setattr(niceness, "_write_group", self._write)

    def _write(self, pid: int, value: int) -> None:
        if pid in self.refused:
            raise OSError(errno.EPERM, "refused")
        if self.now_s < self._free_at_s:
            raise BlockingIOError
        self._free_at_s = self.now_s + AGAIN_S
        self.nice[pid] = value


def test_sessions_wait_until_the_kernel_takes_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    tasks = TaskNiceness(7)
    for pid in (11, 12, 13, 14):
        tasks.apply_to_session(pid)
    kernel.refused.append(14)
    tasks.forget(12)  # it has ended: its id may belong to another process
    assert kernel.nice == {11: 7}
    due_s = tasks.due_s
    assert due_s == pytest.approx(kernel.now_s + AGAIN_S)
    tasks.work()
    assert kernel.nice == {11: 7}, "before it is due nothing is tried"
    kernel.now_s += AGAIN_S
    tasks.work()
    assert kernel.nice == {11: 7, 13: 7}
    assert tasks.due_s is None, "what is refused is not tried again"


def test_an_agent_that_is_nicer_itself_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    monkeypatch.setattr(os, "getpriority", lambda *_: 10)
    monkeypatch.setattr(os, "setpriority", lambda *_: pytest.fail("it would raise the task"))
    tasks = TaskNiceness(5)
    tasks.apply_to_processes(11)
    tasks.apply_to_session(11)
    assert (kernel.nice, tasks.due_s) == ({}, None)


def test_what_the_system_refuses_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(os, "setpriority", refuse)
    TaskNiceness(5).apply_to_processes(os.getpid())
