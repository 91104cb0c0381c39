"""Asks every replica of a cluster, side by side, within a bounded time.

A replica that hangs, answers slowly, or answers nonsense costs the others nothing: each question has `ASK_S`. Each
replica is asked twice, `PAUSE_S` apart, so that the rate of its clock and its lag can be judged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Final, TypeVar

from raftflow.client.aio import AsyncClient
from raftflow.client.errors import BadAnswer, ClientError, NotFound, Refused, Unreachable
from raftflow.client.overview import ReplicaAnswer, best_members, contact_of, members_to_ask
from raftflow.doctor.facts import ClockSample, ClusterFacts, ReplicaFacts
from raftflow.domain.contract.views import AgentView, MemberList

T = TypeVar("T")

ASK_S: Final = 2.0
"""How long one question may take."""
PAUSE_S: Final = 0.5
"""Between the two rounds."""
SAMPLES: Final = 3
"""Readings of the clocks in each round: the quickest counts."""
REPLICAS_MAX: Final = 64
"""Addresses that are asked. A replica that lies about the members cannot make this go on for ever."""
_REFUSED: Final = {401, 403, 421}
"""Statuses of a replica that does not answer this client: no token, a page of another site, another host name."""


async def gather(client: AsyncClient, names: Mapping[str, str] | None = None) -> ClusterFacts:
    """Ask all replicas that the client knows, and all members that these name. Raises no `ClientError`.

    `names` are those of replicas by URL, as far as the caller knows them: for those that do not answer.
    """
    known = names or {}
    facts: dict[str, ReplicaFacts] = {}
    lists: dict[str, MemberList] = {}
    agents = asyncio.ensure_future(_agents(client))
    waiting = {url.rstrip("/") for url in client.peers}
    while waiting:  # the members that the first answers name are asked in a second turn, and so on
        asked = [ReplicaFacts(name=known.get(url, url), url=url) for url in sorted(waiting)]
        facts |= {each.url: each for each in asked}
        told = await asyncio.gather(*(_first_round(client, each) for each in asked))
        lists |= {each.url: members for each, members in zip(asked, told, strict=True) if members is not None}
        answers = {
            each.url: ReplicaAnswer(each.status, lists.get(each.url))
            for each in facts.values()
            if each.status is not None
        }
        new = [url for url in members_to_ask(answers) if url not in facts]
        waiting = set(new[: REPLICAS_MAX - len(facts)])
    await asyncio.sleep(PAUSE_S)
    await asyncio.gather(*(_second_round(client, each) for each in facts.values() if each.status is not None))
    members = best_members(
        [ReplicaAnswer(each.status, lists.get(each.url)) for each in facts.values() if each.status is not None]
    )
    return ClusterFacts(
        replicas=_in_order(list(facts.values()), members),
        members=[] if members is None else members.members,
        agents=await agents,
        now_ms=time.time_ns() // 1_000_000,
    )


async def _first_round(client: AsyncClient, facts: ReplicaFacts) -> MemberList | None:
    """Ask a replica how it is, who the members are, and about its machine."""
    members = asyncio.ensure_future(_ask(client.members(replica_url=facts.url)))
    sampled = asyncio.ensure_future(_sample(client, facts))
    status = await _ask(client.status(facts.url))
    if isinstance(status, ClientError):
        facts.failure = contact_of(facts.url, status)
        facts.refused = isinstance(status, Refused) and status.problem.status in _REFUSED
    else:
        facts.status = facts.status_before = status
        facts.name = status.name
    told, _ = await asyncio.gather(members, sampled)
    return told if isinstance(told, MemberList) else None


async def _second_round(client: AsyncClient, facts: ReplicaFacts) -> None:
    """Ask a replica again. If it does not answer any more, what it said before counts."""
    sampled = asyncio.ensure_future(_sample(client, facts)) if facts.host is not None else None
    status = await _ask(client.status(facts.url))
    if not isinstance(status, ClientError):
        facts.status = status
    if sampled is not None:
        await sampled


async def _sample(client: AsyncClient, facts: ReplicaFacts) -> None:
    """Read the clocks and the facts of a replica's machine."""
    readings = []
    for _ in range(SAMPLES):
        sent_s = time.monotonic()
        host = await _ask(client.host(facts.url))
        received_s = time.monotonic()
        if isinstance(host, ClientError):
            facts.host_failure = contact_of(facts.url, host)
            facts.too_old = isinstance(host, NotFound)
            break
        facts.host = host
        facts.host_failure = ""
        readings.append(
            ClockSample(
                sent_s=sent_s,
                received_s=received_s,
                here_ms=(sent_s + received_s) * 500,
                time_ms=host.time_ms,
                running_ms=host.running_ms,
            )
        )
    if readings:
        facts.samples = [*facts.samples, min(readings, key=lambda each: each.round_trip_ms)]


async def _agents(client: AsyncClient) -> list[AgentView] | None:
    """Return the agents as the leader knows them, otherwise as any replica does."""
    told = await asyncio.gather(*(_ask(client.agents(stale=stale)) for stale in (False, True)))
    return next((list(each) for each in told if not isinstance(each, ClientError)), None)


async def _ask(question: Awaitable[T]) -> T | ClientError:
    """Return the answer to one question, or the error in place of it."""
    try:
        async with asyncio.timeout(ASK_S):
            return await question
    except TimeoutError:
        return Unreachable("no answer in time")
    except ClientError as error:
        return error
    except (ValueError, OSError) as error:
        return BadAnswer(str(error))


def _in_order(replicas: list[ReplicaFacts], members: MemberList | None) -> list[ReplicaFacts]:
    """Return the members in order of their names, with what is known of those that did not answer; then others."""
    if members is None:
        return sorted(replicas, key=lambda each: each.name)
    by_name = {each.name: each for each in replicas if each.status is not None}
    by_url = {each.url: each for each in replicas}
    ordered: list[ReplicaFacts] = []
    for member in members.members[:REPLICAS_MAX]:
        url = member.url.rstrip("/")
        found = by_name.get(member.name) or by_url.get(url)
        if found is None:
            found = ReplicaFacts(name=member.name, url=url, failure="not asked: its address is not known")
        found.name, found.voting = member.name, member.voting
        ordered.append(found)
    strangers = [each for each in replicas if not any(each is known for known in ordered)]
    for each in strangers:
        each.voting = False
    return [*ordered, *strangers]
