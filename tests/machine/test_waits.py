"""Waits of attempts: signals before and after them, time-outs, parking, limits, snapshots, invariants."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.waits import FUNCTIONS
from raftflow.machine.commands.restoration import Restoration, fence_off
from raftflow.machine.commands.waits.ends import end_wait, open_wait
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries, waits
from raftflow.machine.read.invariants import check
from raftflow.machine.rules.step_limits import StepLimits
from raftflow.machine.snapshot.stream import SnapshotError
from raftflow.machine.tables.waits.signals import SignalKey, SignalRow
from raftflow.machine.tables.waits.waits import WaitEnd, WaitRow


@pytest.fixture
def running(drive: Any) -> Any:
    """Tasks t0, t1 and t2 run on a1 under the fences 1, 2 and 3."""
    drive.register(cpu=8)
    drive.submit(drive.bag(3, retries=5))
    assert drive.place(0, 1, 2) == (1, 2, 3)
    return drive


def begin(drive: Any, fence: int, name: str = "go", occurrence: int = 1, **more: Any) -> Any:
    """Begin a wait; returns its number, or its record."""
    more = {"kind": "signal", "agent": "a1", "incarnation": 1, **more}
    reply = drive.do(
        c.BeginWait(at_ms=drive.now_ms, actor="agent:a1", fence=fence, name=name, occurrence=occurrence, **more)
    )
    return reply if isinstance(reply, Rejection) else reply.number or msgspec.json.decode(reply.record)


def send(drive: Any, payload: bytes = b"1", name: str = "go", workflow_id: str = "wf-1", **more: Any) -> Any:
    """Send a signal; returns what became of it."""
    reply = drive.do(
        c.SendSignal(
            at_ms=drive.now_ms, actor="client:x", workflow_id=workflow_id, name=name, payload=payload, **more
        )
    )
    return reply if isinstance(reply, Rejection) else (reply.state, reply.task_id)


def park(drive: Any, fence: int, *numbers: int, **more: Any) -> Any:
    return drive.finish(fence, "parked", result=msgspec.json.encode({"waits": numbers, **more}))


def records(drive: Any, workflow_id: str = "wf-1") -> list[Any]:
    """Task, name, occurrence, function and result of what is recorded."""
    steps = drive.machine.state.workflows[workflow_id].steps
    rows = () if steps is None else steps.rows
    return [(row.task, row.name, row.occurrence, row.function, row.result) for row in rows]


# --- signals


def test_a_signal_ends_the_wait_and_wakes_the_task(running: Any) -> None:
    number = begin(running, 1)
    assert begin(running, 1) == number, "a repeated call finds the wait"
    assert park(running, 1, number) == "accepted" and running.states() == "PRR"
    assert "waits for signal 'go' since 2023-11-14T22:13:20" in queries.explain(running.machine, "wf-1", "t0").reason
    assert queries.explain(running.machine, "wf-1", "t0").waiting == "signal"
    assert send(running, b'{"a":1}') == ("delivered", "t0")
    assert running.transitions() == ["t0 parked wait_over ready"]
    assert records(running) == [(0, "go", 1, "raftflow:wait", b'{"outcome":"signal","payload":{"a":1}}')]
    (again,) = running.place(0)
    assert begin(running, again) == {"outcome": "signal", "payload": {"a": 1}}
    assert running.task(0).parking is None and running.machine.state.waits.open == 0


def test_a_signal_that_comes_before_the_wait_is_kept(running: Any) -> None:
    assert send(running, b"1") == ("kept", "") and send(running, b"2") == ("kept", "")
    assert begin(running, 1)["payload"] == 1
    assert begin(running, 2)["payload"] == 2
    assert begin(running, 3) == 1
    assert running.machine.state.signals.count == 0


def test_a_signal_goes_to_the_wait_that_began_first(running: Any) -> None:
    first, second, other = begin(running, 2), begin(running, 1), begin(running, 3, "other")
    assert first < second < other
    assert send(running) == ("delivered", "t1")
    assert send(running) == ("delivered", "t0")
    assert send(running) == ("kept", "")
    assert begin(running, 1, occurrence=2) == {"outcome": "signal", "payload": 1}


def test_a_signal_is_counted_once_for_its_key(running: Any) -> None:
    assert send(running, key="k") == ("kept", "")
    assert send(running, key="k") == ("repeated", "")
    mismatch = send(running, b"2", key="k")
    assert mismatch.code is RejectionCode.REQUEST_MISMATCH and "'k'" in mismatch.message
    assert begin(running, 1)["payload"] == 1
    assert send(running, key="k") == ("repeated", "")
    assert send(running, key="l", request_id="l") == ("kept", "")
    assert send(running, key="l", request_id="l", checked=9) == ("kept", ""), "the first answer"
    running.control("cancel")
    assert send(running, key="k") == ("repeated", ""), "also when the workflow is about to end"
    assert send(running).code is RejectionCode.CONFLICT


def test_the_oldest_key_is_forgotten_first(running: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "SIGNAL_KEYS_PER_WORKFLOW_MAX", 2)
    for key in "abc":
        send(running, key=key)
    assert list(running.machine.state.workflows["wf-1"].signals.keys) == ["b", "c"]
    assert send(running, key="a") == ("kept", "")
    monkeypatch.setattr(limits, "SIGNAL_KEYS_MAX", 2)
    assert "keys of signals are remembered" in send(running, key="d").message


def test_signals_that_are_refused(running: Any, monkeypatch: Any) -> None:
    assert send(running, workflow_id="wf-9").code is RejectionCode.NOT_FOUND
    for more, why in (
        ({"name": ""}, "the name of a signal must not be empty"),
        ({"key": "k" * 201}, "at most 200 characters"),
        ({"payload": b"{"}, "not JSON"),
        ({"payload": b""}, "not JSON"),
        ({"payload": b'"' + b"x" * limits.SIGNAL_BYTES_MAX + b'"'}, "the limit is"),
    ):
        refused = send(running, **more)
        assert refused.code is RejectionCode.INVALID and why in refused.message
    monkeypatch.setattr(limits, "SIGNALS_PER_WORKFLOW_MAX", 1)
    assert send(running) == ("kept", "")
    assert "when its tasks have taken some" in send(running).message
    monkeypatch.setattr(limits, "SIGNALS_PER_WORKFLOW_MAX", 9)
    monkeypatch.setattr(limits, "SIGNALS_MAX", 1)
    assert "1 signals of" in send(running).message
    for fence in (1, 2, 3):
        running.finish(fence)
    assert send(running).code is RejectionCode.CONFLICT


def test_a_signal_that_no_record_can_hold_is_refused(running: Any, monkeypatch: Any) -> None:
    begin(running, 1)
    monkeypatch.setattr(limits, "STEPS_BYTES_PER_WORKFLOW_MAX", 1_000)
    assert send(running, b'"' + b"x" * 700 + b'"').code is RejectionCode.LIMIT
    assert send(running, b"1") == ("delivered", "t0")
    send(running, b'"' + b"x" * 500 + b'"')
    assert begin(running, 2).code is RejectionCode.LIMIT and running.machine.state.signals.count == 1


# --- schemas


def test_the_leader_compares_with_the_schema_before(running: Any) -> None:
    number = begin(running, 1, request=b'{"type":"object"}')
    assert send(running, b"{}").code is RejectionCode.PENDING
    assert send(running, b"{}", checked=number + 1).code is RejectionCode.PENDING
    assert send(running, b"{}", checked=number) == ("delivered", "t0")
    send(running, b"3", name="before")
    schema = {"request": b'{"type":"object"}', "name": "before"}
    assert begin(running, 2, **schema).code is RejectionCode.PENDING
    record = begin(running, 2, **schema, checked=1, fault="3 is not an object")
    assert record == {"outcome": "invalid", "payload": 3, "detail": "3 is not an object"}
    assert begin(running, 2, **schema) == record
    send(running, b"{}", name="before")
    assert begin(running, 2, **schema, occurrence=2, checked=2)["outcome"] == "signal"


# --- time-outs


def test_a_timeout_is_recorded_once(running: Any) -> None:
    number = begin(running, 1, timeout_ms=500, on_timeout=b'"late"')
    other = begin(running, 2, timeout_ms=500)
    park(running, 1, number)
    assert "at most until 2023-11-14T22:13:20.5" in queries.explain(running.machine, "wf-1", "t0").reason
    assert running.machine.state.next_timer_ms == running.now_ms + 500
    assert running.fire(499) == 0
    assert running.fire(1) == 2 and running.fire(1_000) == 0
    assert running.states() == "ERR" and other == 2
    assert send(running) == ("kept", ""), "the time-out was first: the signal is for another wait"
    (again,) = running.place(0)
    assert begin(running, again) == {"outcome": "timeout", "payload": "late"}
    assert begin(running, 2) == {"outcome": "timeout"}
    assert begin(running, 2, occurrence=2)["payload"] == 1


def test_a_wait_for_three_days_is_its_record_and_nothing_else(running: Any) -> None:
    three_days_ms = 3 * 24 * 3600 * 1000
    number = begin(running, 1, timeout_ms=three_days_ms, on_timeout=b"7")
    park(running, 1, number)
    agent = running.machine.state.agents["a1"]
    assert not agent.live.get(1) and agent.free["cpu"] == agent.capacity["cpu"] - 1000 * len(agent.live)
    assert running.place(0) == (0,), "there is nothing to run"
    before = running.encoding()
    assert running.fire(three_days_ms - 1) == 0 and running.states()[0] == "P"
    after = Machine()
    after.restore(running.machine.snapshot())
    assert len(running.encoding()) == len(before), "nothing is kept of the time that has passed"
    assert running.fire(1) == 1 and running.fire(three_days_ms) == 0
    assert len(records(running)) == 1 and running.states()[0] == "E"


def test_a_signal_before_the_timeout_counts_alone(running: Any) -> None:
    begin(running, 1, timeout_ms=500)
    running.now_ms += 700
    assert send(running) == ("delivered", "t0")
    assert running.fire() == 0 and len(records(running)) == 1


def test_a_timeout_of_a_workflow_that_is_stopped_records_nothing(new_drive: Any) -> None:
    drive = new_drive(limits=StepLimits(inline_max=2, piece_max=1))
    drive.register(cpu=8)
    drive.submit(drive.bag(4))
    first, last = drive.place(0, 3)
    park(drive, last, begin(drive, last, timeout_ms=10))
    begin(drive, first, timeout_ms=10)
    drive.control("cancel")
    assert drive.states() == "REEP"
    assert drive.fire(10) == 1 and drive.states() == "REEC"
    assert [row[0] for row in records(drive)] == [0], "what runs until its agent says so has its record"


# --- parking


def test_any_of_several_waits_or_children_wakes_a_task(running: Any) -> None:
    a, b = begin(running, 1, "a"), begin(running, 1, "b")
    running.spawn(1, "child")
    park(running, 1, a, b, children=[(3, 3)])
    reason = queries.explain(running.machine, "wf-1", "t0").reason
    assert "waits for 1 of 1 children or waits for signal 'a'" in reason and "or waits for signal 'b'" in reason
    assert send(running, name="b") == ("delivered", "t0") and running.states() == "ERRE"
    (again,) = running.place(0)
    assert begin(running, again, "a") == a and begin(running, again, "b")["payload"] == 1
    park(running, again, a, children=[(3, 3)], mode="any")
    assert "the first of 1 children" in queries.explain(running.machine, "wf-1", "t0").reason
    (child,) = running.place(3)
    running.finish(child)
    assert running.states() == "ERRS" and running.task(0).parking.open == (a,)
    (third,) = running.place(0)
    assert send(running, name="a") == ("delivered", "t0") and running.states() == "RRRS"
    park(running, third, a)
    assert running.states() == "ERRS" and running.task(0).parking.idle_parks == 1, "it had ended before"


def test_many_waits_are_told_in_short(running: Any) -> None:
    numbers = [begin(running, 1, f"s{count}") for count in range(7)]
    park(running, 1, *numbers)
    assert queries.explain(running.machine, "wf-1", "t0").reason.endswith("or 2 more")


def test_a_wait_that_begins_is_progress(running: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "IDLE_PARKS_MAX", 1)
    number, fence = begin(running, 1), 1
    send(running)
    for occurrence in range(2, 5):
        park(running, fence, number)
        (fence,) = running.place(0)
        number = begin(running, fence, occurrence=occurrence)
        send(running)
    park(running, fence, number)
    (fence,) = running.place(0)
    assert park(running, fence, number) == "accepted" and running.states() == "DRR", "twice for nothing"


@pytest.mark.parametrize(
    "condition", [b'{"waits":[' + b",".join([b"1"] * 1_001) + b"]}", b'{"waits":["x"]}', b'{"mode":"all"}']
)
def test_conditions_that_no_task_can_park_for(running: Any, condition: bytes) -> None:
    running.finish(1, "parked", result=condition)
    assert running.states() == "DRR"


def test_waits_stay_over_attempts_and_go_with_the_task(running: Any) -> None:
    number = begin(running, 1)
    running.finish(1, "failed")
    assert send(running, name="none") == ("kept", "")
    running.fire(60_000)
    (again,) = running.place(0)
    assert begin(running, again) == number
    running.finish(again)
    assert running.task(0).parking is None and running.machine.state.waits.count == 0
    assert send(running) == ("kept", "")
    begin(running, 2, "gone")
    running.control("cancel")
    running.finish(2, "cancelled")
    assert running.machine.state.waits.open == 0


def test_a_cancelled_workflow_forgets_its_waits_and_a_retry_begins_again(running: Any) -> None:
    park(running, 1, begin(running, 1))
    running.control("cancel")
    for fence in (2, 3):
        running.finish(fence, "cancelled")
    assert running.states() == "CCC" and running.machine.state.waits.count == 0
    running.control("retry")
    (fence, _, _) = running.place(0, 1, 2)
    assert begin(running, fence) == 2
    send(running, name="kept", key="k")
    running.control("cancel")
    for each in (fence, fence + 1, fence + 2):
        running.finish(each, "cancelled")
    assert running.retire() == ("wf-1",)
    state = running.machine.state
    assert (len(state.waits), len(state.signals), state.waits.workflows, state.signals.workflows) == (0, 0, {}, {})


def test_a_retry_forgets_parks_for_nothing(running: Any) -> None:
    number = begin(running, 1)
    send(running)
    park(running, 1, number)
    assert running.task(0).parking.idle_parks == 1
    running.control("cancel")
    for fence in (2, 3):
        running.finish(fence, "cancelled")
    running.control("retry")
    assert running.task(0).parking is None


# --- who may wait


def test_only_live_attempts_wait(running: Any) -> None:
    assert begin(running, 9).code is RejectionCode.STALE_FENCE
    assert begin(running, 1, incarnation=2).code is RejectionCode.STALE_INCARNATION
    for more, why in (
        ({"name": "a\n"}, "control characters"),
        ({"occurrence": 0}, "from 1 to"),
        ({"timeout_ms": -1}, "the timeout of a wait"),
        ({"on_timeout": b'"' + b"x" * 1_024 + b'"'}, "the limit is 1024"),
        ({"on_timeout": b"{"}, "not JSON"),
        ({"request": b'"' + b"x" * limits.WAIT_REQUEST_BYTES_MAX + b'"'}, "the limit is 32768"),
        ({"request": b"{"}, "not JSON"),
    ):
        refused = begin(running, 1, **more)
        assert refused.code is RejectionCode.INVALID and why in refused.message


def test_a_key_is_of_a_step_or_of_a_wait(running: Any) -> None:
    step = c.StepToRecord(1, "x", 1, "m:f", b"1")
    record = c.RecordSteps(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, steps=(step,))
    begin(running, 1, "x")
    (verdict,) = running.do(record).verdicts
    assert verdict.verdict == "mismatch" and "is an open wait (signal)" in verdict.detail
    other = c.StepToRecord(1, "y", 1, "m:f", b"1")
    running.do(msgspec.structs.replace(record, steps=(other,)))
    refused = begin(running, 1, "y")
    assert refused.code is RejectionCode.REQUEST_MISMATCH and "was recorded by m:f" in refused.message
    assert begin(running, 1, "x", kind="approval", request=b'{"title":"x"}').code is RejectionCode.REQUEST_MISMATCH
    own = {"at_ms": 1, "actor": "agent:a1", "agent": "a1", "incarnation": 1, "fence": 1, "function": "m:f"}
    refused = running.do(c.BeginEffect(**own, name="x", occurrence=1, begin=1))
    assert refused.code is RejectionCode.REQUEST_MISMATCH and "is an open wait" in refused.message
    assert running.do(c.BeginEffect(**own, name="mail", occurrence=1, begin=2)).status == "begun"
    assert begin(running, 1, "mail").code is RejectionCode.REQUEST_MISMATCH
    take = c.RateToTake(1, "llm", 1, "x", 1)
    reply = running.do(c.TakeRates(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, takes=(take,)))
    assert reply.verdicts[0].verdict == "mismatch"


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("WAITS_PER_TASK_MAX", 2, "t0 has 2 open waits"),
        ("WAITS_BYTES_PER_WORKFLOW_MAX", 1_100, "leave large details in files"),
        ("WAITS_MAX", 2, "wait until older workflows"),
        ("WAITS_BYTES_MAX", 1_100, "wait until older workflows"),
        ("STEPS_PER_TASK_MAX", 2, "recorded steps, which is the limit"),
        ("STEPS_MAX", 2, "wait until older workflows"),
    ],
)
def test_limits(running: Any, monkeypatch: Any, limit: str, value: int, why: str) -> None:
    monkeypatch.setattr(limits, limit, value)
    begin(running, 1, "a")
    begin(running, 1, "b", occurrence=1)
    refused = begin(running, 1, "c")
    assert refused.code is RejectionCode.LIMIT and why in refused.message
    assert begin(running, 1, "a") == 1


# --- waits that others end


def test_others_open_and_end_waits_of_their_kind(running: Any) -> None:
    workflow, task = running.machine.state.workflows["wf-1"], running.task(0)
    step = running.machine._step
    row = open_wait(step, workflow, task, "signal", "usd", 1, 1)
    approval = open_wait(step, workflow, task, "approval", "ship", 1, 1, request=b'{"title":"ship"}')
    park(running, 1, row.number, approval.number)
    reason = queries.explain(running.machine, "wf-1", "t0").reason
    assert "waits for signal 'usd' since" in reason and "waits for approval 'ship' (id 2) since" in reason
    end_wait(step, workflow, task, row, b"")
    assert running.states() == "ERR" and records(running) == []
    end_wait(step, workflow, task, approval, b"1")
    assert records(running) == [(0, "ship", 1, FUNCTIONS["approval"], b"1")]
    assert check(running.machine) == [] and list(running.machine.state.waits.asked) == [2]
    (again,) = running.place(0)
    other = open_wait(step, workflow, task, "approval", "more", 1, again)
    running.finish(again)
    assert workflow.waits.rows[other.number].end.outcome == "withdrawn"


# --- snapshots


def test_snapshots_hold_waits_and_signals_as_they_were(running: Any) -> None:
    park(running, 1, begin(running, 1, timeout_ms=900))
    send(running, name="kept", key="k")
    send(running, name="also", key="l")
    before = running.encoding()
    open_snapshot = running.machine.snapshot()
    first = next(open_snapshot)
    send(running)
    begin(running, 2, "kept")
    begin(running, 2, "new")
    assert first + b"".join(open_snapshot) == before
    copy = Machine()
    copy.restore([before])
    assert check(copy) == [] and b"".join(copy.snapshot()) == before
    assert copy.state.next_timer_ms == running.now_ms + 900


def test_a_restored_cluster_waits_as_long_as_was_left(running: Any) -> None:
    park(running, 1, begin(running, 1, timeout_ms=900))
    begin(running, 2)
    step = running.machine._step
    fence_off(step, Restoration("new", "old", running.now_ms + 10_000))
    running.now_ms += 10_000
    assert check(running.machine) == []
    assert running.fire(899) == 0 and running.fire(1) == 1 and running.states() == "EEE"


def _frames(*rows: Any) -> bytes:
    return msgspec.msgpack.encode(list(rows))


@pytest.mark.parametrize(
    ("kind", "rows", "why"),
    [
        (b"V", (WaitRow(1, 1, 0, "signal", "go", 1, 1, 1),) * 2, "there twice"),
        (b"V", (WaitRow(1, 1, 7, "signal", "go", 1, 1, 1),), "not the tasks"),
        (b"V", (WaitRow(1, 9, 0, "signal", "go", 1, 1, 1),), "not the tasks"),
        (b"M", (SignalRow(1, 9, "go", b"1", 1),), "which is not there"),
        (b"Y", (SignalKey(9, "k", b"1"),), "which is not there"),
    ],
)
def test_snapshots_that_cannot_be(running: Any, kind: bytes, rows: Any, why: str) -> None:
    data = running.encoding()
    payload = _frames(*rows)
    header_end = 4 + int.from_bytes(data[:4], "big")
    fields = msgspec.msgpack.decode(data[5:header_end])
    fields[23 if kind == b"V" else 24] = len(rows)
    header = msgspec.msgpack.encode(fields)
    frame = (len(payload) + 1).to_bytes(4, "big") + kind + payload
    whole = (len(header) + 1).to_bytes(4, "big") + b"H" + header + data[header_end:-6] + frame + data[-6:]
    with pytest.raises(SnapshotError, match=why):
        Machine().restore([whole])


# --- invariants


def _wf(drive: Any) -> Any:
    return drive.machine.state.workflows["wf-1"]


def _table(drive: Any) -> Any:
    return drive.machine.state.waits


def _row(drive: Any, place: int, **fields: Any) -> None:
    rows = _wf(drive).waits.rows
    rows[place] = msgspec.structs.replace(rows[place], **fields)


def _kept(drive: Any, *rows: Any) -> None:
    kept = _wf(drive).signals.kept["kept"]
    kept.clear()
    kept.extend(rows)


_SIGNAL = SignalRow(1, 1, "kept", b"1", 1)

# t0 is parked for wait 1, a signal; wait 2 is an approval of t1, wait 3 a signal of t2; one signal is kept.
FAULTS: dict[str, Any] = {
    "the table of waits does not match": lambda drive: setattr(_wf(drive), "waits", None),
    "waits counted as": lambda drive: setattr(_table(drive), "open", 9),
    "the list of approvals does not match": lambda drive: _table(drive).asked.clear(),
    "the list of open approvals does not match": lambda drive: _table(drive).undecided.clear(),
    "has the open waits [], there are [1]": lambda drive: setattr(drive.task(0), "parking", None),
    "is SUCCEEDED and has open waits": lambda drive: setattr(drive.task(2), "state", TaskState.SUCCEEDED),
    "wait 1 is the wait 9": lambda drive: _row(drive, 1, number=9),
    "which is in the future": lambda drive: _row(drive, 1, fence=99),
    "has ended and is kept": lambda drive: _row(drive, 1, end=drive.ended),
    "its key has a record or another wait": lambda drive: _row(drive, 1, task=2, name="last"),
    "its waits counted as": lambda drive: setattr(_wf(drive).waits, "open", 9),
    "the lookup of its waits for signals": lambda drive: _wf(drive).waits.listening.clear(),
    "a signal is kept although a wait for it is open": lambda drive: _row(drive, 1, name="kept"),
    "the last number given is 0": lambda drive: setattr(drive.machine.state, "wait_number", 0),
    "the timer of wait 1": lambda drive: _row(drive, 1, deadline_ms=7),
    "is parked although what it waits for": lambda drive: setattr(drive.task(0).parking, "waits", (77,)),
    "the table of signals does not match": lambda drive: setattr(_wf(drive), "signals", None),
    "signals counted as": lambda drive: setattr(drive.machine.state.signals, "keys", 9),
    "its signals are numbered": lambda drive: setattr(drive.machine.state, "signal_number", 0),
    "a signal has the number 1": lambda drive: setattr(drive.machine.state, "signal_number", 0),
    "are of another name or workflow": lambda drive: _kept(drive, msgspec.structs.replace(_SIGNAL, workflow=7)),
    "are out of order": lambda drive: _kept(drive, msgspec.structs.replace(_SIGNAL, number=2), _SIGNAL),
    "its signals counted as": lambda drive: setattr(_wf(drive).signals, "count", 9),
    "the lookup of the keys": lambda drive: _wf(drive).signals.keys.update(z=SignalKey(1, "y", b"")),
}


@pytest.fixture
def waiting(new_drive: Any) -> Any:
    drive = new_drive()
    drive.register(cpu=4)
    drive.submit(drive.bag(3))
    drive.place(0, 1, 2)
    park(drive, 1, begin(drive, 1))
    begin(drive, 2, "ship", kind="approval", request=b'{"title":"ship"}')
    begin(drive, 3, "last")
    send(drive, name="kept", key="k")
    drive.ended = WaitEnd("timeout", 1)
    assert drive.states() == "PRR" and check(drive.machine) == []
    return drive


def test_a_task_that_parks_for_one_of_its_waits_is_woken_by_the_others_too(new_drive: Any) -> None:
    """Several places of an attempt wait, and the attempt ends when the first of them has parked."""
    drive = new_drive()
    drive.register(cpu=4)
    drive.submit(drive.bag(1))
    (fence,) = drive.place(0)
    first = begin(drive, fence, "a")
    begin(drive, fence, "b")
    park(drive, fence, first)
    assert drive.states() == "P"
    assert send(drive, name="b") == ("delivered", "t0")
    assert drive.states() == "E" and check(drive.machine) == []


def test_what_others_read_of_waits_and_signals(waiting: Any) -> None:
    machine = waiting.machine
    assert waits.kept_signal(machine, "a1", 3, "kept") == (1, b"1")
    assert waits.kept_signal(machine, "a1", 3, "other") is None
    assert waits.kept_signal(machine, "a1", 9, "kept") is waits.kept_signal(machine, "a9", 3, "kept") is None
    assert waits.knows_signal(machine, "wf-1", "k") and not waits.knows_signal(machine, "wf-1", "other")
    assert not waits.knows_signal(machine, "wf-9", "k")
    assert waits.kept_payloads(machine, "wf-1", "kept") == [b"1"] and waits.kept_payloads(machine, "wf-1", "x") == []
    assert waits.recorded_answer(machine, "wf-1", "t0", "go", 1) is None
    send(waiting)
    assert waits.recorded_answer(machine, "wf-1", "t0", "go", 1) == b'{"outcome":"signal","payload":1}'
    assert waits.recorded_answer(machine, "wf-1", "t0", "go", 2) is None
    waiting.submit(waiting.bag(1), "wf-2")
    assert not waits.knows_signal(machine, "wf-2", "k") and waits.kept_payloads(machine, "wf-2", "kept") == []
    (view,) = waits.approval_page(machine, "open", 10, None).approvals
    assert (view.id, view.title, view.task) == ("2", "ship", "t1")
    assert waits.approval_page(machine, None, 10, "2").approvals == []
    assert waits.approval_page(machine, "decided", 10, None).approvals == []
    begin(waiting, 2, "more", kind="approval", request=b'{"title":"more"}')
    page = waits.approval_page(machine, None, 1, None)
    assert (page.next, [each.id for each in page.approvals]) == ("2", ["2"])
    assert waits.approval_view(machine, 9) is None


@pytest.mark.parametrize("problem", FAULTS)
def test_invariants(waiting: Any, problem: str) -> None:
    FAULTS[problem](waiting)
    assert any(problem in found for found in check(waiting.machine)), check(waiting.machine)


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ("WAITS_MAX", "waits: 3, the limit WAITS_MAX"),
        ("WAITS_BYTES_MAX", "the waits have"),
        ("WAITS_PER_TASK_MAX", "has 1 open waits"),
        ("SIGNALS_MAX", "1 signals of"),
        ("SIGNALS_PER_WORKFLOW_MAX", "are kept for it"),
        ("SIGNAL_KEYS_PER_WORKFLOW_MAX", "remembers 1 keys"),
        ("SIGNAL_KEYS_MAX", "signals: 1, the limit SIGNAL_KEYS_MAX"),
    ],
)
def test_bounds_are_invariants(waiting: Any, monkeypatch: Any, limit: str, problem: str) -> None:
    monkeypatch.setattr(limits, limit, 0)
    assert any(problem in found for found in check(waiting.machine)), check(waiting.machine)
