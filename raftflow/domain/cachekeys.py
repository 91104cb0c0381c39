"""Templates of cache keys: `train-${fetch.digest}` names results of needs, by digest or in full.

`${ID.digest}` stands for the SHA-256, in hex, of the result of the task `ID`, which must be one that the task needs;
`${ID.result}` for the result itself, as JSON. Everything else stands for itself.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from raftflow.domain.limits import CACHE_KEY_CHARS_MAX, NAME_CHARS_MAX

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
            raise ValueError(f"{found[0][:80]!r} is no reference: write ${{ID.digest}} or ${{ID.result}}")
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
