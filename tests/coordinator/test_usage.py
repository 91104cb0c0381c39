"""What the leader remembers of running attempts: what is told, forgotten, and by whom."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.coordinator.placement import usage as usage_module
from raftflow.coordinator.placement.usage import UsageSample, UsageStore
from raftflow.domain.contract.views import AttemptUsage


def told(fence: int, cpu_ms: int = 0, **fields: Any) -> AttemptUsage:
    return AttemptUsage(fence=fence, cpu_ms=cpu_ms, **fields)


def test_the_rate_of_cpu_time_is_between_two_tellings() -> None:
    store = UsageStore()
    store.note_usage("a1", [1], [told(1, 500, memory_mib=7, peak_mib=9)], 10.0)
    assert store.get("a1", 1) == UsageSample(1, 500, 7, 9, None, 10.0)
    store.note_usage("a1", [1], [told(1, 3_500)], 12.0)
    sample = store.get("a1", 1)
    assert sample is not None
    assert sample.cpu_per_mille == 1_500
    store.note_usage("a1", [1], [told(1, 3_400)], 14.0)  # an agent that lost count
    sample = store.get("a1", 1)
    assert sample is not None
    assert sample.cpu_per_mille == 0


def test_it_is_known_since_when_progress_stands_still() -> None:
    store = UsageStore()
    seen = []
    for at_s, progress in [(1.0, None), (2.0, 0.1), (3.0, 0.4), (4.0, 0.4), (5.0, 0.3), (6.0, 0.5)]:
        store.note_usage("a1", [1], [told(1, progress=progress)], at_s)
        sample = store.get("a1", 1)
        assert sample is not None
        seen.append(sample.progress_at_s)
    assert seen[:4] == [None, 2.0, 3.0, 3.0]
    assert seen[4:] == [3.0, 6.0]


def test_what_no_longer_runs_is_forgotten() -> None:
    store = UsageStore()
    store.note_usage("a1", [1, 2], [told(1), told(2), told(3)], 1.0)
    store.note_usage("a2", [4], [told(4)], 1.0)
    assert sorted(store.of_agent("a1")) == [1, 2]  # it said itself that 3 does not run
    store.note_usage("a1", [2], [], 2.0)
    assert (list(store.of_agent("a1")), len(store)) == ([2], 2)
    store.note_usage("a1", [], [], 3.0)
    assert (store.of_agent("a1"), store.get("a1", 2), len(store)) == ({}, None, 1)
    store.forget("a2")
    store.forget("a2")
    assert len(store) == 0
    store.note_usage("a2", [4], [told(4)], 1.0)
    store.clear()
    assert (len(store), store.get("a2", 4)) == (0, None)


def test_the_store_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "USAGES_MAX", 2)
    store = UsageStore()
    store.note_usage("a1", [1, 2, 3], [told(1), told(2), told(3)], 1.0)
    store.note_usage("a2", [4], [told(4)], 1.0)
    assert (sorted(store.of_agent("a1")), len(store)) == ([1, 2], 2)
    store.note_usage("a1", [1, 2], [told(1, 5)], 2.0)  # those that are known go on
    assert store.of_agent("a1")[1].cpu_ms == 5


async def test_polls_tell_of_usage_until_the_attempt_ends(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    answer = await one.poll(incarnation, 2, seen=fence, running=[fence], usage=[told(fence, 100, progress=0.5)])
    assert answer.feature_level == one.machine.state.feature_level
    assert one.poll_service.usage.get("a1", fence).progress == 0.5
    await one.poll(incarnation, 3, seen=fence, running=[fence])
    assert one.poll_service.usage.get("a1", fence).cpu_ms == 100
    await one.poll(incarnation, 4, seen=fence, ends=[one.end(fence, workflow, "t")])
    assert len(one.poll_service.usage) == 0


@pytest.mark.parametrize("how", ["goodbye", "new instance", "follower", "lost"])
async def test_usage_goes_with_the_agent_and_with_the_leadership(bench: Any, how: str) -> None:
    one = await bench(lease_ms=300 if how == "lost" else 5_000)
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    await one.poll(incarnation, 2, seen=fence, running=[fence], usage=[told(fence)])
    assert len(one.poll_service.usage) == 1
    if how == "goodbye":
        ends = [one.end(fence, workflow, "t")]
        await one.poll(incarnation, 3, seen=fence, ends=ends, running=[fence], goodbye=True)
    elif how == "new instance":
        other = await one.register(instance="j" * 8)
        await one.poll(other, 1)
    elif how == "follower":
        one.poll_service.step_down()
    await one.until(lambda: len(one.poll_service.usage) == 0)
