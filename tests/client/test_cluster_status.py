"""The picture of a cluster: what its members say; a silent, a refusing and a stopped replica are told apart."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from raftflow.client import AsyncClient, Refused, Unreachable

SECOND_S = 1.0


def status(name: str, *, leader: str = "n2", members: tuple[str, ...] = ("n2", "n3", "n4"), gone: str = "") -> Any:
    numbers = dict.fromkeys(("last_index", "durable_index", "commit_index", "applied_index", "digest_index"), 7)
    words = {"cluster": "c", "leader": leader, "leader_url": None, "version": "0", "digest": "d"}
    peers = [{"name": other, "connected": other != gone} for other in members if other != name]
    more = {"role": "leader" if name == leader else "follower", "term": 3, "snapshot_index": 0, "ready": True}
    return {"name": name, "pid": 11, "uptime_s": 1.5, "peers": peers, **numbers, **words, **more}


def members(urls: dict[str, str], leader: str = "n2") -> Any:
    listed = [{"name": name, "peer": "h:1", "url": url, "leader": name == leader} for name, url in urls.items()]
    return {"replica": "n2", "leader": leader, "term": 3, "members": listed}


def serve(replica: Any, own: Any, listed: Any) -> None:
    replica.routes["GET", "/v1/status"] = own
    replica.routes["GET", "/v1/members"] = listed
    replica.routes["GET", "/v1/agents"] = {"agents": []}


def lines(found: Any) -> list[tuple[str, str, str, str]]:
    return [(line.name, line.url, line.role, line.contact) for line in found.replicas]


async def test_an_old_list_of_peers_shows_the_members_of_today(replicas: list[Any], dead_url: str) -> None:
    """n1 was replaced by n4: its address is nobody's, and n4 is asked although nobody named it."""
    two, three, four = replicas
    listed = members({"n2": two.url, "n3": three.url, "n4": four.url})
    for name, replica in zip(("n2", "n3", "n4"), replicas, strict=True):
        serve(replica, status(name), listed)
    async with AsyncClient([dead_url, two.url, three.url], environ={}) as client:
        found = await client.cluster_status()
    assert lines(found) == [
        ("n2", two.url, "leader", "ok"),
        ("n3", three.url, "follower", "ok"),
        ("n4", four.url, "follower", "ok"),
    ]
    assert [(each.url, each.contact) for each in found.unknown_addresses] == [
        (dead_url, "unreachable: connection refused")
    ]


async def test_silence_refusal_and_a_stopped_process_are_three_things(
    replicas: list[Any], make: Any, dead_url: str
) -> None:
    two, three, four = replicas
    listed = members({"n2": two.url, "n3": three.url, "n4": four.url, "n5": dead_url})
    four_members = ("n2", "n3", "n4", "n5")
    serve(two, status("n2", members=four_members), listed)
    three.script = [make.problem("unauthorized", 401) for _ in range(4)]
    four.script = [make.hang for _ in range(4)]
    began = time.monotonic()
    async with AsyncClient([two.url, three.url, four.url], environ={}) as client:
        found = await client.cluster_status()
    assert time.monotonic() - began < SECOND_S
    assert lines(found) == [
        ("n2", two.url, "leader", "ok"),
        ("n3", three.url, "follower", "refused: 401 unauthorized"),
        ("n4", four.url, "follower", "unreachable: no answer in time"),
        ("n5", dead_url, "down", "connection refused"),
    ]


async def test_whom_the_members_do_not_hear_is_down(replicas: list[Any], make: Any) -> None:
    two, three, four = replicas
    listed = members({"n2": two.url, "n3": three.url, "n4": four.url})
    for name, replica in (("n2", two), ("n3", three)):
        serve(replica, status(name, gone="n4"), listed)
    four.script = [make.hang for _ in range(4)]
    async with AsyncClient([replica.url for replica in replicas], environ={}) as client:
        found = await client.cluster_status()
    assert lines(found)[2] == ("n4", four.url, "down", "unreachable: no answer in time")


async def test_a_leader_that_is_unreachable_from_here_still_leads(replicas: list[Any], make: Any) -> None:
    two, three, four = replicas
    listed = members({"n2": two.url, "n3": three.url, "n4": four.url})
    two.script = [make.hang for _ in range(4)]
    for name, replica in (("n3", three), ("n4", four)):
        serve(replica, status(name), listed)
    async with AsyncClient([three.url, four.url, two.url], environ={}) as client:
        found = await client.cluster_status()
    assert found.leader == "n2"
    assert lines(found)[0] == ("n2", two.url, "leader", "unreachable: no answer in time")


async def test_a_cluster_that_refuses_is_not_called_unreachable(replicas: list[Any], make: Any) -> None:
    for replica in replicas:
        replica.script = [make.problem("unauthorized", 401, detail="send a token") for _ in range(4)]
    async with AsyncClient([replica.url for replica in replicas], environ={}) as client:
        with pytest.raises(Refused, match="send a token"):
            await client.cluster_status()
    async with AsyncClient(["http://127.0.0.1:1"], environ={}) as client:
        with pytest.raises(Unreachable, match="connection refused"):
            await client.cluster_status()


async def test_a_picture_that_is_given_up_leaves_no_questions_behind(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.hang for _ in range(4)]
    async with AsyncClient([replicas[0].url], environ={}) as client:
        before = asyncio.all_tasks()
        asking = asyncio.ensure_future(client.cluster_status())
        while not replicas[0].seen:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert {
            task for task in asyncio.all_tasks() - before if task.get_coro().__qualname__.startswith("Async")
        } == set()
