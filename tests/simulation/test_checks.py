"""Every check can fail: each is shown what must never happen."""

from __future__ import annotations

import asyncio
from contextlib import closing
from types import SimpleNamespace

import msgspec
import pytest

from raftflow.coordinator.leader.leases import Leases
from raftflow.domain.commands import (
    AttemptEnd,
    CommitPlacements,
    ControlWorkflow,
    FireTimers,
    OfferEnds,
    Placement,
    RegisterAgent,
    ReportAttempts,
    SubmitWorkflow,
    encode_entry,
)
from raftflow.domain.contract.views import AuditRecord, AuditTransition
from raftflow.domain.features import LEVEL
from raftflow.domain.replies import AgentAccepted, Done, EndVerdict, Fired, Reported
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.replication.log import Role
from raftflow.replication.members.membership import Membership
from raftflow.simulation.checkers.end_checks import check_acknowledged, check_end
from raftflow.simulation.checkers.history import RunHistory
from raftflow.simulation.checkers.reads import Read, answer
from raftflow.simulation.world.loop import VirtualLoop
from raftflow.simulation.world.trace import Trace

LEASE_MS = 500


@pytest.fixture
def history():
    with closing(VirtualLoop()) as loop:
        history = RunHistory(Trace(loop))
        history.members.founded(("a", "b", "c"))
        for leader in "abc":  # everybody for everybody: `test_member_checks.py` looks at elections
            for voter in "abc":
                history.members.voted(voter, make_log([]), leader, 1)
        yield history


class Journal:
    """What a disk knows."""

    def __init__(self, durable_index=0, term=1, vote=None) -> None:
        self.durable_index, self.term, self.vote = durable_index, term, vote

    def getCurrentTerm(self):  # noqa: N802 - the library's name
        return self.term

    def getVotedForNodeId(self):  # noqa: N802 - the library's name
        return self.vote


def make_log(terms, *, term=1, leads=False, match=None, durable=None, commit=0, loading=0):
    """A log whose entries, from index 1 on, have these terms."""
    raft = SimpleNamespace(
        term=term,
        is_leader=leads,
        commit_index=commit,
        first_index=1,
        last_index=len(terms),
        peers=tuple(match or {}),
        term_at=lambda index: terms[index - 1],
        holds=lambda index, of: 0 < index <= len(terms) and terms[index - 1] == of,
        match_index=lambda peer: (match or {}).get(peer, 0),
        append_membership=lambda _listed, _callback: None,
        on_membership=lambda: None,
        members=SimpleNamespace(base_index=0, base=Membership()),
    )
    sent = []
    return SimpleNamespace(
        repairing=False,
        _raft=raft,
        _roles=SimpleNamespace(update=lambda: None),
        parts=SimpleNamespace(
            restorer=SimpleNamespace(loading=SimpleNamespace(index=loading, term=1)),
            journal=Journal(len(terms) if durable is None else durable, term),
            writer=SimpleNamespace(snapshot_index=0),
            traffic=SimpleNamespace(transmit=lambda peer, message: sent.append((peer, message))),
        ),
    )


def host(name, *, log=None, machine=None):
    removals = SimpleNamespace(begin=lambda _name, _incarnation, **_more: None)
    leader = SimpleNamespace(liveness=SimpleNamespace(leases=Leases(LEASE_MS), removals=removals))
    config = SimpleNamespace(timing=SimpleNamespace(lease_ms=LEASE_MS))
    replica = SimpleNamespace(log=log or make_log([]), machine=machine or Machine(), leader=leader, config=config)
    return SimpleNamespace(name=name, replica=replica, serving=True, level=LEVEL, wiped=False)


def kinds(history):
    return [found.kind for found in history.violations]


def entry(request_id="", at_ms=1):
    return encode_entry((FireTimers(at_ms=at_ms, actor="leader:a", request_id=request_id),))


def apply(history, who, index, data, term=1):
    result = who.replica.machine.apply(index, term, data)
    history.applied(who, index, term, data, result)


def test_equal_replicas_are_fine(history) -> None:
    a, b = host("a"), host("b")
    for who in (a, b):
        apply(history, who, 2, entry("one"))
        apply(history, who, 4, entry("two"))
    history.acknowledge("one", Fired(0))
    check_end(history, [a, b])
    assert kinds(history) == []


def test_another_entry_at_an_index(history) -> None:
    apply(history, host("a"), 2, entry())
    apply(history, host("b"), 2, entry(at_ms=2))
    assert kinds(history) == ["diverged"]


def test_an_acknowledged_entry_that_is_replaced_is_lost(history) -> None:
    apply(history, host("a"), 2, entry("one"))
    history.acknowledge("one", Fired(0))
    apply(history, host("b"), 2, entry())
    assert kinds(history) == ["diverged", "lost"]


def test_an_entry_that_another_replica_skips(history) -> None:
    apply(history, host("a"), 2, entry())
    apply(history, host("b"), 3, entry())
    assert kinds(history) == ["diverged"]


def test_an_entry_where_others_have_none(history) -> None:
    apply(history, host("a"), 3, entry())
    apply(history, host("b"), 2, entry())
    assert kinds(history) == ["diverged"]


def test_the_same_entry_with_another_outcome(history) -> None:
    other = host("b")
    other.replica.machine.chain = b"x" * 32
    apply(history, host("a"), 2, entry())
    apply(history, other, 2, entry())
    assert kinds(history) == ["diverged"]


def test_a_restored_state_that_nobody_had(history) -> None:
    who = host("b")
    apply(history, host("a"), 2, entry())
    who.replica.machine.applied_index = 2
    history.restored(who)
    assert kinds(history) == ["diverged"]


def test_a_snapshot_of_what_is_there(history) -> None:
    a, b = host("a"), host("b", log=make_log([1, 1, 1], loading=2))
    for who in (a, b):
        apply(history, who, 2, entry())
    history.restored(b)
    assert kinds(history) == ["needless snapshot"]


def test_a_request_that_is_carried_out_twice(history) -> None:
    who = host("a")
    apply(history, who, 2, entry("one"))
    who.replica.machine.state.requests.replies.clear()
    apply(history, who, 3, entry("one"))
    assert kinds(history) == ["twice"]


def test_an_acknowledgement_of_what_nobody_applied(history) -> None:
    history.acknowledge("ghost", Fired(0))
    assert kinds(history) == ["lost"]


def test_an_acknowledged_command_that_a_replica_lacks_at_the_end(history) -> None:
    a, b = host("a"), host("b")
    apply(history, a, 2, entry("one"))
    history.acknowledge("one", Fired(0))
    check_acknowledged(history, [a, b])
    assert kinds(history) == ["lost"]


def test_a_leader_without_what_was_acknowledged(history) -> None:
    apply(history, host("a"), 2, entry("one"))
    history.acknowledge("one", Fired(0))
    history.role_changed(host("b"), Role.LEADER, 2)
    assert kinds(history) == ["lost"]


def test_a_refused_entry_that_is_applied(history) -> None:
    a = host("a")
    apply(history, a, 2, entry("one"))
    history.refuse("one")
    check_end(history, [a])
    assert kinds(history) == ["refused and applied"]


def test_two_leaders_of_one_term(history) -> None:
    history.role_changed(host("a"), Role.LEADER, 1)
    history.role_changed(host("b"), Role.LEADER, 1)
    assert kinds(history) == ["two leaders"]


def test_two_leaders_that_were_never_announced(history) -> None:
    for name in ("a", "b"):
        log = make_log([1], leads=True)
        history.started(host(name, log=log))
        log._roles.update()
    assert kinds(history) == ["two leaders"]


def test_a_commit_index_that_goes_back(history) -> None:
    log = make_log([1, 1], commit=2)
    history.started(host("a", log=log))
    log._roles.update()
    log._raft.commit_index = 1
    log._roles.update()
    assert kinds(history) == ["commit went back"]


@pytest.mark.parametrize(
    "follower",
    [make_log([1]), make_log([1, 1], durable=1), make_log([1, 2])],
    ids=["too short", "not on disk", "another entry"],
)
def test_a_leader_that_believes_too_much(history, follower) -> None:
    leader = make_log([1, 1], leads=True, match={"b": 2})
    history.started(host("b", log=follower))
    history.started(host("a", log=leader))
    leader._roles.update()
    assert kinds(history) == ["false acknowledgement"]


def test_a_restart_that_forgets_what_the_leader_believes(history) -> None:
    history.started(host("a", log=make_log([1, 1], leads=True, match={"b": 2})))
    history.started(host("b", log=make_log([1])))
    assert kinds(history) == ["false acknowledgement"]


def test_a_commit_that_a_majority_lacks(history) -> None:
    leader = make_log([1, 1], leads=True, match={"b": 0, "c": 0}, commit=2, durable=1)
    history.started(host("a", log=leader))
    history.started(host("b", log=make_log([1])))
    leader._roles.update()
    assert kinds(history) == ["commit without majority"]


def test_a_second_vote_in_a_term(history) -> None:
    log = make_log([1])
    history.started(host("a", log=log))
    log.parts.traffic.transmit("b", {"type": "response_vote", "term": 3})
    log.parts.traffic.transmit("c", {"type": "response_vote", "term": 3})
    assert kinds(history) == ["voted twice"]


def test_a_vote_that_the_disk_has_forgotten(history) -> None:
    log = make_log([1])
    history.started(host("a", log=log))
    log.parts.traffic.transmit("b", {"type": "response_vote", "term": 3})
    history.ended(host("a"))
    history.started(host("a", log=make_log([1], term=3)))
    assert kinds(history) == ["vote forgotten"]


def test_a_read_of_what_was_overtaken(history) -> None:
    apply(history, host("a"), 5, entry("one"))
    history.acknowledge("one", Fired(0))
    history.read("b", history.floor, Read(4, ("agents",), b""))
    assert kinds(history) == ["stale read"]


def test_a_read_that_goes_behind_an_earlier_one(history) -> None:
    history.read("a", 0, Read(7, ("agents",), b""))
    history.read("b", history.floor, Read(6, ("agents",), b""))
    assert kinds(history) == ["stale read"]


def test_a_read_of_something_that_the_log_does_not_say(history) -> None:
    a = host("a")
    apply(history, a, 2, entry())
    history.read("a", 0, Read(2, ("agents",), answer(a.replica.machine, ("agents",))))
    check_end(history, [a])
    assert kinds(history) == []
    history.read("a", 0, Read(2, ("agents",), b"{}"))
    check_end(history, [a])
    assert kinds(history) == ["wrong read"]


def test_a_table_that_does_not_fit_its_facts(history) -> None:
    a = host("a")
    apply(history, a, 2, entry())
    a.replica.machine.state.live_tasks = 3
    check_end(history, [a])
    assert "invariant" in kinds(history)


def test_two_agents_that_run_one_task(history) -> None:
    history.execution_started("a1", ("wf", "t"), 1)
    history.execution_ended("a1", ("wf", "t"), 1, "succeeded")
    history.execution_started("a2", ("wf", "t"), 2)
    assert kinds(history) == []
    history.execution_started("a3", ("wf", "t"), 3)
    assert kinds(history) == ["two agents"]


def test_a_task_and_its_backup_run_at_once(history) -> None:
    history.attempts.backups[2] = None
    history.execution_started("a1", ("wf", "t"), 1)
    history.execution_started("a2", ("wf", "t"), 2)
    assert kinds(history) == []
    history.execution_started("a3", ("wf", "t"), 3)
    assert set(kinds(history)) == {"two agents"}


def test_a_success_whose_program_did_not_succeed(history) -> None:
    end = AttemptEnd(1, "wf", "t", AttemptOutcome.SUCCEEDED)
    command = ReportAttempts(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, ends=(end,))
    history.execution_started("a1", ("wf", "t"), 1)
    history.execution_ended("a1", ("wf", "t"), 1, "was killed")
    history.executions.check_ends(command, Reported((EndVerdict(1, "accepted"),)))
    assert kinds(history) == ["wrong end"]


# --- the model of attempts


def step(task, before, event, after, fence, agent="a1"):  # noqa: PLR0917 - the order of a line in the audit
    return AuditTransition("wf", task, before, event, after, 1, fence, agent)


def record(*transitions, outcome="ok"):
    return AuditRecord(
        index=1,
        position=0,
        term=1,
        at_ms=1,
        actor="",
        command="",
        subject="",
        request_id="",
        outcome=outcome,
        transitions=transitions,
    )


@pytest.fixture
def model(history):
    """One agent with one CPU and a workflow of three tasks that want one each."""
    attempts = history.attempts
    register = RegisterAgent(at_ms=1, actor="", name="a1", instance="i", capacity={"cpu": 1000}, prefetch=4)
    attempts.follow(register, AgentAccepted("a1", 1), record())
    attempts.capacity["a1"] = {"cpu": 1000}
    for task in "xyz":
        attempts.demands["wf", task] = {"cpu": 1000}
    return attempts


PLACE = CommitPlacements(at_ms=1, actor="", placements=(Placement("wf", 0, "a1", 1),))


def placed(model, *transitions):
    return model.follow(PLACE, Done(), record(*transitions))


def report(model, fence, *, incarnation=1, verdict="accepted"):
    end = AttemptEnd(fence, "wf", "x", AttemptOutcome.SUCCEEDED)
    command = ReportAttempts(at_ms=1, actor="", agent="a1", incarnation=incarnation, ends=(end,))
    done = step("x", "running", "succeeded", "succeeded", fence)
    transitions = (done,) if verdict == "accepted" else ()
    return model.follow(command, Reported((EndVerdict(fence, verdict),)), record(*transitions))


def test_an_orderly_life(model) -> None:
    assert placed(model, step("x", "ready", "started", "running", 1)) == []
    assert placed(model, step("y", "ready", "queued", "queued", 2)) == []
    assert report(model, 1) == []
    assert placed(model, step("y", "queued", "promoted", "running", 2)) == []


def test_a_backup_wins(model) -> None:
    model.capacity["a2"] = {"cpu": 1000}
    placed(model, step("x", "ready", "started", "running", 1))
    assert placed(model, step("x", "running", "backup_started", "running", 2, "a2")) == []
    over = step("x", "running", "backup_ended", "running", 1)
    won = step("x", "running", "succeeded", "succeeded", 2, "a2")
    assert placed(model, over, won) == []
    assert (model.live, model.running, model.backup_of) == ({}, {"a1": {}, "a2": {}}, {})


def test_a_backup_that_ends_leaves_the_first(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "backup_started", "running", 2, "a2"))
    assert placed(model, step("x", "running", "backup_ended", "running", 2, "a2")) == []
    assert report(model, 1) == []


def test_backups_that_must_not_be(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert "beside" in placed(model, step("x", "running", "backup_started", "running", 2))[0]
    assert "after fence 1" in placed(model, step("x", "running", "backup_started", "running", 1, "a2"))[0]
    assert "ended as one of two" in placed(model, step("x", "running", "backup_ended", "running", 1))[0]
    placed(model, step("y", "ready", "queued", "queued", 3, "a2"))
    assert "although [3] wait" in placed(model, step("x", "running", "backup_started", "running", 4, "a2"))[0]
    assert placed(model, step("x", "running", "backup_started", "running", 5, "a3")) == []
    assert "beside" in placed(model, step("x", "running", "backup_started", "running", 6, "a4"))[0]


@pytest.fixture
def two(model):
    """The task x, which allows a backup and one retry, runs on a1 (fence 1) and a2 (fence 2)."""
    model._learn_task("wf", "x", TaskSpec(id="x", program=CommandLine(("x",)), retries=1, backup=True))
    placed(model, step("x", "ready", "started", "running", 1))
    assert placed(model, step("x", "running", "backup_started", "running", 2, "a2")) == []
    return model


def failed(model, fence=1, command=None):
    """One of the two ends without success, and the other goes on."""
    end = AttemptEnd(fence, "wf", "x", AttemptOutcome.FAILED)
    command = command or ReportAttempts(at_ms=1, actor="", agent="a1", incarnation=1, ends=(end,))
    reply = Reported((EndVerdict(fence, "accepted"),)) if isinstance(command, ReportAttempts) else Fired(1)
    return model.follow(command, reply, record(step("x", "running", "backup_ended", "running", fence)))


@pytest.mark.parametrize("command", [None, FireTimers(at_ms=1, actor="")])
@pytest.mark.parametrize(
    ("event", "after", "told"),
    [
        ("agent_lost", "ready", 1),
        ("released", "ready", 1),
        ("failed_retry", "delayed", 0),
        ("cancelled", "cancelled", 0),
    ],
)
def test_a_failure_that_is_forgotten(two, command, event, after, told) -> None:
    assert failed(two, command=command) == []
    problems = placed(two, step("x", "running", event, after, 2, "a2"))
    assert ["that was forgotten" in problem for problem in problems] == [True] * told


def test_a_failure_where_no_retry_is_left(two) -> None:
    two.failures["wf", "x"] = 1
    assert "no retry is left" in failed(two)[0]
    over, lost = (
        step("x", "running", "backup_ended", "running", 2, "a2"),
        step("x", "running", "failed_final", "failed", 1),
    )
    two.backup_of["wf", "x"], two.fence_of["wf", "x"] = 2, 1
    two.live[1] = two.live[2]
    assert placed(two, over, lost) == [], "the other one was ended for it"


def test_failures_are_counted_until_a_retry(two) -> None:
    assert failed(two) == []
    placed(two, step("x", "running", "failed_retry", "delayed", 2, "a2"))
    assert two.failures == {("wf", "x"): 1}
    two.follow(ControlWorkflow(at_ms=1, actor="", workflow_id="wf", action="cancel"), Done(), record())
    assert two.stopped == {"wf": None}
    two.follow(
        ControlWorkflow(at_ms=1, actor="", workflow_id="wf", action="retry"),
        Done(),
        record(
            step("x", "delayed", "cancelled", "cancelled", 0), step("x", "cancelled", "revived_ready", "ready", 0)
        ),
    )
    assert (two.failures, two.stopped) == ({}, {})


def test_backups_that_a_task_does_not_allow(model) -> None:
    model._learn_task("wf", "x", TaskSpec(id="x", program=CommandLine(("x",))))
    placed(model, step("x", "ready", "started", "running", 1))
    assert "allows none" in placed(model, step("x", "running", "backup_started", "running", 2, "a2"))[0]


def test_a_second_backup_of_an_attempt(two) -> None:
    placed(two, step("x", "running", "backup_ended", "running", 2, "a2"))
    assert "after another" in placed(two, step("x", "running", "backup_started", "running", 3, "a3"))[0]


def test_a_backup_beyond_the_limit(model) -> None:
    model.limits["wf"] = 1
    placed(model, step("x", "ready", "started", "running", 1))
    assert "one of 2 under way" in placed(model, step("x", "running", "backup_started", "running", 2, "a2"))[0]


def test_more_than_there_is(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert "2000 cpu" in placed(model, step("y", "ready", "started", "running", 2))[0]


def test_a_fence_that_does_not_grow(model) -> None:
    placed(model, step("x", "ready", "started", "running", 5))
    assert "after fence 5" in placed(model, step("y", "ready", "queued", "queued", 5))[0]


def test_a_queue_that_is_overtaken(model) -> None:
    placed(model, step("x", "ready", "queued", "queued", 1), step("y", "ready", "queued", "queued", 2))
    assert "before the head" in placed(model, step("y", "queued", "promoted", "running", 2))[0]
    assert "wait" in placed(model, step("z", "ready", "started", "running", 3))[0]


def test_a_task_that_jumps(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert "but was running" in placed(model, step("x", "ready", "started", "running", 2))[0]


def test_an_old_fence_that_ends_the_present_attempt(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1), step("x", "ready", "started", "running", 2))
    problems = report(model, 1)
    assert any("accepted; it is not" in problem for problem in problems)


def test_an_end_that_counts_twice(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert report(model, 1) == []
    assert any("accepted twice" in problem for problem in report(model, 1))


def test_a_report_of_an_old_incarnation(model) -> None:
    assert "incarnation 7" in report(model, 1, incarnation=7, verdict="stale")[0]


def offer(model, fence, agent="a1", *, verdict="accepted", incarnation=1):
    end = AttemptEnd(fence, "wf", "x", AttemptOutcome.SUCCEEDED)
    command = OfferEnds(at_ms=1, actor="", agent=agent, incarnation=incarnation, ends=(end,))
    came = step("x", "ready", "offered", "succeeded", fence, agent)
    return model.follow(
        command, Reported((EndVerdict(fence, verdict),)), record(*((came,) if verdict == "accepted" else ()))
    )


def test_a_lost_agent_brings_its_result_back(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1))
    assert offer(model, 1) == []
    assert any("accepted twice" in problem for problem in offer(model, 1))


def test_offers_that_must_not_count(model) -> None:
    """Of an attempt that is live, and of another task's."""
    model.capacity["a2"] = {"cpu": 1000}
    model.incarnation["a2"] = 1
    placed(model, step("x", "ready", "started", "running", 1))
    assert any("its last was None" in problem for problem in offer(model, 1))
    placed(
        model, step("y", "ready", "started", "running", 2, "a2"), step("y", "running", "agent_lost", "ready", 2, "a2")
    )
    assert any("its last was None" in problem for problem in offer(model, 2, "a2"))


def test_an_offer_of_a_superseded_attempt(model) -> None:
    model.capacity["a2"] = {"cpu": 1000}
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1), step("x", "ready", "started", "running", 2, "a2"))
    placed(model, step("x", "running", "agent_lost", "ready", 2, "a2"))
    assert any("its last was (2, 'a2')" in problem for problem in offer(model, 1))


def test_an_offer_under_an_old_incarnation(model) -> None:
    assert "incarnation 7" in offer(model, 1, incarnation=7, verdict="stale")[0]


def test_a_task_that_is_offered_by_another_command(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1))
    assert "was offered by CommitPlacements" in placed(model, step("x", "ready", "offered", "succeeded", 1))[0]


def test_more_of_a_workflow_than_it_allows(model) -> None:
    model.limits["wf"] = 1
    placed(model, step("x", "ready", "queued", "queued", 1))
    assert "one of 2 under way" in placed(model, step("y", "ready", "queued", "queued", 2))[0]


def test_an_exclusive_task_that_is_not_alone(model) -> None:
    model.capacity["a1"] = {"cpu": 4000}
    model.exclusive["wf", "x"] = None
    assert placed(model, step("x", "ready", "started", "running", 1)) == []
    assert "one of them is exclusive" in placed(model, step("y", "ready", "started", "running", 2))[0]


@pytest.mark.parametrize(("wait_s", "wrong"), [(0.5, ["early deadline"]), (2.0, [])])
def test_a_deadline_that_passes_before_its_time(model, history, wait_s: float, wrong: list[str]) -> None:
    model.timeouts["wf", "x"] = 1000
    history.executions.check_deadlines(record(step("x", "ready", "started", "running", 1)), fired=False)
    history._trace._loop.run_until_complete(asyncio.sleep(wait_s))
    given_up = record(step("x", "running", "failed_retry", "delayed", 1))
    history.executions.check_deadlines(given_up, fired=False)
    assert kinds(history) == [], "the agent said so"
    history.executions.check_deadlines(given_up, fired=True)
    assert kinds(history) == wrong


@pytest.mark.parametrize(("wait_s", "wrong"), [(0.4, 1), (0.6, 0)])
def test_an_agent_that_is_given_up_early(history, wait_s: float, wrong: int) -> None:
    who = host("a")
    history.started(who)
    leader = who.replica.leader
    leader.liveness.leases.contact("a1", 17.0)
    assert leader.liveness.leases.last_heard_s("a1") == 17.0
    history._trace._loop.run_until_complete(asyncio.sleep(wait_s))
    leader.liveness.removals.begin("a1", 1)
    leader.liveness.removals.begin("a2", 1)
    assert kinds(history) == ["given up early"] * wrong


def test_demands_and_capacities_are_learnt_from_the_commands(history) -> None:
    who = host("a")
    task = TaskSpec(id="t", program=CommandLine(("true",)), resources={"cpu": 700}, timeout_ms=1000, grace_ms=100)
    spec = WorkflowSpec(name="w", tasks=(task,))
    submit = SubmitWorkflow(at_ms=1, actor="client:c", workflow_id="wf-1", spec=spec)
    register = RegisterAgent(at_ms=1, actor="agent:a1", name="a1", instance="instance", capacity={"cpu": 1000})
    apply(history, who, 2, encode_entry((submit, register)))
    assert kinds(history) == []
    assert history.attempts.demands == {("wf-1", "t"): {"cpu": 700}}
    assert history.attempts.timeouts == {("wf-1", "t"): 1100}
    assert history.attempts.capacity == {"a1": {"cpu": 1000}}
    assert msgspec.json.decode(answer(who.replica.machine, ("workflow", "wf-1")))["name"] == "w"


@pytest.mark.parametrize("born", [True, False])
def test_a_replica_that_takes_part_on_an_empty_disk(history, born):
    who = host("b")
    who.wiped, who.join = True, False
    who.replica.log.parts.births = SimpleNamespace(born=born)
    history.reborn(who)
    assert kinds(history) == (["reborn"] if born else [])
