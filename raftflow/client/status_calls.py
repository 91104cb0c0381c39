"""The part of the client that asks how the replicas are."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from raftflow.client.errors import ClientError, Unreachable
from raftflow.client.overview import ClusterStatus, ReplicaAnswer, down, members_to_ask, overview
from raftflow.domain.contract import operations
from raftflow.domain.contract.operation import STALE
from raftflow.domain.contract.views import AgentView, HostView, ReplicaStatus

if TYPE_CHECKING:
    from raftflow.client.operation_calls import OperationCalls
    from raftflow.client.transport import Transport

_STATUS_S = 2.0
_STATUS_GRACE_S, _STATUS_DOWN_S = 0.4, 0.15
"""How long other replicas are waited for when one has answered, and those that the others do not hear either."""


class StatusCalls:
    """Methods of `AsyncClient`."""

    _calls: OperationCalls
    _transport: Transport

    async def status(self, replica_url: str) -> ReplicaStatus:
        """Return how one replica sees itself and the cluster. Raises `Unreachable` at once if it does not answer."""
        status = await self._calls.call(
            operations.replicas.SHOW_STATUS, replica=replica_url, once=True, attempt_s=_STATUS_S
        )
        self._transport.learn(status.name, replica_url)
        return status

    async def host(self, replica_url: str) -> HostView:
        """Return what one replica says of its machine and its process. Raises `Unreachable` at once, `NotFound`.

        A replica of an older version does not know this question: `NotFound`.
        """
        return await self._calls.call(
            operations.replicas.SHOW_HOST, replica=replica_url, once=True, attempt_s=_STATUS_S, timeout_s=_STATUS_S
        )

    async def cluster_status(self) -> ClusterStatus:
        """Ask every peer for the members, every member for its status, and the leader for the agents.

        After the first answer, the others have a fraction of a second: a machine that is off costs no more. Raises
        `Unreachable` if no peer answers, and `Refused` if they only refuse.
        """
        began_s = time.monotonic()
        asked: dict[str, asyncio.Task[ReplicaAnswer | ClientError]] = {}
        agents = asyncio.ensure_future(self._agents_now())
        try:
            for url in self._transport.peers:
                asked[url] = asyncio.ensure_future(self._hear(url))
            until_s = began_s + _STATUS_S
            while waiting := [task for task in asked.values() if not task.done()]:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    break
                await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                heard = {url: task.result() for url, task in asked.items() if task.done()}
                answers = {url: answer for url, answer in heard.items() if isinstance(answer, ReplicaAnswer)}
                if not answers:
                    continue
                for url in members_to_ask(answers):
                    if url not in asked:
                        asked[url] = asyncio.ensure_future(self._hear(url))
                late = [url for url, task in asked.items() if not task.done()]
                grace_s = _STATUS_DOWN_S if down(list(answers.values()), late) else _STATUS_GRACE_S
                until_s = min(until_s, time.monotonic() + grace_s)
            silent = Unreachable("no answer in time")
            found = {url: task.result() if task.done() else silent for url, task in asked.items()}
            return overview(found, await agents)
        finally:
            left = [task for task in (*asked.values(), agents) if not task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)

    async def _hear(self, url: str) -> ReplicaAnswer | ClientError:
        """Ask one replica how it is and who the members are."""
        try:
            status = await self.status(url)
        except ClientError as error:
            return error
        try:
            members = await self._calls.call(
                operations.members.LIST_MEMBERS, params={STALE.name: "1"}, replica=url, once=True, attempt_s=_STATUS_S
            )
            return ReplicaAnswer(status, members)
        except ClientError:
            return ReplicaAnswer(status)

    async def _agents_now(self) -> list[AgentView]:
        """Return the agents, none if there is no leader to tell them."""
        try:
            listed = await self._calls.call(
                operations.agents.LIST_AGENTS, once=True, attempt_s=_STATUS_S, timeout_s=_STATUS_S
            )
        except ClientError:
            return []
        return listed.agents
