"""The agent's life: it registers, serves, and leaves.

    register --> serve --> (stale incarnation: stop everything, report every end) --> register again
                   |
                   +--> leave: give the queue back, let attempts end, say goodbye

What an incarnation decides while it serves is in `exchange/core.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from raftflow.agent.attempts.fitness import Fitness, Probe
from raftflow.agent.attempts.runner import AttemptRunner
from raftflow.agent.attempts.usage import REPORT_EVERY_S
from raftflow.agent.clock import now_ns
from raftflow.agent.config import AgentConfig
from raftflow.agent.exchange.backoff import Backoff
from raftflow.agent.exchange.core import ExchangeCore
from raftflow.agent.exchange.exchange import Exchange
from raftflow.agent.exchange.instructions import AttemptEnded, FitnessChanged, GiveUpAsked, LeaveAsked
from raftflow.agent.exchange.leader import (
    LeaderClient,
    LeaderNotFoundError,
    NameInUseError,
    RefusedError,
    StaleIncarnationError,
)
from raftflow.agent.exchange.outbox import LOG_BYTES_MAX
from raftflow.agent.exchange.poll_items import first_of
from raftflow.agent.load import LoadSampler
from raftflow.agent.output.store import OutputPiece, OutputStore
from raftflow.agent.workdir.files import UnfitFileError
from raftflow.domain.contract.reportable import reportable_number, reportable_text
from raftflow.domain.contract.views import (
    LogPiece,
    LogWanted,
    RegisterRequest,
    RegisterResponse,
    ReportedEnd,
)
from raftflow.domain.limits import OFFERS_MAX, VERSION_CHARS_MAX

_log = logging.getLogger("raftflow.agent.loop")

_LEASE_CHECK_MAX_S = 1.0
"""Timers of the event loop pause while the machine sleeps, the lease does not."""
_SHORT_LIFE_S = 10.0
"""An incarnation that is stale after so short a time may compete with another agent of the same name."""
_SHORT_LIFE_WAIT_MAX_S = 5.0
_HURRY_TIMEOUT_S = 1.0
_OFFER_REFUSALS_MAX = 32
"""Registrations that may be refused before results of a former incarnation are given up: they can be made again."""
_NAME_WAIT_S = 1.0
NAME_WAIT_MAX_S = 60.0
"""How long an agent tries to register while another one has its name. One whose machine died keeps its name until its
lease has run out."""


class AgentLoop:
    """One agent. `run` is its life; `leave` and `stop_now` are what signals call."""

    def __init__(
        self,
        config: AgentConfig,
        leader: LeaderClient,
        attempts: Callable[[Callable[[], None], Callable[[ReportedEnd], None], Callable[[int], str]], AttemptRunner],
        store: OutputStore,
        *,
        on_lease: Callable[[int], None],
        kill_overdue: Callable[[], None],
        attempts_max: int,
        on_registered: Callable[[RegisterResponse], None],
        probe: Probe,
        home: str = "",
    ) -> None:
        self._config = config
        self._leader = leader
        self._store = store
        self._home = home
        self._on_lease = on_lease
        self._kill_overdue = kill_overdue
        self._attempts_max = attempts_max
        self._on_registered = on_registered
        self._loop = asyncio.get_running_loop()
        self._fitness = Fitness(probe, self._fitness_changed)
        self._attempts = attempts(self._check_lease, self._ended, self._fitness.shortage_since)
        self._exchange: Exchange | None = None
        """Of the present incarnation, or of the last one between two incarnations."""
        self._load = LoadSampler()
        self._backoff = Backoff()
        self._lease_timer: asyncio.TimerHandle | None = None
        self.is_stopping_now = False
        """Told to stop at once."""
        self._leaving = asyncio.Event()
        self._leave_timers: list[asyncio.TimerHandle] = []
        self._goodbye_limited = False
        self._short_lives = 0
        self._offers: list[ReportedEnd] = []
        """Successes of the last incarnation that nobody took."""

    # --- life

    async def run(self) -> int:
        """Serve until told to leave. Returns the exit code. Raises `RefusedError` if it may not register."""
        code = 0
        while not self._leaving.is_set():
            exchange = await self._register()
            if exchange is None:
                break
            began_at_s = self._loop.time()
            table = exchange.core.table
            self._watch_lease()
            exchange.begin()
            try:
                outcome = await exchange.over
            finally:
                exchange.close()
            if outcome == "stale":
                self._offers = first_of(table.unheard(), OFFERS_MAX)
                await self._avoid_name_conflict(self._loop.time() - began_at_s)
            elif not table.empty:
                _log.warning("leaving with %d unreported ends", len(table.ends))
                code = 3
        for timer in self._leave_timers:
            timer.cancel()
        self._fitness.close()
        self._attempts.stop_all("abandoned", "the agent is leaving", 0.0)
        await self._attempts.wait_idle()
        self._fitness.close()  # the last ends may have been its own fault
        self._attempts.usage.stop()
        return code

    def leave(self) -> None:
        """Drain: no new work, give the queue back, let attempts end within the timeout, say goodbye."""
        if self._leaving.is_set():
            return
        running = () if self._exchange is None else self._exchange.core.table.running.values()
        _log.info("leaving: up to %g s for %d running attempts", self._config.drain_timeout_s, len(running))
        self._check_lease()
        self._leaving.set()
        drain_s = self._config.drain_timeout_s
        end_s = drain_s + max((attempt.grace_ms for attempt in running), default=0) / 1000
        self._leave_timers = [
            self._loop.call_later(drain_s, self._attempts.stop_all, "abandoned", "the agent is leaving"),
            self._loop.call_later(end_s + self._config.goodbye_timeout_s, self._give_up),
        ]
        if self._exchange is not None:
            self._exchange.handle(LeaveAsked())
        self._limit_goodbye()

    def _limit_goodbye(self) -> None:
        """Once nothing runs, only reports and the goodbye are left: without a leader they are not waited for long."""
        if not self._leaving.is_set() or self._goodbye_limited:
            return
        if self._exchange is None or not self._exchange.core.table.running:
            self._goodbye_limited = True
            self._leave_timers.append(self._loop.call_later(self._config.goodbye_timeout_s, self._give_up))

    def stop_now(self) -> None:
        """Stop everything at once; what can be reported within a second is."""
        self.is_stopping_now = True
        self.leave()
        for timer in self._leave_timers:
            timer.cancel()
        self._attempts.stop_all("abandoned", "the agent is leaving", 0.0)
        self._leave_timers = [self._loop.call_later(_HURRY_TIMEOUT_S, self._give_up)]

    def _give_up(self) -> None:
        if self._exchange is not None:
            self._exchange.handle(GiveUpAsked())

    async def _register(self) -> Exchange | None:
        """Register, trying until it succeeds. Returns None if told to leave before that."""
        config = self._config
        request = RegisterRequest(
            name=config.name,
            instance=config.instance,
            resources=config.resources,
            labels=config.labels,
            prefetch=config.prefetch,
            pid=os.getpid(),
            home=self._home,
            version=_version(),
            offers=self._offers,
        )
        parts: list[list[ReportedEnd]] = []
        """Offers that go with registrations to come, the next last."""
        refusals = 0
        leaving = asyncio.ensure_future(self._leaving.wait())
        began_s = self._loop.time()
        try:
            while not leaving.done():
                sent_at_ns = now_ns()
                attempt = asyncio.ensure_future(self._leader.register(request))
                await asyncio.wait((attempt, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not attempt.done():
                    attempt.cancel()
                    await asyncio.wait((attempt,))
                    return None
                try:
                    registration = attempt.result()
                    self._take_offers(registration, request.offers)
                    if not parts:
                        return self._begin(registration, sent_at_ns)
                    request.offers, wait_s = parts.pop(), 0.0
                except LeaderNotFoundError as error:
                    wait_s = self._note_failure(error, error.retry_after_s)
                except StaleIncarnationError as error:
                    wait_s = self._note_failure(error)
                except NameInUseError as error:
                    # It may be gone, and its lease runs on; who is heard for longer than that lives.
                    if self._loop.time() - began_s > NAME_WAIT_MAX_S:
                        raise
                    wait_s = self._note_failure(error, _NAME_WAIT_S)
                except RefusedError as error:
                    if not error.about_content or not request.offers:
                        raise
                    refusals += 1
                    request.offers, wait_s = self._divide_offers(request.offers, parts, refusals, error), 0.0
                await asyncio.wait((leaving,), timeout=wait_s)
            return None
        finally:
            leaving.cancel()

    def _note_failure(self, error: Exception, retry_after_s: float | None = None) -> float:
        """Write down that the agent could not register. Returns how long to wait."""
        _log.log(logging.DEBUG if self._backoff.failing else logging.WARNING, "cannot register: %s", error)
        return self._backoff.note_failure(retry_after_s)

    def _divide_offers(
        self, offers: list[ReportedEnd], parts: list[list[ReportedEnd]], refusals: int, error: RefusedError
    ) -> list[ReportedEnd]:
        """Return the offers of the next registration after one was refused; the others wait in `parts`.

        A single one that is refused is dropped, and all of them if it takes too long to find out which it is.
        """
        if len(offers) > 1 and refusals <= _OFFER_REFUSALS_MAX:
            half = (len(offers) + 1) // 2
            parts.append(offers[half:])
            return offers[:half]
        if refusals > _OFFER_REFUSALS_MAX:
            offers = [*offers, *(end for part in parts for end in part)]
            parts.clear()
        _log.warning("dropping %d results of a lost incarnation: %s", len(offers), error)
        return parts.pop() if parts else []

    def _take_offers(self, registration: RegisterResponse, offers: list[ReportedEnd]) -> None:
        if offers:
            taken = sum(verdict.verdict == "accepted" for verdict in registration.verdicts)
            _log.info("%d of %d results of the lost incarnation were still wanted", taken, len(offers))
        self._offers = []

    def _begin(self, registration: RegisterResponse, sent_at_ns: int) -> Exchange:
        _log.info(
            "registered as %s, incarnation %d, lease %d ms",
            registration.id,
            registration.incarnation,
            registration.lease_ms,
        )
        if self._backoff.failing:
            _log.info("the leader answers again")
        self._backoff.note_success()
        self._on_registered(registration)
        self._attempts.result_bytes_max = registration.result_bytes_max
        core = ExchangeCore(
            registration,
            self._config.capacity(),
            sent_at_ns=sent_at_ns,
            attempts_max=self._attempts_max,
            poll_timeout_s=self._config.poll_timeout_s,
            usage_every_s=REPORT_EVERY_S,
            backoff=self._backoff,
            trouble=self._fitness.trouble,
            leaving=self._leaving.is_set(),
        )
        self._exchange = Exchange(
            registration.id,
            core,
            leader=self._leader,
            attempts=self._attempts,
            load=self._load,
            on_lease=self._on_lease,
            kill_overdue=self._kill_overdue,
            read_log=self._read_log,
            on_agent_fault=self._fitness.report_fault,
        )
        return self._exchange

    async def _avoid_name_conflict(self, lived_s: float) -> None:
        """Wait longer and longer if one incarnation after the other is lost at once."""
        if lived_s > _SHORT_LIFE_S:
            self._short_lives = 0
            return
        self._short_lives += 1
        if self._short_lives > 2:
            _log.warning("lost incarnations in a row: is another agent named %s?", self._config.name)
            with contextlib.suppress(TimeoutError):
                wait_s = min(0.1 * 2**self._short_lives, _SHORT_LIFE_WAIT_MAX_S)
                await asyncio.wait_for(self._leaving.wait(), wait_s)

    # --- what happens

    def _watch_lease(self) -> None:
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        exchange = self._exchange
        if exchange is None or exchange.core.over:
            return
        exchange.check_lease()
        self._store.prune()
        left_s = (exchange.core.lease.stop_at_ns - now_ns()) / 1e9
        delay_s = _LEASE_CHECK_MAX_S if exchange.core.lapsed else min(max(left_s, 0.001), _LEASE_CHECK_MAX_S)
        self._lease_timer = self._loop.call_later(delay_s, self._watch_lease)

    def _check_lease(self) -> None:
        if self._exchange is not None:
            self._exchange.check_lease()

    def _ended(self, end: ReportedEnd) -> None:
        if self._exchange is not None:
            self._exchange.handle(AttemptEnded(end))
        self._limit_goodbye()

    def _fitness_changed(self) -> None:
        if self._exchange is not None:
            self._exchange.handle(FitnessChanged(self._fitness.trouble))

    def _read_log(self, wanted: LogWanted) -> LogPiece:
        """Read a piece of output that the leader wants."""
        piece = LogPiece(request=wanted.request, data=b"", size=0, truncated=False, complete=True)
        try:
            found = self._find_output(wanted)
        except (OSError, UnfitFileError) as error:
            piece.error = f"the output of attempt {wanted.fence} cannot be read: {error}"
        else:
            if found is None:
                piece.error = f"the output of attempt {wanted.fence} is not kept on {self._config.name} (any more)"
            else:
                piece.data, piece.size = found.data, found.size
                piece.offset = reportable_number(found.offset)
                piece.truncated, piece.complete = found.truncated, found.complete
        piece.error, piece.size = reportable_text(piece.error), reportable_number(piece.size)
        return piece

    def _find_output(self, wanted: LogWanted) -> OutputPiece | None:
        store, fence, stream, workflow_id = self._store, wanted.fence, wanted.stream, wanted.workflow_id
        if wanted.since_ms is not None:
            return store.start_since(fence, stream, wanted.since_ms, workflow_id=workflow_id)
        bytes_max = min(wanted.bytes_max, LOG_BYTES_MAX)
        return store.read(fence, stream, wanted.offset, bytes_max, workflow_id=workflow_id)


def _version() -> str:
    try:
        return version("raftflow")[:VERSION_CHARS_MAX]
    except PackageNotFoundError:
        return ""
