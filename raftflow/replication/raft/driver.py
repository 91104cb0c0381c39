"""When the library runs: turns, timers and syncs on the event loop.

A *turn* is one tick of the library with what belongs to it: send what the log gained, write the journal, start a
sync, arm the timer. Every event (a message, a submission, a finished sync, a deadline) asks for a turn, and
all events of one pass of the loop share one turn. Nothing runs on a period.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.raft.library import Raft
    from raftflow.replication.storage.journal import Journal

_ROUND_UP_S: Final = 0.001
"""The library checks whether a deadline has passed. A timer that fires exactly on it would be a moment too early."""
_PAUSE_S: Final = 0.05
"""A timer that fires so late shows that the process was paused. Messages that arrived meanwhile are read first."""
_HEAR_S: Final = 0.01
_DRAIN_S: Final = 5.0


class Driver:
    """Runs turns for one replica.

    Args:
        raft: the replica.
        journal: its journal.
        heartbeat_s: the leader's period, in seconds.
        before: called before each tick.
        after: called after each tick.
        on_durable: called after each sync.
        on_late: called with the seconds by which each timer was late.
        on_failure: called once with what ended the replica; no turn runs afterwards.
    """

    def __init__(
        self,
        raft: Raft,
        journal: Journal,
        *,
        heartbeat_s: float,
        before: Callable[[], None],
        after: Callable[[], None],
        on_durable: Callable[[], None],
        on_late: Callable[[float], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._raft = raft
        self._journal = journal
        self._heartbeat_s = heartbeat_s
        self._before = before
        self._after = after
        self._on_durable = on_durable
        self._on_late = on_late
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = float("inf")
        self._heard = False
        self._syncing: asyncio.Task[None] | None = None
        self._sync_since: float | None = None
        self.stopped = False
        """True once no turn runs any more."""
        self.send_wanted = False
        """Set to let the next turn send to the followers at once."""

    def request_turn(self) -> None:
        """Run a turn in the next pass of the loop."""
        if self._turn is None and not self.stopped:
            self._turn = self._loop.call_soon(self._run_turn)

    def sync_age_s(self) -> float:
        """Return for how long the sync under way has been running; 0 without one."""
        return 0.0 if self._sync_since is None else self._loop.time() - self._sync_since

    def stop(self) -> None:
        """Stop running turns."""
        self.stopped = True
        for handle in (self._turn, self._timer):
            if handle is not None:
                handle.cancel()
        self._turn = self._timer = None

    def cancel(self) -> None:
        """Cancel the sync that is under way."""
        if self._syncing is not None:
            self._syncing.cancel()

    async def drain(self) -> None:
        """Wait for the sync that is under way, but not for ever: the disk may hang."""
        if self._syncing is not None:
            await asyncio.wait([self._syncing], timeout=_DRAIN_S)

    def guarded(self, work: Callable[[], None]) -> None:
        """Run `work`; an exception ends the replica."""
        if self.stopped:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - to continue could break a promise
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the replica, once."""
        if not self.stopped:
            self.stop()
            self._on_failure(error)

    def settle(self) -> None:
        """Write what the library changed, start a sync if needed, and arm the timer."""
        self._journal.flush()
        if self._must_sync() and self._syncing is None:
            if not self._sync_at_once():
                self._syncing = self._loop.create_task(self._sync())
            elif self._raft.is_leader or not self._raft.other_voters:
                self.request_turn()  # entries that waited for this disk may be committed now
        self._arm()

    def _must_sync(self) -> bool:
        return self._journal.durable_seq < self._journal.write_seq

    def _sync_at_once(self) -> bool:
        """Sync without another thread, if the disk is quick; False if that was not done."""
        done = self._syncing is None and self._journal.sync_if_quick()
        if done:
            self._on_durable()
        return done

    def _run_turn(self) -> None:
        self._turn = None
        if self._was_paused():
            self._turn = self._loop.call_later(_HEAR_S, self._run_turn)
            return
        self.guarded(self._tick)

    def _was_paused(self) -> bool:
        """Return True, once, if the timer is long overdue: links get a moment before a peer counts as dead."""
        late = self._loop.time() - self._timer_due > _PAUSE_S
        paused = late and not self._heard and bool(self._raft.peers)
        self._heard = paused
        return paused

    def _tick(self) -> None:
        raft, journal = self._raft, self._journal
        if not raft.is_leader and self._must_sync():
            self._sync_at_once()  # so that an acknowledgement does not wait until older entries are applied
        if raft.other_voters or journal.durable_seq >= journal.write_seq:
            # A single voter commits everything in its log: it does not tick before that is durable.
            self._before()
            last = raft.last_index
            raft.tick()
            if raft.is_leader and (raft.last_index > last or self.send_wanted):
                self.send_wanted = False
                raft.send_appends()
            self._after()
            if raft.has_queued:
                self.request_turn()
        if not self.stopped:
            self.settle()

    def _arm(self) -> None:
        """Set the timer. A timer that fires too early is cheaper than one that is moved with every message."""
        now = self._loop.time()
        due = self._raft.next_deadline + _ROUND_UP_S
        if due <= now:
            # Due and not done: no peer is connected, or a single replica waits for its disk.
            due = now + self._heartbeat_s
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._on_late(self._loop.time() - self._timer_due)
        if self.stopped or self._turn is not None:
            return
        if self._raft.next_deadline < self._loop.time():
            self._run_turn()
        else:
            self._arm()

    async def _sync(self) -> None:
        """Sync until everything written is durable."""
        try:
            while self._must_sync() and not self.stopped:
                self._sync_since = self._loop.time()
                await self._journal.sync()
                self._sync_since = None
                self.guarded(self._on_durable)
                self.request_turn()
        except Exception as error:  # noqa: BLE001 - a replica that cannot sync must not continue silently
            self.fail(error)
        finally:
            self._sync_since = None
            self._syncing = None
