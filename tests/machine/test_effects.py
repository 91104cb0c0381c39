"""Effects: the intent before the call, the outcome after it, one live holder; people decide what nobody knows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.effects import EffectState, idempotency_key, read_record
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.effects import effect_page, find_effect, key_of, list_effects
from raftflow.machine.read.invariants import check
from raftflow.machine.rules.step_limits import StepLimits
from raftflow.machine.snapshot.stream import SnapshotError
from raftflow.machine.tables.effects.rows import RESERVED_BYTES


class Attempt:
    """Begins and ends effects for one attempt."""

    def __init__(self, drive: Any, fence: int, agent: str = "a1") -> None:
        self.drive = drive
        incarnation = drive.machine.state.agents[agent].incarnation
        self.who = {"actor": f"agent:{agent}", "agent": agent, "incarnation": incarnation, "fence": fence}
        self.begun = 0
        self.wait = 0
        """That the last answer told."""

    def begin(
        self, name: str = "send", occurrence: int = 1, function: str = "m:send", begin: int | None = None
    ) -> Any:
        """Return the status, or the refusal."""
        if begin is None:
            begin = self.begun = self.begun + 1
        key = {"name": name, "occurrence": occurrence, "function": function}
        reply = self.drive.do(c.BeginEffect(at_ms=self.drive.now_ms, **self.who, begin=begin, **key))
        self.wait = getattr(reply, "wait", -1)
        return reply if isinstance(reply, Rejection) else reply.status

    def end(self, outcome: Any = "done", name: str = "send", occurrence: int = 1, **more: Any) -> Any:
        """Return whether something changed, or the refusal."""
        begin = more.pop("begin", self.begun)
        if outcome == "done":
            more.setdefault("result", b'"r"')
        key = {"name": name, "occurrence": occurrence, "outcome": outcome}
        reply = self.drive.do(c.EndEffect(at_ms=self.drive.now_ms, **self.who, begin=begin, **key, **more))
        self.wait = getattr(reply, "wait", -1)
        return reply if isinstance(reply, Rejection) else reply.changed


def resolve(drive: Any, resolution: Any, number: int = 1, result: bytes = b"", **more: Any) -> Any:
    told = {"actor": "client:eve", "number": number, "resolution": resolution, "result": result}
    return drive.do(c.ResolveEffect(at_ms=drive.now_ms, **told, **more))


def row(drive: Any, number: int = 1) -> Any:
    return drive.machine.state.effects.find(number)


def record(drive: Any, name: str = "send", occurrence: int = 1, task: int = 0) -> Any:
    """The record of an effect as JSON."""
    steps = drive.machine.state.workflows["wf-1"].steps
    found = None if steps is None else steps.find(task, name, occurrence)
    return None if found is None else found.result


def is_stale(reply: Any) -> bool:
    return isinstance(reply, Rejection) and reply.code is RejectionCode.STALE_FENCE


@pytest.fixture
def running(drive: Any) -> Any:
    """Tasks t0 and t1 run on a1 under the fences 1 and 2."""
    drive.register(cpu=4)
    drive.submit(drive.bag(2, retries=9))
    assert drive.place(0, 1) == (1, 2)
    return drive


def again(drive: Any, fence: int, outcome: str = "failed") -> Attempt:
    """End an attempt, and start the next one of its task."""
    drive.finish(fence, outcome)
    drive.fire(600_000)
    return Attempt(drive, drive.place(0)[0])


def test_an_effect_that_is_done_is_known_to_every_later_attempt(running: Any) -> None:
    first = Attempt(running, 1)
    assert first.begin() == "begun"
    assert running.records[-1].detail == "wf-1/t0: effect send 1 (1) begun"
    assert first.begin(begin=1) == "begun", "a repeated command"
    assert first.end() is True and first.end() is False
    assert record(running) == b'{"done":"r"}' and row(running).state is EffectState.DONE
    assert running.records[-2].detail == "wf-1/t0: effect send 1 (1) done"
    assert first.begin() == "known"
    assert again(running, 1).begin() == "known"


def test_an_intent_without_an_outcome_is_open_for_the_next_attempt(running: Any) -> None:
    first = Attempt(running, 1)
    assert first.begin() == "begun"
    second = again(running, 1)
    assert is_stale(first.end()) and record(running) is None
    assert second.begin() == "open" and second.begin(begin=1) == "open"
    assert row(running).fence == 3 and row(running).begun_ms < row(running).changed_ms
    third = again(running, 3)
    assert third.begin() == "open" and third.end(result=b"[1]") is True
    assert record(running) == b'{"done":[1]}'


def test_an_effect_that_was_not_done_is_called_again(running: Any) -> None:
    first = Attempt(running, 1)
    assert first.begin() == "begun" and first.end("not_done") is True and first.end("not_done") is False
    assert first.begin() == "begun" and first.end("not_done") is True
    second = again(running, 1)
    assert second.begin() == "begun" and row(running).fence == 3
    assert again(running, 3).begin() == "open"


def test_a_late_copy_of_a_command_changes_nothing(running: Any) -> None:
    """A copy of the first end would close the intent of the call that is under way."""
    first = Attempt(running, 1)
    assert first.begin() == "begun" and first.end("not_done") is True
    assert is_stale(first.begin(begin=1)), "it has ended since"
    assert first.begin() == "begun"
    assert is_stale(first.end("not_done", begin=1)) and is_stale(first.begin(begin=1))
    assert row(running).state is EffectState.BEGUN
    assert first.end("uncertain", detail="who knows") is True and is_stale(first.end())
    assert first.begin(begin=2) == "uncertain"
    assert resolve(running, "done", result=b"1").changed
    assert first.end("uncertain") is False, "a person was faster than the answer"


def test_a_second_beginning_in_the_same_attempt_finds_the_intent_open(running: Any) -> None:
    """The first call raised, and nobody knows whether it was done."""
    first = Attempt(running, 1)
    assert first.begin() == "begun" and first.begin() == "open"
    assert is_stale(first.end(begin=1)) and first.end(begin=2) is True


def test_two_live_attempts_never_hold_one_intent(drive: Any) -> None:
    drive.register()
    drive.register("a2")
    drive.submit(drive.bag(1, backup=True, retries=3))
    drive.place(0)
    first, second = Attempt(drive, 1), Attempt(drive, drive.back_up(0)[0], "a2")
    assert first.begin() == "begun" and second.begin() == "busy"
    assert is_stale(second.end())
    drive.finish(1, "failed")
    assert second.begin() == "open" and is_stale(first.end())
    assert second.end("not_done") is True and second.begin() == "begun"


@pytest.mark.parametrize(
    ("resolution", "state", "recorded", "status"),
    [
        ("done", EffectState.DONE, b'{"done":{"id":7}}', "known"),
        ("retry", EffectState.RETRY, None, "begun"),
        ("fail", EffectState.FAILED, b'{"failed":"client:eve resolved it as failed"}', "known"),
    ],
)
def test_a_person_resolves_what_is_uncertain(
    running: Any, resolution: str, state: Any, recorded: Any, status: str
) -> None:
    first = Attempt(running, 1)
    first.begin()
    assert resolve(running, resolution).code is RejectionCode.CONFLICT, "it is being called"
    assert first.end("uncertain", detail="no answer") is True
    assert (row(running).state, row(running).detail) == (EffectState.UNCERTAIN, "no answer")
    assert first.begin() == "uncertain" and again(running, 1).begin() == "uncertain"
    assert resolve(running, resolution, result=b'{"id":7}').changed
    assert (row(running).state, row(running).actor) == (state, "client:eve")
    assert record(running) == recorded
    refused = resolve(running, "fail")
    assert refused.code is RejectionCode.CONFLICT and "by client:eve since 20" in refused.message
    third = Attempt(running, 3)
    assert third.begin() == status


def park(drive: Any, attempt: Attempt, wait: int) -> None:
    drive.finish(attempt.who["fence"], "parked", result=b'{"waits":[%d]}' % wait)


@pytest.mark.parametrize("resolution", ["done", "retry", "fail"])
def test_a_task_parks_until_its_effect_is_resolved(running: Any, resolution: str) -> None:
    first = Attempt(running, 1)
    first.begin()
    assert first.end("uncertain") is True and first.wait == 1
    assert first.end("uncertain") is False and first.wait == 1, "a repeated command"
    assert first.begin() == "uncertain" and first.wait == 1
    park(running, first, 1)
    assert running.states() == "PR" and running.free() == 3_000
    reason = queries.explain(running.machine, "wf-1", "t0").reason
    assert "effect 'send' is uncertain since 20" in reason and "`raftflow effect resolve 1`" in reason
    resolve(running, resolution, result=b"1")
    assert running.states() == "ER" and len(running.machine.state.waits) == 0


def test_a_decision_that_comes_before_the_task_has_parked(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.end("uncertain")
    resolve(running, "retry")
    assert first.end("uncertain") is False and first.wait == 0
    park(running, first, 1)
    assert running.states() == "ER"


def test_a_retried_task_waits_again(running: Any) -> None:
    """Its wait went with the end of the task; the effect is still uncertain."""
    first = Attempt(running, 1)
    first.begin()
    first.end("uncertain")
    park(running, first, 1)
    running.control("cancel")
    running.finish(2, "cancelled")
    assert len(running.machine.state.waits) == 0
    running.control("retry")
    later = Attempt(running, running.place(0)[0])
    assert later.begin() == "uncertain" and later.wait == 2
    park(running, later, 2)
    resolve(running, "fail")
    assert running.states()[0] == "E"


def test_a_decision_after_the_end_of_the_task_is_kept(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.end("uncertain")
    park(running, first, 1)
    running.control("cancel")
    assert resolve(running, "done", result=b"7").changed and record(running) == b'{"done":7}'


def test_an_outcome_waits_for_room_among_the_waits(running: Any, monkeypatch: Any) -> None:
    """No decision is asked for that nobody could see: the intent stays, and the next attempt finds it."""
    first = Attempt(running, 1)
    first.begin()
    monkeypatch.setattr(limits, "WAITS_MAX", 0)
    assert first.end("uncertain").code is RejectionCode.LIMIT and row(running).state is EffectState.BEGUN
    monkeypatch.undo()
    first.end("uncertain")
    running.control("cancel")
    running.finish(1, "cancelled")
    running.finish(2, "cancelled")
    running.control("retry")
    monkeypatch.setattr(limits, "WAITS_MAX", 0)
    assert Attempt(running, running.place(0)[0]).begin().code is RejectionCode.LIMIT


def test_a_name_is_a_wait_or_an_effect(running: Any) -> None:
    first = Attempt(running, 1)
    wait = c.BeginWait(at_ms=1, **first.who, kind="signal", name="send", occurrence=1)
    running.do(wait)
    assert first.begin().code is RejectionCode.REQUEST_MISMATCH
    second = Attempt(running, 2)
    second.begin()
    assert running.do(msgspec.structs.replace(wait, fence=2)).code is RejectionCode.REQUEST_MISMATCH


def test_a_decision_reaches_a_task_whose_workflow_is_being_stopped(new_drive: Any) -> None:
    drive = new_drive(limits=StepLimits(1, 1))
    drive.register(cpu=4)
    drive.submit(drive.bag(4))
    drive.place(0)
    first = Attempt(drive, 1)
    first.begin()
    first.end("uncertain")
    park(drive, first, 1)
    drive.control("cancel")
    assert drive.jobs() and drive.states()[0] == "P"
    resolve(drive, "retry")
    assert drive.states()[0] == "C"
    drive.work_off()


def test_a_person_resolves_an_intent_that_nobody_holds(running: Any) -> None:
    Attempt(running, 1).begin()
    running.finish(1, "failed")
    assert resolve(running, "fail", detail="refunded by hand").changed
    assert msgspec.to_builtins(read_record(record(running))) == {"failed": "refunded by hand"}
    assert resolve(running, "done", number=7).code is RejectionCode.NOT_FOUND


def test_what_was_not_done_needs_no_decision(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.end("not_done")
    refused = resolve(running, "retry")
    assert refused.message.startswith("effect 1 is not done since 20")


def test_a_done_effect_whose_result_cannot_be_kept_fails_everywhere(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    assert first.end("done", result=b"", detail="its result is no JSON") is True
    assert record(running) == b'{"failed":"its result is no JSON"}' and row(running).state is EffectState.DONE


@pytest.mark.parametrize("result", [b"", b"{", b'"' + b"x" * limits.EFFECT_RESULT_BYTES_MAX + b'"'])
def test_results_that_are_refused(running: Any, result: bytes) -> None:
    first = Attempt(running, 1)
    first.begin()
    assert first.end("done", result=result).code is RejectionCode.INVALID
    first.end("uncertain")
    assert resolve(running, "done", result=result).code is RejectionCode.INVALID
    assert row(running).state is EffectState.UNCERTAIN


def test_attempts_that_are_over_or_told_to_stop_begin_nothing(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin("other")
    running.drain(1)
    running.fire(10)
    assert is_stale(first.begin()) and first.end("not_done", "other", begin=1), "it was told to move"
    running.control("cancel")
    assert is_stale(Attempt(running, 2).begin())
    running.finish(1, "cancelled")
    assert is_stale(first.begin()) and is_stale(first.end("done", "other", begin=1))
    running.remove()
    assert first.begin().code is RejectionCode.STALE_INCARNATION


def test_a_name_is_a_step_or_an_effect(running: Any) -> None:
    first = Attempt(running, 1)
    told = c.StepToRecord(1, "send", 1, "raftflow:effect m:send", b"1")
    steps = c.RecordSteps(at_ms=1, actor="a", agent="a1", incarnation=1, steps=(told,))
    first.begin()
    (verdict,) = running.do(steps).verdicts
    assert verdict.verdict == "mismatch" and record(running) is None
    assert first.begin(function="m:other").code is RejectionCode.REQUEST_MISMATCH
    (verdict,) = running.do(msgspec.structs.replace(steps, steps=(msgspec.structs.replace(told, fence=2),))).verdicts
    assert verdict.verdict == "recorded"
    assert Attempt(running, 2).begin().code is RejectionCode.REQUEST_MISMATCH
    assert first.begin("").code is RejectionCode.INVALID
    assert first.end("done", "unknown").code is RejectionCode.INVALID


def test_a_rate_is_not_recorded_under_the_key_of_an_effect(running: Any) -> None:
    Attempt(running, 1).begin()
    running.do(c.SetRateLimit(at_ms=1, actor="client:x", name="llm", amount=5, period_ms=1_000, burst=5))
    told = c.RateToTake(1, "llm", 1, "send", 1)
    reply = running.do(c.TakeRates(at_ms=1, actor="a", agent="a1", incarnation=1, takes=(told,)))
    assert reply.verdicts[0].verdict == "mismatch"


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("EFFECTS_PER_TASK_MAX", 1, "the task has begun 1 effects"),
        ("EFFECTS_MAX", 1, "1 effects are kept"),
        ("STEPS_PER_TASK_MAX", 1, "which is the limit"),
        ("STEPS_BYTES_PER_WORKFLOW_MAX", RESERVED_BYTES, "the recorded steps of the workflow"),
        ("STEPS_MAX", 1, "wait until older workflows"),
        ("STEPS_BYTES_MAX", RESERVED_BYTES, "wait until older workflows"),
    ],
)
def test_limits(running: Any, monkeypatch: Any, limit: str, value: int, why: str) -> None:
    first = Attempt(running, 1)
    monkeypatch.setattr(limits, limit, value)
    assert first.begin() == "begun"
    refused = first.begin("more")
    assert refused.code is RejectionCode.LIMIT and why in refused.message
    assert first.end("done", begin=1, result=b'"' + b"x" * 60_000 + b'"') is True, "room was kept for its record"


def test_effects_go_with_the_workflow(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.end()
    first.begin("open")
    Attempt(running, 2).begin()
    running.submit(running.bag(1), "wf-2")
    effects = running.machine.state.workflows["wf-1"].effects
    running.control("cancel")
    running.finish(1, "cancelled")
    running.finish(2, "cancelled")
    running.now_ms += 1
    running.retire()
    table = running.machine.state.effects
    assert (len(table), table.unrecorded, table.workflows) == (0, {}, {})
    running.machine.sweep(100)
    assert (effects.rows, effects.numbers, effects.by_task, effects.unrecorded) == ({}, {}, {}, {})
    table.forget(7)


def test_a_workflow_whose_effects_are_all_done_is_forgotten(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.end()
    running.finish(1)
    running.finish(2)
    running.now_ms += 1
    assert running.retire() == ("wf-1",) and len(running.machine.state.effects) == 0


def test_a_retried_workflow_finds_its_effects(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.end()
    first.begin("lost")
    running.control("cancel")
    running.finish(1, "cancelled")
    running.finish(2, "cancelled")
    running.control("retry")
    later = Attempt(running, running.place(0)[0])
    assert later.begin() == "known" and later.begin("lost") == "open"


def test_a_snapshot_holds_the_effects_of_the_moment_when_it_was_opened(running: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.begin("b")
    pieces = running.machine.snapshot()
    head = next(pieces)
    first.end(begin=1)
    first.begin("later")
    machine = Machine()
    machine.restore([head, *pieces])
    assert check(machine) == []
    rows = machine.state.workflows["wf-1"].effects.rows.values()
    assert [(each.name, each.state) for each in rows] == [("send", "begun"), ("b", "begun")]
    assert list(machine.state.effects.unrecorded) == [1, 2] and machine.state.effect_number == 2


@pytest.mark.parametrize("change", [{"workflow": 7}, {"task": 9}, {"number": 2}, {"name": "x"}])
def test_effects_that_do_not_fit_are_not_restored(running: Any, change: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    table = running.machine.state.effects
    effects = table.workflows[1]
    table.count += 1
    effects.rows[9] = msgspec.structs.replace(effects.rows[1], **change)
    if "workflow" in change:
        table.workflows[7] = effects
    with pytest.raises(SnapshotError, match=r"is there twice|has effects, and not the tasks"):
        Machine().restore(running.machine.snapshot())
    del effects.rows[9]
    table.workflows.pop(7, None)
    table.count -= 1


def _table(drive: Any) -> Any:
    return drive.machine.state.effects


def _effects(drive: Any) -> Any:
    return drive.machine.state.workflows["wf-1"].effects


def _replace_row(**fields: Any) -> Any:
    def damage(drive: Any) -> None:
        _effects(drive).rows[1] = msgspec.structs.replace(_effects(drive).rows[1], **fields)

    return damage


def _copy_row(drive: Any) -> None:
    _table(drive).workflows[9] = _table(drive).workflows[1]


def _reverse(drive: Any) -> None:
    _effects(drive).rows = dict(reversed(_effects(drive).rows.items()))


FAULTS = {
    "does not match the workflows that have effects": lambda d: _table(d).workflows.clear(),
    "2 effects counted, there are 4": _copy_row,
    "two effects have one number": _copy_row,
    "5 effects counted, there are 2": lambda d: setattr(_table(d), "count", 5),
    "the lookup of effects without a record does not match": lambda d: _table(d).unrecorded.clear(),
    "is of another task": _replace_row(task=9),
    "is from the future": _replace_row(fence=99),
    "is begun, and has a record": _replace_row(state=EffectState.BEGUN),
    "is done, and lacks its record": _replace_row(occurrence=7),
    "does not match its record": _replace_row(function="f"),
    "the lookup of its effects does not match": lambda d: _effects(d).numbers.clear(),
    "the count of its effects without a record": lambda d: setattr(_effects(d), "unrecorded_count", 5),
    "its effects are not in order": _reverse,
}


@pytest.mark.parametrize("problem", FAULTS)
def test_invariants(running: Any, problem: str) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.end()
    first.begin("b")
    running.checked = False
    whole = running.encoding()
    FAULTS[problem](running)
    found = check(running.machine)
    assert any(problem in each for each in found), found
    running.machine.restore([whole])


def test_the_limit_of_a_task_is_an_invariant(running: Any, monkeypatch: Any) -> None:
    first = Attempt(running, 1)
    first.begin()
    first.begin("b")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "EFFECTS_PER_TASK_MAX", 1)
        assert any("has more than 1 effects" in each for each in check(running.machine))


def test_idempotency_keys_are_short_readable_and_differ() -> None:
    assert idempotency_key("wf-1", "pay", "charge", 1) == "wf-1/pay/charge/1"
    odd = idempotency_key("wf-1", "pay", "charge ä", 1)
    assert odd.startswith("wf-1/pay/charge-/1~") and len(odd) <= limits.IDEMPOTENCY_KEY_CHARS_MAX
    long = idempotency_key("wf-1", "p" * 200, "charge", 1)
    assert len(long) == limits.IDEMPOTENCY_KEY_CHARS_MAX and long != idempotency_key("wf-1", "p" * 200, "charge", 2)
    assert idempotency_key("wf-1", "a/b", "c", 1) != idempotency_key("wf-1", "a", "b/c", 1)


def test_what_people_see(running: Any) -> None:
    first, machine = Attempt(running, 1), running.machine
    first.begin()
    first.end()
    running.submit(running.bag(1), "wf-2")
    (fence,) = running.place(0, workflow_id="wf-2")
    other = Attempt(running, fence)
    other.begin("a")
    other.begin("b")
    assert [(each.workflow, each.name, each.state) for each in list_effects(machine)] == [
        ("wf-1", "send", "done"),
        ("wf-2", "a", "begun"),
        ("wf-2", "b", "begun"),
    ]
    assert [each.id for each in list_effects(machine, unresolved=True)] == [2, 3], "those of wf-1 are all done"
    assert [each.id for each in list_effects(machine, workflow_id="wf-1")] == [1]
    assert list_effects(machine, workflow_id="none") == []
    page = effect_page(machine, 1, None, unresolved=True)
    rest = effect_page(machine, 1, page.next, unresolved=True)
    assert ([each.id for each in page.effects], [each.id for each in rest.effects], rest.next) == ([2], [3], None)
    with pytest.raises(ValueError, match="is not a cursor"):
        effect_page(machine, 1, "x", unresolved=True)
    running.finish(fence, "failed")
    shown = find_effect(machine, 2)
    assert shown is not None and (shown.state, shown.function) == ("open", "m:send")
    assert find_effect(machine, 9) is None
    assert key_of(machine, "a1", 1, 1, "send", 1) == "wf-1/t0/send/1" and key_of(machine, "a1", 7, 1, "s", 1) is None


def test_effects_of_tasks_that_are_not_there_are_not_restored(running: Any) -> None:
    Attempt(running, 1).begin()
    table = running.machine.state.effects
    whole = running.encoding()
    table.workflows[1].rows[1] = msgspec.structs.replace(row(running), task=9)
    with pytest.raises(SnapshotError, match="has effects, and not the tasks"):
        Machine().restore(running.machine.snapshot())
    running.machine.restore([whole])
