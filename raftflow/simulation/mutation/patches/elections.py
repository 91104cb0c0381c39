# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of elections: timeouts and the silence after which a replica votes for another leader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from raftflow.replication.elections.pre_votes import PreVotes
    from raftflow.replication.elections.timeouts import ElectionTimeouts


def _half_silence(self: ElectionTimeouts) -> float:
    return self._timing.silence_s / 2


HALF_SILENCE: Final = property(_half_silence)


def _stretched_fallback(self: ElectionTimeouts) -> float:
    return self._timing.fallback_s * self.stretch


UNBOUNDED_FALLBACK: Final = property(_stretched_fallback)


def own_silence(self: PreVotes) -> float:
    return self._timeouts.silence_s
