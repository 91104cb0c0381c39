"""Rows of kinds of tasks."""

from __future__ import annotations

import msgspec


class Learnt(msgspec.Struct, array_like=True, gc=False):
    """What was learnt of a kind of tasks (`rules/learning.py`)."""

    kind: str
    count: int
    mean_us: int
    deviation_us: int
    cpu_ms: int
    peak_mib: int
    last_ms: int
    """When it was learnt last."""
    span_us: int = 0
    """Of tasks with children: from the first start to the end, also while they were parked. 0 for none."""
