"""Reports, admission, redirects and failures of the exchange with the leader."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

CAT = ["sh", "-c", 'cat "$0"']
TRUE = ["/bin/true"]


async def open_fifo(path: Path) -> None:
    """Let the attempt that reads the fifo end."""
    await asyncio.to_thread(path.write_text, "")


def make_fifos(folder: Path, count: int) -> list[Path]:
    fifos = [folder / f"fifo-{number}" for number in range(count)]
    for fifo in fifos:
        os.mkfifo(fifo)
    return fifos


async def test_registration_says_what_the_agent_is(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1.5, "memory": "2GiB", "gpu": 2}, labels={"zone": "a"}, prefetch=7)
    await leader.until(lambda: leader.polls)
    (registration,) = leader.registrations
    assert registration.resources == {"cpu": 1.5, "memory": "2GiB", "gpu": 2}
    assert (registration.name, registration.labels, registration.prefetch) == ("a1", {"zone": "a"}, 7)
    assert registration.pid == os.getpid()
    poll = leader.polls[0]
    assert (poll.incarnation, poll.seen, poll.running, poll.ends) == (1, 0, [], [])
    assert poll.load.cpu_count >= 1
    assert poll.load.memory_free_mib > 0


async def test_queued_attempts_start_without_a_round_trip(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    """While the report of the first end is held back, the attempts behind it run and end."""
    start_agent(resources={"cpu": 1})
    leader.hold_reports = asyncio.Event()
    marks = [tmp_path / f"mark-{number}" for number in range(3)]
    for mark in marks[1:]:
        os.mkfifo(mark)
    await leader.assign(
        {"command": TRUE},
        {"command": ["sh", "-c", f"echo ran > {marks[1]}"]},
        {"command": ["sh", "-c", f"echo ran > {marks[2]}"]},
    )
    assert await asyncio.to_thread(marks[1].read_text) == "ran\n"
    assert await asyncio.to_thread(marks[2].read_text) == "ran\n"
    assert not leader.accepted
    leader.hold_reports.set()
    await leader.until(lambda: len(leader.accepted) == 3)
    assert list(leader.accepted) == [1, 2, 3]


async def test_attempts_start_in_order_and_none_overtakes(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent(resources={"cpu": 2})
    fifos = make_fifos(tmp_path, 3)
    fences = await leader.assign(
        {"command": [*CAT, str(fifos[0])]},
        {"command": [*CAT, str(fifos[1])], "resources": {"cpu": 2000}},
        {"command": [*CAT, str(fifos[2])]},
    )
    poll = await leader.until(lambda: next((poll for poll in leader.polls if poll.seen == fences[2]), None))
    assert (poll.running, poll.queued) == ([fences[0]], fences[1:])
    await open_fifo(fifos[0])
    poll = await leader.until(lambda: next((poll for poll in leader.polls if fences[1] in poll.running), None))
    assert (poll.running, poll.queued) == ([fences[1]], [fences[2]])
    await open_fifo(fifos[1])
    await open_fifo(fifos[2])
    await leader.until(lambda: len(leader.accepted) == 3)
    assert list(leader.accepted) == fences


async def test_ends_are_sent_again_until_answered(leader: Any, start_agent: Any) -> None:
    """Once cut off before the leader took them, once after: nothing is lost, nothing is doubled."""
    start_agent()
    leader.deaf_polls = 1
    first = await leader.run(command=TRUE)
    assert [end.fence for end in leader.reports] == [first.fence] * 2
    leader.cut_after_apply = 1
    second = await leader.run(command=TRUE)
    await leader.until(lambda: [end.fence for end in leader.reports].count(second.fence) == 2)
    third = await leader.run(command=TRUE)
    fences = [end.fence for end in leader.reports]
    assert fences == [first.fence] * 2 + [second.fence] * 2 + [third.fence]
    assert len(leader.registrations) == 1


async def reports_held_until_all_ended(leader: Any, folder: Path, *tasks: dict[str, Any]) -> list[int]:
    """Assign tasks to an agent with one place; when this returns, they have ended, in one report and those after it.

    A last attempt that has started shows that those before it have ended. The first report is held until then; it
    has the first end, and others only if the machine was too busy to send it at once.
    """
    leader.hold_reports = asyncio.Event()
    (fifo,) = make_fifos(folder, 1)
    fences: list[int] = await leader.assign(*tasks, {"command": ["sh", "-c", f"echo > {fifo}; cat {fifo}"]})
    await asyncio.to_thread(fifo.read_text)
    assert len([poll for poll in leader.polls if poll.ends]) == 1
    leader.hold_reports.set()
    await leader.until(lambda: len(leader.accepted) == len(tasks))
    await open_fifo(fifo)
    await leader.until(lambda: len(leader.accepted) == len(tasks) + 1)
    return fences


async def test_what_ends_while_a_report_is_in_flight_goes_with_the_next(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    start_agent(resources={"cpu": 1})
    fences = await reports_held_until_all_ended(leader, tmp_path, *({"command": TRUE} for _ in range(5)))
    reports = [[end.fence for end in poll.ends] for poll in leader.polls if poll.ends]
    first = len(reports[0])
    assert reports == [part for part in (fences[:first], fences[first:5], fences[5:]) if part]
    assert leader.in_flight_max <= 2


async def gathering(leader: Any, folder: Path, *tasks: dict[str, Any]) -> tuple[list[int], Path]:
    """Assign to an agent with one place: one attempt that is reported, these, one that reads a fifo, forty more.

    When this returns, the one with the fifo runs: all before it have ended.
    """
    (fifo,) = make_fifos(folder, 1)
    blocked = {"command": ["sh", "-c", f"echo > {fifo}; cat {fifo}"]}
    rest = ({"command": TRUE} for _ in range(40))
    fences: list[int] = await leader.assign({"command": TRUE}, *tasks, blocked, *rest)
    await asyncio.to_thread(fifo.read_text)
    await leader.end_of(fences[0])
    return fences, fifo


async def test_ends_are_gathered_until_they_are_a_part_of_what_waits(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftflow.agent.exchange.outbox._DISTANCE_S", 600.0)
    start_agent(resources={"cpu": 1})
    fences, fifo = await gathering(leader, tmp_path, {"command": TRUE}, {"command": TRUE})
    # The first end goes at once, with those that had come by then; the rest of the three wait.
    assert [end.fence for end in leader.reports] == fences[: len(leader.reports)]
    assert sum(1 for poll in leader.polls if poll.ends) == 1
    await open_fifo(fifo)
    await leader.until(lambda: len(leader.accepted) == len(fences))
    reports = [(len(poll.ends), len(poll.queued)) for poll in leader.polls if poll.ends]
    assert all(ended >= waiting // 4 for ended, waiting in reports[1:])
    assert reports[1][0] >= 8
    assert list(leader.accepted) == fences


async def test_ends_are_gathered_for_a_moment_only_and_orders_still_arrive(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    start_agent(resources={"cpu": 1})
    fences, _ = await gathering(leader, tmp_path, {"command": TRUE}, {"command": TRUE})
    await leader.end_of(fences[2])
    assert fences[3] in leader.polls[-1].running
    leader.stop = fences[3:]
    await leader.notify()
    assert (await leader.end_of(fences[3])).outcome == "cancelled"


async def test_an_end_that_is_no_success_is_reported_at_once_with_all_before_it(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftflow.agent.exchange.outbox._DISTANCE_S", 600.0)
    start_agent(resources={"cpu": 1})
    fences, fifo = await gathering(leader, tmp_path, {"command": TRUE}, {"command": ["/bin/false"]})
    assert (await leader.end_of(fences[2])).outcome == "failed"
    assert list(leader.accepted) == fences[:3]
    await open_fifo(fifo)
    await leader.until(lambda: len(leader.accepted) == len(fences))


async def test_an_agent_that_leaves_reports_what_it_has_gathered(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftflow.agent.exchange.outbox._DISTANCE_S", 600.0)
    running = start_agent(resources={"cpu": 1})
    fences, fifo = await gathering(leader, tmp_path, {"command": TRUE}, {"command": TRUE})
    os.kill(os.getpid(), signal.SIGTERM)
    await leader.until(lambda: len(leader.accepted) == len(fences) - 1)
    await open_fifo(fifo)
    assert await asyncio.wait_for(running, 10) == 0
    outcomes = [leader.accepted[fence].outcome for fence in fences]
    assert outcomes == ["succeeded"] * 4 + ["released"] * 40
    assert leader.goodbye


async def test_more_ends_than_one_poll_takes(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of those that must wait may look lost meanwhile (the leader's fixture looks for that)."""
    monkeypatch.setattr("raftflow.agent.exchange.outbox._ENDS_MAX", 2)
    start_agent(resources={"cpu": 1})
    fences = await reports_held_until_all_ended(leader, tmp_path, *({"command": TRUE} for _ in range(6)))
    reports = [[end.fence for end in poll.ends] for poll in leader.polls if poll.ends]
    first = len(reports[0])
    assert reports == [fences[:first], *(fences[at : min(at + 2, 6)] for at in range(first, 6, 2)), fences[6:]]


async def test_ends_that_a_coordinator_finds_too_large_are_cut_into_smaller_polls(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    leader.poll_bytes_max = 60_000
    start_agent(resources={"cpu": 1})
    small, large = ({"python": "operator:mul", "args": ["x", count]} for count in (30_000, 60_000))
    fences = await reports_held_until_all_ended(leader, tmp_path, small, small, small, large, small)
    outcomes = [leader.accepted[fence].outcome for fence in fences[:5]]
    assert outcomes == ["succeeded", "succeeded", "succeeded", "failed", "succeeded"]
    assert "refuses the result" in leader.accepted[fences[3]].error


async def test_news_do_not_wait_for_a_held_poll(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    leader.poll_wait_ms = 60_000
    leader.lease_ms = 600_000
    start_agent()
    (fifo,) = make_fifos(tmp_path, 1)
    (fence,) = await leader.assign({"command": [*CAT, str(fifo)]})
    await leader.until(lambda: leader.polls and leader.polls[-1].running == [fence])  # this one is held
    await open_fifo(fifo)
    assert (await leader.end_of(fence, timeout_s=5)).outcome == "succeeded"


async def test_a_follower_sends_the_agent_to_the_leader(leader: Any, make_leader: Any, start_agent: Any) -> None:
    follower = await make_leader()
    follower.redirect_to = leader.url
    start_agent(peers=[follower.url])
    assert (await leader.run(command=TRUE)).outcome == "succeeded"
    assert not follower.polls


async def test_the_agent_follows_the_members_to_replicas_that_it_was_not_told_of(
    leader: Any, make_leader: Any, start_agent: Any
) -> None:
    old = await make_leader()
    old.peers_told = f"{old.url},{leader.url}"
    leader.no_leader = True
    start_agent(peers=[old.url])
    assert (await old.run(command=TRUE)).outcome == "succeeded"
    await old.close()
    leader.no_leader = False
    leader.incarnation = old.incarnation
    await leader.until(lambda: leader.polls)


async def test_the_agent_keeps_its_own_list_if_the_members_have_addresses_of_another_network(
    leader: Any, make_leader: Any, start_agent: Any
) -> None:
    old = await make_leader()
    old.peers_told = "http://127.0.0.1:1"
    leader.no_leader = True
    start_agent(peers=[old.url, leader.url])
    assert (await old.run(command=TRUE)).outcome == "succeeded"
    await old.close()
    leader.no_leader = False
    leader.incarnation = old.incarnation
    await leader.until(lambda: leader.polls)


async def test_failover_keeps_what_runs_and_reports_to_the_new_leader(
    leader: Any, make_leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    old = await make_leader()
    leader.no_leader = True
    start_agent(peers=[old.url, leader.url], resources={"cpu": 2})
    (fifo,) = make_fifos(tmp_path, 1)
    old.hold_reports = asyncio.Event()
    running, ended = await old.assign({"command": [*CAT, str(fifo)]}, {"command": TRUE})
    await old.until(lambda: any(end.fence == ended for end in old.reports))
    await old.close()  # in the middle of a report
    leader.no_leader = False
    leader.incarnation, leader.live = old.incarnation, old.live
    assert (await leader.end_of(ended)).outcome == "succeeded"
    assert leader.polls[0].running == [running]
    await open_fifo(fifo)
    assert (await leader.end_of(running)).outcome == "succeeded"
    assert not leader.registrations


async def test_a_leader_that_stands_still_is_left_in_time(
    leader: Any, make_leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    """It accepts connections and says nothing; what runs goes on under the next leader."""
    old = await make_leader()
    old.lease_ms = leader.lease_ms = 1_500
    old.poll_wait_ms = leader.poll_wait_ms = 100
    leader.no_leader = True
    start_agent(peers=[old.url, leader.url])
    (fifo,) = make_fifos(tmp_path, 1)
    (fence,) = await old.assign({"command": [*CAT, str(fifo)]})
    await old.until(lambda: old.polls and old.polls[-1].running == [fence])
    leader.incarnation, leader.live = old.incarnation, old.live
    old.silent = True
    await old.notify()
    leader.no_leader = False
    await leader.until(lambda: leader.polls and leader.polls[-1].running == [fence])
    await open_fifo(fifo)
    assert (await leader.end_of(fence)).outcome == "succeeded"


async def test_no_leader_for_a_while(leader: Any, start_agent: Any) -> None:
    leader.no_leader = True
    start_agent()
    await leader.until(lambda: leader.refused >= 2)
    leader.no_leader = False
    assert (await leader.run(command=TRUE)).outcome == "succeeded"
    refused = leader.refused
    leader.no_leader = True
    (fence,) = await leader.assign({"command": TRUE})
    await leader.until(lambda: leader.refused >= refused + 2)
    leader.no_leader = False
    assert (await leader.end_of(fence)).outcome == "succeeded"
    assert len({registration.instance for registration in leader.registrations}) == 1


async def test_a_lost_agent_stops_everything_forgets_it_and_registers_again(
    leader: Any, start_agent: Any, tmp_path: Path, gone: Any
) -> None:
    start_agent(resources={"cpu": 1})
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    await leader.assign(
        {"command": ["sh", "-c", f"trap '' TERM; echo $$ > {ready}; sleep 300"], "grace_ms": 60_000},
        {"command": TRUE},
    )
    pid = int(await asyncio.to_thread(ready.read_text))
    leader.lose_agent()
    await leader.notify()
    await leader.until(lambda: len(leader.registrations) == 2)
    await gone(pid)  # it was gone before the agent registered again
    assert leader.incarnation == 2
    end = await leader.run(command=TRUE)
    # What ended because of it was said under the old incarnation, for the audit; then it was forgotten.
    told = [(poll.incarnation, done.outcome) for poll in leader.polls for done in poll.ends]
    assert told == [(1, "released"), (1, "abandoned"), (2, "succeeded")]
    assert leader.reports[-1].fence == end.fence
    poll = next(poll for poll in leader.polls if poll.incarnation == 2)
    assert (poll.seq, poll.seen, poll.running, poll.queued) == (1, 0, [], [])


async def test_unreported_ends_of_a_lost_agent_are_refused_and_dropped(leader: Any, start_agent: Any) -> None:
    start_agent()
    leader.deaf_polls = 1
    (fence,) = await leader.assign({"command": TRUE})
    await leader.until(lambda: leader.reports)
    leader.lose_agent()
    await leader.until(lambda: len(leader.registrations) == 2)
    end = await leader.run(command=TRUE)
    by_incarnation = [(poll.incarnation, done.fence) for poll in leader.polls for done in poll.ends]
    assert by_incarnation[-1] == (2, end.fence)
    assert (2, fence) not in by_incarnation
    assert (1, fence) in by_incarnation


async def test_release_and_stop_of_queued_attempts(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent(resources={"cpu": 1})
    (fifo,) = make_fifos(tmp_path, 1)
    fences = await leader.assign({"command": [*CAT, str(fifo)]}, *({"command": TRUE} for _ in range(3)))
    await leader.until(lambda: leader.polls and leader.polls[-1].queued == fences[1:])
    leader.release = [fences[0], fences[2]]
    leader.stop = [fences[3]]
    await leader.notify()
    await leader.until(lambda: len(leader.accepted) == 2)
    assert {fence: end.outcome for fence, end in leader.accepted.items()} == {
        fences[2]: "released",
        fences[3]: "released",
    }
    await open_fifo(fifo)
    await leader.until(lambda: len(leader.accepted) == 4)
    assert {leader.accepted[fence].outcome for fence in fences[:2]} == {"succeeded"}


async def test_a_demand_that_no_agent_like_this_can_meet_fails(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    end = await leader.run(command=TRUE, resources={"cpu": 5000})
    assert end.outcome == "failed"
    assert "only" in end.error
    assert (await leader.run(command=TRUE)).outcome == "succeeded"


async def test_a_refused_registration_ends_the_agent(leader: Any, make_config: Any) -> None:
    from raftflow.agent.main import EXIT_REFUSED, run_agent

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"type": "x", "title": "token", "status": 401}, status=401)

    app = web.Application()
    app.router.add_post("/v1/agents", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    code = await asyncio.wait_for(run_agent(make_config(peers=[f"http://127.0.0.1:{port}"])), 10)
    await runner.cleanup()
    assert code == EXIT_REFUSED


async def test_logs_of_a_command_that_runs_and_of_unknown_ones(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent()
    (fifo,) = make_fifos(tmp_path, 1)
    (fence,) = await leader.assign({"command": ["sh", "-c", f"printf 12345; echo > {fifo}; cat {fifo}"]})
    await asyncio.to_thread(fifo.read_text)
    piece = await leader.log_of(fence, "stdout", offset=1, bytes_max=3)
    while piece.size < 5:  # the program has written it, the launcher may not have read it yet
        piece = await leader.log_of(fence, "stdout", offset=1, bytes_max=3)
    assert (piece.data, piece.size, piece.truncated, piece.complete) == (b"234", 5, False, False)
    await open_fifo(fifo)
    await leader.end_of(fence)
    piece = await leader.log_of(fence, "stdout", offset=4)
    assert (piece.data, piece.complete) == (b"5", True)
    piece = await leader.log_of(999, "stdout")
    assert "not kept" in piece.error
