"""The nemesis: draws faults by a seed, single and in pairs, and waits for the cluster to recover from each."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raftflow.chaos.nemesis.kinds import ChaosFault, NoEffectError, NotRecoveredError
from raftflow.chaos.testbed import READY_S, Testbed
from raftflow.client.errors import ClientError
from raftflow.local.cluster_file import LocalClusterError
from raftflow.local.faults.disk_images import ImageError

RECOVERY_S: Final = 30.0
"""The cluster acknowledges writes again within this time."""
_PAIR_SHARE: Final = 0.8
_PAUSE_S: Final = (0.05, 0.3)


_RARE_EVERY: Final = 2


@dataclass(slots=True)
class ActiveFault:
    """A fault that has begun."""

    id: str
    kind: ChaosFault
    targets: list[str]
    run: Iterator[Any]
    effect_s: float = 0.0
    """When it was shown to have taken effect."""


@dataclass(slots=True)
class NemesisReport:
    """What was done."""

    counts: Counter[str] = field(default_factory=Counter)
    """Faults that took effect, by kind."""
    without_effect: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    pairs: int = 0


class Nemesis:
    """Draws and carries out faults until its time is over."""

    def __init__(
        self, bed: Testbed, faults: Sequence[ChaosFault], seed: int, say: Callable[[str], None], bound_s: float
    ) -> None:
        self.report = NemesisReport()
        self._bed = bed
        self._faults = faults
        self._chance = random.Random(f"{seed}/nemesis")  # noqa: S311 - a seed gives the same faults again
        self._say = say
        self._bound_s = bound_s
        self._deck: list[ChaosFault] = []
        self._number = 0
        self._rounds = 0

    def run(self, seconds: float) -> None:
        """Inject faults for so long. Raises `NotRecoveredError`."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._turn()
            time.sleep(self._chance.uniform(*_PAUSE_S))

    def _draw(self) -> ChaosFault:
        """Take the next kind: every kind comes once before one comes again, rare ones every second time."""
        if not self._deck:
            self._rounds += 1
            self._deck = [fault for fault in self._faults if not fault.rare or self._rounds % _RARE_EVERY == 1]
            self._deck = self._deck or list(self._faults)
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    def _turn(self) -> None:
        """One fault or a pair of them, held, ended, recovered from."""
        first = self._draw()
        chosen = [first]
        if not first.alone and self._chance.random() < _PAIR_SHARE:
            second = next((kind for kind in reversed(self._deck) if not kind.alone and kind is not first), None)
            if second is not None:
                self._deck.remove(second)
                chosen.append(second)
        active: list[ActiveFault] = []
        tried: list[str] = []
        try:
            for kind in chosen:
                targets = kind.choose(self._bed, self._chance)
                if not targets:
                    self._put_back(kind)
                    continue
                begun, identity = self._begin(kind, targets)
                tried.append(f"{kind.name} ({identity})")
                if begun is not None:
                    active.append(begun)
            self._hold(active)
        finally:
            for fault in reversed(active):
                self._end(fault)
        ended_s = self._bed.history.now_s()
        self._recover(active, ended_s)
        if tried:  # one without effect may have done something too
            self._await_all(" and ".join(tried))
        if len(active) > 1:
            self.report.pairs += 1

    def _put_back(self, kind: ChaosFault) -> None:
        """Draw a kind later that can hit nobody now."""
        if self._deck:
            self._deck.insert(0, kind)
        else:
            self.report.without_effect[kind.name] += 1

    def _begin(self, kind: ChaosFault, targets: list[str]) -> tuple[ActiveFault | None, str]:
        """Begin a fault; returns it if it took effect, and its id."""
        self._number += 1
        identity = f"f{self._number}"
        history = self._bed.history
        history.write("fault", event="begin", id=identity, kind=kind.name, targets=targets)
        fault = ActiveFault(identity, kind, targets, kind.run(self._bed, targets, self._chance))
        self._bed.busy.update(targets)
        try:
            evidence = next(fault.run)
        except (NoEffectError, LocalClusterError, ClientError, ImageError, OSError) as error:
            self._bed.busy.difference_update(targets)
            self.report.without_effect[kind.name] += 1
            history.write(
                "fault", event="undone", id=identity, kind=kind.name, targets=targets, detail={"error": str(error)}
            )
            self._say(f"{kind.name} on {', '.join(targets)} had no effect: {error}")
            return None, identity
        except BaseException:
            self._bed.busy.difference_update(targets)
            raise
        fault.effect_s = history.write(
            "fault", event="effect", id=identity, kind=kind.name, targets=targets, detail=dict(evidence)
        )
        self.report.counts[kind.name] += 1
        self._say(f"{history.now_s():7.1f} s  {kind.name} on {', '.join(targets)}")
        return fault, identity

    def _hold(self, active: Sequence[ActiveFault]) -> None:
        """Keep the faults for a while; one that leaves a majority stays until writes go on, so that this is seen."""
        if not active:
            return
        until_s = time.monotonic() + max(self._chance.uniform(*fault.kind.hold_s) for fault in active)
        if len(active) == 1 and not active[0].kind.takes_quorum:
            self._bed.history.wait_acknowledged(active[0].effect_s, self._bound_s)
        time.sleep(max(0.0, until_s - time.monotonic()))

    def _end(self, fault: ActiveFault) -> None:
        history = self._bed.history
        about = {"id": fault.id, "kind": fault.kind.name, "targets": fault.targets}
        history.write("fault", event="end", **about)
        try:
            with contextlib.suppress(StopIteration):
                next(fault.run)
        finally:
            self._bed.busy.difference_update(fault.targets)
        history.write("fault", event="undone", **about)

    def _recover(self, active: Sequence[ActiveFault], ended_s: float) -> None:
        """Wait until writes are acknowledged. Raises `NotRecoveredError`."""
        history = self._bed.history
        for fault in active:
            found_s = history.acknowledged_after(fault.effect_s)
            since_s = fault.effect_s
            if fault.kind.takes_quorum or found_s is None or found_s > ended_s:
                since_s = ended_s
                found_s = history.wait_acknowledged(since_s, self._bound_s)
            if found_s is None:
                raise NotRecoveredError(
                    f"no write was acknowledged within {self._bound_s:g} s after {fault.kind.name} ({fault.id}) ended"
                )
            seconds = round(found_s - since_s, 4)
            self.report.recovery_s[fault.kind.name].append(seconds)
            history.write("recovered", fault=fault.id, kind=fault.kind.name, seconds=seconds)

    def _await_all(self, names: str) -> None:
        """Wait until every process is ready again. Raises `NotRecoveredError`."""
        self._bed.start_all()
        try:
            self._bed.wait_ready(READY_S)
        except (LocalClusterError, ClientError) as error:
            raise NotRecoveredError(
                f"not every process is ready {READY_S:g} s after {names} ended: {error}"
            ) from error
