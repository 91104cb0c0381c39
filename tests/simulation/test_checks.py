"""Every check can fail: each is shown what must never happen."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from raftflow.domain.commands import (
    AttemptEnd,
    RegisterAgent,
    ReportAttempts,
    SubmitWorkflow,
    encode_entry,
)
from raftflow.domain.replies import EndVerdict, Fired, Reported
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.replication.log import Role
from raftflow.simulation.checkers.end_checks import check_acknowledged, check_end
from raftflow.simulation.checkers.reads import Read, answer
from tests.simulation.histories import apply, entry, host, kinds, make_log


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


@pytest.mark.parametrize(("end", "found"), [(1, ["yes to an old log"]), (2, [])])
def test_a_yes_to_a_replica_with_an_older_log(history, end, found) -> None:
    asker, voter = make_log([1, 1][:end]), make_log([1, 1])
    for name, log in (("a", asker), ("b", voter)):
        history.started(host(name, log=log))
    question = {"type": "pre_vote", "term": 2, "last_log_index": end, "last_log_term": 1, "seq": 7}
    asker.parts.guard.emit("b", question)
    voter.parts.guard.emit("a", {"type": "pre_vote_granted", "term": 2, "seq": 7})
    assert kinds(history) == found


@pytest.mark.parametrize(("patience", "silent_s", "found"), [(1, 0.2, True), (1, 0.31, False), (2, 0.31, True)])
def test_a_yes_while_the_leader_may_still_lead(history, patience, silent_s, found) -> None:
    """The leader's own timeouts count, not those of the voter."""
    leader, asker, voter = make_log([1], leads=True), make_log([1]), make_log([1])
    for name, log in (("a", asker), ("b", voter), ("c", leader)):
        started = host(name, log=log)
        started.patience = patience if name == "c" else 1.0
        history.started(started)
    voter._roles.note_leader("c", {"term": 1})
    history._trace._loop._now += silent_s
    asker.parts.guard.emit("b", {"type": "pre_vote", "term": 2, "last_log_index": 1, "last_log_term": 1, "seq": 7})
    voter.parts.guard.emit("a", {"type": "pre_vote_granted", "term": 2, "seq": 7})
    assert kinds(history) == ["yes too early"] * found


@pytest.mark.parametrize(
    ("timeouts", "silence_s", "found"),
    [
        ((1.2, 2.4, 0.285), 1.2, False),
        ((1.3, 2.6, 0.285), 1.2, True),
        ((0.29, 0.6, 0.285), 0.3, True),
        ((0.6, 1.2, 0.57), 0.6, True),  # more than half the margin of leases
        ((0.6, 1.2, 0.285), 0.2, True),
    ],
)
def test_timeouts_that_leave_their_bounds(history, timeouts, silence_s, found) -> None:
    log = make_log([1])
    history.started(host("a", log=log))
    log._raft.timeouts, log.parts.timeouts.silence_s = timeouts, silence_s
    log.parts.timeouts.on_change()
    assert kinds(history) == ["timeouts out of bounds"] * found


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


def test_a_first_attempt_may_still_run_when_its_backup_has_parked(history) -> None:
    history.execution_started("a1", ("wf", "t"), 1)
    history.attempts.outrun[1] = None
    history.execution_started("a2", ("wf", "t"), 3)
    assert kinds(history) == []
    history.execution_started("a3", ("wf", "t"), 4)
    assert set(kinds(history)) == {"two agents"}


def test_a_success_whose_program_did_not_succeed(history) -> None:
    end = AttemptEnd(1, "wf", "t", AttemptOutcome.SUCCEEDED)
    command = ReportAttempts(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, ends=(end,))
    history.execution_started("a1", ("wf", "t"), 1)
    history.execution_ended("a1", ("wf", "t"), 1, "was killed")
    history.executions.check_ends(command, Reported((EndVerdict(1, "accepted"),)))
    assert kinds(history) == ["wrong end"]


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


@pytest.mark.parametrize(("term", "sent_s", "wrong"), [(1, 0.2, 0), (1, 0.3, 1), (2, 0.3, 0)])
def test_a_lease_that_is_renewed_behind_a_new_leader(history, term: int, sent_s: float, wrong: int) -> None:
    """The leader of term 2 begins at once; a poll is sent later and answered by the leader of `term`."""
    who = host("b")
    who.replica.log.stamp = lambda: SimpleNamespace(term=2)
    history.started(who)
    began_s = history._trace.now_s()
    who.replica.leader.liveness.start()
    history.lease_renewed("a", term, began_s + sent_s)
    assert kinds(history) == ["late lease"] * wrong


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
