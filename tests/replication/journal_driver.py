"""Drives a journal on a faulty disk and knows which states may be found after a crash."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from raftflow.replication.storage.journal import Journal

if TYPE_CHECKING:
    from raftflow.replication.storage.records import Entry
    from raftflow.simulation.world.disk import FaultyFileSystem

DIRECTORY = Path("/data/journal")


@dataclass(frozen=True)
class State:
    """What must come back: every entry, term and vote."""

    log: tuple[Entry, ...] = ()
    term: int = 0
    vote: str | None = None


@dataclass
class Driver:
    """One replica's journal through many lives. `written` holds every state that was ever flushed, by `write_seq`."""

    fs: FaultyFileSystem
    segment_bytes: int = 2048
    model: State = field(default_factory=State)
    written: list[tuple[int, State]] = field(default_factory=lambda: [(0, State())])
    durable: int = 0
    """Position in `written` of the last state that a sync has promised."""
    journal: Journal = field(init=False)

    def check(self, command: bytes) -> None:
        if command.startswith(b"bad"):
            raise ValueError("not in the envelope")

    def open(self) -> None:
        self.journal = journal = Journal.open(
            self.fs, DIRECTORY, check_command=self.check, segment_bytes=self.segment_bytes
        )
        write = journal._write

        def recording_write() -> None:
            self.written.append((journal.write_seq, self.model))
            write()

        journal._write = recording_write  # type: ignore[method-assign]

    def observed(self) -> State:
        journal = self.journal
        return State(tuple(journal[:]), journal.getCurrentTerm(), journal.getVotedForNodeId())

    def reopen(self) -> None:
        """Open after a crash: what a sync promised is there, and what is there was written, as a whole."""
        self.open()
        state = self.observed()
        allowed = [state for _, state in self.written[self.durable :]]
        assert state in allowed, f"found {state}\nallowed {allowed}"
        commit = self.journal.getRaftCommitIndex()
        assert 1 <= commit <= max(1, self.journal.last_index)
        assert self.journal.durable_index == self.journal.last_index
        self.model = state
        self.written = [(0, state)]
        self.durable = 0

    def promise(self) -> None:
        """Note that everything written up to `durable_seq` must survive."""
        for position in range(self.durable, len(self.written)):
            if self.written[position][0] <= self.journal.durable_seq:
                self.durable = position

    # Operations; each changes journal and model alike.

    def add(self, size: int, term: int | None = None) -> None:
        term = self.model.term if term is None else term
        index = self.model.log[-1][1] + 1 if self.model.log else 1
        fill = b"\0" if index % 3 == 0 else bytes([index % 251 + 1])
        entry = (b"%d:" % index + fill * size, index, term)
        self.model = State((*self.model.log, entry), self.model.term, self.model.vote)
        self.journal.add(*entry)

    def cut(self, position: int) -> None:
        self.model = State(self.model.log[:position], self.model.term, self.model.vote)
        self.journal.deleteEntriesFrom(position)

    def compact(self, position: int) -> None:
        self.model = State(self.model.log[position:], self.model.term, self.model.vote)
        self.journal.deleteEntriesTo(position)

    def vote(self, term: int, vote: str | None) -> None:
        self.model = State(self.model.log, term, vote)
        self.journal.setCurrentTerm(term, vote)

    def install(self, index: int) -> None:
        """As the library installs a snapshot: clear, then its last two entries."""
        term = self.model.term
        log = ((b"prev", index - 1, term), (b"last", index, term))
        self.model = State(log, term, self.model.vote)
        self.journal.clear()
        for entry in log:
            self.journal.add(*entry)

    def align(self, index: int) -> None:
        """As at start with a snapshot that ends at `index`."""
        by_index = {entry[1]: entry for entry in self.model.log}
        pair = by_index.get(index - 1), by_index.get(index)
        if pair[0] and pair[1]:
            kept = tuple(entry for entry in self.model.log if entry[1] >= index - 1)
        else:
            kept = ((b"prev", index - 1, self.model.term), (b"last", index, self.model.term))
        self.model = State(kept, self.model.term, self.model.vote)
        self.journal.align(kept[0], kept[1])
        self.promise()

    def flush(self) -> None:
        self.journal.flush()

    async def sync(self) -> None:
        await self.journal.sync()
        self.promise()
        assert self.journal.durable_index == self.journal.last_index

    def sync_now(self) -> None:
        self.journal.sync_now()
        self.promise()

    def timer(self) -> None:
        self.journal.setRaftCommitIndex(self.journal.last_index)
        self.journal.onOneSecondTimer()

    def restart(self) -> None:
        """Close cleanly and open again."""
        self.journal.close()
        self.promise()
        assert self.written[self.durable][1] == self.model
        self.open()
        assert self.observed() == self.model
        assert self.journal.recovered is None
