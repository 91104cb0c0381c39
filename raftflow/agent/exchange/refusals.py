"""What becomes of an item that the coordinator does not take: it is told of without what it carried, or no more."""

from __future__ import annotations

import logging
from collections.abc import Callable

from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.agent.exchange.portions import Item
from raftflow.domain.contract.reportable import told_text
from raftflow.domain.contract.views import AttemptUsage, LogPiece, ReportedEnd

_log = logging.getLogger("raftflow.agent.refusals")

_REASON_CHARS_MAX = 1_000
_CARRY_NOTHING = frozenset({"released", "abandoned", "cancelled"})
"""Outcomes that stay what they are when an end is told of without what it carried."""


class Refusals:
    """What one incarnation does not tell any more, for the coordinator refuses it.

    Args:
        book: where the ends are.
        add_piece: sends a log piece in place of one that was refused.
    """

    def __init__(self, attempt_table: AttemptTable, add_piece: Callable[[LogPiece], None]) -> None:
        self._attempt_table = attempt_table
        self._add_piece = add_piece
        self._stripped: set[int] = set()
        """Fences of ends that were refused and are told of without what they carried."""
        self._untold: set[int] = set()
        """Fences of attempts whose usage was refused."""
        self.tells_load = True

    def told(self, usage: list[AttemptUsage]) -> list[AttemptUsage]:
        """Return the usage that may be told."""
        return [told for told in usage if told.fence not in self._untold] if self._untold else usage

    def condemn(self, item: Item, why: str) -> None:
        """Take an item that the coordinator does not take out of what is said."""
        if isinstance(item, ReportedEnd):
            self._end(item, why)
        elif isinstance(item, LogPiece):
            _log.warning("the coordinator refuses a piece of output: %s", why)
            if item.data:
                error = told_text(f"the coordinator refuses the output: {why}", _REASON_CHARS_MAX)
                self._add_piece(
                    LogPiece(request=item.request, data=b"", size=0, truncated=False, complete=True, error=error)
                )
        elif isinstance(item, AttemptUsage):
            _log.warning("the coordinator refuses what attempt %d uses, it is not told any more: %s", item.fence, why)
            self._untold.add(item.fence)
        else:
            _log.warning("the coordinator refuses the load of this machine, it is not told any more: %s", why)
            self.tells_load = False

    def _end(self, end: ReportedEnd, why: str) -> None:
        """Tell of an attempt without what it carried; if that is refused as well, tell of it no more."""
        if self._attempt_table.ends.get(end.fence) is None:
            return
        if end.fence in self._stripped:
            _log.error(
                "the coordinator takes no end of attempt %d, so the attempt counts as lost: %s", end.fence, why
            )
            self._stripped.discard(end.fence)
            del self._attempt_table.ends[end.fence]
            return
        _log.warning("the coordinator refuses the end of attempt %d of task %s: %s", end.fence, end.task_id, why)
        self._stripped = {fence for fence in self._stripped if fence in self._attempt_table.ends} | {end.fence}
        kept = end.outcome in _CARRY_NOTHING
        self._attempt_table.ends[end.fence] = ReportedEnd(
            fence=end.fence,
            workflow_id=end.workflow_id,
            task_id=end.task_id,
            outcome=end.outcome if kept else "failed",
            error="" if kept else told_text(f"the coordinator refuses the result: {why}", _REASON_CHARS_MAX),
        )
        self._attempt_table.pressing = True
