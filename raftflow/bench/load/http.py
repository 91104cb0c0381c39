"""A small HTTP client for load: one kept connection, one request at a time, no more parsing than needed.

An ordinary client library costs more CPU time than the replica that answers, so it would be what is measured.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import msgspec

from raftflow.bench.settings import BenchError

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
encode = msgspec.json.Encoder().encode


class LoadConnection(asyncio.Protocol):
    """One kept connection to one replica. Use `open`."""

    def __init__(self, host: str, token: str | None = None) -> None:
        self._always = f"Host: {host}\r\nContent-Type: application/json\r\n"
        if token is not None:
            self._always += f"Authorization: Bearer {token}\r\n"
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, url: str, token: str | None = None) -> LoadConnection:
        """Connect to a replica, whose token every request will carry. Raises `OSError`."""
        place = urlsplit(url)
        loop = asyncio.get_running_loop()
        host, port = place.hostname or "127.0.0.1", place.port or 80
        _, connection = await loop.create_connection(lambda: cls(place.netloc, token), host, port)
        return connection

    async def request(self, method: str, path: str, body: bytes, more: str = "") -> tuple[int, bytes]:
        """Send one request and return status and body of its answer. Raises `ConnectionError`."""
        if self._transport is None:
            raise ConnectionResetError("the replica has closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        head = f"{method} {path} HTTP/1.1\r\n{self._always}Content-Length: {len(body)}\r\n{more}\r\n"
        self._transport.write(head.encode() + body)
        return await self._answer

    async def post(self, path: str, value: Any, more: str = "") -> bytes:
        """Post a value as JSON and return the answer's body. Raises `BenchError` if it is refused."""
        status, body = await self.request("POST", path, encode(value), more)
        if status not in {200, 201}:
            raise BenchError(f"{path} was answered with {status}: {body[:300].decode(errors='replace')}")
        return body

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = transport  # type: ignore[assignment]  # a TCP connection's is a Transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the replica has closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Complete the answer, if this is all of it."""
        self._data += data
        end = self._data.find(_HEAD_END)
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        at = head.find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        begin = end + len(_HEAD_END)
        if len(self._data) < begin + length:
            return
        body = bytes(self._data[begin : begin + length])
        self._data.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))
