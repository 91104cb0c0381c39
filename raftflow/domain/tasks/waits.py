"""Waits: what an attempt or a task of a document waits for, apart from other tasks. Their records, and their checks.

The answer of a wait is a record of a durable step of its task, JSON with an `outcome`:

    {"outcome": "signal", "payload": ...}     a signal came
    {"outcome": "invalid", "payload": ..., "detail": "..."}     one had come before, and does not fit the schema
    {"outcome": "timeout"}                    nothing came in time
    {"outcome": "timeout", "payload": ...}    the same, and the wait says what counts then
    {"outcome": "decided", "choice": "...", "comment": "...", "payload": ..., "by": "...", "at_ms": ...}
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.values.exact import UNREADABLE
from raftflow.domain.values.results import result_problem, step_name_problem

WaitKind = Literal["signal", "approval", "effect"]
"""What ends a wait: a signal, the decision of a person, or the resolution of an effect."""

AskedKind = Literal["signal", "approval"]
"""What an attempt may wait for by itself."""

FUNCTIONS: dict[WaitKind, str] = {
    "signal": "raftflow:wait",
    "approval": "raftflow:approval",
    "effect": "raftflow:effect",
}
"""What the record of a wait is recorded by: it is not mixed up with the record of a step."""


class ApprovalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an approval asks. It is the `request` of its wait, as JSON."""

    title: str
    details: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    """Any JSON."""
    choices: tuple[str, ...] = ("approve", "deny")


class ApprovalDecision(msgspec.Struct, frozen=True, tag_field="outcome", tag="decided"):
    """What a person decided: the record of an approval."""

    choice: str
    comment: str
    payload: msgspec.Raw
    by: str
    at_ms: int


class _WaitRecord(msgspec.Struct):
    """The record of a wait for a signal or a decision."""

    outcome: str
    payload: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    choice: str = ""
    comment: str = ""
    by: str = ""


class DecisionResult(msgspec.Struct, frozen=True):
    """The result of a task that its document makes an approval."""

    choice: str
    comment: str
    payload: msgspec.Raw
    by: str
    """Empty if nobody decided in time."""


_answer_decoder = msgspec.json.Decoder(_WaitRecord)
_approval_decoder = msgspec.json.Decoder(ApprovalRequest)
_encode = msgspec.json.Encoder().encode


def read_approval(request: bytes) -> ApprovalRequest:
    """Read what an approval asks. Raises `ValueError`."""
    try:
        found = _approval_decoder.decode(request)
    except UNREADABLE as error:
        raise ValueError(f"what an approval asks: {error}") from None
    for each, most in (
        (found.title, limits.TITLE_CHARS_MAX),
        *[(one, limits.CHOICE_CHARS_MAX) for one in found.choices],
    ):
        if not 1 <= len(each) <= most:
            raise ValueError(f"the title and the choices of an approval have 1 to {most} characters, not {len(each)}")
        if step_name_problem(each) is not None:
            raise ValueError("the title and the choices of an approval must not have control characters")
    if not 1 <= len(found.choices) <= limits.CHOICES_MAX or len(set(found.choices)) != len(found.choices):
        raise ValueError(f"an approval has 1 to {limits.CHOICES_MAX} choices, each another one")
    return found


def decision_record(decision: ApprovalDecision) -> bytes:
    """Return the record of an approval that a person decided."""
    return _encode(decision)


def _approval_problem(request: bytes, on_timeout: bytes) -> str | None:
    try:
        asked = read_approval(request)
    except ValueError as error:
        return str(error)
    if on_timeout and on_timeout not in map(_encode, asked.choices):
        return f"what counts after the timeout of an approval is one of its choices: {', '.join(asked.choices)}"
    return None


def signal_record(payload: bytes) -> bytes:
    """Return the record of a wait to which a signal came."""
    return b'{"outcome":"signal","payload":' + payload + b"}"


def invalid_record(payload: bytes, detail: str) -> bytes:
    """Return the record of a wait that found a signal which does not fit its schema."""
    told = msgspec.json.encode(detail[: limits.SIGNAL_FAULT_CHARS_MAX])
    return b'{"outcome":"invalid","payload":' + payload + b',"detail":' + told + b"}"


def timeout_record(on_timeout: bytes) -> bytes:
    """Return the record of a wait for which nothing came in time."""
    return b'{"outcome":"timeout","payload":' + on_timeout + b"}" if on_timeout else b'{"outcome":"timeout"}'


def document_result(kind: WaitKind, record: bytes) -> bytes:
    """Return the result that the record of a wait gives to the task of a document, empty if it fails."""
    answer = _answer_decoder.decode(record)
    payload = bytes(answer.payload)
    if kind == "signal" or not payload:
        return payload
    if answer.outcome == "timeout":
        choice = msgspec.json.decode(payload, type=str)
        return _encode(DecisionResult(choice, "", msgspec.Raw(b"null"), ""))
    return _encode(DecisionResult(answer.choice, answer.comment, answer.payload, answer.by))


def wait_problem(  # noqa: PLR0917 - one line for each fault
    kind: AskedKind, name: str, occurrence: int, timeout_ms: int, on_timeout: bytes, request: bytes
) -> str | None:
    """Say why there cannot be such a wait, or None if there can."""
    wrong = step_name_problem(name)
    if wrong is not None:
        return f"the name of a wait {wrong}"
    if not 1 <= occurrence <= limits.STEPS_PER_TASK_MAX:
        return f"occurrence {occurrence} of a wait: it is a number from 1 to {limits.STEPS_PER_TASK_MAX}"
    if not 0 <= timeout_ms <= limits.DURATION_MS_MAX:
        return f"the timeout of a wait is at most {limits.DURATION_MS_MAX} ms"
    if len(on_timeout) > limits.ON_TIMEOUT_BYTES_MAX:
        return (
            f"what counts after the timeout has {len(on_timeout)} bytes, the limit is {limits.ON_TIMEOUT_BYTES_MAX}: "
            "put large values into the code"
        )
    if result_problem(on_timeout) is not None:
        return "what counts after the timeout is not JSON"
    if len(request) > limits.WAIT_REQUEST_BYTES_MAX:
        return (
            f"what the wait asks has {len(request)} bytes, the limit is {limits.WAIT_REQUEST_BYTES_MAX}: "
            "leave large details in files"
        )
    if kind == "approval":
        return _approval_problem(request, on_timeout)
    return "what the wait asks is not JSON" if result_problem(request) is not None else None


def signal_problem(name: str, key: str, payload: bytes) -> str | None:
    """Say why there cannot be such a signal, or None if there can."""
    wrong = step_name_problem(name)
    if wrong is not None:
        return f"the name of a signal {wrong}"
    if len(key) > limits.NAME_CHARS_MAX:
        return f"the key of a signal has at most {limits.NAME_CHARS_MAX} characters"
    if len(payload) > limits.SIGNAL_BYTES_MAX:
        return (
            f"the payload has {len(payload)} bytes, the limit is {limits.SIGNAL_BYTES_MAX}: "
            "write larger ones to a file and send its path"
        )
    return "the payload is not JSON" if not payload or result_problem(payload) is not None else None
