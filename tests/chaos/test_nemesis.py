"""How the nemesis draws faults, counts them, and waits after them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from raftflow.chaos.history import HistoryWriter
from raftflow.chaos.nemesis.catalogue import FAULTS
from raftflow.chaos.nemesis.kinds import ChaosFault, NoEffectError, NotRecoveredError
from raftflow.chaos.nemesis.nemesis import Nemesis
from raftflow.local.cluster_file import LocalClusterError

if TYPE_CHECKING:
    from raftflow.chaos.testbed import Testbed

SEED = 3
"""It draws the first of four kinds before the last place."""


class FakeBed:
    """A testbed whose cluster acknowledges a write whenever somebody waits for one."""

    def __init__(self, history: HistoryWriter) -> None:
        self.history = history
        self.busy: set[str] = set()
        self.waits = 0
        self.ready = True

    def start_all(self) -> None:
        """Nothing was stopped."""

    def wait_ready(self, timeout_s: float) -> None:
        self.waits += 1
        if not self.ready:
            raise LocalClusterError(f"n1 is not ready after {timeout_s:g} s")


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[FakeBed]:
    class AcknowledgingHistory(HistoryWriter):
        def wait_acknowledged(self, at_s: float, timeout_s: float) -> float | None:
            del timeout_s
            return at_s

    with AcknowledgingHistory(tmp_path / "history.jsonl") as history:
        yield FakeBed(history)


def fault(name: str, log: list[str], choose: Callable[[], list[str]] = lambda: ["n1"]) -> ChaosFault:
    def run(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
        del bed, targets, chance
        log.append(name)
        if name.startswith("weak"):
            raise NoEffectError("it was too weak")
        yield {}

    return ChaosFault(name, lambda _bed, _chance: choose(), run, (0.0, 0.0), alone=True)


def nemesis(bed: FakeBed, *faults: ChaosFault) -> Nemesis:
    return Nemesis(cast("Testbed", bed), faults, SEED, lambda _line: None, 1.0)


def run_until(found: Nemesis, log: list[str], length: int) -> None:
    while len(log) < length:
        found.run(0.001)


def test_kind_without_a_target_is_drawn_again_before_the_next_round(bed: FakeBed) -> None:
    log: list[str] = []
    answers = iter([[], ["n1"]])
    late = fault("late", log, lambda: next(answers))
    others = [fault(f"k{number}", log) for number in range(3)]
    found = nemesis(bed, late, *others)
    run_until(found, log, 4)
    assert sorted(log) == ["k0", "k1", "k2", "late"]
    assert not found.report.without_effect


def test_fault_without_effect_is_not_counted_and_everything_must_be_ready_after_it(bed: FakeBed) -> None:
    log: list[str] = []
    found = nemesis(bed, fault("weak", log))
    run_until(found, log, 1)
    assert (found.report.counts, found.report.without_effect) == ({}, {"weak": 1})
    assert bed.waits == 1
    bed.ready = False
    with pytest.raises(NotRecoveredError, match=r"after weak \(f2\) ended"):
        run_until(found, log, 2)


def test_every_fault_says_what_it_does_and_what_it_needs() -> None:
    known = {"", "network", "late-packets", "images", "memory-disks", "chaos-cluster"}
    assert len({each.name for each in FAULTS}) == len(FAULTS)
    for each in FAULTS:
        assert each.about, each.name
        assert each.needs in known, each.name
