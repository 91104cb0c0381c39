# ruff: noqa: N802 - the journal has the library's names
"""The library and the guard without disk, clock or event loop: every message is delivered by hand.

Elections, heartbeats and deliveries happen when a history says so. Snapshots travel as one message. Entries are short
words; `batch` is how many of them one append carries.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING

from raftflow.replication.members.membership import Membership
from raftflow.replication.messages import envelope
from raftflow.replication.raft.guard import GuardedTransport
from raftflow.replication.raft.library import Raft, use_clock
from raftflow.replication.raft.library_types import LibraryFailure, RaftTiming
from raftflow.replication.raft.rules import NO_RULES, Rule
from raftflow.replication.raft.snapshot_port import SnapshotPort

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raftflow.replication.raft.library_types import Entry, Message

TIMING = RaftTiming(election_min_s=1000, election_max_s=2000, silence_s=1000, heartbeat_s=0.5, fallback_s=9000)


class ListJournal:
    """A journal that never fails and survives every crash."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.commit = 1
        self.term = 0
        self.vote: str | None = None

    def add(self, command: bytes, idx: int, term: int) -> None:
        self.entries.append((command, idx, term))

    def clear(self) -> None:
        self.entries = []

    def deleteEntriesFrom(self, position: int) -> None:
        del self.entries[position:]

    def deleteEntriesTo(self, position: int) -> None:
        del self.entries[:position]

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self.entries[item]

    def __len__(self) -> int:
        return len(self.entries)

    def setRaftCommitIndex(self, index: int) -> None:
        self.commit = index

    def getRaftCommitIndex(self) -> int:
        return min(self.commit, self.entries[-1][1]) if self.entries else 1

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        self.term, self.vote = term, vote

    def getCurrentTerm(self) -> int:
        return self.term

    def getVotedForNodeId(self) -> str | None:
        return self.vote

    def onOneSecondTimer(self) -> None:
        pass

    def _destroy(self) -> None:
        pass


class Node:
    """One replica: the library, the guard, and the words it applied."""

    def __init__(self, cluster: Bare, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.applied: list[str] = []
        self.snapshot: tuple[list[str], Entry, Entry, Membership] | None = cluster.snapshots.get(name)
        self.load_fails = False
        self.guard = GuardedTransport(
            lambda peer, message: cluster.emit(name, peer, message),
            self._send_snapshot,
            cluster.disabled_rules,
            take_prefix=lambda entries: entries[: cluster.batch],
        )
        self.raft = Raft(
            name,
            cluster.names,
            timing=TIMING,
            transport=self.guard,
            journal=cluster.journals[name],
            snapshots=SnapshotPort(self._write_snapshot, self._load),
            apply=self._apply,
            membership=Membership.of(cluster.founders if name in cluster.founders else ()),
            members_when_applied=Rule.LOGGED_MEMBERS in cluster.disabled_rules,
            outsiders_stand=Rule.OUTSIDERS_PASSIVE in cluster.disabled_rules,
        )
        self.raft.on_membership = self.guard.check_membership
        self.guard.attach(self.raft)
        if self.snapshot is not None:
            self.raft.load_snapshot()

    def _apply(self, payload: bytes) -> None:
        self.applied.append(payload.decode())

    def _write_snapshot(self, last: Entry, previous: Entry) -> None:
        tracker = self.raft.members
        current = Rule.SNAPSHOT_MEMBERS in self.cluster.disabled_rules
        members = tracker.current if current else tracker.at(last[1])
        self.snapshot = self.cluster.snapshots[self.name] = (list(self.applied), last, previous, members)
        self.raft.snapshots.finish_write(durable=True)

    def _load(self) -> tuple[Entry, Entry]:
        if self.load_fails:
            raise OSError("the disk cannot read it")
        assert self.snapshot is not None
        words, last, previous, members = self.snapshot
        self.applied = list(words)
        self.raft.members.rebase(members, last[1])
        return last, previous

    def _send_snapshot(self, peer: str) -> None:
        message = {
            "type": "snapshot",
            "term": self.raft.term,
            "commit_index": self.raft.commit_index,
            "snapshot": self.snapshot,
        }
        self.cluster.emit(self.name, peer, message)

    def receive(self, peer: str, message: Message) -> None:
        if message["type"] != "snapshot":
            self.guard.receive(peer, message)
            return
        sender = self.cluster.nodes[peer]
        sender.guard.end_snapshot(self.name)
        if not self.guard.follower.follows(peer, message["term"]):
            return
        _words, last, _previous, _members = message["snapshot"]
        if self.guard.follower.covers(last[1], last[2]):
            self.guard.follower.acknowledge_covered(peer, last[1])
            return
        self.snapshot = message["snapshot"]
        self.guard.follower.install(peer, last[1], message["commit_index"])

    def compact(self) -> None:
        self.raft.compact()
        self.raft.tick()
        self.raft.tick()

    @property
    def log(self) -> list[tuple[int, int]]:
        return [(index, term) for _command, index, term in self.cluster.journals[self.name].entries]


class Bare:
    """A cluster under a history's control. `acked` holds the words that a client was told are safe."""

    def __init__(
        self,
        names: str = "ABC",
        *,
        disabled_rules: Iterable[Rule] = NO_RULES,
        batch: int = 1000,
        founders: str | None = None,
    ) -> None:
        """`founders` are the members at first; the others join with an empty list."""
        self.names = tuple(names)
        self.founders = tuple(founders or names)
        self.disabled_rules = frozenset(disabled_rules)
        self.batch = batch
        self.now = 0.0
        use_clock(lambda: self.now)
        self.queues: dict[tuple[str, str], deque[Message]] = {
            (one, other): deque() for one in self.names for other in self.names if one != other
        }
        self.journals = {name: ListJournal() for name in self.names}
        self.snapshots: dict[str, tuple[list[str], Entry, Entry, Membership]] = {}
        self.outcomes: dict[str, int] = {}
        self.nodes = {name: Node(self, name) for name in self.names}
        for one in self.names:
            for other in self.names:
                if one < other:
                    self.connect(one, other)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def acked(self) -> list[str]:
        return [word for word, error in self.outcomes.items() if error == LibraryFailure.SUCCESS]

    # The network.

    def emit(self, source: str, target: str, message: Message) -> None:
        self.queues[source, target].append(copy.deepcopy(message))

    def connect(self, one: str, other: str) -> None:
        self.nodes[one].guard.peer_up(other)
        self.nodes[other].guard.peer_up(one)

    def cut(self, one: str, *others: str) -> None:
        """Break connections, with everything that is on them."""
        for other in others or [name for name in self.names if name != one]:
            self.queues[one, other].clear()
            self.queues[other, one].clear()
            self.nodes[one].guard.peer_down(other)
            self.nodes[other].guard.peer_down(one)

    def deliver(self, source: str, target: str, count: int = 10**6) -> int:
        """Deliver up to `count` messages that wait now or arise from these; return how many."""
        queue, done = self.queues[source, target], 0
        while queue and done < count:
            self.nodes[target].receive(source, queue.popleft())
            done += 1
        return done

    def waiting(self, source: str, target: str, kind: str) -> list[Message]:
        return [message for message in self.queues[source, target] if message["type"] == kind]

    # The replicas.

    def restart(self, name: str) -> None:
        """Kill a replica and start it again; its connections are gone."""
        self.cut(name)
        self.nodes[name] = Node(self, name)

    def tick(self, name: str, count: int = 1) -> None:
        """Let a replica work, with its heartbeat due."""
        for _ in range(count):
            self.now += 0.6
            self.nodes[name].raft.tick()

    def campaign(self, name: str) -> None:
        self.nodes[name].raft.campaign_now()
        self.nodes[name].raft.tick()

    def elect(self, name: str, among: str | None = None) -> None:
        """Let a replica win an election with the votes of `among`."""
        self.campaign(name)
        for peer in among or self.names:
            if peer != name:
                self.deliver(name, peer)
                self.deliver(peer, name)
        assert self.nodes[name].raft.is_leader, name

    def run(self, rounds: int = 10, among: str | None = None, without: tuple[tuple[str, str], ...] = ()) -> None:
        """Let everybody (or `among`) work and talk; links in `without` deliver nothing."""
        members = among or self.names
        for _ in range(rounds):
            for name in members:
                self.tick(name)
            for source, target in self.queues:
                if (source, target) not in without and source in members and target in members:
                    self.deliver(source, target)

    def put(self, name: str, *words: str) -> None:
        for word in words:
            self.nodes[name].raft.submit(
                envelope.seal(word.encode()),
                lambda _result, error, word=word: self.outcomes.setdefault(word, error),
            )
