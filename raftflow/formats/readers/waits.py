"""The key `wait` of a task: it waits for a signal or for a decision, in place of a program.

wait = { signal = "go", timeout = "3d", on_timeout = { go = false } }
wait = { approval = "Publish?", details = "v2", choices = ["approve", "deny"], timeout = "1h", on_timeout = "deny" }
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.waits import ApprovalRequest
from raftflow.domain.values.exact import write_json
from raftflow.domain.values.results import step_name_problem
from raftflow.formats.faults import shown
from raftflow.formats.readers.durations import parse_duration_ms
from raftflow.formats.readers.part import DocumentPart
from raftflow.formats.readers.values import check_value, text_bytes

Schema = dict[str, Any]

_KEYS = {
    "signal": ("signal", "timeout", "on_timeout"),
    "approval": ("approval", "details", "choices", "timeout", "on_timeout"),
}
_CHOICES = ("approve", "deny")
_NO_CONTROL = "^[^\\u0000-\\u001f\\u007f]*$"
_TASK_KEYS = frozenset({"id", "needs", "wait"})
"""All that a task has that waits."""
_encode = msgspec.json.Encoder().encode


def read_wait(part: DocumentPart, value: object) -> TaskWait | None:
    """Read what a task waits for. None after noting a fault."""
    before = part.faults.count
    if not isinstance(value, dict) or len(value.keys() & _KEYS.keys()) != 1:
        part.fault("wait", 'must be a table with one of `signal` and `approval`: { signal = "go", timeout = "3d" }')
        return None
    event, known = next((event, known) for event, known in _KEYS.items() if event in value)
    for key in value:
        if key not in known:
            part.faults.unknown_key(f"{part.where}.wait.", key, known)
    name = value[event]
    _check_text(part, event, name)
    timeout_ms = _read_timeout(part, value)
    on_timeout = _read_json(part, "on_timeout", value, limits.ON_TIMEOUT_BYTES_MAX)
    if on_timeout and "timeout" not in value:
        part.fault("wait.on_timeout", 'needs a `timeout`: add for example timeout = "3d"')
    request = b"" if event == "signal" else _read_request(part, value)
    if part.faults.count > before:
        return None
    made = TaskWait("signal" if event == "signal" else "approval", name, timeout_ms, on_timeout, request)
    for _, message in made.faults():
        part.fault("wait", message)
    return made if part.faults.count == before else None


def _check_text(part: DocumentPart, field: str, value: object, chars_max: int = limits.NAME_CHARS_MAX) -> None:
    """Note what is wrong with a name, a title or a choice."""
    if not isinstance(value, str):
        part.fault(f"wait.{field}", "must be a string: quote it")
    elif text_bytes(value) < 0:
        part.fault(f"wait.{field}", "is not valid Unicode (a lone surrogate)")
    elif (wrong := step_name_problem(value)) is not None:
        part.fault(f"wait.{field}", wrong)
    elif len(value) > chars_max:
        part.fault(f"wait.{field}", f"is {len(value)} characters long, the limit is {chars_max}")


def _read_timeout(part: DocumentPart, value: Mapping[str, Any]) -> int:
    if "timeout" not in value:
        return 0
    try:
        found = parse_duration_ms(value["timeout"])
    except ValueError as error:
        part.fault("wait.timeout", str(error))
        return 0
    if not found:
        part.fault("wait.timeout", "must be longer than zero")
    return found


def _read_json(part: DocumentPart, key: str, value: Mapping[str, Any], bytes_max: int) -> bytes:
    """Return a value as JSON, empty if it is not there or has a fault."""
    if key not in value:
        return b""
    wrong, refs = check_value(value[key], f"wait.{key}")
    for path, message in wrong:
        part.fault(path, message)
    for path, _ in refs:
        part.fault(path, "is a reference to a result, and those belong in `args` and `kwargs` only")
    if wrong or refs:
        return b""
    data = write_json(value[key])
    if len(data) > bytes_max:
        part.fault(f"wait.{key}", f"has {len(data)} bytes, the limit is {bytes_max}: leave large values in files")
        return b""
    return data


def _read_request(part: DocumentPart, value: Mapping[str, Any]) -> bytes:
    details = _read_json(part, "details", value, limits.WAIT_REQUEST_BYTES_MAX) or b"null"
    choices = value.get("choices", list(_CHOICES))
    if not isinstance(choices, list):
        part.fault("wait.choices", 'must be a list of strings: write choices = ["approve", "deny"]')
        return b""
    if not 1 <= len(choices) <= limits.CHOICES_MAX:
        part.fault("wait.choices", f"must have 1 to {limits.CHOICES_MAX} choices")
        return b""
    for place, choice in enumerate(choices):
        _check_text(part, f"choices[{place}]", choice, limits.CHOICE_CHARS_MAX)
        if choice in choices[:place]:
            part.fault(f"wait.choices[{place}]", f"{shown(choice)} is there twice")
    if "on_timeout" in value and value["on_timeout"] not in choices:
        part.fault("wait.on_timeout", "must be one of the choices: it counts if nobody decides in time")
    if not isinstance(value["approval"], str) or text_bytes(value["approval"]) < 0:
        return b""  # noted before
    if not all(isinstance(choice, str) and text_bytes(choice) >= 0 for choice in choices):
        return b""
    return _encode(ApprovalRequest(value["approval"], msgspec.Raw(details), tuple(choices)))


def check_waiting(part: DocumentPart, spec: Mapping[str, Any], raw: Collection[str]) -> dict[str, Any]:
    """Return the fields of a task that waits. Note the keys that mean nothing there; defaults do not matter."""
    for key in raw:
        if key == "timeout":
            part.fault(key, "is the longest run of an attempt, and a task that waits has none: write wait.timeout")
        elif key not in _TASK_KEYS:
            part.fault(key, "has no meaning for a task that waits, because no agent runs it: remove it")
    kept = {key: spec[key] for key in ("id", "needs", "program") if key in spec}
    return {**kept, "resources": {}, "expected_ms": 0}


def waiting_keys(keys: Collection[str]) -> list[str]:
    """Return those of the keys of a task that one that waits cannot have."""
    return [key for key in keys if key not in _TASK_KEYS]


def wait_schema(duration: Schema) -> Schema:
    """Return the JSON Schema of the key."""
    text: Schema = {"type": "string", "minLength": 1, "maxLength": limits.NAME_CHARS_MAX, "pattern": _NO_CONTROL}
    timeout = {"description": "How long it waits; without it as long as it takes.", **duration}
    signal: Schema = {
        "type": "object",
        "properties": {
            "signal": {"description": "Name of the signal. Its payload is the result.", **text},
            "timeout": timeout,
            "on_timeout": {"description": "Any JSON: the result after the timeout. Without it the task fails then."},
        },
        "required": ["signal"],
        "dependentRequired": {"on_timeout": ["timeout"]},
        "additionalProperties": False,
    }
    approval: Schema = {
        "type": "object",
        "properties": {
            "approval": {"description": "What people are asked to decide.", **text},
            "details": {"description": "Any JSON that people see with it."},
            "choices": {
                "type": "array",
                "items": {**text, "maxLength": limits.CHOICE_CHARS_MAX},
                "minItems": 1,
                "maxItems": limits.CHOICES_MAX,
                "uniqueItems": True,
                "default": list(_CHOICES),
            },
            "timeout": timeout,
            "on_timeout": {
                "description": "The choice that counts after the timeout. Without it the task fails then.",
                "type": "string",
                "maxLength": limits.CHOICE_CHARS_MAX,
            },
        },
        "required": ["approval"],
        "dependentRequired": {"on_timeout": ["timeout"]},
        "additionalProperties": False,
    }
    return {
        "description": "The task waits for a signal or for a decision of people. No agent runs it.",
        "anyOf": [signal, approval],
    }
