"""Rate limits: a bucket is never over-drawn, in any order of commands; tasks and attempts take from it once."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.values.rates import parse_rate, show_rate
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.explain import LeaderKnowledge
from raftflow.machine.read.invariants import check
from raftflow.machine.read.spending import rates
from raftflow.machine.snapshot.stream import SnapshotError
from raftflow.machine.tables.spending.rates import RateBucket


def set_limit(drive: Any, rate: str = "60/min", burst: int = 3, name: str = "llm") -> Any:
    amount, period_ms = parse_rate(rate)
    return drive.do(
        c.SetRateLimit(
            at_ms=drive.now_ms, actor="client:test", name=name, amount=amount, period_ms=period_ms, burst=burst
        )
    )


def request(
    fence: int, count: int = 1, occurrence: int = 1, name: str = "raftflow.rate.llm", limit: str = "llm"
) -> Any:
    return c.RateToTake(fence, limit, count, name, occurrence)


def take(drive: Any, *requests: Any, incarnation: int = 1) -> Any:
    """Take units and return the verdicts, with the time to wait where there is one."""
    reply = drive.do(
        c.TakeRates(at_ms=drive.now_ms, actor="agent:a1", agent="a1", incarnation=incarnation, takes=tuple(requests))
    )
    if not hasattr(reply, "verdicts"):
        return reply
    return [each.wait_ms or each.verdict for each in reply.verdicts]


def units(drive: Any, name: str = "llm") -> int:
    return rates.units_at(drive.machine, name, drive.now_ms)


@pytest.fixture
def running(drive: Any) -> Any:
    """A limit of one unit a second with a burst of 3; tasks t0 and t1 run on a1 under the fences 1 and 2."""
    drive.register(cpu=4)
    set_limit(drive)
    drive.submit(drive.bag(2, retries=5))
    assert drive.place(0, 1) == (1, 2)
    return drive


def test_a_running_attempt_takes_once_and_waits_for_the_rest(running: Any) -> None:
    assert take(running, request(1, 2), request(2, 2)) == ["taken", 1000]
    assert running.records[-1].detail == "wf-1/t0: raftflow.rate.llm 1"
    running.now_ms += 999
    assert take(running, request(1, 2), request(2, 2)) == ["known", 1]
    running.now_ms += 1
    assert take(running, request(2, 2)) == ["taken"] and units(running) == 0
    running.finish(1, "failed")
    running.fire(60_000)
    (fence,) = running.place(0)
    assert take(running, request(1, occurrence=2), request(fence, 2)) == ["stale", "known"] and units(running) == 3


def test_what_cannot_be_taken_is_refused(running: Any, monkeypatch: Any) -> None:
    running.do(
        c.RecordSteps(
            at_ms=running.now_ms,
            actor="agent:a1",
            agent="a1",
            incarnation=1,
            steps=(c.StepToRecord(1, "x", 1, "m:x", b"1"),),
        )
    )
    requests = (request(1, 4), request(1, 0), request(1, limit="other"), request(1, name=""), request(1, name="x"))
    assert take(running, *requests) == ["invalid"] * 4 + ["mismatch"]
    assert take(running, request(1), incarnation=7).code is RejectionCode.STALE_INCARNATION
    monkeypatch.setattr(limits, "STEPS_PER_TASK_MAX", 1)
    assert take(running, request(1)) == ["limit"] and units(running) == 3
    monkeypatch.setattr(limits, "RATE_TAKES_MAX", 1)
    assert take(running, request(1), request(2)).code is RejectionCode.LIMIT


def test_tasks_take_when_they_are_placed(drive: Any) -> None:
    drive.register(cpu=4, prefetch=4)
    assert drive.submit(drive.bag(3, rates={"llm": 2, "gpu": 1})).warnings[0].startswith("rates: there is no rate")
    assert drive.place(0) == (0,)
    set_limit(drive, name="gpu")
    set_limit(drive)
    assert drive.place(0, 1) == (1, 0) and units(drive) == 1 and units(drive, "gpu") == 2
    drive.now_ms += 1000
    assert drive.place(1, 2) == (2, 0) and units(drive) == 0
    assert drive.submit(drive.bag(1, rates={"llm": 9}), "wf-2").warnings[0].startswith("rates: 9 units of rate limit")
    assert drive.upload(drive.bag(1, rates={"llm": 9}), "wf-3").warnings[0].startswith("rates: 9 units of rate limit")
    many = drive.tasks((), (), rates={"llm": 9})
    assert len(drive.submit(many, "wf-4").warnings) == 1


def test_warnings_are_bounded(drive: Any) -> None:
    specs = tuple(
        c.TaskSpec(id=f"t{number}", program=drive.bag(1).tasks[0].program, rates={f"r{number}": 1})
        for number in range(30)
    )
    drive.register()
    assert len(drive.submit(c.WorkflowSpec(name="many", tasks=specs)).warnings) == 20


def test_a_backup_takes_as_every_attempt(drive: Any) -> None:
    drive.register(cpu=4)
    drive.register("a2", cpu=4)
    set_limit(drive)
    drive.submit(drive.bag(2, rates={"llm": 2}, backup=True))
    assert drive.place(0) == (1,)
    assert drive.back_up(0) == (0,)
    drive.now_ms += 1000
    assert drive.back_up(0) == (2,) and units(drive) == 0


def test_setting_and_removing(drive: Any, monkeypatch: Any) -> None:
    assert set_limit(drive, "100/min", 20).changed
    assert drive.records[-1].detail == "llm: 100/min, burst 20"
    assert not set_limit(drive, "100/min", 20).changed
    for bad in ({"burst": 0}, {"name": "a b"}, {"burst": limits.RATE_AMOUNT_MAX + 1}):
        assert set_limit(drive, **bad).code is RejectionCode.INVALID
    wrong = c.SetRateLimit(at_ms=1, actor="x", name="llm", amount=1, period_ms=5, burst=1)
    assert drive.do(wrong).code is RejectionCode.INVALID
    monkeypatch.setattr(limits, "RATE_LIMITS_MAX", 1)
    assert set_limit(drive, name="two").code is RejectionCode.LIMIT
    remove = c.RemoveRateLimit(at_ms=1, actor="x", name="llm")
    assert drive.do(remove).changed
    assert drive.do(remove).code is RejectionCode.NOT_FOUND
    assert units(drive) == 0


def remove(drive: Any, name: str = "llm") -> Any:
    return drive.do(c.RemoveRateLimit(at_ms=drive.now_ms, actor="client:test", name=name))


def test_a_limit_that_is_removed_and_set_again_is_as_full_as_it_was(running: Any) -> None:
    take(running, request(1, 3))
    remove(running)
    assert rates.limit_views(running.machine, running.now_ms) == [] and not rates.is_set(running.machine, "llm")
    assert take(running, request(2)) == ["invalid"]
    running.now_ms += 1000
    set_limit(running, "60/min", 3)
    assert units(running) == 1 and take(running, request(2, 2)) == [1000]
    remove(running)
    set_limit(running, "1/s", 20)
    assert units(running) == 1


def test_a_removed_limit_is_forgotten_when_it_would_be_full(running: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "RATE_LIMITS_MAX", 1)
    table = running.machine.state.rates
    take(running, request(1, 3))
    remove(running)
    running.now_ms += 2_999
    assert "1 were removed while their buckets were not full" in set_limit(running, name="two").message
    running.now_ms += 1
    assert set_limit(running, name="two").changed and table.removed == {}
    remove(running, "two")
    assert len(table) == 0, "it was full"


def test_a_changed_limit_keeps_what_it_has(running: Any) -> None:
    take(running, request(1, 2))
    running.now_ms += 500
    set_limit(running, "10/h", 20)
    assert running.machine.state.rates.present["llm"].parts == 1.5 * 3_600_000
    set_limit(running, "1/s", 1)
    assert units(running) == 1


def test_a_limit_as_others_see_it(running: Any) -> None:
    take(running, request(1, 2))
    (view,) = rates.limit_views(running.machine, running.now_ms)
    assert (view.name, view.rate, view.burst, view.available, view.full_in_s) == ("llm", "60/min", 3, 1, 2.0)
    assert rates.limit_view(running.machine, "llm", running.now_ms) == view
    assert rates.limit_view(running.machine, "other", 0) is None
    assert rates.is_set(running.machine, "llm") and not rates.is_set(running.machine, "other")
    assert rates.wait_of(running.machine, "llm", 2, running.now_ms, ahead=1) == 2000
    assert rates.wait_of(running.machine, "llm", 4, running.now_ms) is None
    assert rates.wait_of(running.machine, "other", 1, running.now_ms) is None


def test_explain_says_for_which_rate_a_task_waits(running: Any) -> None:
    running.submit(running.bag(1, rates={"llm": 3}), "wf-2")

    def told(**more: Any) -> Any:
        found = queries.explain(running.machine, "wf-2", "t0", LeaderKnowledge(now_ms=running.now_ms, **more))
        return found.waiting, found.reason

    assert told()[0] == "next"
    assert told(rates_ahead={"llm": 2}) == ("rate", "waits for rate 'llm': about 2 s")
    take(running, request(1, 3))
    assert told() == ("rate", "waits for rate 'llm': about 3 s")
    set_limit(running, burst=2)
    assert told()[1].startswith(
        "waits for rate 'llm': 3 units of rate limit 'llm' are not between 1 and its burst, 2"
    )
    running.do(c.RemoveRateLimit(at_ms=1, actor="x", name="llm"))
    assert told()[1].startswith("waits for rate 'llm': there is no rate limit 'llm': set it with")


def test_limits_are_in_snapshots(running: Any) -> None:
    take(running, request(1, 2))
    other = Machine()
    other.restore(running.machine.snapshot())
    assert b"".join(other.snapshot()) == running.encoding() and check(other) == []
    assert other.state.rates.present["llm"].parts == 60_000
    running.machine.state.rates.present["x"] = running.machine.state.rates.present["llm"]
    with pytest.raises(SnapshotError, match="the rate limit llm is there twice"):
        other.restore(running.machine.snapshot())
    del running.machine.state.rates.present["x"]
    remove(running)
    other.restore(running.machine.snapshot())
    assert b"".join(other.snapshot()) == running.encoding() and check(other) == []
    assert other.state.rates.present == {} and other.state.rates.removed["llm"].parts == 60_000


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("name", "x", "the rate limit x is kept as llm"),
        ("parts", -1, "-1 parts are not between nothing and its burst, 3"),
        ("parts", 180_001, "180001 parts are not between"),
        ("at_ms", 1 << 60, "which is in the future"),
    ],
)
def test_invariants(running: Any, field: str, value: Any, problem: str) -> None:
    limit = running.machine.state.rates.present["llm"]
    before = getattr(limit, field)
    setattr(limit, field, value)
    (found, *_) = check(running.machine)
    assert problem in found
    setattr(limit, field, before)


def test_a_limit_is_set_or_removed(running: Any) -> None:
    table = running.machine.state.rates
    table.removed["llm"] = table.present["llm"]
    assert check(running.machine)[:2] == [
        "the rate limit llm is set, and among those that were removed",
        "the rate limit llm is set or removed, and its bucket says the opposite",
    ]
    del table.removed["llm"]


def test_too_many_limits_are_a_problem(running: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "RATE_LIMITS_MAX", 0)
    assert check(running.machine) == ["rates: 1, the limit RATE_LIMITS_MAX is 0"]


def test_rates_as_text() -> None:
    assert parse_rate("100/min") == (100, 60_000) and show_rate(100, 60_000) == "100/min"
    for bad in ("", "0/s", "007/s", "1/week", "1.5/s", "1000000001/s", "1/s\n", "²/s"):
        with pytest.raises(ValueError, match="rate"):
            parse_rate(bad)


STEPS = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 7)), max_size=40)


@settings(max_examples=40, deadline=None)
@given(amount=st.integers(1, 500), burst=st.integers(1, 7), steps=STEPS)
def test_no_window_takes_more_than_burst_and_rate(amount: int, burst: int, steps: list[tuple[int, int]]) -> None:
    limit = RateBucket("llm", amount, 60_000, burst, burst * 60_000, 0)
    taken: list[tuple[int, int]] = []
    now_ms = 0
    for after_ms, count in steps:
        now_ms += after_ms
        wait_ms = limit.wait_ms(count, now_ms)
        assert (wait_ms == 0) == (limit.units_at(now_ms) >= count)
        if count <= burst and not wait_ms:
            limit.take(count, now_ms)
            taken.append((now_ms, count))
        elif count <= burst:  # the wait is exact
            assert limit.units_at(now_ms + wait_ms) >= count > limit.units_at(now_ms + wait_ms - 1)
        assert 0 <= limit.parts_at(now_ms) <= burst * 60_000
    for first, (begin_ms, _) in enumerate(taken):
        total = 0
        for at_ms, count in taken[first:]:
            total += count
            assert total * 60_000 <= burst * 60_000 + amount * (at_ms - begin_ms)


RATES = st.tuples(st.sampled_from(["7/s", "40/min", "100/min", "90/h"]), st.integers(1, 7))
ACTS = st.lists(
    st.tuples(st.integers(0, 900), st.one_of(st.just("remove"), st.tuples(st.just("set"), RATES), st.integers(1, 7))),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(begin=RATES, acts=ACTS)
def test_no_window_takes_more_than_burst_and_rate_whatever_is_set_and_removed(
    new_drive: Any, begin: Any, acts: list[Any]
) -> None:
    drive = new_drive()
    drive.register(cpu=4)
    drive.submit(drive.bag(1))
    (fence,) = drive.place(0)
    set_limit(drive, *begin)
    periods = [(drive.now_ms, *begin)]
    taken: list[tuple[int, int]] = []
    for occurrence, (after_ms, act) in enumerate(acts, start=1):
        drive.now_ms += after_ms
        if act == "remove":
            remove(drive)
        elif isinstance(act, int):
            if take(drive, request(fence, act, occurrence)) == ["taken"]:
                taken.append((drive.now_ms, act))
        else:
            set_limit(drive, *act[1])
            periods.append((drive.now_ms, *act[1]))
    for first, (begin_ms, _) in enumerate(taken):
        total = 0
        for end_ms, count in taken[first:]:
            total += count
            assert total <= _allowed(periods, begin_ms, end_ms)


def _allowed(periods: list[Any], begin_ms: int, end_ms: int) -> Fraction:
    """The largest burst of a stretch of time, and what comes in it by the rates that were set last."""
    allowed, burst = Fraction(0), 0
    for (since_ms, rate, most), (until_ms, *_) in pairwise([*periods, (end_ms + 1,)]):
        amount, period_ms = parse_rate(rate)
        inside_ms = min(until_ms, end_ms) - max(since_ms, begin_ms)
        if since_ms <= end_ms and until_ms >= begin_ms:
            burst = max(burst, most)
            allowed += Fraction(amount * max(inside_ms, 0), period_ms)
    return allowed + burst
