"""File descriptors of a replica: who may have how many, so that clients never take those that the log needs.

The process may have as many as its hard limit says (`RLIMIT_NOFILE`). What it has open when it starts and a reserve
are taken off. Of the rest a part is for requests that are passed on to the leader, and all that is left is for
connections of clients and agents.
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
"""So many connections are enough for most clusters."""

FILES: Final = 64
"""For journal, snapshots (written, sent and received), audit, verifications, pipes of the helper process, the event
loop, and connections that were closed but not yet by the kernel."""
PEERS: Final = 20
"""For the links to the other members, each of them perhaps made anew while the old one ends."""
RESERVE: Final = FILES + PEERS + LinkLimits().unproven_max
"""Descriptors that connections of clients never get."""
FORWARD_SHARE: Final = 8
"""One of so many of what is left is for requests that are passed on."""
CONNECTIONS_MIN: Final = 32
"""With room for fewer connections a replica does not start."""
_OPEN_FILES: Final = Path("/proc/self/fd")
_OPEN_GUESS: Final = 16


class DescriptorShares(NamedTuple):
    """How many descriptors there may be."""

    connections: int
    """Of clients and agents."""
    forward: int
    """To the leader."""


def raise_limit() -> int:
    """Let this process have as many descriptors as its hard limit allows. Returns how many these are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files stays at %d, as it cannot be raised to %d: %s", soft, hard, error)
            return soft
    return hard


def open_now() -> int:
    """Count the descriptors that are open."""
    try:
        return len(os.listdir(_OPEN_FILES))
    except OSError:
        return _OPEN_GUESS


def share_out(limit: int, in_use: int, connections_wanted: int) -> DescriptorShares:
    """Divide the descriptors; `limits.connections` is lowered, with a warning, if it does not fit.

    Args:
        limit: descriptors that the process may have; below 0 for any number.
        in_use: those that are open before the replica opens any.
        connections_wanted: `limits.connections`.

    Raises `ConfigError` if too few are left to serve anybody.
    """
    if limit < 0:
        return DescriptorShares(connections_wanted, forwarder.CONNECTIONS_MAX)
    left = limit - in_use - RESERVE
    passed_on = min(forwarder.CONNECTIONS_MAX, left // FORWARD_SHARE)
    connections = min(connections_wanted, left - passed_on)
    if connections < min(CONNECTIONS_MIN, connections_wanted):
        needed = in_use + RESERVE + CONNECTIONS_MIN * FORWARD_SHARE // (FORWARD_SHARE - 1)
        raise ConfigError(
            f"the limit of open files is {limit}, and a replica needs at least {needed}: raise it (ulimit -n, or "
            f"LimitNOFILE= of its service)"
        )
    if connections < connections_wanted:
        is_plenty = connections >= _PLENTY and connections_wanted == Limits().connections  # nobody asked for so many
        _log.log(
            logging.INFO if is_plenty else logging.WARNING,
            "limits.connections is %d, but the limit of open files (%d) leaves room for %d; raise it (ulimit -n, or "
            "LimitNOFILE= of the service), or lower limits.connections",
            connections_wanted,
            limit,
            connections,
        )
    return DescriptorShares(connections, passed_on)
