"""Children: tasks that a running attempt adds to its own workflow. Their ids, and what a parked task waits for.

The id of a child is made of the id of its parent and of its key, so it is the same in every attempt of the parent:

    PARENT:KEY          while that is short and no other task has it
    PARENT:HASH.KEY     else: the beginning of the parent's id, a hash of both, and the key
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.values.exact import UNREADABLE
from raftflow.domain.values.ids import name_problem

Positions = tuple[tuple[int, int], ...]
"""Ranges of positions of tasks, first and last of each."""

ParkMode = Literal["all", "any", "succeeded"]

_PLAIN_CHARS_MAX = 120
"""A longer id of a child is made with a hash, so that the ids of a deep chain do not grow."""
_PARENT_CHARS = 40
_HASH_CHARS = 16


def key_problem(key: str) -> str | None:
    """Return why `key` cannot be the key of a child, or None if it can."""
    return name_problem(key, chars_max=limits.SPAWN_KEY_CHARS_MAX)


def child_ids(parent_id: str, key: str) -> tuple[str, ...]:
    """Return the ids that a child may have, best first. The first one that no other task has is its id."""
    digest = sha256(f"{parent_id}\0{key}".encode()).hexdigest()[:_HASH_CHARS]
    hashed = f"{parent_id[:_PARENT_CHARS]}:{digest}.{key}"
    plain = f"{parent_id}:{key}"
    return (hashed,) if len(plain) > _PLAIN_CHARS_MAX else (plain, hashed)


class ParkCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a parked task waits for. It is the result of the attempt that parked, as JSON."""

    mode: ParkMode = "all"
    """Until all of these children have ended, one has, or all have succeeded or one will not."""
    children: Positions = ()
    """Where they are in the workflow; empty for all children of the task. Other tasks in the ranges do not count."""
    waits: tuple[int, ...] = ()
    """Numbers of waits: the task goes on when one of them ends, too. With them, no `children` stands for none."""
    budget: bool = False
    """It waits for no child, but until the budgets of its workflow are raised."""


_decoder = msgspec.json.Decoder(ParkCondition)


def read_condition(data: bytes) -> ParkCondition:
    """Read what a parked task waits for; empty bytes stand for all its children. Raises `ValueError`."""
    if not data:
        return ParkCondition()
    try:
        found = _decoder.decode(data)
    except UNREADABLE as error:
        raise ValueError(f"it parked, and does not say what it waits for: {error}") from error
    if len(found.children) > limits.PARK_RANGES_MAX:
        raise ValueError(
            f"it parked for {len(found.children)} ranges of children, the limit is {limits.PARK_RANGES_MAX}; "
            "wait for children that were spawned together, or for all"
        )
    if len(found.waits) > limits.PARK_WAITS_MAX:
        raise ValueError(f"it parked for {len(found.waits)} waits, the limit is {limits.PARK_WAITS_MAX}")
    return found


def merge_ranges(ranges: Positions, count: int) -> Positions:
    """Return the same positions in order, each once, without those that are not below `count`."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        low, high = max(first, 0), min(last, count - 1)
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        elif low <= high:
            merged.append((low, high))
    return tuple(merged)
