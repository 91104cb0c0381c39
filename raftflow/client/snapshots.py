"""The part of the client that takes snapshots of a running cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract.cluster import SnapshotView
from raftflow.domain.contract.operation import STALE
from raftflow.domain.contract.operations.snapshots import READ_SNAPSHOT, TAKE_SNAPSHOT

if TYPE_CHECKING:
    from raftflow.client.operation_calls import OperationCalls


class SnapshotCalls:
    """Methods of `AsyncClient`."""

    _calls: OperationCalls

    async def take_snapshot(self, replica_url: str | None = None, *, stale: bool = False) -> SnapshotView:
        """Have a replica write a snapshot, and return what it is. Read it soon: an idle one is closed.

        It is the leader's, and holds every write that was acknowledged before the call. With `stale` it is that of
        the replica which is asked, which may be behind.
        """
        params = {STALE.name: "1"} if stale else None
        return await self._calls.call(
            TAKE_SNAPSHOT, params=params, replica=replica_url, timeout_s=TAKE_SNAPSHOT.answer_s
        )

    async def read_snapshot(self, snapshot: SnapshotView, offset: int = 0) -> bytes:
        """Return the next bytes of a snapshot; none at its end. Raises `NotFound` if it was closed."""
        return await self._calls.call(
            READ_SNAPSHOT,
            snapshot.id,
            params={"offset": offset},
            replica=snapshot.url,
            timeout_s=READ_SNAPSHOT.answer_s,
        )
