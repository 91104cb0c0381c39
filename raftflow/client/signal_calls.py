"""The part of the client that sends signals and decides approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftflow.domain.contract import operations
from raftflow.domain.contract.views import ApprovalState, ApprovalView, DecisionRequest, SignalSent

if TYPE_CHECKING:
    from raftflow.client.operation_calls import OperationCalls


class SignalCalls:
    """Methods of `AsyncClient`."""

    _calls: OperationCalls

    async def send_signal(
        self, workflow_id: str, name: str, payload: Any = None, *, key: str | None = None
    ) -> SignalSent:
        """Send a signal to a workflow: a task that waits for it (`Context.wait`) gets the payload.

        Without such a task it is kept until one waits. A signal is counted once for its `key`, as long as the
        workflow is kept, among its last 10,000 signals. Without a key each call sends another signal. Raises
        `Refused` if the workflow has ended, or if the payload does not fit the schema of the task that waits.
        """
        return await self._calls.call(
            operations.waits.SEND_SIGNAL, workflow_id, name, body=payload, idempotency_key=key
        )

    async def approvals(self, state: ApprovalState | None = "open") -> list[ApprovalView]:
        """Return what tasks ask people to decide, oldest first: those in a state, or all with None."""
        listed = self._calls.entries(operations.waits.LIST_APPROVALS, params={"state": state})
        return [each async for each in listed]

    async def approval(self, approval_id: str) -> ApprovalView:
        """Return an approval. Raises `NotFound`."""
        return await self._calls.call(operations.waits.SHOW_APPROVAL, approval_id)

    async def decide(self, approval_id: str, choice: str, *, comment: str = "", payload: Any = None) -> ApprovalView:
        """Decide an approval: the task that asked gets the choice, the comment and the payload.

        Raises `Refused` if somebody else was first, with who decided what, and when.
        """
        body = DecisionRequest(choice=choice, comment=comment, payload=payload)
        return await self._calls.call(operations.waits.DECIDE_APPROVAL, approval_id, body=body)
