"""What becomes of an item that the coordinator refuses: it is reported without what it carried, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable

from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.agent.exchange.instructions import Instruction, MuteLoad, MuteUsage, Note
from raftflow.agent.exchange.poll_items import Item
from raftflow.domain.contract.reportable import reportable_text
from raftflow.domain.contract.views import AttemptUsage, LogPiece, ReportedEnd

_REASON_CHARS_MAX = 1_000
_CARRY_NOTHING = frozenset({"released", "abandoned", "cancelled"})
"""Outcomes that stay as they are when an end is reported without what it carried."""


class Refusals:
    """What one incarnation does not report any more because the coordinator refuses it.

    Args:
        attempt_table: where the ends are.
        add_piece: sends a log piece in place of one that was refused.
        emit: takes instructions.
    """

    def __init__(
        self,
        attempt_table: AttemptTable,
        add_piece: Callable[[LogPiece], None],
        emit: Callable[[Instruction], None],
    ) -> None:
        self._attempt_table = attempt_table
        self._add_piece = add_piece
        self._emit = emit
        self._stripped: set[int] = set()
        """Fences of ends that were refused and are reported without what they carried."""

    def drop(self, item: Item, why: str) -> None:
        """Do not send this item again. What can be said in its place is said."""
        if isinstance(item, ReportedEnd):
            self._drop_end(item, why)
        elif isinstance(item, LogPiece):
            self._warn(f"the coordinator refuses a piece of output: {why}")
            if item.data:
                error = reportable_text(f"the coordinator refuses the output: {why}", _REASON_CHARS_MAX)
                self._add_piece(
                    LogPiece(request=item.request, data=b"", size=0, truncated=False, complete=True, error=error)
                )
        elif isinstance(item, AttemptUsage):
            self._warn(
                f"the coordinator refuses the usage of attempt {item.fence}, which is not reported again: {why}"
            )
            self._emit(MuteUsage(item.fence))
        else:
            self._warn(f"the coordinator refuses the load of this machine, which is not reported again: {why}")
            self._emit(MuteLoad())

    def _drop_end(self, end: ReportedEnd, why: str) -> None:
        """Report an attempt without what it carried. If that was refused too, do not report it again."""
        if self._attempt_table.ends.get(end.fence) is None:
            return
        if end.fence in self._stripped:
            what = f"the coordinator takes no end of attempt {end.fence}, so the attempt counts as lost: {why}"
            self._emit(Note(logging.ERROR, what))
            self._stripped.discard(end.fence)
            del self._attempt_table.ends[end.fence]
            return
        self._warn(f"the coordinator refuses the end of attempt {end.fence} of task {end.task_id}: {why}")
        self._stripped = {fence for fence in self._stripped if fence in self._attempt_table.ends} | {end.fence}
        kept = end.outcome in _CARRY_NOTHING
        self._attempt_table.ends[end.fence] = ReportedEnd(
            fence=end.fence,
            workflow_id=end.workflow_id,
            task_id=end.task_id,
            outcome=end.outcome if kept else "failed",
            error="" if kept else reportable_text(f"the coordinator refuses the result: {why}", _REASON_CHARS_MAX),
        )
        self._attempt_table.pressing = True

    def _warn(self, text: str) -> None:
        self._emit(Note(logging.WARNING, text))
