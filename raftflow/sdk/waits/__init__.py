"""Waits of a task: `Context.wait` and `Context.approval`.

They are written as the exchanges of `children.py`: a request that finds the record or begins the wait, and one that
parks the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self

import msgspec

from raftflow.domain.limits import NAME_CHARS_MAX
from raftflow.domain.values.exact import ValueFault, decode_json, write_json
from raftflow.sdk.children import Exchange
from raftflow.sdk.errors import ClientError, UsageError, WaitTimeout

_MS = 1000
_NOTHING = msgspec.Raw()
"""A field that is not there."""


class SignalInvalid(ClientError, ValueError):  # noqa: N818 - reads as what happened
    """A signal that was sent before the wait does not fit its schema. It is taken; `payload` has what was sent.

    >>> raftflow.SignalInvalid("go", "n: it is not a number", {"n": "x"}).payload
    {'n': 'x'}
    """

    def __init__(self, name: str, detail: str, payload: Any) -> None:
        super().__init__(f"signal {name!r} does not fit the schema: {detail}")
        self.name = name
        self.payload = payload


class Approval(str):
    """What people decided: a string, equal to the choice.

    >>> raftflow.Approval("approve", comment="ship it") == "approve"
    True
    """

    __slots__ = ("at", "by", "comment", "payload")
    comment: str
    payload: Any
    """What the person who decided gave with it; None for nothing."""
    by: str
    """Who decided; empty after a timeout."""
    at: datetime | None
    """When; None after a timeout."""

    def __new__(
        cls, choice: str, *, comment: str = "", payload: Any = None, by: str = "", at: datetime | None = None
    ) -> Self:
        """Made by `Context.approval`."""
        made = super().__new__(cls, choice)
        made.comment, made.payload, made.by, made.at = comment, payload, by, at
        return made


class _Record(msgspec.Struct):
    """The record of a wait."""

    outcome: Literal["signal", "invalid", "timeout", "decided"]
    payload: msgspec.Raw = _NOTHING
    detail: str = ""
    choice: str = ""
    comment: str = ""
    by: str = ""
    at_ms: int = 0


class _WaitAnswer(msgspec.Struct):
    """The answer of the agent: the number of the open wait, or the record."""

    wait: int = 0
    record: _Record | None = None


_decode = msgspec.json.Decoder(_WaitAnswer).decode


def wait(name: str, timeout: float | str | None, default: Any, schema: Any) -> Exchange[Any]:
    """Wait for a signal."""
    fields: dict[str, Any] = {"name": name, "timeout": timeout}
    if schema is not None:
        fields["schema"] = _json(schema, "the schema")
    if default is not ...:
        fields["on_timeout"] = _json(default, "the default")
    record = yield from _record("wait", fields)
    payload = decode_json(bytes(record.payload)) if bytes(record.payload) else None
    if record.outcome == "invalid":
        raise SignalInvalid(name, record.detail, payload)
    if record.outcome == "timeout" and not bytes(record.payload):
        raise WaitTimeout(f"no signal {name!r} came in time")
    return payload


def ask(  # noqa: PLR0917 - of two callers
    title: str,
    details: Any,
    choices: Sequence[str],
    timeout: float | str | None,
    on_timeout: str | None,
    name: str | None,
) -> Exchange[Approval]:
    """Ask people to decide."""
    if isinstance(choices, str):
        raise UsageError(f"choices: a sequence of texts, not the text {choices!r:.80}")
    if on_timeout is not None and on_timeout not in choices:
        raise UsageError(f"on_timeout: {on_timeout!r:.80} is none of the choices: {', '.join(choices)}")
    fields: dict[str, Any] = {
        "title": title,
        "name": (title if name is None else name)[:NAME_CHARS_MAX],
        "details": _json(details, "the details"),
        "choices": list(choices),
        "timeout": timeout,
        "on_timeout": on_timeout,
    }
    record = yield from _record("approval", fields)
    payload = decode_json(bytes(record.payload)) if bytes(record.payload) else None
    if record.outcome == "decided":
        at = datetime.fromtimestamp(record.at_ms / _MS, UTC)
        return Approval(record.choice, comment=record.comment, payload=payload, by=record.by, at=at)
    if not isinstance(payload, str):
        raise WaitTimeout(f"nobody decided {title!r} in time")
    return Approval(payload)


def _record(call: str, fields: dict[str, Any]) -> Exchange[_Record]:
    """Return the record of a wait. Parks while it is open."""
    found = _decode((yield call, fields))
    if found.record is None:
        yield "park", {"waits": [found.wait]}
    assert found.record is not None  # noqa: S101 - a task that has parked does not come here
    return found.record


def _json(value: Any, what: str) -> msgspec.Raw:
    try:
        return msgspec.Raw(write_json(value))
    except ValueFault as fault:
        raise UsageError(f"{what} of a wait must be JSON: {fault}") from None


def wait_here(name: str, default: Any) -> Any:
    """Wait outside of a cluster: nobody sends a signal."""
    if default is ...:
        raise WaitTimeout(f"outside of a cluster no signal {name!r} comes: give a `default`")
    return default


def ask_here(title: str, on_timeout: str | None) -> Approval:
    """Ask outside of a cluster: nobody decides."""
    if on_timeout is None:
        raise WaitTimeout(f"outside of a cluster nobody decides {title!r}: give `on_timeout`")
    return Approval(on_timeout)
