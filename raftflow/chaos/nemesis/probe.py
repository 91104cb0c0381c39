"""Probes: whether one machine reaches another, seen from within its network namespace."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from raftflow.chaos.testbed import Testbed

T = TypeVar("T")

TIMEOUT_S: Final = 0.35
_NEW_NETWORK: Final = 0x40000000
"""`CLONE_NEWNET` of Linux."""


def within(namespace: str, work: Callable[[], T]) -> T:
    """Call a function in a thread that is in a network namespace. Raises `OSError`, and what the function raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, _NEW_NETWORK) != 0:  # of this thread alone
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), namespace)
            finally:
                os.close(fd)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=enter, name="chaos-probe", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def connects_in_s(host: str, port: int, timeout_s: float = TIMEOUT_S) -> float | None:
    """Return how long it takes to connect, None if it takes longer than `timeout_s`."""
    began_s = time.monotonic()
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return None
    return time.monotonic() - began_s


def reaches(bed: Testbed, source: str, target: str, timeout_s: float = TIMEOUT_S) -> float | None:
    """Return how long a connection takes from a machine to the port of a replica for other replicas, or None."""
    assert bed.machines is not None  # noqa: S101 - faults of the network are only drawn with machines
    host, port = bed.cluster.peer_of(target)
    return within(bed.machines.names[bed.machine_of(source)], lambda: connects_in_s(host, port, timeout_s))
