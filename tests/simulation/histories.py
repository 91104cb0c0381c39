"""What replicas look like to the checks of a run: journals, logs, hosts, entries."""

from __future__ import annotations

from types import SimpleNamespace

from raftflow.coordinator.leader.leases import Leases
from raftflow.domain.commands import (
    FireTimers,
    encode_entry,
)
from raftflow.domain.features import LEVEL
from raftflow.machine.machine import Machine
from raftflow.replication.members.membership import Membership
from raftflow.replication.raft.library_types import RaftState

LEASE_MS = 500


class Journal:
    """What a disk knows."""

    def __init__(self, durable_index=0, term=1, vote=None) -> None:
        self.durable_index, self.term, self.vote = durable_index, term, vote

    def getCurrentTerm(self):  # noqa: N802 - the library's name
        return self.term

    def getVotedForNodeId(self):  # noqa: N802 - the library's name
        return self.vote


def make_log(terms, *, term=1, leads=False, match=None, durable=None, commit=0, loading=0):
    """A log whose entries, from index 1 on, have these terms."""
    raft = SimpleNamespace(
        term=term,
        state=RaftState.LEADER if leads else RaftState.FOLLOWER,
        is_leader=leads,
        commit_index=commit,
        first_index=1,
        last_index=len(terms),
        peers=tuple(match or {}),
        term_at=lambda index: terms[index - 1],
        holds=lambda index, of: 0 < index <= len(terms) and terms[index - 1] == of,
        match_index=lambda peer: (match or {}).get(peer, 0),
        append_membership=lambda _listed, _callback: None,
        on_membership=lambda: None,
        members=SimpleNamespace(base_index=0, base=Membership()),
        timeouts=(0.3, 0.6, 0.285),
    )
    sent = []
    return SimpleNamespace(
        repairing=False,
        _raft=raft,
        _roles=SimpleNamespace(update=lambda: None, note_leader=lambda _leader, _message: None),
        parts=SimpleNamespace(
            timeouts=SimpleNamespace(on_change=lambda: None, silence_s=0.3),
            restorer=SimpleNamespace(loading=SimpleNamespace(index=loading, term=1)),
            journal=Journal(len(terms) if durable is None else durable, term),
            writer=SimpleNamespace(snapshot_index=0),
            traffic=SimpleNamespace(transmit=lambda peer, message: sent.append((peer, message))),
            guard=SimpleNamespace(emit=lambda peer, message: sent.append((peer, message))),
        ),
    )


def host(name, *, log=None, machine=None):
    removals = SimpleNamespace(begin=lambda _name, _incarnation, **_more: None)
    leader = SimpleNamespace(liveness=SimpleNamespace(leases=Leases(LEASE_MS), removals=removals, start=lambda: None))
    config = SimpleNamespace(timing=SimpleNamespace(lease_ms=LEASE_MS))
    replica = SimpleNamespace(log=log or make_log([]), machine=machine or Machine(), leader=leader, config=config)
    return SimpleNamespace(
        name=name, replica=replica, serving=True, level=LEVEL, wiped=False, patience=1.0, pre_votes=True
    )


def kinds(history):
    return [found.kind for found in history.violations]


def entry(request_id="", at_ms=1):
    return encode_entry((FireTimers(at_ms=at_ms, actor="leader:a", request_id=request_id),))


def apply(history, who, index, data, term=1):
    result = who.replica.machine.apply(index, term, data)
    history.applied(who, index, term, data, result)
