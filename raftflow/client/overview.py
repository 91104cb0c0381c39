"""The cluster in one picture, put together from what each replica says of itself."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from raftflow.client.errors import ClientError, Unreachable
from raftflow.domain.contract import AgentView, ReplicaStatus


class ReplicaLine(msgspec.Struct, kw_only=True):
    """One replica."""

    name: str
    url: str
    pid: int | None = None
    role: str
    """leader, follower, candidate or down."""
    applied: int | None = None
    digest: str | None = None
    digest_index: int | None = None
    """Replicas with the same `digest_index` must show the same digest."""
    term: int | None = None
    ready: bool = False


class AgentLine(msgspec.Struct, kw_only=True):
    """One agent."""

    name: str
    pid: int | None = None
    state: str


class ClusterStatus(msgspec.Struct, kw_only=True):
    """What `cluster status` prints."""

    leader: str | None
    term: int
    index: int
    """The furthest commit index that any replica knows."""
    replicas: list[ReplicaLine]
    agents: list[AgentLine]


def overview(answers: Mapping[str, ReplicaStatus | ClientError], agents: list[AgentView]) -> ClusterStatus:
    """Put the replicas' answers together, by URL. Raises `Unreachable` if there is not one."""
    statuses = {url: answer for url, answer in answers.items() if isinstance(answer, ReplicaStatus)}
    if not statuses:
        told = "; ".join(f"{url}: {answer}" for url, answer in answers.items())
        raise Unreachable(f"no coordinator answers ({told})")
    term = max(status.term for status in statuses.values())
    # A replica that was cut off may still think that it leads; only the newest term's leader counts.
    leaders = [s.name for s in statuses.values() if s.role == "leader" and s.term == term and s.ready]
    names = _names_of_the_silent(statuses, [url for url in answers if url not in statuses])
    lines = []
    for url in answers:
        status = statuses.get(url)
        if status is None:
            lines.append(ReplicaLine(name=names.get(url, url), url=url, role="down"))
            continue
        lines.append(
            ReplicaLine(
                name=status.name,
                url=url,
                pid=status.pid,
                role=status.role,
                applied=status.applied_index,
                digest=status.digest,
                digest_index=status.digest_index,
                term=status.term,
                ready=status.ready,
            )
        )
    return ClusterStatus(
        leader=leaders[0] if leaders else None,
        term=term,
        index=max(status.commit_index for status in statuses.values()),
        replicas=lines,
        agents=[AgentLine(name=agent.name, pid=agent.pid, state=agent.state) for agent in agents],
    )


def _names_of_the_silent(statuses: Mapping[str, ReplicaStatus], silent: list[str]) -> dict[str, str]:
    """Name the replica that did not answer by elimination, where only one did not."""
    known = {status.name for status in statuses.values()}
    members = known | {peer.name for status in statuses.values() for peer in status.peers}
    missing = sorted(members - known)
    return {silent[0]: missing[0]} if len(silent) == len(missing) == 1 else {}
