"""Machines of their own for the replicas of a local cluster: network namespaces that can be cut off.

Each namespace has one interface, whose other end is a port of a bridge here. Taking that end down drops every packet
to and from the machine, in silence: nothing is refused, and no connection is closed. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_PREFIX: Final = "rf"
_OURS: Final = re.compile(_PREFIX + r"([0-9a-f]+)x[0-9a-f]{2}(?:b|n[0-9]+)")
_NET: Final = "198.18"
"""Addresses that are kept for benchmarks (RFC 2544)."""
_NOBODY: Final = "02:00:00:00:00:fe"
"""A locally administered address. The kernel gives random ones to interfaces, so that none has it."""


class NamespaceError(Exception):
    """Namespaces cannot be made here. Says why and what to do."""


class Machines:
    """Namespaces on one bridge. Use `machines`, which removes them."""

    def __init__(self, count: int) -> None:
        self._tag = f"{_PREFIX}{os.getpid():x}x{secrets.token_hex(1)}"
        self._bridge = f"{self._tag}b"
        self._net = f"{_NET}.{secrets.randbelow(256)}"
        self._names = [f"{self._tag}n{number}" for number in range(count)]

    @property
    def gateway(self) -> str:
        """The address of this machine among them."""
        return f"{self._net}.254"

    @property
    def names(self) -> list[str]:
        """The name of each namespace, and of its port of the bridge."""
        return list(self._names)

    @property
    def bridge(self) -> str:
        """The name of the bridge."""
        return self._bridge

    @property
    def hosts(self) -> list[str]:
        """The address of each machine."""
        return [f"{self._net}.{number + 1}" for number in range(len(self._names))]

    def command(self, number: int) -> list[str]:
        """Return what goes before a command that is to run on a machine."""
        return ["nsenter", f"--net=/run/netns/{self._names[number]}"]

    def make(self) -> None:
        """Make them. Raises `NamespaceError`; `remove` is due in any case."""
        _ip("link", "add", self._bridge, "type", "bridge", "forward_delay", "0")
        _ip("address", "add", f"{self._net}.254/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for name, host in zip(self._names, self.hosts, strict=True):
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", self._bridge, "up")
            for words in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
                _ip("-netns", name, *words)
            _ip("-netns", name, "address", "add", f"{host}/24", "dev", "eth0")

    def silence(self, number: int) -> None:
        """Drop every packet to and from a machine."""
        _ip("link", "set", self._names[number], "down")

    def heal(self, number: int) -> None:
        """Let packets pass again."""
        _ip("link", "set", self._names[number], "up")

    def cut(self, number: int, host: str) -> None:
        """Drop every packet from a machine to an address: its frames go to a hardware address that nobody has."""
        words = ("neigh", "replace", host, "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")
        _ip("-netns", self._names[number], *words)

    def join(self, number: int, host: str) -> None:
        """Let packets from a machine to an address pass again."""
        _ip("-netns", self._names[number], "neigh", "delete", host, "dev", "eth0")

    def remove(self) -> None:
        """Remove all of it, as far as it was made."""
        for name in self._names:
            with contextlib.suppress(NamespaceError):
                _ip("netns", "delete", name)
        for link in (*self._names, self._bridge):
            # An interface may go with its namespace, a moment later.
            with contextlib.suppress(NamespaceError):
                _ip("link", "delete", link)


@contextlib.contextmanager
def machines(count: int) -> Iterator[Machines]:
    """Make namespaces and remove them at the end, however it comes. Raises `NamespaceError`."""
    check()
    _remove_leftovers()
    made = Machines(count)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _remove_leftovers() -> None:
    """Remove what a process that was killed has left here: the names tell which process made them."""
    folder = Path("/run/netns")
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found += [path.name for path in Path("/sys/class/net").iterdir()]
    for name in found:
        match = _OURS.fullmatch(name)
        if match is None or Path(f"/proc/{int(match[1], 16)}").exists():
            continue
        for kind in ("netns", "link"):
            with contextlib.suppress(NamespaceError):
                _ip(kind, "delete", name)


def check() -> None:
    """Raise `NamespaceError` unless namespaces can be made here."""
    if not Path("/proc/self/ns/net").exists():
        raise NamespaceError("a machine that falls silent needs network namespaces, which this system does not have")
    if os.geteuid() != 0:
        raise NamespaceError("a machine that falls silent needs network namespaces: run this as root")
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            raise NamespaceError(f"a machine that falls silent needs the program `{program}`: install {package}")


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20.0)
    if done.returncode:
        raise NamespaceError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}")
