"""Requests that were refused because of who sent them: which client, from where, what for, and how often.

They are of this replica, and in memory: nothing of them is in the log of the cluster, so a client that is refused
cannot make the replicas write. Equal ones are one row with a count. Each address has a bounded number of rows, and so
have all together. The rows of those with a valid token are apart, so that strangers cannot displace them.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from raftflow.domain.contract.audit import RefusalPage, RefusalView
from raftflow.domain.limits import REFUSALS_MAX, REFUSALS_OF_ADDRESS_MAX
from raftflow.domain.values.times import iso_utc

if TYPE_CHECKING:
    from collections.abc import Callable

LOG_PERIOD_MS: Final = 60_000
"""Shortest time between two log lines about refused requests."""
_ADDRESS_CHARS_MAX: Final = 100

_log = logging.getLogger("raftflow.api.refusals")

RefusalKey = tuple[str, str, str, int]
"""Who, from where, which operation, which status."""


class _Row:
    """Equal refusals."""

    __slots__ = ("count", "first_ms", "last_ms", "request_id")

    def __init__(self, now_ms: int) -> None:
        self.count = 0
        self.first_ms = now_ms
        self.last_ms = now_ms
        self.request_id = ""


class _Rows:
    """Rows, the one that happened last at the end."""

    def __init__(self) -> None:
        self.by_key: dict[RefusalKey, _Row] = {}
        self._of_address: Counter[str] = Counter()

    def note(self, key: RefusalKey, request_id: str, now_ms: int) -> int:
        """Count a refusal. Returns how many refusals were forgotten for it."""
        row, forgotten = self.by_key.pop(key, None), 0
        if row is None:
            row = _Row(now_ms)
            forgotten = self._make_room(key[1])
            self._of_address[key[1]] += 1
        row.count, row.last_ms, row.request_id = row.count + 1, now_ms, request_id
        self.by_key[key] = row
        return forgotten

    def _make_room(self, address: str) -> int:
        oldest: RefusalKey | None = None
        if self._of_address[address] >= REFUSALS_OF_ADDRESS_MAX:
            oldest = next(key for key in self.by_key if key[1] == address)
        elif len(self.by_key) >= REFUSALS_MAX:
            oldest = next(iter(self.by_key))
        if oldest is None:
            return 0
        self._of_address[oldest[1]] -= 1
        if not self._of_address[oldest[1]]:
            del self._of_address[oldest[1]]
        return self.by_key.pop(oldest).count


class RefusedRequests:
    """The refused requests of one replica.

    Args:
        replica: its name.
        now_ms: returns the time in ms since the epoch.
    """

    def __init__(self, replica: str, now_ms: Callable[[], int]) -> None:
        self._replica = replica
        self._now_ms = now_ms
        self._known, self._strangers = _Rows(), _Rows()
        self._since_ms = now_ms()
        self._total = self._forgotten = self._untold = 0
        self._tell_at_ms = 0

    def note(self, who: str, address: str, operation: str, status: int, request_id: str) -> None:
        """Note a refused request. `who` is the name of its token; empty if it has no valid one."""
        now_ms = self._now_ms()
        rows = self._known if who else self._strangers
        key = (who, address[:_ADDRESS_CHARS_MAX], operation, status)
        self._forgotten += rows.note(key, request_id, now_ms)
        self._total += 1
        self._untold += 1
        if now_ms >= self._tell_at_ms:
            _log.warning(
                "refused %d requests: the last was by %s from %s for %s, status %d; raftflow audit list --refused "
                "shows all",
                self._untold,
                f"client:{who}" if who else "somebody without a valid token",
                address[:_ADDRESS_CHARS_MAX],
                operation,
                status,
            )
            self._untold, self._tell_at_ms = 0, now_ms + LOG_PERIOD_MS

    def page(self) -> RefusalPage:
        """Return all rows, the one that happened last first."""
        rows = [*self._known.by_key.items(), *self._strangers.by_key.items()]
        views = [
            RefusalView(
                actor=f"client:{who}" if who else None,
                address=address,
                operation=operation,
                status=status,
                count=row.count,
                first_at=iso_utc(row.first_ms),
                last_at=iso_utc(row.last_ms),
                request_id=row.request_id,
            )
            for (who, address, operation, status), row in sorted(rows, key=lambda each: -each[1].last_ms)
        ]
        return RefusalPage(
            replica=self._replica,
            since=iso_utc(self._since_ms),
            total=self._total,
            forgotten=self._forgotten,
            refusals=views,
        )
