"""Effects: calls of the world outside that must not happen twice. Their states, keys and records.

The *intent* of an effect is in the log before the call, its *outcome* after it. An intent without an outcome says
that the call may have happened.
"""

from __future__ import annotations

import enum
import re
from hashlib import sha256
from typing import Final, Literal

import msgspec

from raftflow.domain.limits import FUNCTION_CHARS_MAX, IDEMPOTENCY_KEY_CHARS_MAX

EffectOutcome = Literal["done", "not_done", "uncertain"]
"""What an attempt reports: the call has happened, certainly not, or nobody can tell."""
EffectResolution = Literal["done", "retry", "fail"]
"""What a person decides about an effect without an outcome."""

_PREFIX: Final = "raftflow:effect"
_PLAIN = re.compile(r"[A-Za-z0-9._:-]+")
_UNUSUAL = re.compile(r"[^A-Za-z0-9._:-]+")
_HASH_CHARS: Final = 24


class EffectState(enum.StrEnum):
    """Where an effect is in its life."""

    BEGUN = "begun"
    """The intent is in the log, the outcome is not."""
    DONE = "done"
    NOT_DONE = "not_done"
    """The call has certainly not happened. The next attempt calls."""
    UNCERTAIN = "uncertain"
    """Nobody can tell whether the call has happened. A person decides."""
    RETRY = "retry"
    """A person decided that the next attempt calls again."""
    FAILED = "failed"
    """A person decided that it has failed. No attempt calls it again."""


RECORDED: Final = frozenset({EffectState.DONE, EffectState.FAILED})
"""States in which an effect has a record, which does not change any more."""


def idempotency_key(workflow_id: str, task_id: str, name: str, occurrence: int) -> str:
    """Return what the called service can recognise the effect by, in all attempts.

    >>> idempotency_key("wf-1", "pay", "charge", 1)
    'wf-1/pay/charge/1'
    >>> idempotency_key("wf-1", "pay", "charge ä", 1)
    'wf-1/pay/charge-/1~a62d07e8c8c8b0c2e8c0a1f2'
    """
    parts = (workflow_id, task_id, name, str(occurrence))
    plain = "/".join(parts)
    if len(plain) <= IDEMPOTENCY_KEY_CHARS_MAX and all(_PLAIN.fullmatch(part) for part in parts):
        return plain
    digest = sha256("\0".join(parts).encode()).hexdigest()[:_HASH_CHARS]
    readable = "/".join([_UNUSUAL.sub("-", part) for part in parts])
    return f"{readable[: IDEMPOTENCY_KEY_CHARS_MAX - _HASH_CHARS - 1]}~{digest}"


def effect_function(function: str) -> str:
    """Return what the record of an effect names as its function. So no step is mistaken for an effect."""
    return f"{_PREFIX} {function}"[:FUNCTION_CHARS_MAX]


def called_function(function: str) -> str:
    """Return what the effect calls, of the function that its record names."""
    return function.removeprefix(_PREFIX).lstrip()


class EffectRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of an effect among those of the steps, as JSON: its result, or why it failed."""

    done: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    failed: str | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(EffectRecord)


def done_record(result: bytes) -> bytes:
    """Return the record of an effect that has this result, given as JSON."""
    return _encode(EffectRecord(done=msgspec.Raw(result)))


def failed_record(why: str) -> bytes:
    """Return the record of an effect that raises an error in every attempt from now on."""
    return _encode(EffectRecord(failed=why))


def read_record(record: bytes) -> EffectRecord:
    """Read a record. Raises `msgspec.DecodeError`."""
    return _decoder.decode(record)
