"""The launcher and its agent, when tasks or signals get in their way."""

import asyncio
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.executors.launcher_client import LauncherClient, LauncherError
from raftflow.agent.launcher.hardening import attempts_max
from raftflow.agent.launcher.messages import Exited
from raftflow.agent.launcher.process_tree import kill_descendants

HARMLESS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT}, key=int)


async def test_a_stopped_launcher_lets_no_task_outlive_the_lease(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any
) -> None:
    """The agent is cut off meanwhile: it kills by itself at the end of the lease what its launcher does not."""
    leader.lease_ms = 2_000
    leader.poll_wait_ms = 100
    agent = agent_process(resources={"cpu": 2})
    started = tmp_path / "started"
    os.mkfifo(started)
    daemon = f"setsid env -i /bin/sh -c 'trap \"\" TERM; echo $$ > {started}; sleep 300; true' & wait"
    (fence,) = await leader.assign({"command": ["sh", "-c", f"trap '' TERM; {daemon}"]})
    pid = int(await asyncio.to_thread(started.read_text))
    (launcher,) = agent.children()
    leader.no_leader = True
    await leader.notify()
    cut_at_s = time.monotonic()
    ended = asyncio.ensure_future(gone(pid))
    while not ended.done():  # as often as it is woken
        os.kill(launcher, signal.SIGSTOP)
        await asyncio.wait((ended,), timeout=0.002)
    await ended
    assert time.monotonic() - cut_at_s < 2.1
    leader.no_leader = False
    # It ended with the lease. The launcher is replaced much later, if it never answers.
    end = await leader.end_of(fence)
    assert (end.outcome, end.error) == ("abandoned", "no leader confirmed the agent's lease in time")
    await leader.until(lambda: not leader.polls[-1].trouble)
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"


async def test_a_stopped_launcher_goes_on(leader: Any, agent_process: Any) -> None:
    agent = agent_process(resources={"cpu": 1})
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    (launcher,) = agent.children()
    os.kill(launcher, signal.SIGSTOP)
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert agent.children() == [launcher]


async def test_a_stopped_launcher_wakes_up_when_its_agent_dies(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any
) -> None:
    agent = agent_process(resources={"cpu": 1})
    started = tmp_path / "started"
    os.mkfifo(started)
    await leader.assign({"command": ["sh", "-c", f"echo $$ > {started}; exec sleep 300"]})
    pid = int(await asyncio.to_thread(started.read_text))
    (launcher,) = agent.children()
    os.kill(launcher, signal.SIGSTOP)
    agent.signal(signal.SIGKILL)
    await gone(pid)
    await gone(launcher)


async def test_signals_that_mean_nothing_end_neither_agent_nor_launcher(leader: Any, agent_process: Any) -> None:
    agent = agent_process(resources={"cpu": 1})
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    (launcher,) = agent.children()
    for number in HARMLESS:
        os.kill(launcher, number)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO,
                   signal.SIGXCPU, signal.SIGRTMIN, signal.SIGRTMAX):  # fmt: skip
        os.kill(agent.pid, number)
    code = "import signal; print([s.name for s in signal.Signals if signal.getsignal(s) == signal.SIG_IGN])"
    end = await leader.run(command=[sys.executable, "-c", code])
    assert end.outcome == "succeeded"
    assert (await leader.log_of(end.fence, "stdout")).data == b"['SIGPIPE', 'SIGXFSZ']\n"  # python's own
    assert agent.children() == [launcher]


async def test_launchers_that_tasks_kill_are_replaced_as_often_as_it_takes(leader: Any, agent_process: Any) -> None:
    agent = agent_process(resources={"cpu": 1})
    for _ in range(7):
        (fence,) = await leader.assign({"command": ["sh", "-c", "kill -9 $PPID; sleep 60"]})
        assert (await leader.end_of(fence)).outcome == "agent_fault"
        await leader.until(lambda: not leader.polls[-1].trouble)
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert agent.process.poll() is None


@pytest.mark.parametrize("hide", ["", "if os.fork(): time.sleep(60)\nos.setsid()\nif os.fork(): os._exit(0)\n"])
async def test_a_task_that_holds_the_end_of_its_launcher_back(leader: Any, agent_process: Any, hide: str) -> None:
    """Who traces a process learns of its end first; until then its parent waits for it in vain."""
    agent = agent_process(resources={"cpu": 1})
    code = (
        f"import ctypes, os, time\nlauncher = os.getppid()\n{hide}"
        "assert ctypes.CDLL(None).ptrace(0x4206, launcher, 0, 0) == 0\n"  # PTRACE_SEIZE: it goes on
        "os.kill(launcher, 9); time.sleep(60)"
    )
    began_s = time.monotonic()
    (fence,) = await leader.assign({"command": [sys.executable, "-S", "-c", code]})
    assert (await leader.end_of(fence)).outcome == "agent_fault"
    await leader.until(lambda: not leader.polls[-1].trouble)
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert time.monotonic() - began_s < 20, "the agent waited for the tracer"
    assert agent.process.poll() is None


async def test_a_hidden_daemon_dies_with_the_launcher(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any
) -> None:
    agent = agent_process(resources={"cpu": 1})
    pid = tmp_path / "pid"
    os.mkfifo(pid)
    script = f"(setsid env -i /bin/sh -c 'echo $$ > {pid}; exec sleep 300' &); sleep 300"
    (fence,) = await leader.assign({"command": ["sh", "-c", script]})
    daemon = int(await asyncio.to_thread(pid.read_text))
    (launcher,) = agent.children()
    os.kill(launcher, signal.SIGKILL)
    await gone(daemon)
    assert (await leader.end_of(fence)).outcome == "agent_fault"


async def test_a_hidden_daemon_dies_with_the_last_attempt_that_may_have_made_it(
    leader: Any, start_agent: Any, tmp_path: Path, gone: Any
) -> None:
    start_agent(resources={"cpu": 2})
    pid, go, later = tmp_path / "pid", tmp_path / "go", tmp_path / "later"
    for fifo in (pid, go, later):
        os.mkfifo(fifo)
    script = f"(setsid env -i /bin/sh -c 'echo $$ > {pid}; exec sleep 300' &); cat {go}"
    (first,) = await leader.assign({"command": ["sh", "-c", script]})
    daemon = int(await asyncio.to_thread(pid.read_text))
    await asyncio.sleep(0.05)  # two ticks of the clock in which the system tells when a process began
    (second,) = await leader.assign({"command": ["sh", "-c", f"echo > {later}; cat {later}"]})
    await asyncio.to_thread(later.read_text)
    await asyncio.to_thread(go.write_text, "")
    assert (await leader.end_of(first)).outcome == "succeeded"
    await gone(daemon)
    assert second not in leader.accepted
    await asyncio.to_thread(later.write_text, "")


async def test_more_attempts_than_descriptors_wait(leader: Any, agent_process: Any) -> None:
    agent = agent_process(resources={"cpu": 100}, limits=(150, 180))
    scripts = [["sh", "-c", "ulimit -n; sleep 0.3; echo done"] for _ in range(60)]
    fences = await leader.assign(*({"command": script} for script in scripts))
    ends = [await leader.end_of(fence) for fence in fences]
    assert {(end.outcome, end.error) for end in ends} == {("succeeded", "")}
    assert max(len(poll.running) for poll in leader.polls) <= (180 - 128) // 4
    assert (await leader.log_of(fences[0], "stdout")).data == b"150\ndone\n"  # not what the agent has raised it to
    assert agent.process.poll() is None


def test_the_number_of_attempts_follows_the_limit_of_descriptors() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert attempts_max() == max((soft - 128) // 4, 1)


async def test_no_descriptors_of_the_agent_reach_a_task(leader: Any, agent_process: Any) -> None:
    agent_process(resources={"cpu": 2})
    await leader.assign({"command": ["sh", "-c", "echo; sleep 1; echo"]})
    end = await leader.run(command=["sh", "-c", "ls /proc/$$/fd"])
    assert (await leader.log_of(end.fence, "stdout")).data.split() == [b"0", b"1", b"2"]
    code = "import subprocess; subprocess.run(['sh', '-c', 'ls -l /proc/$$/fd'], close_fds=False)"
    end = await leader.run(python="builtins:exec", args=[code])
    shown = (await leader.log_of(end.fence, "stdout")).data.decode()
    assert [line.split()[-3] for line in shown.splitlines()[1:]] == ["0", "1", "2"], shown


async def test_a_launcher_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[LauncherError] = []
    launcher = LauncherClient("test-" + str(os.getpid()), os.environ, broken.append)
    launcher.start()
    assert launcher.pid is not None
    ended: asyncio.Queue[Exited] = asyncio.Queue()
    launcher.spawn(["sleep", "300"], {}, ended.put_nowait, cwd=None, folder="/nowhere", bytes_max=1)
    failures = 2
    start = LauncherClient.start

    def fail(self: LauncherClient) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(self)

    monkeypatch.setattr(LauncherClient, "start", fail)
    os.kill(launcher.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(ended.get(), 10)).lease_over
    launcher.spawn(["true"], {}, ended.put_nowait, cwd=None, folder="/nowhere", bytes_max=1)
    assert (await asyncio.wait_for(ended.get(), 10)).code == 0
    await launcher.close()
    assert not broken


async def test_launchers_that_cannot_work_end_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    broken: asyncio.Queue[LauncherError] = asyncio.Queue()
    launcher = LauncherClient("test-" + str(os.getpid()), {}, broken.put_nowait)
    launcher.start()
    assert "died at their start" in str(await asyncio.wait_for(broken.get(), 20))
    await launcher.close()


async def test_a_program_without_its_descriptors_is_one_failed_attempt() -> None:
    """The launcher's table of descriptors was full when they came."""
    launcher = LauncherClient("test-" + str(os.getpid()), os.environ, lambda _: None)
    launcher.start()
    ended: asyncio.Queue[Exited] = asyncio.Queue()
    launcher.spawn(["true"], {}, ended.put_nowait, cwd=None)
    exited = await asyncio.wait_for(ended.get(), 10)
    assert (exited.code, "Too many open files" in exited.error) == (None, True)
    await launcher.close()


async def test_a_cleanup_runs_at_every_end_and_before_it_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    launcher = LauncherClient("test-" + str(os.getpid()), os.environ, lambda _: None)
    launcher.start()
    ended: asyncio.Queue[Exited] = asyncio.Queue()
    marks = tmp_path / "marks"

    def start(name: str, *argv: str) -> int:
        mark = ("sh", "-c", f"sleep 0.1; echo {name} $RAFTFLOW_FENCE >>{marks}")
        return launcher.spawn(
            argv, {"RAFTFLOW_FENCE": "7"}, ended.put_nowait, cwd=None, given=(1, 1, 1), cleanup=mark
        )

    start("ended", "sh", "-c", "exit 3")
    exited = await asyncio.wait_for(ended.get(), 10)
    assert (exited.code, marks.read_text()) == (3, "ended\n")
    launcher.signal(start("killed", "sleep", "300"), signal.SIGKILL)
    exited = await asyncio.wait_for(ended.get(), 10)
    assert (exited.code, exited.signalled, marks.read_text()) == (-9, True, "ended\nkilled\n")
    start("not started", "/no such program")
    exited = await asyncio.wait_for(ended.get(), 10)
    assert (exited.code, marks.read_text()) == (None, "ended\nkilled\n")
    start("lease over", "sleep", "300")
    launcher.lease(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**8)
    assert (await asyncio.wait_for(ended.get(), 10)).lease_over
    assert marks.read_text().splitlines()[2:] == ["lease over"]
    launcher.lease(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**11)
    start("agent gone", "sleep", "300")
    await launcher.close()
    assert marks.read_text().splitlines()[3:] == ["agent gone"]


async def test_descendants_are_killed_without_anybodys_help(tmp_path: Path, gone: Any) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"setsid sh -c 'setsid sleep 300 & echo $! > {fifo}; wait' & wait"
    for _ in range(100):  # one of 60 was left alive while parents were killed before their children were listed
        process = await asyncio.create_subprocess_exec("sh", "-c", script)
        grandchild = int(await asyncio.to_thread(fifo.read_text))
        assert kill_descendants(process.pid) == 2
        await gone(grandchild)
        assert await process.wait() in (0, 137)
