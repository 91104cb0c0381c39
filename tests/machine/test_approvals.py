"""Approvals: one decision counts, later ones are told, time-outs and ended tasks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.machine.read import waits


@pytest.fixture
def asked(drive: Any) -> Any:
    """Task t0 is parked for approval 1, which times out after a second; t1 runs under fence 2."""
    drive.register(cpu=4)
    drive.submit(drive.bag(2))
    drive.place(0, 1)
    assert ask(drive, 1, timeout_ms=1_000, on_timeout=b'"deny"') == 1
    drive.finish(1, "parked", result=b'{"waits":[1]}')
    return drive


def ask(drive: Any, fence: int, request: bytes = b'{"title":"ship","details":{"n":1}}', **more: Any) -> Any:
    stamp = {"at_ms": drive.now_ms, "actor": "agent:a1", "agent": "a1", "incarnation": 1, "fence": fence}
    reply = drive.do(c.BeginWait(**stamp, kind="approval", name="ship", occurrence=1, request=request, **more))
    return reply if isinstance(reply, Rejection) else reply.number or msgspec.json.decode(reply.record)


def decide(drive: Any, choice: str = "approve", number: int = 1, actor: str = "client:eve", **more: Any) -> Any:
    return drive.do(c.DecideApproval(at_ms=drive.now_ms, actor=actor, number=number, choice=choice, **more))


def test_the_first_decision_counts_and_both_are_told(asked: Any) -> None:
    assert waits.approval_view(asked.machine, 1).state == "open"
    asked.now_ms += 10
    assert decide(asked, comment="fine", payload=b"[2]", request_id="r1").changed
    assert asked.states() == "ER"
    refused = decide(asked, "deny", actor="client:bob")
    assert refused.code is RejectionCode.CONFLICT
    assert "decided before: 'approve', by client:eve at 2023-11-14T22:13:20.010" in refused.message
    assert [record.outcome for record in asked.records[-2:]] == ["ok", "conflict"]
    assert "approval 1 ('ship') decided: approve" in asked.records[-2].detail
    assert decide(asked, comment="fine", payload=b"[2]", request_id="r1").changed, "the first answer"
    (again,) = asked.place(0)
    record = ask(asked, again)
    assert record == {
        "outcome": "decided",
        "choice": "approve",
        "comment": "fine",
        "payload": [2],
        "by": "client:eve",
        "at_ms": asked.now_ms,
    }
    view = waits.approval_view(asked.machine, 1)
    assert (view.id, view.task, view.state, view.choice, view.by) == ("1", "t0", "decided", "approve", "client:eve")
    assert asked.fire(2_000) == 0


def test_a_timeout_counts_alone(asked: Any) -> None:
    assert asked.fire(1_000) == 1 and asked.states() == "ER"
    refused = decide(asked)
    assert refused.code is RejectionCode.CONFLICT and "timed out at" in refused.message
    (again,) = asked.place(0)
    assert ask(asked, again) == {"outcome": "timeout", "payload": "deny"}
    assert waits.approval_view(asked.machine, 1).state == "timeout"


def test_an_approval_goes_with_its_task(asked: Any) -> None:
    asked.control("cancel")
    refused = decide(asked)
    assert refused.code is RejectionCode.CONFLICT and "nobody waits for it any more" in refused.message
    assert waits.approval_view(asked.machine, 1).state == "withdrawn"
    asked.finish(2, "cancelled")
    assert asked.retire() == ("wf-1",)
    assert decide(asked).code is RejectionCode.NOT_FOUND and waits.approval_view(asked.machine, 1) is None


def test_pages_of_approvals(asked: Any) -> None:
    stamp = {"at_ms": asked.now_ms, "actor": "agent:a1", "agent": "a1", "incarnation": 1, "fence": 2}
    for number in range(2, 5):
        asked.do(c.BeginWait(**stamp, kind="approval", name=f"n{number}", occurrence=1, request=b'{"title":"more"}'))
    decide(asked, number=3)
    page = waits.approval_page(asked.machine, "open", 2, None)
    assert ([view.id for view in page.approvals], page.next) == (["1", "2"], "2")
    page = waits.approval_page(asked.machine, "open", 2, page.next)
    assert ([view.id for view in page.approvals], page.next) == (["4"], None)
    assert len(waits.approval_page(asked.machine, None, 10, None).approvals) == 4


def all_pages(machine: Any, state: Any) -> list[list[str]]:
    """The ids on each page."""
    pages, cursor = [], None
    while True:
        page = waits.approval_page(machine, state, 10, cursor)
        pages.append([view.id for view in page.approvals])
        cursor = page.next
        if cursor is None:
            return pages


def test_a_page_of_approvals_is_bounded_work(asked: Any, monkeypatch: Any) -> None:
    """Nobody waits for a list of few among many that have ended, or of many with long details."""
    stamp = {"at_ms": asked.now_ms, "actor": "agent:a1", "agent": "a1", "incarnation": 1, "fence": 2}
    for number in range(2, 8):
        asked.do(c.BeginWait(**stamp, kind="approval", name=f"n{number}", occurrence=1, request=b'{"title":"more"}'))
    for number in (2, 3, 4, 6):
        decide(asked, number=number)
    monkeypatch.setattr(waits, "SEEN_MAX", 3)
    assert all_pages(asked.machine, "open") == [["1", "5", "7"]], "it looks at none that has ended"
    assert all_pages(asked.machine, "decided") == [["2", "3"], ["4", "6"], []]
    monkeypatch.setattr(waits, "SEEN_MAX", 100)
    monkeypatch.setattr(waits, "PAGE_BYTES", 1)
    assert all_pages(asked.machine, "open") == [["1"], ["5"], ["7"]]


@pytest.mark.parametrize(
    ("more", "code", "why"),
    [
        ({"choice": "maybe"}, RejectionCode.INVALID, "none of the choices of approval 1: approve, deny"),
        ({"comment": "x" * 2_001}, RejectionCode.INVALID, "at most 2000 characters"),
        ({"payload": b"{"}, RejectionCode.INVALID, "not JSON"),
        ({"payload": b'"' + b"x" * 62_000 + b'"'}, RejectionCode.INVALID, "too much"),
        ({"number": 7}, RejectionCode.NOT_FOUND, "no approval has the id 7"),
    ],
)
def test_decisions_that_are_refused(asked: Any, more: Any, code: RejectionCode, why: str) -> None:
    refused = decide(asked, **more)
    assert refused.code is code and why in refused.message


def test_a_decision_that_no_record_can_hold_is_refused(asked: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "STEPS_BYTES_PER_WORKFLOW_MAX", 700)
    assert decide(asked, comment="x" * 500).code is RejectionCode.LIMIT
    assert asked.fire(1_000) == 1, "there is room for the record of a time-out"


@pytest.mark.parametrize(
    ("request_", "on_timeout", "why"),
    [
        (b"{}", b"", "what an approval asks"),
        (b'{"title":""}', b"", "1 to 200 characters"),
        (b'{"title":"t","choices":["a","a"]}', b"", "each another one"),
        (b'{"title":"t","choices":[]}', b"", "1 to 20 choices"),
        (b'{"title":"a\\nb"}', b"", "must not have control characters"),
        (b'{"title":"t"}', b'"x"', "one of its choices: approve, deny"),
    ],
)
def test_approvals_that_cannot_be(asked: Any, request_: bytes, on_timeout: bytes, why: str) -> None:
    refused = ask(asked, 2, request_, on_timeout=on_timeout)
    assert refused.code is RejectionCode.INVALID and why in refused.message


def test_what_the_leader_looks_up_for_schemas(asked: Any) -> None:
    assert waits.schema_for(asked.machine, "wf-1", "go") is None
    assert waits.schema_for(asked.machine, "wf-9", "go") is None
    stamp = {"at_ms": asked.now_ms, "actor": "agent:a1", "agent": "a1", "incarnation": 1, "fence": 2}
    asked.do(c.BeginWait(**stamp, kind="signal", name="go", occurrence=1, request=b"{}"))
    assert waits.schema_for(asked.machine, "wf-1", "go") == (2, b"{}")
    assert waits.kept_signal(asked.machine, "a1", 2, "kept") is None
    assert waits.kept_signal(asked.machine, "a9", 2, "kept") is None
    asked.do(c.SendSignal(at_ms=1, actor="client:x", workflow_id="wf-1", name="kept", payload=b"7"))
    assert waits.kept_signal(asked.machine, "a1", 2, "kept") == (1, b"7")
    assert waits.kept_signal(asked.machine, "a1", 9, "kept") is None
    assert waits.kept_signal(asked.machine, "a1", 2, "other") is None
