"""A new cluster is on the feature level of its founders before it takes a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from raftflow.coordinator.commit.submitter import NoLeaderError
from raftflow.domain.commands import ForgetAgent
from raftflow.domain.features import LEVEL, LEVEL_FIRST, NEEDS, NEXT_LEVEL
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.replication.log import PeerStatus
from raftflow.replication.memory import MemoryLog


def founded(monkeypatch: pytest.MonkeyPatch, levels: dict[str, int]) -> None:
    monkeypatch.setattr(MemoryLog, "founding_levels", levels)


async def test_nothing_goes_before_the_level_and_everything_goes_after(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One founder is not even connected: its level is known from the birth."""
    founded(monkeypatch, {"n1": NEXT_LEVEL, "n2": NEXT_LEVEL, "n3": NEXT_LEVEL})
    one = await bench(leads=False, level=NEXT_LEVEL)
    status = one.log.status
    peers = (PeerStatus(name="n2", connected=True), PeerStatus(name="n3", connected=False))
    monkeypatch.setattr(one.log, "status", lambda: replace(status(), peers=peers))
    applied: list[str] = []
    apply = one.machine.apply
    monkeypatch.setattr(
        one.machine, "apply", lambda index, term, entry: applied.append(repr(entry)) or apply(index, term, entry)
    )
    one.log.gain_leadership()
    assert one.replica.feature_level() == 0
    for fields in ({}, {"kind": "k"}):
        with pytest.raises(NoLeaderError, match="feature level of its founders"):
            await one.submit("t", **fields)
    await one.until(lambda: one.replica.feature_level() == NEXT_LEVEL)
    assert len(applied) == 1 and "features.raise" in applied[0]
    assert await one.submit("t", kind="k")


async def test_a_first_leader_of_an_older_program_goes_as_far_as_it_can(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was started with another version after the birth."""
    founded(monkeypatch, {"n1": NEXT_LEVEL, "n2": NEXT_LEVEL})
    one = await bench(leads=False, level=LEVEL)
    one.log.gain_leadership()
    await one.until(lambda: one.replica.feature_level() == LEVEL)


async def test_founders_on_the_first_level_wait_for_nothing(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    founded(monkeypatch, {"n1": LEVEL_FIRST, "n2": NEXT_LEVEL})
    monkeypatch.setitem(NEEDS, ForgetAgent, NEXT_LEVEL)
    one = await bench(leads=False, level=NEXT_LEVEL)
    monkeypatch.setattr(one.replica.leader, "_member_levels", lambda: None)
    one.log.gain_leadership()
    assert one.replica.feature_level() == LEVEL_FIRST
    assert await one.submit("t")
    refused = await one.replica.propose(ForgetAgent(at_ms=one.clock.ms, actor="client:test", name="a1"))
    assert isinstance(refused, Rejection) and refused.code is RejectionCode.FEATURE_LEVEL
