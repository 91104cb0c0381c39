"""The local lease, and what happens to processes when the agent is stopped or killed."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.clock import Lease
from raftflow.agent.exchange.outbox import hold_ms
from raftflow.domain.contract.views import RegisterResponse


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def test_the_lease_counts_from_when_the_poll_was_sent() -> None:
    clock = Clock()
    lease = Lease()
    lease.start(1_000_000_000, 10_000)
    clock.now_ns = 10_499_999_999
    assert not lease.is_over(clock.now_ns)
    clock.now_ns = 10_500_000_000  # half a second is left for programs to end in
    assert lease.is_over(clock.now_ns)
    assert lease.left_s(clock.now_ns) == pytest.approx(0.5)
    lease.confirm(5_000_000_000, 10_000)
    lease.confirm(3_000_000_000, 10_000)  # an older poll that was answered later
    assert lease.until_ns == 15_000_000_000
    assert not lease.is_over(clock.now_ns)


@pytest.mark.parametrize(
    ("lease_ms", "poll_wait_ms", "held_ms"),
    [(60_000, 3_000, 3_000), (9_000, 60_000, 3_000), (3_000, 3_000, 350), (1_000, 3_000, 100)],
)
def test_polls_are_held_so_that_the_lease_survives_a_failover(lease_ms: int, poll_wait_ms: int, held_ms: int) -> None:
    registration = RegisterResponse(
        id="a1", incarnation=1, lease_ms=lease_ms, poll_wait_ms=poll_wait_ms, result_bytes_max=1
    )
    assert hold_ms(registration) == held_ms


def sleeper(tmp_path: Path, kind: str, number: int = 0) -> tuple[dict[str, Any], Path]:
    fifo = tmp_path / f"{kind}-{number}"
    os.mkfifo(fifo)
    if kind == "command":
        return {"command": ["sh", "-c", f"trap '' TERM; echo $$ > {fifo}; sleep 300; true"]}, fifo
    (tmp_path / "sleeper.py").write_text(
        "import os, time\ndef wait(path):\n    open(path, 'w').write(str(os.getpid()))\n    time.sleep(300)\n"
    )
    return {"python": "sleeper:wait", "args": [str(fifo)]}, fifo


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


async def test_without_a_leader_attempts_end_with_the_lease(
    leader: Any, start_agent: Any, tmp_path: Path, gone: Any
) -> None:
    leader.lease_ms = 1_200
    leader.poll_wait_ms = 100
    start_agent(resources={"cpu": 2})
    command, fifo = sleeper(tmp_path, "command")
    python, other = sleeper(tmp_path, "python")
    fences = await leader.assign(command, python, {"command": ["/bin/true"]})
    pids = [int(await asyncio.to_thread(path.read_text)) for path in (fifo, other)]
    leader.no_leader = True
    await leader.notify()
    cut_at_s = time.monotonic()
    for pid in pids:
        await gone(pid)
    assert time.monotonic() - cut_at_s > 0.5
    leader.no_leader = False
    for fence in fences[:2]:
        end = await leader.end_of(fence)
        assert end.outcome == "abandoned"
        assert "lease" in end.error
    # The queue waited: nothing starts without a lease, and it goes on when there is one again.
    assert (await leader.end_of(fences[2])).outcome == "succeeded"
    assert len(leader.registrations) == 1


async def test_a_failover_shorter_than_the_lease_stops_nothing(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    leader.lease_ms = 3_000
    leader.poll_wait_ms = 100
    start_agent()
    command, fifo = sleeper(tmp_path, "command")
    (fence,) = await leader.assign(command)
    pid = int(await asyncio.to_thread(fifo.read_text))
    leader.no_leader = True
    await leader.notify()
    await asyncio.sleep(0.6)
    leader.no_leader = False
    polls = len(leader.polls)
    await leader.until(lambda: len(leader.polls) > polls + 3)
    os.kill(pid, 0)
    assert fence not in leader.accepted


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_what_succeeded_while_the_agent_stood_still_is_offered(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any, kind: str
) -> None:
    """The program ended before anybody told it to: the agent finds its end only after its own lease was over."""
    leader.lease_ms = 3_000
    leader.poll_wait_ms = 100
    agent = agent_process(resources={"cpu": 1})
    started, go, done = tmp_path / "started", tmp_path / "go", tmp_path / "done"
    for fifo in (started, go, done):
        os.mkfifo(fifo)
    if kind == "command":
        script = f'echo $$ > {started}; read _ < {go}; echo 42 > "$RAFTFLOW_RESULT"; echo > {done}'
        task: dict[str, Any] = {"command": ["sh", "-c", script]}
    else:
        (tmp_path / "passer.py").write_text(
            "import os, pathlib\n"
            "def work(started, go, done):\n"
            "    pathlib.Path(started).write_text(str(os.getpid()))\n"
            "    pathlib.Path(go).read_text()\n"
            "    pathlib.Path(done).write_text('x')\n"
            "    return 42\n"
        )
        task = {"python": "passer:work", "args": [str(started), str(go), str(done)]}
    (fence,) = await leader.assign(task)
    pid = int(await asyncio.to_thread(started.read_text))
    agent.signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    await asyncio.to_thread(go.write_text, "\n")
    await asyncio.to_thread(done.read_text)
    assert time.monotonic() < stopped_s + 2, "too slow here to end within the lease"
    await gone(pid)  # a worker is killed when the lease is over
    leader.lose_agent()
    await asyncio.sleep(max(0.0, stopped_s + leader.lease_ms / 1000 - time.monotonic()))  # the lease itself
    agent.signal(signal.SIGCONT)
    await leader.until(lambda: len(leader.registrations) == 2)
    (offer,) = leader.registrations[1].offers
    assert (offer.fence, offer.outcome, bytes(offer.result)) == (fence, "succeeded", b"42")


async def test_a_program_that_ends_well_when_told_to_stop_has_not_succeeded(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    start_agent()
    script = f"trap 'exit 0' TERM; echo $$ > {started}; while :; do sleep 0.02; done"
    (fence,) = await leader.assign({"command": ["sh", "-c", script]})
    await asyncio.to_thread(started.read_text)
    leader.stop = [fence]
    await leader.notify()
    assert (await leader.end_of(fence)).outcome == "cancelled"


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_a_stopped_agents_attempts_end_with_the_lease_and_its_reports_are_refused(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any, kind: str
) -> None:
    leader.lease_ms = 1_000
    leader.poll_wait_ms = 100
    agent = agent_process(resources={"cpu": 1})
    task, fifo = sleeper(tmp_path, kind)
    (fence, queued) = await leader.assign(task, {"command": ["/bin/true"]})
    pid = int(await asyncio.to_thread(fifo.read_text))
    agent.signal(signal.SIGSTOP)
    await gone(pid, timeout_s=5)  # though the agent itself cannot do anything
    leader.lose_agent()
    agent.signal(signal.SIGCONT)
    await leader.until(lambda: len(leader.registrations) == 2)
    end = await leader.run(command=["/bin/true"])
    assert end.outcome == "succeeded"
    assert fence not in leader.accepted
    assert queued not in leader.accepted
    old = [done for poll in leader.polls if poll.incarnation == 1 for done in poll.ends]
    assert {(done.fence, done.outcome) for done in old} == {(fence, "abandoned"), (queued, "released")}
    assert all(poll.incarnation == 1 or not poll.ends or poll.ends[0].fence == end.fence for poll in leader.polls)


async def test_a_stopped_agent_that_was_not_lost_reports_abandoned(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any
) -> None:
    """What it finds in its buffers when it wakes up must not keep it from noticing."""
    leader.lease_ms = 800
    leader.poll_wait_ms = 100
    agent = agent_process(resources={"cpu": 1})
    task, fifo = sleeper(tmp_path, "command")
    (fence, queued) = await leader.assign(task, {"command": ["/bin/true"]})
    pid = int(await asyncio.to_thread(fifo.read_text))
    agent.signal(signal.SIGSTOP)
    await gone(pid, timeout_s=5)
    agent.signal(signal.SIGCONT)
    assert (await leader.end_of(fence)).outcome == "abandoned"
    assert (await leader.end_of(queued)).outcome == "succeeded"


async def test_a_killed_agent_leaves_no_process_behind(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any
) -> None:
    agent = agent_process(resources={"cpu": 3})
    command, first = sleeper(tmp_path, "command")
    python, second = sleeper(tmp_path, "python")
    third = tmp_path / "third"
    os.mkfifo(third)
    daemon = f"setsid sh -c 'echo $$ > {third}; exec sleep 300' & exec sleep 300"
    await leader.assign(command, python, {"command": ["sh", "-c", daemon]})
    pids = [int(await asyncio.to_thread(fifo.read_text)) for fifo in (first, second, third)]
    agent.signal(signal.SIGKILL)
    for pid in pids:
        await gone(pid)


async def test_a_service_manager_that_signals_every_process_lets_the_agent_drain(
    leader: Any, agent_process: Any, tmp_path: Path
) -> None:
    agent = agent_process(resources={"cpu": 1})
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (fence,) = await leader.assign({"command": ["sh", "-c", f"trap '' TERM; echo > {fifo}; cat {fifo}"]})
    await asyncio.to_thread(fifo.read_text)
    for pid in (*agent.children(), agent.pid):
        os.kill(pid, signal.SIGTERM)
    await leader.until(lambda: leader.polls[-1].leaving)
    await asyncio.to_thread(fifo.write_text, "")
    assert (await leader.end_of(fence)).outcome == "succeeded"
    assert await agent.wait() == 0


async def test_a_killed_launcher_takes_its_attempts_along_and_is_replaced(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any
) -> None:
    agent = agent_process(resources={"cpu": 2})
    command, first = sleeper(tmp_path, "command")
    python, second = sleeper(tmp_path, "python")
    fences = await leader.assign(command, python)
    pids = [int(await asyncio.to_thread(fifo.read_text)) for fifo in (first, second)]
    (launcher,) = agent.children()
    os.kill(launcher, signal.SIGKILL)
    for pid in pids:
        await gone(pid)
    for fence in fences:
        assert (await leader.end_of(fence)).outcome == "agent_fault"
    await leader.until(lambda: not leader.polls[-1].trouble)
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert (await leader.run(python="os:getpid")).outcome == "succeeded"
