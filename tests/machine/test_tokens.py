"""Tokens in the machine: made, rotated, revoked; valid for as long as they should, and saved."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.values.roles import agent_names_problem, fits_agent
from raftflow.machine.machine import Machine
from raftflow.machine.read.identities import tokens
from raftflow.machine.read.invariants import check
from raftflow.machine.snapshot.stream import SnapshotError
from raftflow.machine.tables.identities.tokens import AccessToken


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def create(
    drive: Any, name: str = "t", number: int = 1, role: str = "read", lifetime_ms: int = 0, **more: Any
) -> Any:
    return drive.do(
        c.CreateToken(
            at_ms=drive.now_ms,
            actor="client:api",
            name=name,
            role=role,
            digest=digest(number),
            lifetime_ms=lifetime_ms,
            **more,
        )
    )


def rotate(drive: Any, number: int, overlap_ms: int = 0, name: str = "t") -> Any:
    return drive.do(
        c.RotateToken(at_ms=drive.now_ms, actor="client:api", name=name, digest=digest(number), overlap_ms=overlap_ms)
    )


def revoke(drive: Any, name: str = "t") -> Any:
    return drive.do(c.RevokeToken(at_ms=drive.now_ms, actor="client:api", name=name))


def valid(drive: Any, *numbers: int, later_ms: int = 0) -> list[str | None]:
    """Return to which token each secret lets in."""
    found = [tokens.find_valid(drive.machine, digest(number), drive.now_ms + later_ms) for number in numbers]
    return [None if row is None else row.name for row in found]


def test_a_token_is_valid_for_its_lifetime(drive: Any) -> None:
    assert create(drive) == Done()
    assert create(drive, "short", 2, lifetime_ms=1_000) == Done()
    assert valid(drive, 1, 2, 3) == ["t", "short", None]
    assert valid(drive, 1, 2, later_ms=999) == ["t", "short"]
    assert valid(drive, 1, 2, later_ms=1_000) == ["t", None]
    assert tokens.next_end_ms(drive.machine, drive.now_ms) == drive.now_ms + 1_000
    assert tokens.next_end_ms(drive.machine, drive.now_ms + 1_000) is None
    (ending,) = tokens.ending_tokens(drive.machine, 5)
    assert (ending.name, ending.expires_ms, ending.lifetime_ms) == ("short", drive.now_ms + 1_000, 1_000)
    assert tokens.ending_tokens(drive.machine, 0) == []
    states = [(view.name, view.state) for view in tokens.token_views(drive.machine, drive.now_ms + 1_000)]
    assert states == [("short", "expired"), ("t", "valid")]
    assert check(drive.machine) == []


def test_an_old_secret_is_valid_beside_the_new_one_for_a_time(drive: Any) -> None:
    create(drive, lifetime_ms=10_000)
    assert rotate(drive, 2, overlap_ms=500) == Done()
    assert valid(drive, 1, 2) == ["t", "t"] and valid(drive, 1, 2, later_ms=500) == [None, "t"]
    assert rotate(drive, 3, overlap_ms=60_000) == Done()
    assert valid(drive, 1, 2, 3) == [None, "t", "t"], "the secret before the last one has ended"
    assert valid(drive, 2, 3, later_ms=10_000) == [None, None], "an old secret lives no longer than it would have"
    assert rotate(drive, 3).code is RejectionCode.CONFLICT and rotate(drive, 2).code is RejectionCode.CONFLICT
    assert check(drive.machine) == []


def test_a_revoked_token_is_gone_with_all_its_secrets(drive: Any) -> None:
    create(drive)
    rotate(drive, 2, overlap_ms=60_000)
    version = tokens.version(drive.machine)
    assert revoke(drive) == Done() and valid(drive, 1, 2) == [None, None]
    assert tokens.version(drive.machine) != version
    assert revoke(drive).code is RejectionCode.NOT_FOUND and rotate(drive, 3).code is RejectionCode.NOT_FOUND
    assert create(drive, number=1) == Done(), "the name and the secret are free again"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": "api"},
        {"role": "all"},
        {"agents": "gpu-*"},
        {"labels": {"zone": "a"}},
        {"role": "agent", "agents": "*"},
        {"role": "agent", "labels": {"a b": "c"}},
        {"lifetime_ms": -1},
        {"lifetime_ms": limits.TOKEN_LIFETIME_MS_MAX + 1},
        {"digest": b"short"},
    ],
)
def test_what_is_no_token_changes_nothing(drive: Any, wrong: dict[str, Any]) -> None:
    fields = {"name": "t", "role": "read", "digest": digest(1), "lifetime_ms": 0, **wrong}
    before = drive.machine.state.tokens.version
    refused = drive.do(c.CreateToken(at_ms=drive.now_ms, actor="client:api", **fields))
    assert refused.code is RejectionCode.INVALID
    assert drive.machine.state.tokens.version == before and len(drive.machine.state.tokens) == 0


def test_names_secrets_and_the_number_of_tokens_are_bounded(drive: Any, monkeypatch: Any) -> None:
    create(drive)
    assert create(drive, number=2).code is RejectionCode.CONFLICT
    assert create(drive, "u", 1).code is RejectionCode.CONFLICT
    assert rotate(drive, 2, overlap_ms=-1).code is RejectionCode.INVALID
    monkeypatch.setattr(limits, "TOKENS_MAX", 1)
    assert create(drive, "u", 2).code is RejectionCode.LIMIT
    monkeypatch.setattr(limits, "TOKENS_MAX", 0)
    assert check(drive.machine) == ["tokens: 1, the limit TOKENS_MAX is 0"]


def test_tokens_are_in_snapshots(drive: Any) -> None:
    create(drive, "a", 1, role="agent", agents="gpu-*", labels={"zone": "a", "disk": "ssd"})
    create(drive, "b", 2, lifetime_ms=5_000)
    rotate(drive, 3, overlap_ms=1_000, name="b")
    other = Machine()
    other.restore(drive.machine.snapshot())
    assert b"".join(other.snapshot()) == drive.encoding() and check(other) == []
    found = [tokens.find_valid(other, digest(number), drive.now_ms) for number in (1, 2, 3)]
    assert [row and row.name for row in found] == ["a", "b", "b"]
    assert found[0] is not None and found[0].labels == {"disk": "ssd", "zone": "a"}
    row = drive.machine.state.tokens.find("a")
    drive.machine.state.tokens._rows["again"] = row
    with pytest.raises(SnapshotError, match="the token a is there twice"):
        other.restore(drive.machine.snapshot())
    del drive.machine.state.tokens._rows["again"]


def test_no_secret_is_in_the_audit(drive: Any) -> None:
    create(drive)
    rotate(drive, 2, overlap_ms=5)
    texts = [str(record) for record in drive.records[-2:]]
    assert all("role read" in text for text in texts)
    assert all(
        str(digest(number)) not in text and digest(number).hex() not in text for number in (1, 2) for text in texts
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"role": "king"}, "token t: the role 'king' is unknown"),
        ({"made_ms": 10**15}, "which is in the future"),
        ({"digest": b"x"}, "its digest has 1 bytes"),
    ],
)
def test_invariants(drive: Any, change: dict[str, Any], problem: str) -> None:
    create(drive)
    row = tokens.find_token(drive.machine, "t")
    fields = {name: getattr(row, name) for name in AccessToken.__struct_fields__}
    drive.machine.state.tokens.put(AccessToken(**{**fields, **change}))
    assert problem in check(drive.machine)[0]
    drive.machine.state.tokens.put(row)
    drive.machine.state.tokens._by_digest[row.digest] = AccessToken(**{**fields, "name": "u"})
    assert check(drive.machine) == ["token t: another token has its digest"]


def test_patterns_of_agents() -> None:
    assert [fits_agent(pattern, "gpu-1") for pattern in ("", "gpu-1", "gpu-*", "gpu-2", "cpu-*", "gpu-1*")] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert agent_names_problem("gpu-*") is None
    assert "must be" in (agent_names_problem("*") or "") and "long" in (agent_names_problem("a" * 300) or "")
