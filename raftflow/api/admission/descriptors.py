"""Shares of file descriptors, so that clients never take the descriptors that the log needs.

The hard limit of the process (`RLIMIT_NOFILE`) is the total. The descriptors that are open at the start and a reserve
are subtracted. A part of the rest is for forwarded requests, the remainder for connections of clients and agents.
"""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path
from typing import Final, NamedTuple

from raftflow.api.forwarding import forwarder
from raftflow.coordinator.config.replica_config import Limits
from raftflow.coordinator.config.values import ConfigError
from raftflow.replication.net.connection import LinkLimits

_log = logging.getLogger(__name__)
_PLENTY = 1_000
"""As many connections are enough for most clusters."""

FILES: Final = 64
"""For journal, snapshots (written, sent and received), audit, verifications, pipes of the helper process, the event
loop, and connections that the kernel has not closed yet."""
PEERS: Final = 20
"""For the links to the other members. Each may be replaced while the old one ends."""
RESERVE: Final = FILES + PEERS + LinkLimits().unproven_max
"""Descriptors that connections of clients cannot use."""
FORWARD_SHARE: Final = 8
"""One of so many remaining descriptors is for forwarded requests."""
CONNECTIONS_MIN: Final = 32
"""A replica does not start with fewer connections."""
_OPEN_FILES: Final = Path("/proc/self/fd")
_OPEN_GUESS: Final = 16


class DescriptorShares(NamedTuple):
    """Numbers of descriptors."""

    connections: int
    """For clients and agents."""
    forward: int
    """For forwarded requests."""


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard limit. Returns the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files stays at %d; it cannot be raised to %d: %s", soft, hard, error)
            return soft
    return hard


def open_now() -> int:
    """Return how many descriptors are open."""
    try:
        return len(os.listdir(_OPEN_FILES))
    except OSError:
        return _OPEN_GUESS


def share_out(limit: int, in_use: int, connections_wanted: int) -> DescriptorShares:
    """Divide the descriptors. `limits.connections` is lowered, with a warning, if the descriptors do not suffice.

    Args:
        limit: descriptors that the process may have; negative for no limit.
        in_use: descriptors that are open before the replica opens any.
        connections_wanted: `limits.connections`.

    Raises `ConfigError` if too few remain.
    """
    if limit < 0:
        return DescriptorShares(connections_wanted, forwarder.CONNECTIONS_MAX)
    left = limit - in_use - RESERVE
    forwarded = min(forwarder.CONNECTIONS_MAX, left // FORWARD_SHARE)
    connections = min(connections_wanted, left - forwarded)
    if connections < min(CONNECTIONS_MIN, connections_wanted):
        needed = in_use + RESERVE + CONNECTIONS_MIN * FORWARD_SHARE // (FORWARD_SHARE - 1)
        raise ConfigError(
            f"the limit of open files is {limit}, and a replica needs at least {needed}: raise it (ulimit -n, or "
            f"LimitNOFILE= of its service)"
        )
    if connections < connections_wanted:
        is_plenty = connections >= _PLENTY and connections_wanted == Limits().connections  # the default
        _log.log(
            logging.INFO if is_plenty else logging.WARNING,
            "limits.connections is %d, but the limit of open files (%d) leaves room for %d; raise it (ulimit -n, or "
            "LimitNOFILE= of the service), or lower limits.connections",
            connections_wanted,
            limit,
            connections,
        )
    return DescriptorShares(connections, forwarded)
