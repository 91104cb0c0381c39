"""The client with which a simulated agent talks to the leader, over simulated calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from raftflow.agent.exchange.leader import LeaderNotFoundError as AgentNoLeaderError
from raftflow.agent.exchange.leader import NameInUseError, RefusedError, StaleIncarnationError
from raftflow.agent.exchange.leader_watch import FIRST_S, HOLD_S, LeaderWatch, PendingRequests
from raftflow.agent.workdir.inputs import AttemptOverError, ReplicaUnavailableError
from raftflow.coordinator.commit.submitter import BusyError, NotLeaderError, ProposeError
from raftflow.domain.contract.reportable import first_fault
from raftflow.domain.contract.views import (
    CallsRequest,
    CallsResponse,
    InputsPiece,
    LeaderNotice,
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
)
from raftflow.domain.limits import RESULT_BYTES_MAX
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.resources import parse_amount
from raftflow.machine.read.inputs import BehindError, NotLiveError, inputs_slice
from raftflow.simulation.world.agents.executor import UNWANTED
from raftflow.simulation.world.calls import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from raftflow.coordinator.replica import Replica
    from raftflow.domain.contract.views import ReportedEnd
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.loop import Process
    from raftflow.simulation.world.observer import ExecutionObserver


def _refusal(ends: list[ReportedEnd]) -> Rejection | None:
    """Refuse what the API refuses, and a result that only an API of another version would refuse."""
    for end in ends:
        if bytes(end.result) == UNWANTED:
            return Rejection(RejectionCode.INVALID, f"the result of attempt {end.fence} is not wanted")
    fault = first_fault(end.result for end in ends)
    return None if fault is None else Rejection(RejectionCode.INVALID, fault[1])


class SimLeaderClient:
    """Finds the leader as `agent.leader.LeaderClient` does, over simulated calls."""

    def __init__(
        self,
        calls: Calls,
        process: Process,
        replicas: list[str],
        rng: Random,
        *,
        timeout_s: float,
        observer: ExecutionObserver,
    ) -> None:
        self._calls = calls
        self._observer = observer
        self._process = process
        self._replicas = replicas
        """The replicas that are there. The list changes in place."""
        self._peers = list(replicas)
        rng.shuffle(self._peers)
        self._timeout_s = timeout_s
        self._leader: str | None = None
        self._decode_poll = msgspec.json.Decoder(PollResponse)
        self._under_way = PendingRequests()
        self.watch = LeaderWatch(
            ask=self._ask_who_leads, peers=lambda: self._replicas, leader=lambda: self._leader, moved=self._moved
        )

    async def register(self, request: RegisterRequest) -> RegisterResponse:
        """Register. Raises what the real client raises."""

        async def serve(replica: Replica) -> RegisterResponse | Rejection:
            if refusal := _refusal(request.offers):
                return refusal
            capacity = {name: parse_amount(name, value) for name, value in request.resources.items()}
            command = replica.registration.command(request, capacity, at_ms=replica.clock.now_ms())
            reply, verdicts = await replica.registration.register(command, request.offers)
            if isinstance(reply, Rejection):
                return reply
            replica.poll_service.note_registration(request, reply.incarnation)
            timing = replica.config.timing
            return RegisterResponse(
                id=reply.name,
                incarnation=reply.incarnation,
                lease_ms=timing.lease_ms,
                poll_wait_ms=timing.poll_wait_ms,
                result_bytes_max=RESULT_BYTES_MAX,
                feature_level=replica.machine.tables.feature_level,
                verdicts=verdicts,
            )

        registration: RegisterResponse = await self._pass(serve, self._timeout_s)
        return registration

    async def poll(self, agent_id: str, body: bytes, timeout_s: float) -> PollResponse:
        """Send a poll. Raises what the real client raises."""
        sent_s = asyncio.get_running_loop().time()

        async def serve(replica: Replica) -> bytes | Rejection:
            request = msgspec.json.decode(body, type=PollRequest)
            if refusal := _refusal(request.ends):
                return refusal
            reply = await replica.poll_service.poll(agent_id, request)
            if isinstance(reply, Rejection):
                return reply
            self._observer.lease_renewed(replica.config.name, replica.log.stamp().term, sent_s)
            return msgspec.json.encode(reply)

        return self._decode_poll.decode(await self._pass(serve, timeout_s))

    async def calls(self, agent_id: str, body: bytes) -> CallsResponse:
        """Send what attempts ask. Raises what the real client raises."""

        async def serve(replica: Replica) -> bytes:
            request = msgspec.json.decode(body, type=CallsRequest)
            return msgspec.json.encode(await replica.attempt_calls.answer(agent_id, request))

        return msgspec.json.decode(await self._pass(serve, self._timeout_s), type=CallsResponse)

    def replicas(self) -> list[str]:
        """Return the replicas to ask for inputs, the leader last."""
        others = [name for name in self._replicas if name != self._leader]
        return others if self._leader is None else [*others, self._leader]

    async def inputs(self, replica: str, agent: str, fence: int, first: int, timeout_s: float) -> InputsPiece:
        """Ask a replica for a piece of inputs. Raises what the real client raises."""
        del timeout_s  # simulated time-outs are shorter

        async def serve(replica: Replica) -> bytes | str:
            try:
                found = inputs_slice(replica.machine, agent, fence, first)
            except BehindError:
                return "behind"
            except NotLiveError:
                return "over"
            results = {need: msgspec.Raw(result) for need, result in found.inputs}
            return msgspec.json.encode(InputsPiece(inputs=results, next=found.next))

        try:
            answer = await self._calls.call(self._process, replica, serve, self._timeout_s)
        except CallFailed as error:
            raise ReplicaUnavailableError(str(error), away=True) from error
        if answer == "behind":
            raise ReplicaUnavailableError(f"{replica} is behind")
        if answer == "over":
            raise AttemptOverError(f"{replica} says that attempt {fence} is over")
        return msgspec.json.decode(answer, type=InputsPiece)

    async def _pass(self, serve: Callable[[Replica], Any], timeout_s: float) -> Any:
        self._peers = [name for name in self._peers if name in self._replicas]
        self._peers += [name for name in self._replicas if name not in self._peers]
        targets = [*([] if self._leader is None else [self._leader]), *self._peers]
        tried: list[str] = []
        while targets:
            target = targets.pop(0)
            if target in tried:
                continue
            tried.append(target)
            term = self.watch.term
            try:
                with self._under_way.asking(target, timeout_s) as limit:
                    reply = await self._calls.call(self._process, target, serve, limit)
            except NotLeaderError as error:
                self._remember(error.leader)
                targets.insert(0, error.leader)
            except BusyError as error:
                raise AgentNoLeaderError(str(error), 1.0) from error
            except (ProposeError, CallFailed) as error:
                if self.watch.term != term and target != self._leader:
                    raise AgentNoLeaderError(f"{target} has not answered, and another one leads") from error
                self._failed(target)
            else:
                self._remember(target)
                if isinstance(reply, Rejection):
                    if reply.code in {RejectionCode.STALE_INCARNATION, RejectionCode.NOT_FOUND}:
                        raise StaleIncarnationError(reply.message)
                    if reply.code is RejectionCode.PENDING:
                        raise AgentNoLeaderError(reply.message, 0.1)
                    if reply.code is RejectionCode.NAME_IN_USE:
                        raise NameInUseError(409, reply.message)
                    raise RefusedError(422, reply.message)
                return reply
        raise AgentNoLeaderError("no replica could be asked")

    async def _ask_who_leads(self, target: str, term: int) -> LeaderNotice:
        """Ask a replica who leads after `term`. Raises `OSError`."""

        async def serve(replica: Replica) -> LeaderNotice:
            return await replica.news.wait(term, HOLD_S)

        try:
            return await self._calls.call(self._process, target, serve, HOLD_S + self._timeout_s)
        except CallFailed as error:
            raise OSError(str(error)) from error

    def _moved(self, _told_by: str, notice: LeaderNotice) -> None:
        """There is a new leader: switch to it, and abandon requests to other replicas."""
        assert notice.leader is not None  # noqa: S101 - it is news
        if notice.leader == self._leader:
            return
        if self._leader is not None:
            self._failed(self._leader)
        self._remember(notice.leader)
        self._under_way.give_up(notice.leader, 0.0 if self.watch.term else FIRST_S)

    def _remember(self, target: str) -> None:
        if target != self._leader:
            self._leader = target
            self.watch.leader_known()

    def _failed(self, target: str) -> None:
        if target == self._leader:
            self._leader = None
        if target in self._peers:
            self._peers.remove(target)
            self._peers.append(target)
