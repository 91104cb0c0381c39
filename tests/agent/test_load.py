"""Load of the machine, from a /proc of the test's own and from the real one."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.agent import load as load_module
from raftflow.agent.load import LoadSampler


class FakeProc:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.now_s = 100.0
        monkeypatch.setattr(load_module.time, "monotonic", lambda: self.now_s)
        (folder / "meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 2097152 kB\n")
        self.busy, self.idle = 5_000, 90_000

    def after(self, seconds: float, *, busy: int, idle: int, running: int = 1) -> None:
        self.now_s += seconds
        self.busy += busy
        self.idle += idle
        text = f"cpu  {self.busy} 0 0 {self.idle} 0 0 0 0 99999 0\ncpu0 1 1 1 1\nprocs_running {running}\n"
        (self.folder / "stat").write_text(text)


def test_busy_share_is_that_of_the_last_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = FakeProc(tmp_path, monkeypatch)
    sampler = LoadSampler(str(tmp_path))
    proc.after(0, busy=0, idle=0, running=5)
    load = sampler.sample()
    assert (load.cpu_busy_per_mille, load.run_queue, load.memory_free_mib) == (0, 4, 2048)
    seen = []
    for busy in (100, 100, 0, 0, 0, 0, 0):
        proc.after(1, busy=busy, idle=200 - busy)
        seen.append(sampler.sample().cpu_busy_per_mille)
    assert seen == [500, 500, 333, 250, 125, 0, 0]


def test_a_load_is_read_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = FakeProc(tmp_path, monkeypatch)
    sampler = LoadSampler(str(tmp_path))
    proc.after(0, busy=0, idle=0)
    first = sampler.sample()
    proc.after(0.9, busy=90, idle=0)
    assert sampler.sample() is first
    proc.after(0.1, busy=10, idle=0)
    assert sampler.sample().cpu_busy_per_mille == 1000


def test_counters_that_go_back_are_no_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = FakeProc(tmp_path, monkeypatch)
    sampler = LoadSampler(str(tmp_path))
    proc.after(0, busy=0, idle=0, running=0)
    assert sampler.sample().run_queue == 0
    for busy, idle in ((-10, 200), (0, -500), (700, -600)):
        proc.after(1, busy=busy, idle=idle)
        share: Any = sampler.sample().cpu_busy_per_mille
        assert 0 <= share <= 1000


async def test_polls_tell_of_the_load(leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "_EVERY_S", 0.0)
    leader.poll_wait_ms = 50
    start_agent()
    await leader.until(lambda: leader.polls)
    load = leader.polls[-1].load
    assert load.run_queue is not msgspec.UNSET
    assert 0 <= load.cpu_busy_per_mille <= 1000
