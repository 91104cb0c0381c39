"""The state machine of a simulated replica, with an observer beside it."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Final

from raftflow.domain.features import NEXT_LEVEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from raftflow.machine.machine import EntryResult
    from raftflow.replication.log import StateMachine
    from raftflow.simulation.world.host import SimHost
    from raftflow.simulation.world.observer import ClusterObserver
    from raftflow.simulation.world.trace import Trace

STOP_WITHIN_S: Final = 0.5


class ObservedMachine:
    """The state machine as the log drives it. The observer is told of every entry and snapshot."""

    def __init__(self, inner: StateMachine, host: SimHost, observer: ClusterObserver, trace: Trace) -> None:
        self._inner = inner
        self._host = host
        self._observer = observer
        self._trace = trace

    def apply(self, index: int, term: int, entry: bytes) -> object:
        """Apply one entry and tell the observer of its outcome."""
        if self._host.level < NEXT_LEVEL:
            self._observer.applying(self._host, index, entry)
        result: EntryResult = self._inner.apply(index, term, entry)  # type: ignore[assignment]
        self._observer.applied(self._host, index, term, entry, result)
        return result

    def snapshot(self) -> Iterator[bytes]:
        """Freeze the state."""
        return self._inner.snapshot()

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        """Read a snapshot."""
        install = self._inner.prepare(pieces)

        def install_observed() -> None:
            if self._host.refuse_restore and self._host.serving:
                self._host.refuse_restore = False
                self._host.may_fail = "a snapshot cannot be restored"
                self._trace.fault("snapshot refused", self._host.name)
                self._must_stop()
                raise ValueError("a snapshot of a version that this one cannot read")
            install()
            self._observer.restored(self._host)

        return install_observed

    def _must_stop(self) -> None:
        """A replica that could not load a snapshot must stop."""
        host, process = self._host, self._host.process

        def check() -> None:
            if host.process is process and process is not None and not process.frozen:
                self._observer.violation(
                    "failed load ignored", f"{host.name} goes on without the state of its snapshot"
                )

        asyncio.get_running_loop().call_later(STOP_WITHIN_S, check, context=contextvars.Context())
