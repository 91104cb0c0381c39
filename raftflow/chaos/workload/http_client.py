"""One HTTP request at a time to one replica, and whether it was done, certainly not done, or perhaps.

It is not the SDK: the SDK hides what the history must tell, such as which replica was asked and what was sent again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

_INDEX_HEADER: Final = "X-Raftflow-Index"
_NOT_DONE: Final = frozenset({"no-leader"})
"""Problems of a 5xx answer that say that nothing was done."""


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """How a request ended."""

    outcome: str
    """`ok`, `fail` (certainly not done) or `unknown`."""
    status: int = 0
    body: Any = None
    index: int | None = None
    error: str = ""


class ReplicaClient:
    """Sends requests with a token. Belongs to the event loop where it is entered."""

    def __init__(self, token: str | None, timeout_s: float) -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(1.0, timeout_s))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        url: str,
        path: str,
        *,
        body: bytes | None = None,
        key: str | None = None,
        media_type: str = "application/json",
    ) -> RequestEnd:
        """Send one request to one replica and tell how it ended."""
        assert self._session is not None  # noqa: S101 - it is entered
        headers = {"Idempotency-Key": key} if key is not None else {}
        if body is not None:
            headers["Content-Type"] = media_type
        try:
            async with self._session.request(
                method, url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return _end_of(answer.status, await answer.read(), answer.headers.get(_INDEX_HEADER))
        except aiohttp.ClientConnectorError as error:
            return RequestEnd("fail", error=f"not connected: {error}")
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            return RequestEnd("unknown", error=f"{type(error).__name__}: {error}")


def _end_of(status: int, content: bytes, index: str | None) -> RequestEnd:
    try:
        body = msgspec.json.decode(content) if content else None
    except msgspec.DecodeError as error:
        return RequestEnd("unknown", status, error=f"not JSON: {error}")
    number = int(index) if index is not None and index.isdecimal() else None
    if 200 <= status < 300:
        return RequestEnd("ok", status, body, number)
    kind = str(body.get("type", "")).rpartition("/")[2] if isinstance(body, dict) else ""
    detail = str(body.get("detail", "")) if isinstance(body, dict) else ""
    certain = status < 500 or kind in _NOT_DONE
    return RequestEnd("fail" if certain else "unknown", status, body, number, f"{status} {kind}: {detail}"[:300])
