"""What a call of the API is, and the checks of what a caller gives for it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from raftflow.client.errors import UsageError

ATTEMPT_S: Final = 10.0
"""Longest wait for the answer to one request, unless the call says otherwise. Above the replicas' own time-outs."""
_KEY = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call of the API."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    media_type: str = "application/json"
    """Of the body."""
    idempotency_key: str | None = None
    """Set for every write."""
    replica: str | None = None
    """Ask this replica and no other."""
    once: bool = False
    """Send one request to every peer (or to `replica`), and do not wait for a leader."""
    attempt_s: float = ATTEMPT_S


def check_call(call: ApiCall) -> None:
    """Raise `UsageError` for a call that cannot be sent."""
    if call.idempotency_key is not None and not is_key(call.idempotency_key):
        raise UsageError("an idempotency key must have 1 to 200 printable ASCII characters and no spaces")
    try:
        "".join(call.params.values()).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"a parameter holds half a character: {error}") from error


def checked_url(text: str) -> str:
    """Return the base URL of a peer in one form. Raises `UsageError`."""
    if not isinstance(text, str):
        raise UsageError(f"{text!r:.200} is not a peer: write its URL, such as http://127.0.0.1:7001")
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    wrong = parts.scheme not in ("http", "https") or not parts.hostname or port == 0
    if wrong or parts.path or parts.query or parts.fragment or parts.username:
        raise UsageError(f"{text[:200]!r} is not a peer: write its URL, such as http://127.0.0.1:7001")
    return url


def is_key(text: object) -> bool:
    """Tell whether a value can be an idempotency key. The replicas have the same rule."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def new_key() -> str:
    """Return an idempotency key for one call."""
    return uuid.uuid4().hex
