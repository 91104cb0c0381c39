"""Calls by operation: method, path, idempotency key and type of the answer come from its declaration."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import quote

import msgspec

from raftflow.client.errors import UsageError
from raftflow.client.http.calls import ApiCall, new_key
from raftflow.domain.values.exact import ValueFault, write_json

if TYPE_CHECKING:
    from raftflow.client.transport import Transport
    from raftflow.domain.contract.operation import Operation

T = TypeVar("T")

PAGE_SIZE: Final = 500
"""Entries that one page of a listing has."""


class OperationCalls:
    """Sends calls of declared operations."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def call(
        self,
        operation: Operation[T],
        *parts: str,
        params: Mapping[str, str | int | None] | None = None,
        body: Any = None,
        idempotency_key: str | None = None,
        replica: str | None = None,
        once: bool = False,
        attempt_s: float | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """Call an operation and return its answer. Raises a `ClientError`.

        Args:
            operation: what is called.
            parts: the variable parts of its path, in order.
            params: query parameters; those that are None are left out.
            body: of the operation's type of body; a mapping for a document.
            idempotency_key: of a write; a new one by default.
            replica: URL of the only replica to ask.
            once: send one request to every peer (or to `replica`), and do not wait for a leader.
            attempt_s: longest wait for the answer to one request; as the operation says by default.
            timeout_s: how long the call is retried; the transport's by default.
        """
        if operation.method != "GET" and idempotency_key is None:
            idempotency_key = new_key()
        call = ApiCall(
            operation.method,
            operation.target(*map(_quote, parts)),
            params={name: str(value) for name, value in (params or {}).items() if value is not None},
            body=None if body is None and operation.body is not msgspec.Raw else _encode(operation, body),
            media_type=operation.body_media_type,
            idempotency_key=idempotency_key,
            replica=replica,
            once=once,
            attempt_s=operation.answer_s if attempt_s is None else attempt_s,
        )
        if operation.answer is bytes:
            return cast("T", await self._transport.call_raw(call, timeout_s=timeout_s))
        return await self._transport.call(call, operation.answer, timeout_s=timeout_s)

    async def entries(
        self,
        operation: Operation[Any],
        *parts: str,
        params: Mapping[str, str | int | None] | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield the entries of a listing, all or at most `limit`; one with pages is read page by page."""
        query: dict[str, str | int | None] = dict(params or {})
        left = limit
        while left is None or left > 0:
            if operation.is_paged:
                query["limit"] = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            page = await self.call(operation, *parts, params=query)
            found = getattr(page, operation.items)
            for entry in found[:left]:
                yield entry
            left = None if left is None else left - len(found)
            query["cursor"] = page.next if operation.is_paged else None
            if query["cursor"] is None:
                return


def _encode(operation: Operation[Any], body: Any) -> bytes:
    """Return the body of a request. Raises `UsageError` with the path of what cannot be JSON."""
    if operation.body is bytes and isinstance(body, bytes):
        return body
    expected = Mapping if operation.body is dict else operation.body
    if expected is not msgspec.Raw and not isinstance(body, expected):
        raise TypeError(f"{operation.name} takes a {expected.__name__}, not {body!r:.80}")
    try:
        return write_json(msgspec.to_builtins(body) if isinstance(body, msgspec.Struct) else body)
    except ValueFault as fault:
        raise UsageError(str(fault)) from None


def _quote(name: str) -> str:
    """Quote a name for a path. Raises `UsageError` for what cannot be one."""
    if not isinstance(name, str):
        raise UsageError(f"an id or a name is a string, not {name!r:.80}")
    if not name or name in (".", ".."):
        raise UsageError(f"an id or a name is {'empty' if not name else repr(name)}")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise UsageError(f"{name!r:.80} is not an id or a name: it holds half a character") from error
