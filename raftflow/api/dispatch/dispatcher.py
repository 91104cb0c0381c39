"""Which replica answers a request, and in which queue it waits for its turn there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.dispatch.leader_wait import ANY_LEADER, wait_for_leader
from raftflow.api.dispatch.requests import SMALL_PAGE, Cost, Response, encode
from raftflow.api.forwarding.forwarder import redirect
from raftflow.coordinator.commit.submitter import NoLeaderError
from raftflow.domain.contract.operation import STALE, AnsweredBy
from raftflow.domain.contract.views import HEADER_FORWARDED

if TYPE_CHECKING:
    from raftflow.api.dispatch.requests import Request
    from raftflow.api.forwarding.forwarder import Forwarder
    from raftflow.coordinator.replica import Replica


class Dispatcher:
    """Answers the requests of the framework: here, at the leader, or by naming the leader."""

    def __init__(self, replica: Replica, forwarder: Forwarder) -> None:
        self._replica = replica
        self._forwarder = forwarder

    async def dispatch(self, call: Request) -> web.StreamResponse:
        """Answer here or pass the request on. While a leader is elected, wait for it for a moment."""
        answered_by = call.operation.answered_by
        if answered_by is AnsweredBy.ASKED_REPLICA or (
            answered_by is AnsweredBy.LEADER_READ and STALE.name in call.request.query
        ):
            return await _answer_here(call)
        retried = () if HEADER_FORWARDED in call.request.headers else ANY_LEADER
        return await wait_for_leader(partial(self._answer_once, call), retried)

    async def _answer_once(self, call: Request) -> web.StreamResponse:
        """Answer as leader, or let the leader answer. Raises `ProposeError` and `ProblemError`."""
        if self._replica.leader.leading:
            if call.operation.answered_by is AnsweredBy.LEADER_READ:
                await self._replica.read_barrier()
                # One barrier releases all reads that have waited for it. They must not share one long turn.
                await call.shedder.enter(QueueClass.ORDINARY)
            return await _answer_here(call)
        leader = self._replica.submitter.no_leader_error()
        if isinstance(leader, NoLeaderError):
            raise leader
        if call.operation.answered_by is AnsweredBy.LEADER_POLL:
            return redirect(call.request, leader.leader_url)
        if HEADER_FORWARDED in call.request.headers:
            raise leader
        return await self._forwarder.forward(call.request, call.body, leader.leader_url, call.request_id)


async def _answer_here(call: Request) -> web.StreamResponse:
    """Run the handler; expensive ones run one at a time. Raises `ProblemError`."""
    cost = call.route.cost
    if cost is Cost.USUAL or (cost is Cost.PAGE and call.require_number("limit") <= SMALL_PAGE):
        return _response_of(await call.route.handler(call))
    async with call.shedder.long() if cost is Cost.LONG else call.shedder.heavy():
        return _response_of(await call.route.handler(call))


def _response_of(answer: Response | web.StreamResponse) -> web.StreamResponse:
    if isinstance(answer, web.StreamResponse):
        return answer  # it has been sent already
    if isinstance(answer.content, bytes):
        return web.Response(status=answer.status, body=answer.content, headers=answer.headers)
    return web.Response(
        status=answer.status, body=encode(answer.content), content_type="application/json", headers=answer.headers
    )
