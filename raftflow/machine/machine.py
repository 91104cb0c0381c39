"""The state machine that the log drives: entries in, replies, events and audit records out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from raftflow.domain.commands import decode_entry
from raftflow.domain.events import Event
from raftflow.domain.features import LEVEL, FeatureLevelError
from raftflow.domain.limits import REQUEST_IDS_MAX
from raftflow.domain.replies import AnyReply
from raftflow.machine.apply import apply_command, apply_restoration
from raftflow.machine.commands.restoration import Restoration
from raftflow.machine.rows import Tables
from raftflow.machine.rules.audit_chain import CHAIN_START, seal
from raftflow.machine.rules.context import ApplyContext
from raftflow.machine.rules.step_limits import STEP_LIMITS, StepLimits
from raftflow.machine.schema import registry
from raftflow.machine.snapshot.stream import Snapshot, read_snapshot
from raftflow.machine.tables.state import State

SWEPT_PER_ENTRY = 200
"""Parts of what is no longer used that are freed after an entry."""


class EntryResult(msgspec.Struct):
    """What applying one entry came to."""

    index: int
    term: int
    replies: tuple[AnyReply, ...]
    """One per command, in order."""
    events: list[Event]
    """For the leader."""
    audit: list[bytes]
    """One encoded `contract.AuditRecord` per command, chain included."""


class Machine:
    """Implements `replication.log.StateMachine`. Other packages read it through `tables` and `machine.read`."""

    def __init__(
        self, requests_max: int = REQUEST_IDS_MAX, *, level_max: int = LEVEL, limits: StepLimits = STEP_LIMITS
    ) -> None:
        self._requests_max = requests_max
        self.level_max = level_max
        """The highest feature level that this replica understands."""
        self._limits = limits
        self._step = ApplyContext(State(requests_max), level_max, limits)
        self.applied_index = 0
        self.applied_term = 0
        self.chain = CHAIN_START
        """The audit chain after the last command: the digest of this history."""

    @property
    def state(self) -> State:
        """The tables, for this package and its tests. Only `apply` changes them."""
        return self._step.state

    @property
    def tables(self) -> Tables:
        """The tables, for everybody else to read."""
        return self._step.state

    @property
    def clock_ms(self) -> int:
        """The largest time that any command carried."""
        return self._step.clock_ms

    def apply(self, index: int, term: int, entry: bytes) -> EntryResult:
        """Apply one committed entry.

        Raises `EntryError` for bytes that no replica would have proposed, `ValueError` for an index that does not
        grow, `FeatureLevelError` if the cluster goes to a level that this replica does not understand. All stop it.
        """
        if index <= self.applied_index:
            raise ValueError(f"entry {index} after entry {self.applied_index}: the log went back")
        batch = decode_entry(entry)
        step = self._step
        step.index = index
        chain = self.chain
        replies = []
        audit = []
        for position, command in enumerate(batch.commands):
            reply, record = apply_command(step, command, index, position, term)
            chain, encoded = seal(chain, record)
            replies.append(reply)
            audit.append(encoded)
        self.chain = chain
        self.applied_index = index
        self.applied_term = term
        self.sweep(SWEPT_PER_ENTRY)
        return EntryResult(index, term, tuple(replies), step.take_events(), audit)

    def begin_cluster(self, index: int, term: int, restoration: Restoration) -> EntryResult:
        """Become the first state of a new cluster, as the entry `index` of its log (`commands/restoration.py`).

        Raises `ValueError` for an index that does not grow.
        """
        if index <= self.applied_index:
            raise ValueError(f"entry {index} after entry {self.applied_index}: the log went back")
        self._step.index = index
        self.chain, encoded = seal(self.chain, apply_restoration(self._step, restoration, index, term))
        self.applied_index, self.applied_term = index, term
        return EntryResult(index, term, (), self._step.take_events(), [encoded])

    @property
    def sweeping(self) -> bool:
        """True while `sweep` has something to do."""
        return bool(self._step.discarded) and self._step.copying is None

    def sweep(self, count: int) -> None:
        """Free up to `count` parts of what has left the tables, or of a state that was replaced.

        `apply` does that too, a little each time. An open snapshot may still want them: then nothing is freed.
        """
        if self.sweeping:
            self._step.discarded.sweep(count)

    def snapshot(self) -> Iterator[bytes]:
        """Return the state as of now, in pieces of at most 256 KiB, while `apply` may go on.

        A snapshot that is still open ends: its iterator raises `RuntimeError`.
        """
        return Snapshot(self._step, self.applied_index, self.applied_term, self.chain)

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        """Read a snapshot, and return what makes this machine become what it holds.

        May run in another thread: nothing here is looked at that `apply` changes. Raises `ValueError` if the snapshot
        cannot be read, `FeatureLevelError` if this replica does not understand its level.
        """
        header, state = read_snapshot(pieces, self._requests_max)
        if state.feature_level > self.level_max:
            raise FeatureLevelError(state.feature_level, self.level_max)
        step = ApplyContext(state, self.level_max, self._limits)
        step.clock_ms = header.clock_ms

        def install() -> None:
            before = self._step
            before.copying = None
            step.discarded = before.discarded
            step.discarded.put(*registry.parts(before.state))
            self._step = step
            self.applied_index = header.applied_index
            self.applied_term = header.applied_term
            self.chain = header.chain

        return install

    def restore(self, pieces: Iterable[bytes]) -> None:
        """Become what the snapshot holds. Raises as `prepare` does; then nothing has changed."""
        self.prepare(pieces)()
