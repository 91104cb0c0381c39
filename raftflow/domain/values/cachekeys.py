"""Templates of cache keys: `train-${fetch.digest}` names results of needs, by digest or in full.

`${ID.digest}` stands for the SHA-256, in hex, of the result of the task `ID`, which must be one that the task needs;
`${ID.result}` for the result itself, as JSON. Everything else stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Literal

import msgspec

from raftflow.domain.limits import CACHE_KEY_CHARS_MAX, NAME_CHARS_MAX

_NULL = b"null"
_SMALL_BYTES = 1_024

_encoder = msgspec.msgpack.Encoder()
_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")


class Reference(msgspec.Struct, frozen=True):
    """A place in a template that a result fills."""

    task: str
    part: Literal["digest", "result"]


Piece = str | Reference


def parse_key(template: str) -> list[Piece]:
    """Return the texts and the references of a template, in order. Raises `ValueError` saying what is wrong."""
    if len(template) > CACHE_KEY_CHARS_MAX:
        raise ValueError(f"the key is {len(template)} characters long, the limit is {CACHE_KEY_CHARS_MAX}")
    pieces: list[Piece] = []
    at = 0
    for found in _PLACEHOLDER.finditer(template):
        _add_text(pieces, template[at : found.start()])
        at = found.end()
        task, dot, part = found[1].rpartition(".")
        if not dot or not task or len(task) > NAME_CHARS_MAX or part not in ("digest", "result"):
            raise ValueError(f"{found[0][:80]!r} is not a reference: write ${{ID.digest}} or ${{ID.result}}")
        pieces.append(Reference(task, "digest" if part == "digest" else "result"))
    _add_text(pieces, template[at:])
    return pieces


def _add_text(pieces: list[Piece], text: str) -> None:
    if "${" in text:
        raise ValueError("the key holds '${' without its '}': write ${ID.digest} or ${ID.result}")
    if "\0" in text:
        raise ValueError("the key holds a NUL character")
    if text:
        pieces.append(text)


def referred(template: str) -> list[str]:
    """Return the ids of the tasks that a template refers to. Raises `ValueError` as `parse_key`."""
    return [piece.task for piece in parse_key(template) if isinstance(piece, Reference)]


def fill(template: str, result_of: Callable[[str], bytes]) -> str:
    """Return the key that a template makes of the results of the needs. A longer one than the limit is hashed.

    `result_of` returns the result of a task as JSON, empty for none.
    """
    parts = []
    for piece in parse_key(template):
        if isinstance(piece, str):
            parts.append(piece)
        elif piece.part == "digest":
            parts.append(digest_of(result_of(piece.task)))
        else:
            parts.append((result_of(piece.task) or _NULL).decode())
    key = "".join(parts)
    return key if len(key) <= CACHE_KEY_CHARS_MAX else f"sha256:{sha256(key.encode()).hexdigest()}"


def automatic_key(
    what: object,
    env: Mapping[str, str],
    results: Iterable[tuple[str, bytes]],
) -> str:
    """Return the key of all that a task runs and its inputs.

    `what` is its program and its working directory.
    `results` are the ids of the tasks that it needs and their results, in any order: it sees them by id.
    """
    inputs = sorted((task, digest_of(result)) for task, result in results)
    return f"sha256:{sha256(_encoder.encode((what, sorted(env.items()), inputs))).hexdigest()}"


def digest_of(result: bytes) -> str:
    """Return the SHA-256, in hex, of a result; no result is `null`."""
    return _large_digest(result) if len(result) > _SMALL_BYTES else sha256(result or _NULL).hexdigest()


@lru_cache(maxsize=256)
def _large_digest(result: bytes) -> str:
    """Many tasks may need the same large result."""
    return sha256(result).hexdigest()
