"""What a replica remembers of its peers, and what introductions report to its log.

It is the log's half of `members/starts.py`: it knows the terms, the acknowledged entries and the repair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import LogFailedError
from raftflow.replication.raft.bounds import TELLERS_MIN, MessageBounds
from raftflow.replication.repair.repair import MEMBERS_MIN, HardState, Repair, RepairError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from raftflow.replication.elections.pre_votes import PreVotes
    from raftflow.replication.files import FileSystem
    from raftflow.replication.members.introducer import Introducer
    from raftflow.replication.members.introductions import Introduction
    from raftflow.replication.members.starts import StartHistory
    from raftflow.replication.raft.driver import Driver
    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.storage.journal import Journal

LOOK_S: Final = 1.0
"""How often a leader records what its followers have acknowledged."""
SAVE_S: Final = 30.0
"""How often that is stored, if it changed."""
NOTE_EVERY_S: Final = 30.0
"""How often a repeated message is logged."""

_log = logging.getLogger(__name__)


class PeerMemory:
    """Implements `introductions.LogView` for one replica.

    Args:
        repair: a repair that was under way at the start.
        peers: the other replicas of the configuration, for one that knows no list of members yet.
        on_change: called when a repair begins or ends.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        *,
        raft: Raft,
        guard: GuardedTransport,
        journal: Journal,
        driver: Driver,
        pre_votes: PreVotes,
        repair: Repair | None,
        peers: tuple[str, ...],
        on_change: Callable[[], None],
    ) -> None:
        self.repair = repair
        self.bounds = MessageBounds(raft)
        self._fs = fs
        self._directory = directory
        self._raft = raft
        self._guard = guard
        self._journal = journal
        self._driver = driver
        self._pre_votes = pre_votes
        self._peers = peers
        self._on_change = on_change
        self._met: dict[str, int] = {}
        """By peer: the term in its introduction, since this replica is under repair."""
        self._repairing: set[str] = set()
        """Peers that are under repair."""
        self._differing: set[str] = set()
        """Peers that report another history."""
        self._noted_at_s: dict[str, float] = {}
        self._look_at_s = 0.0
        self._save_at_s = 0.0
        self._saving: asyncio.Task[None] | None = None

    # introductions.LogView

    @property
    def term(self) -> int:
        """See `LogView`."""
        return self._raft.term

    @property
    def last_index(self) -> int:
        """See `LogView`."""
        return self._raft.last_index

    @property
    def repairing(self) -> bool:
        """See `LogView`."""
        return self.repair is not None

    @property
    def pre_votes(self) -> bool:
        """See `LogView`."""
        return self._pre_votes.is_active

    @property
    def election_min_ms(self) -> int:
        """See `LogView`."""
        return self._pre_votes.election_min_ms

    def note_peer(self, peer: str, starts: StartHistory) -> None:
        """See `LogView`. Only committed entries count: another leader may cut off the others."""
        raft = self._raft
        starts.note_progress(peer, term=self._guard.voted.get(peer, 0))
        if raft.is_leader and (match := raft.match_index(peer)):
            starts.note_progress(peer, index=min(match, raft.commit_index), term=raft.term)

    def begin_repair(self, peer: str, why: str) -> bool:
        """See `LogView`."""
        done = False

        def begin() -> None:
            nonlocal done
            if max(len(self._raft.voters), len(self._peers) + 1) < MEMBERS_MIN:
                raise RepairError(
                    f"the disk of this replica was put back from an older copy: {peer} remembers {why}. What it had "
                    f"promised is forgotten, and a cluster of {len(self._raft.voters)} has no majority without it. "
                    f"Put the newest directory back, or restore both replicas from copies of the same moment."
                )
            _log.error(
                "the disk of this replica was put back from an older copy, or another process uses a copy of it: %s "
                "remembers %s. It takes what it lacks from the others, and does not vote until then.",
                peer,
                why,
            )
            if self.repair is None:
                self.repair = Repair.begin(self._fs, self._directory, HardState(self._raft.term, None))
            else:
                self.repair.doubt()
            self._met.clear()
            self._on_change()
            self._raft.step_down()
            self._driver.request_turn()
            done = True

        self._driver.guarded(begin)
        return done

    def check_introduction(self, peer: str, told: Introduction) -> str:
        """See `LogView`."""
        problem = self.bounds.term_problem(peer, told.term)
        if problem:
            return problem
        self._met[peer] = told.term
        self._pre_votes.note_peer(peer, aware=told.pre_votes, election_min_s=told.election_min_ms / 1000)
        if told.repairing:
            self._repairing.add(peer)
        else:
            self._repairing.discard(peer)
        self._warn_of_many()
        return ""

    def note_removal_claim(self, peer: str) -> None:
        """See `LogView`."""
        self._driver.guarded(lambda: self._guard.hear_removal(peer))

    def note_other_history(self, peer: str, why: str) -> None:
        """See `LogView`. A majority of the others is believed."""
        self._differing.add(peer)
        others = self._raft.other_voters
        tellers = sorted(self._differing & others)

        def stop() -> None:
            raise LogFailedError(
                f"this replica has another history than {', '.join(tellers)}: {why}. Its data is kept. Move its "
                f"directory away, remove the replica from the cluster and let it join again under a new name."
            )

        if 2 * len(tellers) > len(others) and len(tellers) >= TELLERS_MIN:
            self._driver.guarded(stop)

    def _warn_of_many(self) -> None:
        """Log it if too few replicas are whole to elect a leader."""
        raft = self._raft
        doubtful = {name for name in self._repairing if name in raft.voters}
        if self.repairing:
            doubtful.add(raft.name)
        whole = len(raft.voters) - len(doubtful)
        if doubtful and 2 * whole <= len(raft.voters) and self.is_due("many"):
            _log.error(
                "no majority of the replicas is whole: %s are under repair, and no leader can be elected before more "
                "of the others are back. If none are left, stop all replicas and put back the newest copy of each "
                "directory, or copies of all that were made at one moment.",
                ", ".join(sorted(doubtful)),
            )

    def is_due(self, what: str) -> bool:
        """Return True at most once in `NOTE_EVERY_S` for each `what`."""
        now = asyncio.get_running_loop().time()
        due = now - self._noted_at_s.get(what, float("-inf")) >= NOTE_EVERY_S
        if due:
            self._noted_at_s[what] = now
        return due

    # The log.

    def has_ended(self) -> bool:
        """Return True if the repair is over: everything that was ever acknowledged is here. Raises `OSError`."""
        repair, raft = self.repair, self._raft
        if repair is None:
            return False
        if repair.unsure:
            met = [self._met[peer] for peer in raft.other_voters if peer in self._met]
            if 2 * len(met) <= len(raft.voters):
                return False
            repair.settle(max(met))
        applied = raft.applied_index  # certainly committed, and always in the log
        if raft.term_at(applied) <= repair.term or self._journal.durable_index < applied:
            return False
        repair.finish()
        self.repair = None
        self._on_change()
        _log.info("this replica is whole again, up to entry %d", applied)
        return True

    def note_followers(self, introducer: Introducer) -> None:
        """Record from time to time what the followers have acknowledged. Call it in every turn of a leader."""
        now = asyncio.get_running_loop().time()
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_S
        for peer in self._raft.peers:
            self.note_peer(peer, introducer.starts)
        if introducer.starts.dirty and now >= self._save_at_s and self._saving is None:
            self._save_at_s = now + SAVE_S
            self._saving = asyncio.get_running_loop().create_task(self._save(introducer))

    async def _save(self, introducer: Introducer) -> None:
        try:
            await introducer.save(introducer.starts.encode())
        except OSError as error:
            _log.warning("cannot store what is remembered of the peers: %s", error)
        finally:
            self._saving = None

    async def stop(self, introducer: Introducer) -> None:
        """Store what is not on disk yet, if the disk accepts it."""
        if self._saving is not None:
            await asyncio.wait([self._saving])
        if introducer.starts.dirty:
            with contextlib.suppress(OSError):
                await introducer.save(introducer.starts.encode())

    def cancel(self) -> None:
        """Cancel a store that is under way."""
        if self._saving is not None:
            self._saving.cancel()
