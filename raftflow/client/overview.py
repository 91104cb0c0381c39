"""The status of a cluster: its members, as the replicas know them, and what each replica reports of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from raftflow.client.errors import ClientError, Refused, Unreachable
from raftflow.domain.contract.views import AgentView, MemberList, ReplicaStatus

REACHED = "ok"
_NO_LISTENER = "connection refused"
_CHARS_MAX = 200


class ReplicaLine(msgspec.Struct, kw_only=True):
    """One replica."""

    name: str
    url: str
    pid: int | None = None
    role: str
    """leader, follower, candidate or down. For a replica that was not reached: as the other members see it."""
    contact: str = REACHED
    """`ok` if it answered, else why not: `unreachable: ...`, `refused: 401 ...`, `connection refused`."""
    applied: int | None = None
    digest: str | None = None
    digest_index: int | None = None
    """Replicas with the same `digest_index` must show the same digest."""
    term: int | None = None
    ready: bool = False


class AddressLine(msgspec.Struct, kw_only=True):
    """A configured peer that is not the address of any member that answers."""

    url: str
    contact: str


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
    """The highest commit index that any replica knows."""
    replicas: list[ReplicaLine]
    """The members, then others that answered (a member that was removed, say)."""
    agents: list[AgentLine]
    unknown_addresses: list[AddressLine] = []
    """Configured peers that did not answer and are not the address of any member."""


class ReplicaAnswer(msgspec.Struct, frozen=True):
    """The answer of one replica."""

    status: ReplicaStatus
    members: MemberList | None = None
    """The members of the cluster, as it knows them; None if it did not answer that question."""


def best_members(heard: Sequence[ReplicaAnswer]) -> MemberList | None:
    """Return the members as the best informed replica knows them: the leader, otherwise the one that applied most."""
    lists = [
        (each.status.term, each.status.role == "leader", each.status.applied_index, number)
        for number, each in enumerate(heard)
        if each.members is not None
    ]
    return heard[max(lists)[-1]].members if lists else None


def down(heard: Sequence[ReplicaAnswer], urls: Sequence[str]) -> bool:
    """Tell whether all of these are addresses of members to which the leader has no connection."""
    leaders = [each for each in heard if each.status.role == "leader" and each.status.ready]
    if not leaders:
        return False
    leader = max(leaders, key=lambda each: each.status.term)
    gone = {peer.name for peer in leader.status.peers if not peer.connected}
    members = [] if leader.members is None else leader.members.members
    return set(urls) <= {member.url.rstrip("/") for member in members if member.name in gone}


def overview(answers: Mapping[str, ReplicaAnswer | ClientError], agents: Sequence[AgentView]) -> ClusterStatus:
    """Combine the answers, by URL. Raises `Unreachable`, or `Refused`, if no replica answered."""
    heard = {url: answer for url, answer in answers.items() if isinstance(answer, ReplicaAnswer)}
    failed = {url: answer for url, answer in answers.items() if isinstance(answer, ClientError)}
    if not heard:
        for error in failed.values():
            if isinstance(error, Refused):
                raise error
        told = "; ".join(f"{url}: {contact_of(url, error)}" for url, error in failed.items())
        raise Unreachable(f"no coordinator answers ({told})")
    statuses = [each.status for each in heard.values()]
    term = max(status.term for status in statuses)
    url_of: dict[str, str] = {}
    for url, each in heard.items():
        url_of.setdefault(each.status.name, url)
    members = best_members(list(heard.values()))
    urls = _eliminated(statuses, list(failed)) if members is None else _urls(members)
    names = [*urls, *(name for name in url_of if name not in urls)] if members is not None else [*url_of, *urls]
    lines = []
    for name in names:
        if name in url_of:
            lines.append(_line_of(heard[url_of[name]].status, url_of[name]))
        else:
            failure = failed.get(urls[name])
            contact = "not asked" if failure is None else contact_of(urls[name], failure)
            lines.append(
                ReplicaLine(name=name, url=urls[name], role=_seen_role(name, contact, statuses), contact=contact)
            )
    known = {line.url for line in lines}
    strangers = {url: contact_of(url, error) for url, error in failed.items() if url not in known}
    return ClusterStatus(
        leader=_leader(lines, statuses, term),
        term=term,
        index=max(status.commit_index for status in statuses),
        replicas=lines,
        agents=[AgentLine(name=agent.name, pid=agent.pid, state=agent.state) for agent in agents],
        unknown_addresses=[
            # No member knows this address, so it may not be a replica at all.
            AddressLine(url=url, contact=f"unreachable: {contact}" if contact == _NO_LISTENER else contact)
            for url, contact in strangers.items()
        ],
    )


def contact_of(url: str, error: ClientError) -> str:
    """Say in a few words why a replica gave no proper answer."""
    if isinstance(error, Refused):
        return f"refused: {error.problem.status} {error.problem.title}"[:_CHARS_MAX]
    if isinstance(error, Unreachable):
        why = error.failures.get(url, "no answer in time")
        return _NO_LISTENER if why == _NO_LISTENER else f"unreachable: {why}"[:_CHARS_MAX]
    return f"not a replica: {error}"[:_CHARS_MAX]


def _line_of(status: ReplicaStatus, url: str) -> ReplicaLine:
    return ReplicaLine(
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


def _urls(members: MemberList) -> dict[str, str]:
    return {member.name: member.url.rstrip("/") for member in members.members}


def _leader(lines: Sequence[ReplicaLine], statuses: Sequence[ReplicaStatus], term: int) -> str | None:
    """Return the leader: it says so itself, or it was not reached and the others follow it.

    A replica that was cut off may still believe that it leads; only the leader of the newest term counts.
    """
    for status in statuses:
        if status.role == "leader" and status.term == term and status.ready:
            return status.name
    followed = {status.leader for status in statuses if status.term == term and status.ready}
    for line in lines:
        if line.name in followed and line.contact != REACHED and line.role == "leader":
            return line.name
    return None


def _seen_role(name: str, contact: str, statuses: Sequence[ReplicaStatus]) -> str:
    """Return the role of a replica that did not answer, as those that answered see it."""
    views = [(status, peer) for status in statuses for peer in status.peers if peer.name == name]
    # The leader's view counts if there is one, because the leader talks to all members.
    views.sort(key=lambda view: (view[0].term, view[0].role == "leader"))
    if contact == _NO_LISTENER or not views or not views[-1][1].connected:
        return "down"
    return "leader" if views[-1][0].leader == name else "follower"


def _eliminated(statuses: Sequence[ReplicaStatus], silent: Sequence[str]) -> dict[str, str]:
    """Return the members that did not answer, by name. A single one has the only address that is left."""
    known = {status.name for status in statuses}
    missing = sorted({peer.name for status in statuses for peer in status.peers} - known)
    return {missing[0]: silent[0]} if len(silent) == len(missing) == 1 else dict.fromkeys(missing, "")


def members_to_ask(answers: Mapping[str, ReplicaAnswer]) -> list[str]:
    """Return the URLs of members that did not answer by another one; TLS is not downgraded."""
    members = best_members(list(answers.values()))
    if members is None:
        return []
    names = {answer.status.name for answer in answers.values()}
    tls = all(url.startswith("https://") for url in answers)
    urls = [member.url.rstrip("/") for member in members.members if member.name not in names]
    return [url for url in urls if url.startswith("https://" if tls else ("http://", "https://"))]
