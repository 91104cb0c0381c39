"""Ids of restored clusters: the name of the cluster and the time of the restoration, `prod-20261130T071500Z`.

A restored cluster must not be taken for the one that it comes from, nor for another one that was restored from the
same file. And its fences must continue above those of all of these. All replicas have to agree on both, and each is
restored on its own machine. So the time is a part of the id, which every replica's configuration has anyway: equal
configurations and equal files give equal replicas.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_RESTORED: Final = re.compile(r"(?P<name>.+)-(?P<time>\d{8}T\d{6}Z)", re.ASCII)
_NAME_CHARS_MAX: Final = 64


def restored_id(cluster: str, at_ms: int) -> str:
    """Return the id of a cluster that is restored from `cluster` at this time."""
    found = _RESTORED.fullmatch(cluster)
    name = cluster if found is None else found["name"]
    return f"{name[:_NAME_CHARS_MAX]}-{datetime.fromtimestamp(at_ms // 1000, UTC).strftime(_FORMAT)}"


def restored_at_ms(cluster: str) -> int | None:
    """Return the time in the id of a restored cluster; None if the id has none."""
    found = _RESTORED.fullmatch(cluster)
    if found is None:
        return None
    try:
        time = datetime.strptime(found["time"], _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(time.timestamp()) * 1000
