"""Moved prefetch: what waits in a busy agent's queue is asked back and runs elsewhere, never twice."""

from __future__ import annotations

import pytest

from raftflow.domain.events import AgentChanged, WorkflowChanged
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import Done


@pytest.fixture
def busy(drive):
    """t0 runs on a1, t1 and t2 wait in its queue; a2 is idle."""
    drive.register(prefetch=3)
    drive.register("a2")
    drive.submit(drive.bag(3, retries=0))
    drive.place(0, 1, 2)
    return drive


def test_what_waits_moves_to_an_idle_agent_at_no_cost(busy):
    assert busy.recall(3) == Done()
    assert busy.events == [AgentChanged("a1"), WorkflowChanged("wf-1")]
    record = busy.records[-1]
    assert (record.command, record.subject, record.outcome) == ("attempts.recall", "a1", "ok")
    assert (busy.states(), busy.orders()) == ("RQQ", ([], [3]))
    assert busy.report(busy.end(3, "released")) == ["accepted"]
    task = busy.task(2)
    assert (busy.states(), task.failures, task.losses) == ("RQE", 0, 0)
    assert busy.place(2, agent="a2") == (4,)
    assert busy.states() == "RQR"


def test_what_was_asked_back_already_is_no_change(busy):
    busy.recall(2, 3)
    assert busy.recall(3, 2) == Done(changed=False)
    assert busy.events == []


def test_what_runs_or_is_unknown_is_let_be(busy):
    assert busy.recall(1, 77) == Done(changed=False)
    assert busy.orders() == ([], [])


def test_what_is_to_stop_is_let_be(busy):
    busy.control("cancel")
    assert busy.recall(2) == Done(changed=False)
    assert busy.orders() == ([1, 2, 3], [])


def test_what_starts_meanwhile_goes_on(busy):
    busy.recall(2)
    busy.report(busy.end(1))
    assert (busy.states(), busy.orders()) == ("SRQ", ([], []))
    assert busy.report(busy.end(2)) == ["accepted"]


@pytest.mark.parametrize("case", [{"agent": "nobody", "incarnation": 1}, {"incarnation": 9}])
def test_an_agent_that_is_not_there_has_nothing_to_give_back(busy, case):
    refused = busy.recall(2, **case)
    assert (refused.code, busy.orders()) == (RejectionCode.STALE_INCARNATION, ([], []))


def test_a_lost_agent_has_nothing_to_give_back(busy):
    busy.remove()
    assert busy.recall(2).code is RejectionCode.STALE_INCARNATION
