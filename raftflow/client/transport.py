"""One call of the API: as many requests as it takes, with back-off, a deadline and one idempotency key.

The request goes to the leader if it is known, otherwise to the peer that answered last (`http/peer_order.py`), and to
the next peer when that one fails. Peers that are slow to connect are raced (`http/race.py`). A peer that is connected
and silent is given up when another replica leads (`http/hedge.py`).

A call retries until its deadline: failed connections, time-outs, 503 (no leader, outcome unknown), 429, and the 502
and 504 of a proxy in between. A write carries one `Idempotency-Key` for the whole call. So a request that was
carried out although its answer was lost gets its first answer again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from raftflow.client.errors import BadAnswer, ClientError, NoLeader, OutcomeUnknown, Refused, Unreachable, UsageError
from raftflow.client.http.calls import ApiCall, check_call, checked_url
from raftflow.client.http.hedge import HedgedSender, LeaderMovedError
from raftflow.client.http.peer_order import PeerOrder
from raftflow.client.http.race import ConnectionRace
from raftflow.client.http.responses import REQUEST_FAILURES, RetryableProblem, describe_failure
from raftflow.client.http.session import HttpSession
from raftflow.client.settings import TIMEOUT_S
from raftflow.domain.contract.views import PROBLEM_TYPE_PREFIX, Problem

_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 1.0
REQUESTS_MAX: Final = 100
"""Requests of one client that are under way at a time."""

T = TypeVar("T")


class Transport:
    """Makes calls of the API. Belongs to one event loop."""

    def __init__(
        self,
        peers: Sequence[str],
        *,
        token: str | None = None,
        token_file: Path | str | None = None,
        cacert: Path | str | None = None,
        client_cert: Path | str | None = None,
        client_key: Path | str | None = None,
        timeout_s: float = TIMEOUT_S,
        cache_folder: Path | None = None,
    ) -> None:
        """Check the settings without connecting. `cache_folder` is for a `LeaderCache`. Raises `UsageError`."""
        self._peers = PeerOrder(peers, cache_folder)
        if not timeout_s > 0:
            raise UsageError("timeout_s must be above 0")
        self.timeout_s = timeout_s
        self._session = HttpSession(
            self._peers,
            token=token,
            token_file=token_file,
            cacert=cacert,
            client_cert=client_cert,
            client_key=client_key,
        )
        self._sender = HedgedSender(self._session, self._peers)
        self._slots = asyncio.Semaphore(REQUESTS_MAX)

    @property
    def peers(self) -> list[str]:
        """The URLs of the members as the cluster told them last, the configured ones at first."""
        return self._peers.urls

    async def close(self) -> None:
        """Close the connections. The transport cannot be used again."""
        self._peers.save()
        await self._session.close()

    def learn(self, name: str, url: str) -> None:
        """Remember which peer a replica's name belongs to, because answers name the leader."""
        self._peers.learn(name, url)

    async def call(self, call: ApiCall, kind: type[T], *, timeout_s: float | None = None) -> T:
        """Make a call and decode its answer. Raises a `ClientError`."""
        data = await self.call_raw(call, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BadAnswer(f"the answer to {call.method} {call.path} is not understood: {error}") from error

    async def call_raw(self, call: ApiCall, *, timeout_s: float | None = None) -> bytes:
        """Make a call and return the body of its answer. Raises a `ClientError`."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        self._session.check_usable()
        check_call(call)
        only = None if call.replica is None else [checked_url(call.replica)]
        progress = _CallProgress()
        pause_s = _PAUSE_FIRST_S
        while True:
            answer = await self._ask_peers(call, list(only or self._peers.in_order()), deadline, progress)
            if isinstance(answer, bytes):
                return answer
            if answer is None:
                continue  # another replica leads: ask it at once
            now = time.monotonic()
            if call.once or now >= deadline:
                raise progress.error(call)
            # Full jitter would do for many clients; half of it keeps the first retry after a failover early.
            wait_s = max(pause_s * random.uniform(0.5, 1.0), answer)  # noqa: S311 - jitter
            await asyncio.sleep(min(wait_s, deadline - now))
            pause_s = min(pause_s * 1.6, _PAUSE_MAX_S)

    async def _ask_peers(
        self, call: ApiCall, candidates: list[str], deadline: float, progress: _CallProgress
    ) -> bytes | float | None:
        """Send the request to one peer after the other until one answers.

        Returns the body; or how many seconds the replicas ask the client to wait, once no peer is left; or None if
        another replica leads, which the peers prefer from now on.
        """
        wait_s = 0.0
        while candidates and (left_s := deadline - time.monotonic()) > 0:
            race = ConnectionRace(
                lambda peer, within_s, connected: self._sender.send(call, peer, within_s, connected)
            )
            if not await self._take_slot(left_s):
                break
            try:
                answer = await race.run(candidates, min(left_s, call.attempt_s), progress.failures)
            except LeaderMovedError as moved:
                progress.sent = True
                progress.failures[race.winner or ""] = "no answer, and another replica leads"
                self._peers.prefer(moved.url)
                return None
            except REQUEST_FAILURES as error:
                # A request that could not connect was not sent. After a connection it may have been carried out.
                progress.sent = True
                progress.failures[race.winner or ""] = describe_failure(error)
                continue
            finally:
                self._slots.release()
            if answer is None:
                break
            if isinstance(answer, bytes):
                return answer
            progress.note(answer, race.winner or "")
            wait_s = max(wait_s, answer.after_s)
        return wait_s

    async def _take_slot(self, left_s: float) -> bool:
        """Wait until one more request may be under way. False if that took all the time that was left."""
        try:
            async with asyncio.timeout(left_s):
                await self._slots.acquire()
        except TimeoutError:
            return False
        return True


class _CallProgress:
    """What has happened to a call so far."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        """By URL of a peer: what happened last."""
        self.problem: Problem | None = None
        """The last problem that a replica answered with."""
        self.sent = False
        """Whether a request was sent that has no answer."""

    def note(self, answer: RetryableProblem, peer: str) -> None:
        """Note a problem that a peer answered with."""
        self.problem = answer.problem
        self.failures[peer] = answer.problem.detail or answer.problem.title

    def error(self, call: ApiCall) -> ClientError:
        """Return the error for a call that ran out of time."""
        told = "; ".join(f"{peer}: {why}" for peer, why in self.failures.items()) or "no time was left to ask"
        problem = self.problem
        kind = "" if problem is None else problem.type.removeprefix(PROBLEM_TYPE_PREFIX)
        failed: ClientError
        if call.idempotency_key is not None and (self.sent or kind == "outcome-unknown"):
            failed = OutcomeUnknown(
                f"it is not known whether the request was carried out; send it again with the idempotency key "
                f"{call.idempotency_key}: it is carried out at most once ({told})",
                call.idempotency_key,
            )
        elif problem is None:
            failed = Unreachable(f"no coordinator answers; is the cluster running, and are these its peers? ({told})")
        elif kind in ("no-leader", "outcome-unknown", "unavailable"):
            failed = NoLeader(
                f"the cluster has no leader at the moment; a majority of its replicas must run ({told})"
            )
        else:
            failed = Refused(problem)
        if isinstance(failed, Unreachable):
            failed.failures = self.failures
        return failed
