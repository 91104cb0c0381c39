"""The agent: one exchange that reports, renews and fetches, and the life around it.

    register --> serve --> (stale incarnation: stop everything, forget everything) --> register again
                   |
                   +--> leave: give the queue back, let attempts end, say goodbye

At most two polls are in flight: one that the leader holds until it has something to say, and one with news (ends,
logs, a change of mind). News travel one poll at a time, so that ends arrive in the order in which they happened;
what ends meanwhile goes with the next one. An end is kept, and sent again, until some answer has a verdict for it.

Before anything that happens is acted upon, the lease is checked: a process that was stopped for a while finds out
first that it must end its attempts, and only then looks at what else has come in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import msgspec

from raftflow.agent.attempts import Attempts
from raftflow.agent.book import Book
from raftflow.agent.clock import Lease, now_ns
from raftflow.agent.config import AgentConfig
from raftflow.agent.leader import LeaderClient, NoLeaderError, RefusedError, StaleIncarnationError
from raftflow.agent.load import LoadSampler
from raftflow.agent.output import OutputStore
from raftflow.domain.contract import (
    Assignment,
    LogPiece,
    LogWanted,
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
    ReportedEnd,
)

_log = logging.getLogger("raftflow.agent.loop")

_BACKOFF_MIN_S = 0.05
_BACKOFF_MAX_S = 0.5
_BACKOFF_GROWTH = 1.5
_RETRY_AFTER_MAX_S = 5.0
_ENDS_MAX = 1_000
"""Ends in one poll."""
_ENDS_BYTES_MAX = 512 << 10
"""Results and errors in one poll; a coordinator takes 1 MiB by default."""
_END_BYTES = 256
"""About what an end costs beside its result and its error."""
_LOG_BYTES_MAX = 128 << 10
"""Of one log piece, and about of all in one poll. In JSON they take a third more."""
_LOGS_MAX = 64
"""Log pieces that wait to be sent."""
_LEASE_CHECK_MAX_S = 1.0
_SHORT_LIFE_S = 10.0
"""An incarnation that counts no more after so short a time may be at war with another agent of the same name."""
_SHORT_LIFE_WAIT_MAX_S = 5.0
_STALE_GRACE_S = 0.5
"""Of attempts that somebody else may be running already."""
_HURRY_TIMEOUT_S = 1.0

_encode = msgspec.json.Encoder().encode

Serving = Literal["stale", "done"]


class Agent:
    """One agent. `run` is its life; `leave` and `hurry` are what signals call."""

    def __init__(
        self,
        config: AgentConfig,
        leader: LeaderClient,
        attempts: Callable[[Callable[[], None], Callable[[ReportedEnd], None]], Attempts],
        store: OutputStore,
        *,
        on_lease: Callable[[int], None],
        on_registered: Callable[[RegisterResponse], None],
    ) -> None:
        self._config = config
        self._leader = leader
        self._store = store
        self._on_lease = on_lease
        self._on_registered = on_registered
        self._loop = asyncio.get_running_loop()
        self._capacity = config.capacity()
        self._attempts = attempts(self._check_lease, self._ended)
        self._lease = Lease()
        self._lapsed = False
        self._lease_timer: asyncio.TimerHandle | None = None
        self._load = LoadSampler()
        self._book = Book(self._capacity)
        self._registration: RegisterResponse | None = None
        self._serving: asyncio.Future[Serving] | None = None
        self._seq = 0
        self._polls: dict[asyncio.Task[None], bool] = {}
        """Polls in flight, and whether each carries news."""
        self._pieces: list[LogPiece] = []
        self._urgent = False
        """The leader should hear of a change at once."""
        self._trouble = False
        """The last exchange failed."""
        self._waiting_until_s = 0.0
        self._backoff_s = _BACKOFF_MIN_S
        self._ends_max = _ENDS_MAX
        self._pump_handle: asyncio.Handle | None = None
        self._leaving = asyncio.Event()
        self._leave_timers: list[asyncio.TimerHandle] = []
        self._began_at_s = 0.0
        self._short_lives = 0

    # --- life

    async def run(self) -> int:
        """Serve until told to leave. Returns the exit code. Raises `RefusedError` if it may not register."""
        code = 0
        while not self._leaving.is_set():
            if not await self._register():
                break
            self._serving = self._loop.create_future()
            self._watch_lease()
            self._schedule_pump()
            try:
                serving = await self._serving
            finally:
                self._stop_polling()
            if serving == "stale":
                await self._forget_everything()
            elif not self._book.empty:
                _log.warning("leaving with %d unreported ends", len(self._book.ends))
                code = 3
        self._attempts.stop_all("abandoned", "the agent is leaving", 0.0)
        await self._attempts.wait_idle()
        return code

    def leave(self) -> None:
        """Drain: no new work, give the queue back, let attempts end within the timeout, say goodbye."""
        if self._leaving.is_set():
            return
        _log.info(
            "leaving: up to %g s for %d running attempts", self._config.drain_timeout_s, len(self._book.running)
        )
        self._leaving.set()
        self._check_lease()
        self._release(self._book.give_back())
        drain_s = self._config.drain_timeout_s
        self._leave_timers = [
            self._loop.call_later(drain_s, self._attempts.stop_all, "abandoned", "the agent is leaving"),
            self._loop.call_later(drain_s + self._grace_s() + self._config.goodbye_timeout_s, self._give_up),
        ]
        self._tell()

    def hurry(self) -> None:
        """Stop everything at once; what can be reported within a second is."""
        self.leave()
        for timer in self._leave_timers:
            timer.cancel()
        self._attempts.stop_all("abandoned", "the agent is leaving", 0.0)
        self._leave_timers = [self._loop.call_later(_HURRY_TIMEOUT_S, self._give_up)]

    def _grace_s(self) -> float:
        return max((attempt.grace_ms for attempt in self._book.running.values()), default=0) / 1000

    def _give_up(self) -> None:
        self._finish("done")

    def _finish(self, how: Serving) -> None:
        if self._serving is not None and not self._serving.done():
            self._serving.set_result(how)

    async def _register(self) -> bool:
        """Register, trying until it succeeds. Returns False if told to leave before that."""
        config = self._config
        request = RegisterRequest(
            name=config.name,
            instance=config.instance,
            resources=config.resources,
            labels=config.labels,
            prefetch=config.prefetch,
            pid=os.getpid(),
            version=_version(),
        )
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            while True:
                sent_at_ns = now_ns()
                attempt = asyncio.ensure_future(self._leader.register(request))
                await asyncio.wait((attempt, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not attempt.done():
                    attempt.cancel()
                    await asyncio.wait((attempt,))
                    return False
                try:
                    registration = attempt.result()
                except (NoLeaderError, StaleIncarnationError) as error:
                    wait_s = self._note_failure(f"cannot register: {error}", getattr(error, "retry_after_s", None))
                    await asyncio.wait((leaving,), timeout=wait_s)
                    if leaving.done():
                        return False
                    continue
                self._begin(registration, sent_at_ns)
                return True
        finally:
            leaving.cancel()

    def _begin(self, registration: RegisterResponse, sent_at_ns: int) -> None:
        _log.info(
            "registered as %s, incarnation %d, lease %d ms",
            registration.id,
            registration.incarnation,
            registration.lease_ms,
        )
        self._registration = registration
        self._book = Book(self._capacity)
        self._seq = 0
        self._pieces.clear()
        self._note_success()
        self._began_at_s = self._loop.time()
        self._lapsed = False
        self._lease.start(sent_at_ns, registration.lease_ms)
        self._on_lease(self._lease.until_ns)
        self._on_registered(registration)

    async def _forget_everything(self) -> None:
        """End every attempt of an incarnation that counts no more, and drop what it had to say.

        The next incarnation begins only when nothing of this one runs: its capacity is the machine's.
        """
        self._book.give_back()
        self._attempts.stop_all("abandoned", "the agent was declared lost", _STALE_GRACE_S)
        await self._attempts.wait_idle()
        if self._loop.time() - self._began_at_s > _SHORT_LIFE_S:
            self._short_lives = 0
            return
        self._short_lives += 1
        if self._short_lives > 2:
            _log.warning("lost incarnations in a row: is another agent named %s?", self._config.name)
            wait_s = min(0.1 * 2**self._short_lives, _SHORT_LIFE_WAIT_MAX_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), wait_s)

    # --- the lease

    def _watch_lease(self) -> None:
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        if self._serving is None or self._serving.done():
            return
        self._check_lease()
        self._store.prune()
        left_s = (self._lease.stop_at_ns - now_ns()) / 1e9
        # Not longer than a second: timers of the event loop stand still while the machine sleeps, the lease does not.
        delay_s = min(max(left_s, 0.001), _LEASE_CHECK_MAX_S) if not self._lapsed else _LEASE_CHECK_MAX_S
        self._lease_timer = self._loop.call_later(delay_s, self._watch_lease)

    def _check_lease(self) -> None:
        """End the attempts if no leader has confirmed them for as long as the lease is."""
        if self._lapsed or self._registration is None or not self._lease.over():
            return
        self._lapsed = True
        if self._book.running:
            _log.warning("no leader for the lease time: stopping %d attempts", len(self._book.running))
        why = "no leader confirmed the agent's lease in time"
        self._attempts.stop_all("abandoned", why, self._lease.left_s())

    # --- attempts

    def _admit(self) -> None:
        """Start what fits, in order."""
        if self._lapsed or self._leaving.is_set() or self._serving is None or self._serving.done():
            return
        book = self._book
        while True:
            while (assignment := book.start_next()) is not None:
                self._attempts.start(assignment)
            misfit = book.take_misfit()
            if misfit is None:
                return
            _log.error("attempt %d demands %s: more than this agent has", misfit.fence, misfit.resources)
            self._unstarted((misfit,), "failed", f"the agent has only {self._capacity}")

    def _ended(self, end: ReportedEnd) -> None:
        self._book.end(end)
        self._admit()
        self._schedule_pump()

    def _release(self, assignments: Iterable[Assignment]) -> None:
        self._unstarted(assignments, "released", "")

    def _unstarted(
        self, assignments: Iterable[Assignment], outcome: Literal["released", "failed"], error: str
    ) -> None:
        for assignment in assignments:
            self._book.end(
                ReportedEnd(
                    fence=assignment.fence,
                    workflow_id=assignment.workflow_id,
                    task_id=assignment.task_id,
                    outcome=outcome,
                    error=error,
                )
            )

    # --- polls

    def _tell(self) -> None:
        self._urgent = True
        self._schedule_pump()

    def _schedule_pump(self) -> None:
        """Pump soon: what happens in one turn of the event loop travels together."""
        if self._pump_handle is None:
            self._pump_handle = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send the poll that is due, if any."""
        self._pump_handle = None
        self._check_lease()
        if self._serving is None or self._serving.done() or self._registration is None:
            return
        wait_s = self._waiting_until_s - self._loop.time()
        if wait_s > 0:
            self._pump_handle = self._loop.call_later(wait_s, self._pump)
            return
        if self._trouble and self._polls:
            return
        goodbye = self._leaving.is_set() and self._book.empty
        news = bool(self._book.ends or self._pieces or self._urgent or goodbye)
        if (news and True not in self._polls.values()) or not self._polls:
            self._send(self._registration, news=news, goodbye=goodbye)

    def _poll_done(self, task: asyncio.Task[None]) -> None:
        self._polls.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            if self._serving is not None and not self._serving.done():
                self._serving.set_exception(error)
            return
        self._schedule_pump()

    def _stop_polling(self) -> None:
        for task in list(self._polls):
            task.cancel()
        self._polls.clear()
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None
        if self._lease_timer is not None:
            self._lease_timer.cancel()

    def _send(self, registration: RegisterResponse, *, news: bool, goodbye: bool) -> None:
        """Send a poll that says all there is to say now."""
        self._seq += 1
        self._urgent = False
        pieces = self._next_pieces()
        leaving = self._leaving.is_set()
        ends, later = self._next_ends()
        wait_ms = min(registration.poll_wait_ms, self._lease.length_ns // 3_000_000)
        if leaving or self._trouble or (news and not ends):
            # Ends get verdicts; other news might be held, and keep the next ends waiting behind them. After a failure
            # the answer itself is wanted: it confirms the lease, which a held poll would leave to run out if leaders
            # went on dying.
            wait_ms = 0
        request = PollRequest(
            incarnation=registration.incarnation,
            seq=self._seq,
            seen=self._book.seen,
            # The leader takes what a poll does not mention as lost: ends that do not fit in are still "running".
            running=[*self._book.running, *later],
            queued=[assignment.fence for assignment in self._book.queue],
            ends=ends,
            logs=pieces,
            load=self._load.sample(),
            wait_ms=wait_ms,
            leaving=leaving,
            goodbye=goodbye,
        )
        task = self._loop.create_task(self._exchange(registration, request))
        self._polls[task] = news
        task.add_done_callback(self._poll_done)

    async def _exchange(self, registration: RegisterResponse, request: PollRequest) -> None:
        """Send one poll and act on the answer."""
        # An answer to news is not held. Two silent answers in a row must not cost the lease.
        held_s = 0 if request.ends or request.logs else request.wait_ms / 1000
        timeout_s = min(self._config.poll_timeout_s, registration.lease_ms / 3000) + held_s
        sent_at_ns = now_ns()
        try:
            response = await self._leader.poll(registration.id, _encode(request), timeout_s)
        except StaleIncarnationError as error:
            self._stale(registration, error)
        except RefusedError as error:
            self._refused(registration, error, request.ends)
        except NoLeaderError as error:
            if registration is self._registration:
                self._pieces[:0] = request.logs
                self._failed(str(error), error.retry_after_s)
        except asyncio.CancelledError:
            self._pieces[:0] = request.logs
            raise
        else:
            if registration is self._registration and self._serving is not None and not self._serving.done():
                self._answered(response, sent_at_ns, request.ends)
                if request.goodbye:
                    self._finish("done")

    def _next_ends(self) -> tuple[list[ReportedEnd], list[int]]:
        """Return the ends for the next poll, and the fences of those that must wait for the one after."""
        ends: list[ReportedEnd] = []
        size = 0
        for end in self._book.ends.values():
            size += len(bytes(end.result)) + len(end.error.encode()) + _END_BYTES
            if ends and (size > _ENDS_BYTES_MAX or len(ends) >= self._ends_max):
                break
            ends.append(end)
        return ends, list(self._book.ends)[len(ends) :]

    def _next_pieces(self) -> list[LogPiece]:
        """Take as many log pieces as one poll should carry."""
        count, size = 0, 0
        for piece in self._pieces:
            size += len(piece.data)
            if count and size > _LOG_BYTES_MAX:
                break
            count += 1
        pieces, self._pieces = self._pieces[:count], self._pieces[count:]
        return pieces

    def _stale(self, registration: RegisterResponse, error: StaleIncarnationError) -> None:
        if registration is not self._registration:
            return
        _log.warning(
            "incarnation %d counts no more (%s): dropping %d running and %d queued attempts, %d ends",
            registration.incarnation,
            error,
            len(self._book.running),
            len(self._book.queue),
            len(self._book.ends),
        )
        self._finish("stale")

    def _refused(self, registration: RegisterResponse, error: RefusedError, ends: list[ReportedEnd]) -> None:
        if registration is not self._registration:
            return
        if error.status == 413 and len(ends) > 1:
            self._ends_max = max(len(ends) // 2, 1)
            return
        if error.status == 413 and ends:
            end = ends[0]
            end.outcome = "failed"
            end.error = f"the coordinator refuses the result: {error}"[:1_000]
            end.result = msgspec.Raw(b"null")
            return
        self._failed(f"the coordinator refuses the poll: {error}", None)

    def _note_failure(self, why: str, retry_after_s: float | None) -> float:
        """Return how long to wait before the next try."""
        if not self._trouble:
            _log.warning("%s", why)
        else:
            _log.debug("%s", why)
        self._trouble = True
        if retry_after_s is not None:
            return min(retry_after_s, _RETRY_AFTER_MAX_S)
        wait_s = self._backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._backoff_s = min(self._backoff_s * _BACKOFF_GROWTH, _BACKOFF_MAX_S)
        return wait_s

    def _failed(self, why: str, retry_after_s: float | None) -> None:
        self._waiting_until_s = self._loop.time() + self._note_failure(why, retry_after_s)
        # Whatever else is in flight goes to a leader that is probably gone; nothing is lost with its answer.
        for task in list(self._polls):
            if task is not asyncio.current_task():
                task.cancel()

    def _note_success(self) -> None:
        if self._trouble:
            _log.info("the leader answers again")
        self._trouble = False
        self._backoff_s = _BACKOFF_MIN_S
        self._waiting_until_s = 0.0

    def _answered(self, response: PollResponse, sent_at_ns: int, ends: list[ReportedEnd]) -> None:
        """Act on an answer."""
        self._check_lease()
        self._lease.confirm(sent_at_ns, response.lease_ms)
        if not self._lease.over():
            self._lapsed = False
            self._on_lease(self._lease.until_ns)
        self._note_success()
        forgotten = self._book.answered(response.verdicts)
        if ends and not forgotten and all(end.fence in self._book.ends for end in ends):
            # The leader did not get to them: leave it a moment before they are sent again.
            self._waiting_until_s = self._loop.time() + _BACKOFF_MIN_S
        elif ends:
            self._ends_max = min(self._ends_max * 2, _ENDS_MAX)
        self._book.receive(response.assign)
        if self._leaving.is_set():
            self._release(self._book.give_back())
        if response.release or response.stop:
            self._release(self._book.give_back({*response.release, *response.stop}))
            for fence in response.stop:
                self._attempts.stop(fence, "cancelled", "cancelled by the coordinator")
        for wanted in response.logs:
            self._read_log(wanted)
        self._admit()

    def _read_log(self, wanted: LogWanted) -> None:
        if len(self._pieces) >= _LOGS_MAX:
            return  # the coordinator asks again or tells its caller
        piece = LogPiece(request=wanted.request, data=b"", size=0, truncated=False, complete=True)
        try:
            found = self._store.read(
                wanted.fence, wanted.stream, wanted.offset, min(wanted.bytes_max, _LOG_BYTES_MAX)
            )
        except OSError as error:
            piece.error = f"the output of attempt {wanted.fence} cannot be read: {error}"
        else:
            if found is None:
                piece.error = f"the output of attempt {wanted.fence} is not kept on {self._config.name} (any more)"
            else:
                piece.data, piece.size = found.data, found.size
                piece.truncated, piece.complete = found.truncated, found.complete
        self._pieces.append(piece)


def _version() -> str:
    try:
        return version("raftflow")
    except PackageNotFoundError:
        return ""
