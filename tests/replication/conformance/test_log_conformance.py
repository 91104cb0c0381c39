"""What every `ReplicatedLog` promises (raftflow/replication/log.py). Each test runs over each log of conftest.py."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

import pytest
from virtual_cluster import run_virtual

from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Applied, Rejected, Role, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from conftest import Harness, Suite


def conforms(*, needs: str = "") -> Callable:
    """Run a coroutine test on a virtual loop over one log; skip logs whose harness lacks what it `needs`."""

    def decorate(test: Callable[[Suite], Coroutine[Any, Any, None]]) -> Callable:
        @functools.wraps(test)
        def wrapper(make_harness: type[Harness], make_suite: Callable[[Harness], Suite]) -> None:
            async def run() -> None:
                harness = make_harness()
                suite = make_suite(harness)
                try:
                    await test(suite)
                finally:
                    await suite.log.close()
                    await harness.close()

            if needs and not getattr(make_harness, needs):
                pytest.skip(f"{make_harness.__name__}: {needs} is false")
            run_virtual(run())

        del wrapper.__wrapped__  # pytest looks at the wrapper's own arguments
        return wrapper

    return decorate


@conforms()
async def test_a_log_that_was_not_started_refuses_everything(suite: Suite) -> None:
    log = await suite.make()
    assert await log.submit(b"x", 1.0) == Rejected("closed")
    with pytest.raises(NoQuorumError, match="closed"):
        await log.read_index(1.0)
    assert not await log.transfer_leadership(None, 1.0)
    status = log.status()
    assert (status.role, status.leader, status.ready) == (Role.FOLLOWER, None, False)
    assert log.stamp().leader is None
    log.request_snapshot()
    await suite.harness.begin(log)


@conforms()
async def test_a_log_is_started_once(suite: Suite) -> None:
    log = await suite.lead()
    with pytest.raises(RuntimeError, match="started once"):
        await log.start()


@conforms()
async def test_an_applied_entry_has_index_term_and_reply(suite: Suite) -> None:
    log = await suite.lead()
    first = await log.submit(b"one", 1.0)
    second = await log.submit(b"two", 1.0)
    term = log.status().term
    assert first == Applied(first.index, term, 1)
    assert second == Applied(first.index + 1, term, 2)
    assert suite.machine.applied == [(first.index, term, b"one"), (second.index, term, b"two")]


@conforms()
async def test_entries_are_applied_outside_submit_in_their_order(suite: Suite) -> None:
    log = await suite.lead()
    entries = [b"%d" % number for number in range(50)]
    waiting = [asyncio.ensure_future(log.submit(entry, 1.0)) for entry in entries]
    await asyncio.sleep(0)
    assert suite.machine.entries == []
    outcomes = await asyncio.gather(*waiting)
    assert suite.machine.entries == entries
    indexes = [outcome.index for outcome in outcomes]
    assert indexes == sorted(set(indexes))
    assert [outcome.reply for outcome in outcomes] == list(range(1, 51))


@conforms()
async def test_an_entry_over_the_limit_is_rejected(suite: Suite) -> None:
    log = await suite.lead(entry_bytes_max=3)
    assert await log.submit(b"long", 1.0) == Rejected("too_large")
    assert isinstance(await log.submit(b"fit", 1.0), Applied)


@conforms()
async def test_more_entries_in_flight_than_the_limit_are_rejected(suite: Suite) -> None:
    log = await suite.lead(queue_entries_max=3)
    outcomes = await asyncio.gather(*(log.submit(b"x", 1.0) for _ in range(5)))
    assert [type(outcome) for outcome in outcomes] == [Applied] * 3 + [Rejected] * 2
    assert outcomes[3:] == [Rejected("queue_full")] * 2
    assert isinstance(await log.submit(b"x", 1.0), Applied)


@conforms()
async def test_a_read_sees_what_was_acknowledged_before_it(suite: Suite) -> None:
    log = await suite.lead()
    applied = await log.submit(b"x", 1.0)
    assert await log.read_index(1.0) == applied.index
    assert set(await asyncio.gather(*(log.read_index(1.0) for _ in range(20)))) == {applied.index}


@conforms()
async def test_status_and_stamp_of_a_leader(suite: Suite) -> None:
    log = await suite.lead()
    applied = await log.submit(b"x", 1.0)
    status, stamp = log.status(), log.stamp()
    assert (status.role, status.leader, status.ready) == (Role.LEADER, status.name, True)
    assert applied.index == status.applied_index == status.commit_index == status.last_index
    assert status.durable_index == status.last_index
    assert (stamp.applied_index, stamp.term, stamp.leader) == (status.applied_index, status.term, status.name)
    assert stamp.members == status.members
    assert dict(log.founding_levels) == {}


@conforms()
async def test_leadership_is_announced_once_for_a_term(suite: Suite) -> None:
    log = await suite.lead()
    await log.submit(b"x", 1.0)
    led = [each for each in suite.roles if each[0] is Role.LEADER]
    assert led == [(Role.LEADER, log.status().term)]
    assert suite.leader_changes == 1


@conforms(needs="can_lose_leadership")
async def test_a_lost_leadership_leaves_outcomes_open_and_ends_reads(suite: Suite) -> None:
    log = await suite.lead()
    term = log.status().term
    await log.submit(b"before", 1.0)
    waiting = asyncio.ensure_future(log.submit(b"x", 30.0))
    await asyncio.sleep(0)
    await suite.harness.take_leadership_away(log)
    assert await waiting == Unknown("leader_changed")
    assert (Role.FOLLOWER, term) in suite.roles
    outcome = await log.submit(b"x", 1.0)
    assert outcome in {Rejected("no_leader"), Rejected("not_leader")}
    with pytest.raises(NoQuorumError, match=r"no_leader|not_leader"):
        await log.read_index(1.0)
    assert not await log.transfer_leadership(None, 1.0)
    assert not log.status().ready


@conforms(needs="can_lose_leadership")
async def test_leadership_comes_back_in_a_later_term_with_a_complete_state_machine(suite: Suite) -> None:
    log = await suite.lead()
    applied = await log.submit(b"x", 1.0)
    await suite.harness.take_leadership_away(log)
    await suite.until(lambda: suite.roles[-1][0] is not Role.LEADER)
    await suite.harness.give_leadership_back(log)
    await suite.until(lambda: log.status().ready and log.status().role is Role.LEADER)
    terms = [term for role, term in suite.roles if role is Role.LEADER]
    assert terms == sorted(set(terms))
    assert len(terms) == 2
    assert terms[0] == applied.term
    assert suite.complete == [[], [b"x"]]
    assert isinstance(await log.submit(b"y", 1.0), Applied)


@conforms()
async def test_leadership_is_not_handed_to_a_stranger(suite: Suite) -> None:
    log = await suite.lead()
    assert not await log.transfer_leadership("nobody", 0.5)
    assert isinstance(await log.submit(b"x", 1.0), Applied)


@conforms()
async def test_a_snapshot_covers_what_was_applied(suite: Suite) -> None:
    log = await suite.lead()
    applied = None
    for number in range(5):
        applied = await log.submit(b"%d" % number, 1.0)
    log.request_snapshot()
    await suite.until(lambda: log.status().snapshot_index == applied.index)
    assert isinstance(await log.submit(b"after", 1.0), Applied)
    assert suite.machine.entries == [b"0", b"1", b"2", b"3", b"4", b"after"]


@conforms()
async def test_a_closed_log_ends_what_waits_and_refuses_the_rest(suite: Suite) -> None:
    log = await suite.lead()
    waiting = asyncio.ensure_future(log.submit(b"x", 30.0))
    await asyncio.sleep(0)
    await log.close()
    await log.close()
    assert await waiting == Unknown("closed")
    assert await log.submit(b"x", 1.0) == Rejected("closed")
    with pytest.raises(NoQuorumError, match="closed"):
        await log.read_index(1.0)
    assert not log.status().ready


@conforms()
async def test_an_apply_that_raises_stops_the_log_with_its_reason(suite: Suite) -> None:
    log = await suite.lead()
    failing = asyncio.ensure_future(log.wait_failed())
    assert await log.submit(b"poison", 5.0) == Unknown("closed")
    error = await failing
    assert isinstance(error, LogFailedError)
    assert "KeyError" in str(error)
    assert suite.roles[-1] == (Role.FOLLOWER, log.status().term)
    assert await log.submit(b"x", 1.0) == Rejected("closed")
    assert not log.status().ready


@conforms(needs="is_durable")
async def test_everything_applied_is_there_after_a_restart(suite: Suite) -> None:
    log = await suite.lead()
    for number in range(10):
        await log.submit(b"%d" % number, 1.0)
    log.request_snapshot()
    await suite.until(lambda: log.status().snapshot_index > 0)
    await log.submit(b"after", 1.0)
    before = list(suite.machine.entries)
    log = await suite.restart()
    assert suite.machine.entries == before
    assert suite.complete[-1] == before
    assert isinstance(await log.submit(b"again", 1.0), Applied)
