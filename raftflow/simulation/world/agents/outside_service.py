"""A service outside of the cluster, which simulated effects call. It never fails and forgets nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftflow.simulation.world.observer import EffectCall, ExecutionObserver


class OutsideService:
    """Counts what it was called for."""

    def __init__(self, observer: ExecutionObserver) -> None:
        self._observer = observer
        self._results: dict[str, str] = {}
        """By idempotency key."""

    def call(self, call: EffectCall, *, recognises: bool) -> str:
        """Do what a program wants. A service that recognises keys does it once for each."""
        known = self._results.get(call.idempotency_key)
        self._observer.effect_called(call, again=known is not None and not recognises)
        if known is None:
            known = self._results[call.idempotency_key] = f"{call.idempotency_key} by {call.fence}"
        return known

    def find(self, idempotency_key: str) -> str | None:
        """Return the result of the call with this key, None if there was none."""
        return self._results.get(idempotency_key)
