"""Group commit: what travels together, what is bounded, and what each outcome becomes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.coordinator.commit.submitter import (
    BusyError,
    NoLeaderError,
    NotLeaderError,
    OutcomeUnknownError,
    Submitter,
)
from raftflow.domain import limits
from raftflow.domain.commands import FireTimers, SubmitWorkflow, decode_entry
from raftflow.domain.features import NEEDS
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Fired
from raftflow.domain.tasks.program import CommandLine, PythonCall
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.replication.log import Applied, Outcome, Rejected, Unknown


class Result:
    def __init__(self, replies: list[Any]) -> None:
        self.replies = replies


class FakeLog:
    """Holds entries until they are let through."""

    def __init__(self) -> None:
        self.entries: list[list[int]] = []
        self.gates: list[asyncio.Future[Outcome | None]] = []

    async def submit(self, entry: bytes, timeout_s: float) -> Outcome:
        commands = decode_entry(entry).commands
        self.entries.append([command.at_ms for command in commands])
        gate: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        outcome = await gate
        if outcome is not None:
            return outcome
        return Applied(1, 1, Result([Fired(command.at_ms) for command in commands]))


def fire(number: int, actor: str = "leader:n1") -> FireTimers:
    return FireTimers(at_ms=number, actor=actor)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


def make(log: FakeLog, leader: tuple[str, str] | None = None, **options: Any) -> Submitter:
    return Submitter(log, lambda: leader, **options)  # type: ignore[arg-type]


async def test_what_comes_while_entries_are_in_flight_shares_the_next_one(log: FakeLog) -> None:
    submitter = make(log)
    first = [asyncio.ensure_future(submitter.propose(fire(n))) for n in (1, 2)]
    await turn()
    second = asyncio.ensure_future(submitter.propose(fire(3)))
    await turn()
    rest = [asyncio.ensure_future(submitter.propose(fire(n))) for n in range(4, 10)]
    await turn()
    assert log.entries == [[1, 2], [3]], "two entries are in flight, and the rest waits"
    assert submitter.waiting == 6
    log.gates[0].set_result(None)
    await turn()
    assert log.entries[2] == [4, 5, 6, 7, 8, 9]
    for gate in log.gates[1:]:
        gate.set_result(None)
    replies = await asyncio.gather(*first, second, *rest)
    assert replies == [Fired(n) for n in range(1, 10)], "each gets its own reply"


async def test_an_entry_is_bounded_in_commands_and_bytes(log: FakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.coordinator.commit.submitter.ENTRY_TARGET_BYTES", 60)
    submitter = make(log, commands_max=3, in_flight_max=10)
    work = [asyncio.ensure_future(submitter.propose(fire(n))) for n in range(5)]
    work += [asyncio.ensure_future(submitter.propose(fire(n, "leader:" + "x" * 50))) for n in (5, 6)]
    await turn()
    assert all(len(entry) <= 3 for entry in log.entries)
    assert log.entries[-2:] == [[5], [6]], "two large ones are more than an entry should carry"
    assert [number for entry in log.entries for number in entry] == list(range(7))
    assert len(log.entries) < 7
    for gate in log.gates:
        gate.set_result(None)
    await asyncio.gather(*work)


@pytest.mark.parametrize(
    ("outcome", "leader", "error"),
    [
        (Rejected("not_leader"), ("n2", "http://n2"), NotLeaderError),
        (Rejected("not_leader"), None, NoLeaderError),
        (Rejected("no_leader"), None, NoLeaderError),
        (Rejected("discarded"), None, NoLeaderError),
        (Rejected("queue_full"), None, BusyError),
        (Unknown("timeout"), ("n2", "http://n2"), OutcomeUnknownError),
        (Unknown("leader_changed"), None, OutcomeUnknownError),
    ],
)
async def test_outcomes(log: FakeLog, outcome: Outcome, leader: Any, error: type[Exception]) -> None:
    submitter = make(log, leader)
    work = [asyncio.ensure_future(submitter.propose(fire(n))) for n in (1, 2)]
    await turn()
    log.gates[0].set_result(outcome)
    results = await asyncio.gather(*work, return_exceptions=True)
    assert [type(result) for result in results] == [error, error]
    assert results[0] is not results[1]


async def test_clients_are_bounded_and_the_leader_is_not(log: FakeLog) -> None:
    submitter = make(log, waiting_max=2)
    work = [asyncio.ensure_future(submitter.propose(fire(n), bounded=True)) for n in (1, 2)]
    await turn()
    with pytest.raises(BusyError):
        await submitter.propose(fire(3), bounded=True)
    work.append(asyncio.ensure_future(submitter.propose(fire(4))))
    await turn()
    for gate in log.gates:
        gate.set_result(None)
    await turn()
    for gate in log.gates[1:]:
        if not gate.done():
            gate.set_result(None)
    await asyncio.gather(*work)
    again = asyncio.ensure_future(submitter.propose(fire(5), bounded=True))
    await turn()
    log.gates[-1].set_result(None)
    assert await again == Fired(5), "room is given back"


def submission(**task: Any) -> SubmitWorkflow:
    spec = WorkflowSpec(name="w", tasks=(TaskSpec(**{"id": "a", "program": CommandLine(("true",)), **task}),))
    return SubmitWorkflow(at_ms=1, actor="client:x", workflow_id="wf-1", spec=spec)


@pytest.mark.parametrize(
    "task",
    [
        {"retries": 2**70},
        {"program": CommandLine(("\ud800",))},
        {"retries": "many"},
        {"needs": (1,)},
        {"resources": {"cpu": 0.5}},
    ],
)
async def test_what_no_replica_could_read_never_reaches_the_log(log: FakeLog, task: dict[str, Any]) -> None:
    """One unreadable entry would stop every replica, for ever."""
    reply = await make(log).propose(submission(**task))
    assert isinstance(reply, Rejection)
    assert reply.code is RejectionCode.INVALID
    assert log.entries == []


async def test_a_command_too_large_for_an_entry_is_refused(log: FakeLog) -> None:
    reply = await make(log).propose(submission(program=PythonCall("m:f", b"x" * limits.ENTRY_BYTES_MAX)))
    assert isinstance(reply, Rejection)
    assert (reply.code, reply.limit) == (RejectionCode.LIMIT, limits.ENTRY_BYTES_MAX)


async def test_a_caller_that_went_away_disturbs_nobody(log: FakeLog) -> None:
    submitter = make(log)
    gone = asyncio.ensure_future(submitter.propose(fire(1), bounded=True))
    stays = asyncio.ensure_future(submitter.propose(fire(2)))
    await turn()
    gone.cancel()
    log.gates[0].set_result(None)
    assert await stays == Fired(2)


async def test_closing_refuses_what_waits_and_sees_the_rest_through(log: FakeLog) -> None:
    submitter = make(log, in_flight_max=1)
    flying = asyncio.ensure_future(submitter.propose(fire(1)))
    await turn()
    waiting = asyncio.ensure_future(submitter.propose(fire(2)))
    await turn()
    submitter.refuse()
    with pytest.raises(NoLeaderError):
        await waiting
    with pytest.raises(NoLeaderError):
        await submitter.propose(fire(3))
    closing = asyncio.ensure_future(submitter.close())
    await turn()
    assert not closing.done()
    log.gates[0].set_result(Unknown("closed"))
    await closing
    with pytest.raises(OutcomeUnknownError):
        await flying


async def test_waiting_bytes_are_bounded(log: FakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.coordinator.commit.submitter.WAITING_BYTES_MAX", 1_000)
    submitter = make(log)
    first = asyncio.ensure_future(
        submitter.propose(submission(program=PythonCall("m:f", b"x" * 5_000)), bounded=True)
    )
    await turn()
    with pytest.raises(BusyError, match="bytes already"):
        await submitter.propose(submission(), bounded=True)
    log.gates[0].set_result(None)
    await first
    second = asyncio.ensure_future(submitter.propose(submission(), bounded=True))
    await turn()
    log.gates[1].set_result(None)
    await second


async def test_what_older_replicas_cannot_read_stays_out_of_the_log(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NEEDS, SubmitWorkflow, 3)
    level = 2
    submitter = make(log, feature_level=lambda: level)
    refused = await submitter.propose(submission(kind="fit"))
    assert isinstance(refused, Rejection)
    assert refused.code is RejectionCode.FEATURE_LEVEL
    assert "workflow.submit needs feature level 3" in refused.message
    assert log.entries == []
    level = 3
    accepted = asyncio.ensure_future(submitter.propose(submission(kind="fit")))
    await turn()
    log.gates[0].set_result(None)
    await accepted


def one_task(number: int, size: int = 1) -> SubmitWorkflow:
    spec = WorkflowSpec(name="w", tasks=(TaskSpec(id="t", program=CommandLine(("x" * size,))),))
    return SubmitWorkflow(at_ms=number, actor="client:api", workflow_id=f"wf-{number}", spec=spec)


async def let_through(log: FakeLog, work: list[Any]) -> None:
    """Let every entry through, one after the other, until all commands have their replies."""
    async with asyncio.timeout(5):
        while not all(future.done() for future in work):
            for gate in log.gates:
                if not gate.done():
                    gate.set_result(None)
            await turn()


async def test_a_client_with_one_command_does_not_wait_behind_one_with_many(log: FakeLog) -> None:
    submitter = make(log, commands_max=8, in_flight_max=1)
    work = [submitter.enqueue(one_task(n), bounded=True, client="many") for n in range(50)]
    await turn()
    work += [submitter.enqueue(one_task(100), bounded=True, client="one"), submitter.enqueue(fire(200))]
    await let_through(log, work)
    assert log.entries[1][0] == 200, "what the leader decided goes first"
    assert 100 in log.entries[1]
    assert [n for entry in log.entries for n in entry if n < 50] == list(range(50)), "a client's own order stays"


async def test_a_large_command_neither_holds_up_small_ones_nor_starves(log: FakeLog) -> None:
    submitter = make(log, in_flight_max=1)
    work = [submitter.enqueue(fire(0))]
    await turn()
    work += [submitter.enqueue(one_task(n, 50_000), bounded=True, client="a") for n in range(1, 41)]
    work += [submitter.enqueue(one_task(n), bounded=True, client="b") for n in (51, 52)]
    work += [submitter.enqueue(fire(100 + n, "leader:" + "x" * 400_000)) for n in range(4)]
    await let_through(log, work)
    assert {51, 52} <= set(log.entries[1]), "small ones leave with the next entry"
    assert log.entries[1][0] == 100
    large = [sum(1 for n in entry if 0 < n < 50) for entry in log.entries]
    assert large[1] or large[2], "the large ones come though the leader has something for every entry"
    assert sum(large) == 40


async def test_what_is_too_large_to_share_an_entry_with_the_leaders_own_goes_before_it(log: FakeLog) -> None:
    submitter = make(log, in_flight_max=1)
    work = [submitter.enqueue(fire(0))]
    await turn()
    work.append(submitter.enqueue(one_task(1, 60_000), bounded=True, client="a"))
    work += [submitter.enqueue(fire(100 + n, "leader:" + "x" * 1_000_000)) for n in range(4)]
    await let_through(log, work)
    assert [1 in entry for entry in log.entries].index(True) == 2, "passed over once, then it is first"


async def test_one_client_leaves_room_for_others(log: FakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    submitter = make(log, waiting_max=10)
    work = [submitter.enqueue(one_task(n), bounded=True, client="greedy") for n in range(5)]
    with pytest.raises(BusyError, match="5 commands of greedy are waiting, and others need room"):
        submitter.enqueue(one_task(5), bounded=True, client="greedy")
    work += [submitter.enqueue(one_task(n), bounded=True, client="modest") for n in (6, 7)]
    monkeypatch.setattr("raftflow.coordinator.commit.submitter.WAITING_BYTES_MAX", 2_200)
    with pytest.raises(BusyError, match="commands of modest take 212 bytes, and others need room"):
        submitter.enqueue(one_task(8, 1_230), bounded=True, client="modest")
    await let_through(log, work)
    assert submitter._backlogs == {}, "what was answered makes room again"
