"""Answers of the right shape with any values in them: a diagnosis comes out, and nothing fails."""

from __future__ import annotations

import json
import random
from typing import Any, TypeVar

import msgspec
import pytest

from raftflow.doctor.examine import examine
from raftflow.domain.contract.views import AgentView, HostView, MemberView, ReplicaStatus
from tests.doctor.healthy import NAMES, cluster, replica

T = TypeVar("T")

NUMBERS = (0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**64, 10**30, -(10**30))
SHARES = (0.0, -1.0, 1e308, -1e308, 5e-324, 0.5, 1e18)
WORDS = ("", "x", "n1", "\x1b[2J", "é", "a" * 300, "{name}", "{", "http://[", "tcp://[::1")
URLS = ("http://n1:1", "http://[", "x", "")


def value_of(kind: msgspec.inspect.Type, rng: random.Random) -> Any:
    """Return any value of a type of the contract."""
    if isinstance(kind, msgspec.inspect.StructType):
        told = [field for field in kind.fields if field.required or rng.random() < 0.8]
        return {field.encode_name: value_of(field.type, rng) for field in told}
    if isinstance(kind, msgspec.inspect.Metadata):
        return value_of(kind.type, rng)
    if isinstance(kind, msgspec.inspect.UnionType):
        return value_of(rng.choice(kind.types), rng)
    if isinstance(kind, msgspec.inspect.ListType):
        return [value_of(kind.item_type, rng) for _ in range(rng.randrange(4))]
    if isinstance(kind, msgspec.inspect.LiteralType):
        return rng.choice(kind.values)
    choices: dict[type, tuple[Any, ...]] = {
        msgspec.inspect.NoneType: (None,),
        msgspec.inspect.DictType: ({},),
        msgspec.inspect.BoolType: (True, False),
        msgspec.inspect.IntType: NUMBERS,
        msgspec.inspect.FloatType: SHARES,
        msgspec.inspect.StrType: WORDS,
    }
    return rng.choice(choices[type(kind)])


def any_of(kind: type[T], rng: random.Random) -> T:
    """Return an answer that the decoder of the client takes."""
    while True:
        told = json.dumps(value_of(msgspec.inspect.type_info(kind), rng))
        try:
            return msgspec.json.decode(told, type=kind)
        except msgspec.DecodeError:
            continue


@pytest.mark.parametrize("seed", range(2))
def test_any_values_give_a_diagnosis(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        liars = [
            replica(name, host=any_of(HostView, rng), status=any_of(ReplicaStatus, rng), url=rng.choice(URLS))
            for name in NAMES
        ]
        members = [any_of(MemberView, rng) for _ in range(3)]
        found = examine(cluster(*liars, agents=[any_of(AgentView, rng)], members=members))
        assert not found.ok
        msgspec.json.encode(found)
