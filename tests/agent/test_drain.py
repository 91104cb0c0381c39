"""Leaving in good order."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.main import EXIT_DONE, EXIT_REFUSED, run_agent


async def started(leader: Any, tmp_path: Path, script: str, *more: dict[str, Any]) -> list[int]:
    """Assign a script that has started when this returns, and more tasks behind it."""
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    command = ["sh", "-c", f"echo $$ > {fifo}; {script}"]
    fences: list[int] = await leader.assign({"command": command, "grace_ms": 300}, *more)
    await asyncio.to_thread(fifo.read_text)
    return fences


async def test_running_attempts_end_and_queued_ones_are_given_back(
    leader: Any, agent_process: Any, tmp_path: Path
) -> None:
    agent = agent_process(resources={"cpu": 1})
    go = tmp_path / "go"
    os.mkfifo(go)
    running, queued = await started(leader, tmp_path, f"cat {go}", {"command": ["/bin/true"]})
    agent.signal(signal.SIGTERM)
    assert (await leader.end_of(queued)).outcome == "released"
    assert await leader.until(lambda: leader.polls[-1].leaving)
    assert not leader.goodbye
    await asyncio.to_thread(go.write_text, "")
    assert (await leader.end_of(running)).outcome == "succeeded"
    assert await agent.wait() == EXIT_DONE
    assert leader.goodbye
    assert not leader.polls[-1].ends


async def test_an_idle_agent_leaves_at_once(leader: Any, agent_process: Any) -> None:
    leader.poll_wait_ms = 60_000
    agent = agent_process()
    await leader.until(lambda: leader.polls)
    agent.signal(signal.SIGINT)
    assert await agent.wait(5) == EXIT_DONE
    assert leader.goodbye


async def test_attempts_that_do_not_end_are_abandoned(leader: Any, agent_process: Any, tmp_path: Path) -> None:
    agent = agent_process(drain_timeout_s=0.2)
    (fence,) = await started(leader, tmp_path, "trap '' TERM; sleep 300; true")
    agent.signal(signal.SIGTERM)
    end = await leader.end_of(fence)
    assert (end.outcome, end.exit_code) == ("abandoned", -9)
    assert await agent.wait() == EXIT_DONE
    assert leader.goodbye


async def test_a_second_signal_stops_at_once(leader: Any, agent_process: Any, tmp_path: Path) -> None:
    agent = agent_process()
    (fence,) = await started(leader, tmp_path, "trap '' TERM; sleep 300; true")
    agent.signal(signal.SIGTERM)
    await leader.until(lambda: leader.polls[-1].leaving)
    agent.signal(signal.SIGTERM)
    assert (await leader.end_of(fence, timeout_s=5)).outcome == "abandoned"
    assert await agent.wait(5) == EXIT_DONE


async def test_leaving_without_a_leader_takes_bounded_time(leader: Any, agent_process: Any, tmp_path: Path) -> None:
    agent = agent_process(drain_timeout_s=0.1, poll_timeout_s=0.5, goodbye_timeout_s=0.3)
    await started(leader, tmp_path, "sleep 300")
    await leader.close()
    agent.signal(signal.SIGTERM)
    assert await agent.wait(15) == 3


async def test_an_idle_agent_does_not_wait_for_a_leader_that_is_gone(leader: Any, agent_process: Any) -> None:
    agent = agent_process(drain_timeout_s=300, poll_timeout_s=0.5, goodbye_timeout_s=0.3)
    await leader.until(lambda: leader.polls)
    await leader.close()
    agent.signal(signal.SIGTERM)
    assert await agent.wait(15) == EXIT_DONE


async def test_leaving_before_any_leader_was_found(leader: Any, agent_process: Any) -> None:
    leader.no_leader = True
    agent = agent_process()
    await leader.until(lambda: leader.refused)
    agent.signal(signal.SIGTERM)
    assert await agent.wait(5) == EXIT_DONE


async def test_two_agents_cannot_share_a_work_directory(leader: Any, agent_process: Any) -> None:
    agent_process()
    await leader.until(lambda: leader.polls)
    second = agent_process(name="a2")
    assert await second.wait() == 2


@pytest.mark.parametrize("keep", [1, 3])
async def test_old_output_is_removed(leader: Any, start_agent: Any, tmp_path: Path, keep: int) -> None:
    start_agent(keep_attempts_max=keep, resources={"cpu": 1})
    for number in range(4):
        await leader.run(command=["echo", str(number)])
    kept = sorted(int(path.name) for path in (tmp_path / "agent" / "attempts").iterdir())
    assert kept == list(range(5 - keep, 5))


async def test_a_process_of_the_same_work_directory_has_the_same_home(
    leader: Any, make_config: Any, tmp_path: Path
) -> None:
    for number, work_dir in enumerate(("one", "one", "two")):
        task = asyncio.ensure_future(run_agent(make_config(work_dir=str(tmp_path / work_dir))))
        await leader.until(lambda count=number: len(leader.registrations) > count)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    first, again, other = leader.registrations
    assert first.home == again.home != other.home
    assert first.instance != again.instance
    assert len(first.home) == 32


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"no home at all"])
async def test_a_work_directory_with_a_damaged_home_gets_a_new_one(
    leader: Any, make_config: Any, tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / "agent").mkdir(mode=0o700)
    (tmp_path / "agent" / "home").write_bytes(damage)
    task = asyncio.ensure_future(run_agent(make_config()))
    await leader.until(lambda: leader.registrations)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(leader.registrations[0].home) == 32


async def test_an_agent_whose_name_is_in_use_waits_for_it_and_then_says_what_to_do(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr("raftflow.agent.loop._NAME_WAIT_S", 0.02)
    leader.name_in_use = 3
    agent = start_agent()
    await leader.until(lambda: leader.polls)
    assert len(leader.registrations) == 4, "it is tried again, for the other one may be gone"
    assert "name-in-use" in caplog.text
    agent.cancel()
    monkeypatch.setattr("raftflow.agent.loop.NAME_WAIT_MAX_S", 0.1)
    leader.name_in_use = 1_000
    assert await asyncio.wait_for(start_agent(work_dir=str(tmp_path / "second")), 10) == EXIT_REFUSED


async def test_an_agent_tells_the_service_manager_and_hides_it_from_its_tasks(
    leader: Any, agent_process: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(0)

    async def heard(line: str) -> None:
        async with asyncio.timeout(60):
            while line not in (await asyncio.get_running_loop().sock_recv(listener, 4096)).decode().split("\n"):
                pass

    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with listener:
        agent = agent_process(pass_env=["NOTIFY_SOCKET"])
        await heard("READY=1")
        await heard("WATCHDOG=1")
        seen = tmp_path / "seen"
        (fence,) = await leader.assign({"command": ["sh", "-c", f"env >{seen}"]})
        assert (await leader.end_of(fence)).outcome == "succeeded"
        assert "NOTIFY_SOCKET" not in seen.read_text()
        agent.signal(signal.SIGTERM)
        await heard("STOPPING=1")
        assert await agent.wait() == EXIT_DONE
