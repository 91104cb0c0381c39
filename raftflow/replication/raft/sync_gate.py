"""The sync gate: no message leaves before this replica's disk holds what it shows.

Out: a vote or a request for one shows the term and the vote, an acknowledgement shows entries. Each waits until the
journal's `durable_seq` has reached what was written when the message was made; messages to one peer keep their order.
A leader's appends show only its term, so they leave while the leader's own sync is still running.

In: the leader counts itself for every entry in its log. So acknowledgements wait here until the leader's own journal
is durable up to them: leader and followers sync side by side, and a commit still means "on a majority of disks".

A single replica gets no messages. There the driver does not let the library tick before the journal is durable.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Protocol

from raftflow.replication.raft.rules import NO_RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.raft.library_types import Message


class DurableState(Protocol):
    """What the gate reads of the journal."""

    @property
    def write_seq(self) -> int:
        """Number of the latest change."""
        ...

    @property
    def term_seq(self) -> int:
        """Number of the latest change of term or vote."""
        ...

    @property
    def durable_seq(self) -> int:
        """Number up to which changes are on disk."""
        ...

    @property
    def durable_index(self) -> int:
        """Index up to which entries are on disk."""
        ...


class SyncGate:
    """Holds messages back until the journal is durable up to what they show.

    Args:
        journal: shows what is durable.
        release: gets outgoing messages that may leave, in order per peer.
        deliver: gets incoming messages that may be counted, in order per peer.
        disabled_rules: for tests: SYNC_ACKS, SYNC_VOTES and SYNC_LEADER have an effect here.
    """

    def __init__(
        self,
        journal: DurableState,
        release: Callable[[str, Message], None],
        deliver: Callable[[str, Message], None],
        disabled_rules: frozenset[Rule] = NO_RULES,
    ) -> None:
        self._journal = journal
        self._release = release
        self._deliver = deliver
        self._off = disabled_rules
        self._outgoing: defaultdict[str, deque[tuple[int, Message]]] = defaultdict(deque)
        self._incoming: defaultdict[str, deque[tuple[int, Message]]] = defaultdict(deque)

    def emit(self, peer: str, message: Message) -> None:
        """Send a message as soon as it may leave."""
        needed = self._needs(message)
        queue = self._outgoing[peer]
        if queue and queue[-1] == (needed, message):
            return  # the answer to another heartbeat while the disk is slow
        if queue or needed > self._journal.durable_seq:
            queue.append((needed, message))
        else:
            self._release(peer, message)

    def _needs(self, message: Message) -> int:
        if message["type"] == "next_node_idx" and message["success"]:
            return 0 if Rule.SYNC_ACKS in self._off else self._journal.write_seq
        return 0 if Rule.SYNC_VOTES in self._off else self._journal.term_seq

    def accept(self, peer: str, message: Message) -> bool:
        """Deliver an incoming acknowledgement. Return False if it has to wait for this replica's own disk."""
        index = message["next_node_idx"] - 1 if message["success"] and Rule.SYNC_LEADER not in self._off else 0
        queue = self._incoming[peer]
        if queue or index > self._journal.durable_index:
            queue.append((index, message))
            return False
        self._deliver(peer, message)
        return True

    def advance(self) -> None:
        """Release the messages whose data has become durable. Call it after each sync."""
        durable = self._journal.durable_seq
        for peer, outgoing in sorted(self._outgoing.items()):
            while outgoing and outgoing[0][0] <= durable:
                self._release(peer, outgoing.popleft()[1])
        for peer, incoming in sorted(self._incoming.items()):
            while incoming and incoming[0][0] <= self._journal.durable_index:
                self._deliver(peer, incoming.popleft()[1])

    def forget(self, peer: str) -> None:
        """Drop the messages to and from a peer whose link broke."""
        self._outgoing[peer].clear()
        self._incoming[peer].clear()

    def clear_incoming(self) -> None:
        """Drop the waiting acknowledgements: the leadership has ended."""
        for queue in self._incoming.values():
            queue.clear()

    def is_term_durable(self) -> bool:
        """Return True if a message that shows only the term may leave."""
        return self._journal.term_seq <= self._journal.durable_seq

    def is_blocked(self, peer: str) -> bool:
        """Return True if messages to this peer wait for the disk."""
        return bool(self._outgoing[peer])

    def __len__(self) -> int:
        return sum(len(queue) for queues in (self._outgoing, self._incoming) for queue in queues.values())
