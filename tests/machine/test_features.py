"""The cluster's feature level: raised once all understand it, kept in snapshots, obeyed by `apply`.

There is one level so far. A version of the next one is played: `ForgetAgent` is then a command of that level.
"""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.domain import commands as c
from raftflow.domain.features import (
    FIELD_NEEDS,
    LEVEL,
    LEVEL_FIRST,
    NEEDS,
    NEXT_LEVEL,
    NEXT_VERSION,
    FeatureLevelError,
    FieldNeed,
    highest_need,
    level_of,
    play_next_version,
)
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import Done
from raftflow.machine.apply import HANDLERS
from raftflow.machine.machine import Machine
from raftflow.machine.rules.audit_chain import decode_record

FORGET = c.ForgetAgent(at_ms=5, actor="client:x", name="a1")


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process one of a cluster that is upgraded to the next level."""
    for command in NEXT_VERSION:
        monkeypatch.setitem(NEEDS, command, LEVEL_FIRST)  # the line goes when the test ends
    play_next_version()


def newer() -> Machine:
    return Machine(level_max=NEXT_LEVEL)


def raise_to(level: int, **supported: int) -> c.RaiseFeatureLevel:
    told = tuple(c.Supported(member, understood) for member, understood in supported.items())
    return c.RaiseFeatureLevel(at_ms=1, actor="leader:n1", level=level, supported=told)


def apply(machine: Machine, command: c.AnyCommand) -> Any:
    result = machine.apply(machine.applied_index + 1, 1, c.encode_entry((command,)))
    return result.replies[0], decode_record(result.audit[0])


def test_every_command_has_a_handler_under_its_tag() -> None:
    kinds = c.AnyCommand.__args__
    assert set(HANDLERS) == set(kinds)
    for kind in kinds:
        tag, _handler, subject = HANDLERS[kind]
        assert tag == kind.__struct_config__.tag
        assert not subject or subject in kind.__struct_fields__


def test_the_level_is_raised_when_every_member_understands_it() -> None:
    machine = newer()
    assert machine.state.feature_level == LEVEL_FIRST
    refused, record = apply(machine, raise_to(2, n1=2, n2=1, n3=2))
    assert refused.code is RejectionCode.CONFLICT and "n2" in refused.message and record.outcome == "conflict"
    assert apply(machine, raise_to(2))[0].code is RejectionCode.INVALID
    assert machine.state.feature_level == 1
    assert apply(machine, raise_to(2, n1=2, n2=3))[0] == Done()
    assert machine.state.feature_level == 2
    for again in (2, 1):
        assert apply(machine, raise_to(again, n1=2))[0] == Done(changed=False)
    assert machine.state.feature_level == 2


def test_a_replica_that_does_not_understand_the_level_stops() -> None:
    machine = Machine()
    with pytest.raises(FeatureLevelError, match=r"levels up to 1\. Start the version"):
        apply(machine, raise_to(2, n1=2, n2=2))


def test_a_snapshot_carries_the_level() -> None:
    machine = newer()
    apply(machine, raise_to(2, n1=2))
    again = newer()
    again.restore(list(machine.snapshot()))
    assert (again.state.feature_level, again.chain) == (2, machine.chain)
    assert b"".join(again.snapshot()) == b"".join(machine.snapshot())


def test_a_snapshot_of_a_higher_level_is_refused_and_changes_nothing() -> None:
    machine, older = newer(), Machine()
    apply(machine, raise_to(2, n1=2))
    with pytest.raises(FeatureLevelError):
        older.restore(list(machine.snapshot()))
    assert (older.applied_index, older.state.feature_level) == (0, 1)


@pytest.mark.usefixtures("next_version")
def test_a_rolling_upgrade_to_the_next_level() -> None:
    """Replicas of both versions apply one log. The new command waits for the level, the old version stops at it."""
    older, newest = Machine(), newer()
    log = [FORGET, raise_to(2, n1=1, n2=2), c.FireTimers(at_ms=6, actor="leader:n1"), FORGET]
    replies = [apply(newest, command)[0] for command in log]
    assert [apply(older, command)[0] for command in log] == replies
    assert [replies[0].code, replies[3].code] == [RejectionCode.FEATURE_LEVEL] * 2
    assert "agent.forget needs feature level 2, and the cluster is on 1" in replies[0].message
    assert older.chain == newest.chain

    # The older replica is upgraded: the newer version starts on its snapshot.
    upgraded = newer()
    upgraded.restore(older.snapshot())
    raised = raise_to(2, n1=2, n2=2)
    for machine in (newest, upgraded):
        assert apply(machine, raised)[0] == Done()
        reply, record = apply(machine, FORGET)
        assert (reply.code, record.outcome) == (RejectionCode.NOT_FOUND, "not_found"), (
            "applied: no such agent is there"
        )
    assert newest.chain == upgraded.chain
    with pytest.raises(FeatureLevelError):
        apply(older, raised)


@pytest.mark.usefixtures("next_version")
def test_a_command_needs_the_level_of_its_kind() -> None:
    assert level_of(FORGET) == NEXT_LEVEL == highest_need()
    assert level_of(c.FireTimers(at_ms=5, actor="leader:n1")) == LEVEL_FIRST


def test_a_command_needs_the_level_of_the_fields_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, leaving = (c.DrainAgent(at_ms=1, actor="agent:a1", name="a1", leaving=each) for each in (False, True))
    assert level_of(leaving) == LEVEL_FIRST
    needs = (FieldNeed(2, lambda command: command.leaving), FieldNeed(1, lambda _command: True))
    monkeypatch.setitem(FIELD_NEEDS, c.DrainAgent, needs)
    assert (level_of(plain), level_of(leaving), highest_need()) == (1, 2, 2)
    machine = newer()
    assert apply(machine, leaving)[0].code is RejectionCode.FEATURE_LEVEL
    assert apply(machine, plain)[0].code is RejectionCode.NOT_FOUND


@pytest.mark.parametrize("reason", ["lost", "left", "lost_together"])
def test_only_a_loss_together_is_part_of_a_mass_loss(reason: Any) -> None:
    command = c.RemoveAgent(at_ms=1, actor="leader:n1", name="a1", incarnation=1, reason=reason)
    assert command.mass == (reason == "lost_together")


def test_what_commands_need_is_understood_by_this_program() -> None:
    of_fields = [need.level for needs in FIELD_NEEDS.values() for need in needs]
    assert all(LEVEL_FIRST < level <= LEVEL for level in (*NEEDS.values(), *of_fields))
    assert highest_need() <= LEVEL
