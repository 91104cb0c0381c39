"""TCP proxies in front of the replicas, for faults of the network where network namespaces are not allowed.

Members, agents and clients know the address of the proxy; the replica listens behind it. The kernel's tables tell
which process opened a connection, so one direction between two processes can be cut. What is cut is held and sent
when the cut ends, as TCP does it with packets that were dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

ANYBODY: Final = ""
"""Stands for every other process in a cut."""
_PIECE_BYTES: Final = 65_536
_PIECES_MAX: Final = 64
"""So many pieces of one direction of a connection are under way; then nothing more is read."""
_HELD_POLL_S: Final = 0.01
_LIST_PERIOD_S: Final = 0.25
"""How long a list of the processes that run is used."""
_REFUSED_S: Final = 0.1
"""A connection to a replica that does not listen ends after this time: its peers dial again at once."""
_STALL_S: Final = (0.2, 0.8)
"""How long a lost piece waits to be sent again, as the retransmission of TCP does."""
_RESET_SHARE: Final = 0.1
"""So many losses break the connection."""


class ReplicaProxies:
    """The proxies of all replicas. Use it on one event loop; rules may be changed from any thread."""

    def __init__(self, pids: Callable[[], Mapping[int, str]]) -> None:
        """`pids` returns the processes that run, by pid, with their names."""
        self._pids = pids
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._cut: frozenset[tuple[str, str]] = frozenset()
        self._delays_s: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._losses: dict[str, float] = {}
        self._listed: dict[int, str] = {}
        self._listed_s = -_LIST_PERIOD_S
        self._chance = random.Random()  # noqa: S311 - faults are drawn from the seed, packets are not
        self.held = 0
        """Pieces and connections that a cut held back."""
        self.late = 0
        """Pieces that were delayed, slowed down or lost."""

    async def listen(self, name: str, port: int, behind: int) -> None:
        """Serve a port for a replica that listens on another one. Raises `OSError`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine runs in a task
            self._serving.add(task)
            try:
                await self._serve(name, behind, reader, writer)
            except asyncio.CancelledError:  # the run ends
                writer.transport.abort()
            finally:
                self._serving.discard(task)

        self._servers.append(await asyncio.start_server(serve, "127.0.0.1", port))

    async def close(self) -> None:
        """Stop to listen, and break every connection."""
        for server in self._servers:
            server.close()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)

    # --- rules

    def cut(self, ways: Iterable[tuple[str, str]]) -> None:
        """Hold what goes from the first to the second of each pair."""
        self._cut |= frozenset(ways)

    def join(self, ways: Iterable[tuple[str, str]]) -> None:
        """Let it pass again."""
        self._cut -= frozenset(ways)

    def delay(self, name: str, seconds: float) -> None:
        """Delay each piece that a process sends; 0 ends it."""
        self._delays_s[name] = seconds

    def slow(self, name: str, bytes_per_s: float) -> None:
        """Let a process send so many bytes a second on each connection; 0 ends it."""
        self._rates[name] = bytes_per_s

    def lose(self, name: str, share: float) -> None:
        """Lose this share of the pieces that a process sends; 0 ends it."""
        self._losses[name] = share

    def _is_cut(self, source: str, target: str) -> bool:
        cut = self._cut
        return bool(cut) and any(way in cut for way in ((source, target), (source, ANYBODY), (ANYBODY, target)))

    # --- connections

    async def _serve(
        self, target: str, behind: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        port = writer.get_extra_info("peername")[1]
        try:
            source = await asyncio.get_running_loop().run_in_executor(None, self._owner_of, port)
            await self._hold(source, target)
            there, back = await asyncio.open_connection("127.0.0.1", behind)
        except OSError:
            await asyncio.sleep(_REFUSED_S)
            writer.transport.abort()
            return
        pumps = [
            asyncio.ensure_future(self._pump(reader, back, source, target)),
            asyncio.ensure_future(self._pump(there, writer, target, source)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, back):
                end.close()

    def _owner_of(self, port: int) -> str:
        """Return which process opened a connection. Blocking."""
        now_s = time.monotonic()
        if now_s >= self._listed_s + _LIST_PERIOD_S:
            self._listed_s, self._listed = now_s, dict(self._pids())
        return owner_of(port, self._listed)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str, target: str
    ) -> None:
        """Carry one direction until its end, or until a loss breaks the connection."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES_MAX)
        sending = asyncio.ensure_future(self._send(pieces, writer, source, target))
        receiving = asyncio.ensure_future(self._receive(reader, pieces, source))
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            if receiving.done() and not receiving.cancelled() and receiving.result():
                await sending
        finally:
            sending.cancel()
            receiving.cancel()

    async def _receive(
        self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], source: str
    ) -> bool:
        """Read pieces, each with the time when it may go on. Returns False if a loss breaks the connection."""
        free_s = 0.0
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                now_s = time.monotonic()
                delay_s, rate, loss = (each.get(source, 0.0) for each in (self._delays_s, self._rates, self._losses))
                ready_s = max(now_s, free_s) + len(piece) / rate if rate else now_s
                free_s = ready_s
                ready_s += delay_s
                if loss and self._chance.random() < loss:
                    if self._chance.random() < _RESET_SHARE:
                        self.late += 1
                        return False
                    ready_s += self._chance.uniform(*_STALL_S)
                self.late += ready_s > now_s
                await pieces.put((ready_s, piece))
        await pieces.put((0.0, b""))
        return True

    async def _send(
        self, pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, source: str, target: str
    ) -> None:
        with contextlib.suppress(OSError):
            while (entry := await pieces.get())[1]:
                ready_s, piece = entry
                wait_s = ready_s - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                await self._hold(source, target)
                writer.write(piece)
                await writer.drain()

    async def _hold(self, source: str, target: str) -> None:
        if not self._is_cut(source, target):
            return
        self.held += 1
        while True:
            await asyncio.sleep(_HELD_POLL_S)
            if not self._is_cut(source, target):
                return


def owner_of(port: int, pids: Mapping[int, str]) -> str:
    """Return which process opened a connection from a loopback port; `ANYBODY` if it is none of them."""
    inode = _inode_of(port)
    if inode is None:
        return ANYBODY
    wanted = f"socket:[{inode}]"
    for pid, name in pids.items():
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path) == wanted:  # noqa: PTH115 - a link of the kernel, not a path
                        return name
    return ANYBODY


def _inode_of(port: int) -> str | None:
    """Return the inode of the socket that is bound to a loopback port and connected."""
    mine = f"0100007F:{port:04X}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[1] == mine and fields[9] != "0":
                return fields[9]
    return None
