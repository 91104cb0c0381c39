"""What a replica shows of itself: `LogStatus`, before and after its start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.replication.log import LogStatus, PeerStatus, Role

if TYPE_CHECKING:
    from raftflow.replication.config import LogConfig
    from raftflow.replication.replica.parts import ReplicaParts


def status_before_start(config: LogConfig) -> LogStatus:
    """Return the status of a replica that knows nothing yet."""
    return LogStatus(
        name=config.name,
        role=Role.FOLLOWER,
        leader=None,
        term=0,
        last_index=0,
        durable_index=0,
        commit_index=0,
        applied_index=0,
        snapshot_index=0,
        ready=False,
        election_min_s=config.election_min_s,
        peers=tuple(PeerStatus(name=peer, connected=False) for peer in config.peers),
    )


def current_status(parts: ReplicaParts, *, stopped: bool) -> LogStatus:
    """Return the status of a replica that runs, or has stopped."""
    raft = parts.raft
    last = raft.last_index
    return LogStatus(
        name=raft.name,
        role=parts.roles.visible_role(raft),
        leader=parts.roles.leader(raft),
        term=raft.term,
        last_index=last,
        durable_index=parts.journal.durable_index,
        commit_index=raft.settled_index,
        applied_index=raft.applied_index,
        snapshot_index=parts.writer.snapshot_index,
        ready=not stopped and _is_ready(parts),
        election_min_s=parts.timeouts.election_min_s,
        peers=tuple(_peer_status(parts, peer, last) for peer in raft.peers),
        members=raft.members.current,
    )


def _peer_status(parts: ReplicaParts, peer: str, last: int) -> PeerStatus:
    connected = parts.guard.is_up(peer)
    if not parts.raft.is_leader:
        return PeerStatus(name=peer, connected=connected)
    match_index = parts.raft.match_index(peer)
    return PeerStatus(name=peer, connected=connected, match_index=match_index, lag=last - match_index)


def _is_ready(parts: ReplicaParts) -> bool:
    raft = parts.raft
    if parts.peer_memory.repairing:
        return False
    if not raft.is_leader:
        return parts.roles.has_caught_up(raft)
    quorum = 2 * (len(parts.guard.connected() & raft.other_voters) + 1) > len(raft.voters)
    return quorum and parts.roles.leads(raft)
