"""What running attempts use: read from real processes, told every other second, held to their demands."""

import asyncio
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.attempts import usage as usage_module
from raftflow.agent.attempts.usage import Usage, UsageWatch, read_progress, shares_kib
from raftflow.agent.clock import now_ns
from raftflow.agent.executors.base import WatchTarget
from raftflow.agent.launcher.messages import Sampled
from raftflow.agent.launcher.own_peak import OwnPeak
from raftflow.agent.launcher.process_tree import parse_memory, read_tree
from raftflow.agent.worker import process

HOLD_MIB = "import sys, time; held = bytearray(int(sys.argv[1]) << 20); time.sleep(300)"
SPIN_S = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.fixture
def online(leader: Any) -> Any:
    leader.poll_wait_ms = 300
    return leader


def python(text: str, *args: object) -> list[str]:
    return [sys.executable, "-c", text, *map(str, args)]


# --- reading


def test_a_tree_is_a_process_with_all_its_descendants() -> None:
    """A shell's child holds memory; a process in a session of its own is found through its parent."""
    hold = f"{sys.executable} -c '{HOLD_MIB}; ' 64"
    with subprocess.Popen(["sh", "-c", f"setsid {hold} & echo; wait"], stdout=subprocess.PIPE) as shell:
        try:
            assert shell.stdout is not None
            shell.stdout.readline()
            until_s = time.monotonic() + 15
            while (shares := shares_kib((tree := read_tree([shell.pid])).pids)) < 64 << 10:
                assert time.monotonic() < until_s, tree
            assert tree.pids[0] == shell.pid
            assert len(tree.pids) >= 2
            assert shares <= read_tree([shell.pid]).held_kib
        finally:
            for pid in read_tree([shell.pid]).pids:
                os.kill(pid, 9)


def test_children_of_every_thread_are_found(tmp_path: Path) -> None:
    text = (
        "import subprocess, threading, time\n"
        "def run(): subprocess.Popen(['sleep', '300']); print(flush=True); time.sleep(300)\n"
        "threading.Thread(target=run).start()"
    )
    with subprocess.Popen(python(text), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tree = read_tree([process.pid])
        for pid in tree.pids:
            os.kill(pid, 9)
    assert len(tree.pids) == 2


def test_cpu_time_counts_children_that_ended() -> None:
    own = read_tree([os.getpid()]).cpu_ms
    subprocess.run(python(SPIN_S, 0.3), check=True)
    assert read_tree([os.getpid()]).cpu_ms >= own + 290


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert read_tree([process.pid]) == (0, 0, 0, [])
    assert shares_kib([process.pid]) == 0


def test_pages_that_processes_share_are_counted_once_in_their_shares() -> None:
    """A parent and three forks hold the same 64 MiB: the plain sum has them four times."""
    text = (
        "import os, time\nheld = bytearray(64 << 20)\n"
        "for _ in range(3):\n    if os.fork() == 0: time.sleep(300)\nprint(flush=True); time.sleep(300)"
    )
    with subprocess.Popen(python(text), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tree = read_tree([process.pid])
        shared = shares_kib(tree.pids)
        for pid in tree.pids:
            os.kill(pid, 9)
    assert tree.held_kib > 4 * (64 << 10)
    assert 64 << 10 <= shared < 2 * (64 << 10)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.25\n", 0.25), ("1", 1.0), ("0", 0.0), ("", 0.1), ("1.5", 0.1), ("nan", 0.1), ("-1", 0.1), ("half", 0.1)],
)
def test_progress_that_makes_no_sense_is_not_taken(tmp_path: Path, text: str, value: float) -> None:
    file = tmp_path / "progress"
    file.write_text(text)
    assert read_progress(str(file), 0.1) == value


def test_progress_may_be_no_file_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "none", tmp_path, tmp_path / "fifo"):
        assert read_progress(str(path), None) is None


# --- telling


async def test_a_command_that_runs_is_told_of_with_its_children(online: Any, start_agent: Any) -> None:
    start_agent()
    inner = f"{sys.executable} -c '{HOLD_MIB}' 64"
    (fence,) = await online.assign({"command": ["sh", "-c", f"{inner} & echo 0.5 > $RAFTFLOW_PROGRESS; wait"]})
    usage = await online.usage_of(fence, lambda usage: usage.memory_mib >= 64)
    assert usage.memory_mib < 200
    assert usage.peak_mib >= usage.memory_mib
    assert (await online.usage_of(fence, lambda usage: usage.cpu_ms > 0)).progress == 0.5
    online.stop = [fence]
    await online.notify()
    end = await online.end_of(fence)
    assert (end.outcome, end.peak_mib >= 64, end.cpu_ms > 0) == ("cancelled", True, True)


async def test_a_python_call_is_told_of_without_what_its_worker_did_before(
    online: Any, start_agent: Any, tmp_path: Path
) -> None:
    """The first call burns CPU time and leaves memory behind; the second, in the same worker, is not charged."""
    (tmp_path / "jobs.py").write_text(
        "import os, time\nfrom raftflow import progress\nkept = []\n"
        "def greedy():\n    kept.append(bytearray(128 << 20))\n"
        "    while time.process_time() < 0.5: pass\n    return os.getpid()\n"
        "def modest():\n    progress(0.25)\n    time.sleep(300)\n"
    )
    start_agent(resources={"cpu": 1})
    first = await online.run(python="jobs:greedy")
    assert first.peak_mib >= 128
    assert 300 <= first.cpu_ms < 5_000
    (fence,) = await online.assign({"python": "jobs:modest"})
    usage = await online.usage_of(fence, lambda _: True)
    assert usage.memory_mib < 100
    assert usage.cpu_ms < 300
    assert usage.progress == 0.25
    online.stop = [fence]
    await online.notify()
    end = await online.end_of(fence)
    assert end.cpu_ms < 300
    again = await online.run(python="jobs:greedy")
    assert again.result != first.result  # the worker that was stopped is gone


async def test_short_attempts_are_measured_at_their_end_alone(
    online: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "SAMPLE_EVERY_S", 60.0)  # short is what ends before: a busy machine takes long
    start_agent()
    end = await online.run(command=python("held = bytearray(96 << 20)\n" + SPIN_S, 0.2))
    assert end.cpu_ms >= 200
    assert 96 <= end.peak_mib < 200
    assert not [usage for poll in online.polls for usage in poll.usage]
    small = await online.run(command=["/bin/true"])
    assert small.peak_mib == 0  # less than can be told


async def test_usage_is_told_every_other_second(online: Any, start_agent: Any) -> None:
    start_agent()
    await online.assign({"command": ["sleep", "300"]})
    at_s: list[float] = []
    for _ in range(3):
        seen = len(online.polls)
        await online.until(lambda seen=seen: any(poll.usage for poll in online.polls[seen:]))
        at_s.append(time.monotonic())
    assert at_s[1] - at_s[0] > 1.5
    assert at_s[2] - at_s[1] > 1.5
    assert len(online.polls) > len([poll for poll in online.polls if poll.usage])


async def test_a_launcher_that_dies_while_it_is_asked_is_replaced(online: Any, agent_process: Any, gone: Any) -> None:
    agent = agent_process(resources={"cpu": 2})
    (fence,) = await online.assign({"command": ["sleep", "300"]})
    await online.usage_of(fence, lambda _: True)
    (launcher,) = agent.children()
    os.kill(launcher, 9)
    assert (await online.end_of(fence)).outcome == "agent_fault"
    await gone(launcher)
    await online.until(lambda: not online.polls[-1].trouble)
    (other,) = await online.assign({"command": ["sleep", "300"]})
    await online.usage_of(other, lambda _: True)


async def test_a_held_poll_ends_in_time_to_tell(leader: Any, start_agent: Any) -> None:
    """Polls of an agent with work that runs are held for two seconds at most, however long the leader allows."""
    leader.lease_ms, leader.poll_wait_ms = 60_000, 10_000
    start_agent()
    assert (await leader.until(lambda: leader.polls))[-1].wait_ms == 10_000
    (fence,) = await leader.assign({"command": ["sleep", "300"]})
    await leader.until(lambda: leader.polls[-1].running == [fence])
    assert leader.polls[-1].wait_ms == 2_000


# --- more memory than the demand


class FakeAttempt:
    def __init__(self, number: int, memory_mib: int, kept_kib: int = 0) -> None:
        self.number = number
        self.started_at_ns = now_ns() - 10**12
        self.usage = Usage()
        self.memory_mib = memory_mib
        self.kept_kib = kept_kib

    def watched(self) -> WatchTarget:
        return WatchTarget(id=self.number, kept_kib=self.kept_kib)

    def is_fetching(self) -> bool:
        return False


class Looks:
    """Plays the launcher: answers each look with the next figures, and with shares that are as large."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(usage_module, "SAMPLE_EVERY_S", 0.001)
        monkeypatch.setattr(usage_module, "shares_kib", lambda pids: pids[1])
        self.figures: list[dict[int, tuple[int, int]]] = []
        """For each look, of each attempt: sum of resident memory and shares, in MiB."""
        self.stopped: list[int] = []
        self.looked = asyncio.Event()

    def sample(self, wanted: list[tuple[int, int]], on_sampled: Any) -> None:
        if not self.figures:
            self.looked.set()
            return
        figures = self.figures.pop(0)
        used = []
        for identity, limit_kib in wanted:
            held_kib, shares = (mib << 10 for mib in figures[identity])
            used.append((identity, 0, held_kib, 0, [identity, shares] if 0 < limit_kib <= held_kib else []))
        on_sampled(Sampled(used))

    async def play(self, attempts: list[FakeAttempt], figures: list[dict[int, tuple[int, int]]]) -> list[int]:
        self.figures = figures
        running = {100 + attempt.number: attempt for attempt in attempts}
        watch = UsageWatch(running, self.sample, lambda fence, _: self.stopped.append(fence))
        watch.holds_to_demand = True
        watch.started()
        await asyncio.wait_for(self.looked.wait(), 10)
        watch.stop()
        return self.stopped


@pytest.mark.parametrize(
    ("figures", "stopped"),
    [
        ([(90, 90), (100, 100), (100, 100)], []),  # all of the demand is not more than it
        ([(120, 120), (90, 90), (120, 120), (90, 90)], []),  # never twice in a row
        ([(120, 120), (101, 101)], [101]),
        ([(400, 60), (400, 60), (400, 60)], []),  # the sum counts shared pages several times
        ([(400, 60), (400, 160), (400, 60), (400, 160)], []),
        ([(400, 160), (400, 160)], [101]),
    ],
)
async def test_two_looks_in_a_row_decide(
    monkeypatch: pytest.MonkeyPatch, figures: list[tuple[int, int]], stopped: list[int]
) -> None:
    looks = Looks(monkeypatch)
    assert await looks.play([FakeAttempt(1, 100)], [{1: figure} for figure in figures]) == stopped


async def test_attempts_without_a_demand_and_memory_that_a_worker_kept_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch)
    attempts = [FakeAttempt(1, 0), FakeAttempt(2, 100, kept_kib=300 << 10), FakeAttempt(3, 100, kept_kib=1 << 10)]
    assert await looks.play(attempts, [{1: (900, 900), 2: (390, 390), 3: (110, 110)}] * 3) == [103]
    assert [attempt.usage.peak_kib >> 10 for attempt in attempts] == [900, 90, 109]


async def test_an_attempt_that_outgrows_its_demand_is_stopped(online: Any, start_agent: Any) -> None:
    """The memory is that of a child of its program."""
    start_agent()
    inner = f"{sys.executable} -c '{HOLD_MIB}' 128"
    resources = {"cpu": 1000, "memory": 64}
    end = await online.run(command=["sh", "-c", f"trap '' TERM; {inner} & wait; sleep 300"], resources=resources)
    assert end.outcome == "outgrown"
    assert end.peak_mib >= 128
    assert "more than its demand of 64 MiB" in end.error


async def test_a_python_call_that_outgrows_its_demand_is_stopped(
    online: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "SAMPLE_EVERY_S", 0.2)
    (tmp_path / "jobs.py").write_text(
        "import time\nkept = []\ndef hold(mib, s):\n    kept.append(bytearray(mib << 20))\n    time.sleep(s)\n"
    )
    start_agent(resources={"cpu": 1, "memory": 4096})
    resources = {"cpu": 1000, "memory": 128}
    ample = {"cpu": 1000, "memory": 1024}
    assert (await online.run(python="jobs:hold", args=[256, 0], resources=ample)).outcome == "succeeded"
    end = await online.run(python="jobs:hold", args=[64, 1.0], resources=resources)
    assert (end.outcome, end.error) == ("succeeded", "")  # what the worker kept from before is not its fault
    end = await online.run(python="jobs:hold", args=[256, 300], resources=resources)
    assert end.outcome == "outgrown"


MAP = (
    "import mmap, sys, time; file = open(sys.argv[1], 'rb'); held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)"
)
SHARE = "import mmap, time; held = mmap.mmap(-1, 200 << 20); held.write(bytes(200 << 20)); time.sleep(300)"


async def test_what_the_system_can_take_back_is_nobodys_memory(
    online: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is mapped for reading does not count; shared memory does, and so does a file in /dev/shm."""
    monkeypatch.setattr(usage_module, "SAMPLE_EVERY_S", 0.2)
    start_agent(resources={"cpu": 3, "memory": 4096})
    demand = {"resources": {"cpu": 1000, "memory": 100}}
    for folder in (tmp_path, Path("/dev/shm")):
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.truncate(300 << 20)
            task = python(MAP + "; sum(held[::4096]); time.sleep(1.2)", file.name)
            mapped, shared = await online.assign({"command": task, **demand}, {"command": python(SHARE), **demand})
            end = await online.end_of(mapped)
            assert end.outcome == ("succeeded" if folder == tmp_path else "outgrown"), end.error
            assert (end.peak_mib < 100) == (folder == tmp_path)
            end = await online.end_of(shared)
            assert (end.outcome, end.peak_mib > 100) == ("outgrown", True)  # it may be stopped while it grows


@pytest.mark.parametrize(
    ("status", "memory"),
    [
        (b"Name:\ta\nVmRSS:\t  9 kB\nRssAnon:\t  4 kB\nRssFile:\t  3 kB\nRssShmem:\t  2 kB\nX:\t1\n", (6, 3)),
        (b"Name:\ta\nVmRSS:\t  9 kB\nVmData:\t  4 kB\nVmStk:\t 3 kB\nX:\t1\n", (9, 0)),
        (b"Name:\ta\nThreads:\t1\n", (0, 0)),
        (b"", (0, 0)),
    ],
)
def test_memory_is_read_from_what_the_kernel_tells(status: bytes, memory: tuple[int, int]) -> None:
    assert parse_memory(status) == memory


def test_a_programs_peak_is_not_that_of_the_launcher_which_has_grown_meanwhile() -> None:
    """A program begins its life in the launcher's memory; the launcher looks at its own peak now and then."""
    own = OwnPeak()
    own._until_s = math.inf
    status = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    own._peak_kib = peak_kib - 1024
    assert own.covers(peak_kib)
    assert own.covers(peak_kib)
    assert not own.covers(peak_kib + (128 << 10))


async def test_an_exclusive_attempt_is_not_held_to_what_it_holds(
    online: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "SAMPLE_EVERY_S", 0.2)
    start_agent(resources={"cpu": 1, "memory": 32})
    command = python(HOLD_MIB.replace("300", "1.5"), 64)
    end = await online.run(command=command, resources={"cpu": 1000, "memory": 32}, exclusive=True)
    assert (end.outcome, end.peak_mib >= 64) == ("succeeded", True)


def test_what_a_worker_uses_between_two_calls_is_charged_to_none_of_them() -> None:
    """Threads that a call left behind may go on."""
    meter = process._CallMeter()
    meter.begin()
    meter.end()
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass
    meter.begin()
    cpu_ms = meter.end()[2]
    assert cpu_ms < 150
