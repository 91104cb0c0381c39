"""The JSON Schema of workflow documents, for editors, clients and the description of the API.

It is built from the reader of documents: the keys are those of `fields.READERS`, and limits, patterns and defaults
are the reader's own. Some rules cannot be in a schema and are checked by the reader alone: needs exist and form no
cycle, ids differ, sizes in bytes, and values of strings (`"400d"` is too long). So every document that the reader
accepts fits the schema. A document that fits it is refused for such a reason only (`tests/formats/test_schema.py`).

Code generators do not know the keywords `if` and `not`. They are used only where ignoring them makes a type wider.
"""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any, Final

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks import budgets
from raftflow.domain.tasks.resources import AMOUNT_PATTERN, SIZE_PATTERN
from raftflow.domain.tasks.workflow import EXPECTED_DEFAULT_MS, OnFailure, TaskSpec, WorkflowSpec
from raftflow.domain.values.code_bundle import DIGEST_PATTERN
from raftflow.domain.values.ids import NAME_PATTERN
from raftflow.formats.documents import TOP_KEYS
from raftflow.formats.readers import fields
from raftflow.formats.readers.durations import CHARS_MAX as DURATION_CHARS_MAX
from raftflow.formats.readers.durations import UNIT_MS
from raftflow.formats.readers.part import NO_NUL_PATTERN
from raftflow.formats.readers.programs import CHOICE, CHOOSERS, PROGRAM_SCHEMAS, PROGRAMS
from raftflow.formats.readers.waits import wait_schema, waiting_keys

Schema = dict[str, Any]

SCHEMA_ID: Final = "https://raftflow.invalid/schema/workflow.json"
"""A stable name, as those of problems: nothing is fetched from there. Every replica serves it at `SCHEMA_PATH`."""
SCHEMA_PATH: Final = "/v1/schema/workflow.json"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ROOT: Final = "WorkflowDocument"

_DURATION = rf"^\s*(?:[0-9]{{1,15}}(?:\.[0-9]{{1,9}})?(?:{'|'.join(UNIT_MS)})\s*)+$"

BEYOND: Final = re.compile(
    r"is longer than \d+ days|is larger than any machine|must be longer than zero|is longer than retry_delay_max"
    r"|is less than the demand|is already the id|needs itself|no task has the id|need each other in a circle"
    r"|so it must be in `needs`|is n(?:o|ot a) reference: write|without its '\}'|is n(?:o|ot) valid Unicode"
    r"|is n(?:o|ot a) (?:text|string)"
    r"|resources, the limit is|command, arguments and environment take|nested deeper than|must fit 64 bits"
    r"|a reference is \{|must be a string of at most \d+ bytes|belongs to `python`"
    r"|must have either `command` or `python`"
    r"|must be more than 0|has more than six decimals|must not be above the hard limit"
    r"|needs in all|the workflow takes|is not a valid name of a variable"
    r"|and a task that waits has none|has no meaning for a task that waits|it counts if nobody decides in time"
)
"""Messages of faults that a JSON Schema cannot express, or only in a way that code generators do not understand."""


def workflow_schema(ref: str = "#/$defs/{name}") -> tuple[Schema, dict[str, Schema]]:
    """Return the schema of a whole document and the parts that it refers to, by name.

    `ref` is how a part is referred to.
    """
    parts = _SchemaParts(ref)
    document = parts.document()
    return document, parts.made


def workflow_schema_file() -> Schema:
    """Return the schema as one self-contained JSON Schema, as editors load it."""
    document, parts = workflow_schema()
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **document, "$defs": parts}


def _default(struct: type[msgspec.Struct], name: str) -> Any:
    return next(field.default for field in msgspec.structs.fields(struct) if field.name == name)


def _shown_ms(value: int) -> str:
    """Return a duration as a document has it."""
    return f"{value // 1_000}s" if value % 1_000 == 0 else f"{value}ms"


class _SchemaParts:
    """Builds the parts of the schema; each refers to others by name."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self.made: dict[str, Schema] = {
            "Name": {
                "description": f"Letters, digits and _ . : @ + -, at most {limits.NAME_CHARS_MAX}; the first is a "
                "letter, a digit or _.",
                "type": "string",
                "minLength": 1,
                "maxLength": limits.NAME_CHARS_MAX,
                "pattern": NAME_PATTERN,
            },
            "Duration": {
                "description": 'A string such as "40s", "5m", "1h30m", "250ms", "2d", or a number of seconds; at '
                f"most {limits.DURATION_MS_MAX // UNIT_MS['d']} days.",
                "anyOf": [
                    {"type": "string", "pattern": _DURATION, "maxLength": DURATION_CHARS_MAX},
                    {"type": "number", "minimum": 0, "maximum": limits.DURATION_MS_MAX / 1_000},
                ],
            },
            "Amount": {
                "description": "An amount of a resource in whole units; it may be fractional.",
                "anyOf": [
                    {"type": "number", "minimum": 0, "maximum": limits.RESOURCE_UNITS_MAX / 1_000},
                    {"type": "string", "pattern": AMOUNT_PATTERN, "maxLength": fields.AMOUNT_CHARS_MAX},
                ],
            },
            "MemorySize": {
                "description": 'A number of MiB, or a string with a unit such as "512MiB" or "8GB".',
                "anyOf": [
                    {"type": "number", "minimum": 0, "maximum": limits.RESOURCE_UNITS_MAX},
                    {"type": "string", "pattern": SIZE_PATTERN, "maxLength": fields.AMOUNT_CHARS_MAX},
                ],
            },
        }
        self.made["TaskDocument"] = self._task()
        self.made["TaskDefaults"] = self._defaults()

    def _to(self, name: str, **more: Any) -> Schema:
        return {"$ref": self._ref.format(name=name), **more}

    def document(self) -> Schema:
        keys: dict[str, Schema] = {
            "$schema": {"description": "Where editors find this schema. It has no other effect.", "type": "string"},
            "name": self._to("Name", description="The workflow's name; several may have the same."),
            "priority": {
                "description": "Higher goes first.",
                "type": "integer",
                "minimum": 0,
                "maximum": limits.PRIORITY_MAX,
                "default": _default(WorkflowSpec, "priority"),
            },
            "on_failure": {
                "description": "What happens when a task fails and has no retries left: stop cancels all other "
                "tasks, continue only those that need it.",
                "type": "string",
                "enum": list(OnFailure.__args__),  # type: ignore[attr-defined]
                "default": _default(WorkflowSpec, "on_failure"),
            },
            "max_parallel": {
                "description": "Most of its tasks that are assigned or running at one time; no limit by default.",
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": limits.TASKS_PER_WORKFLOW_MAX,
            },
            "code": {
                "description": "Digest of the code bundle that the tasks run with.",
                "type": "string",
                "pattern": f"^{DIGEST_PATTERN}$",
            },
            "budgets": self._budgets(),
            "defaults": self._to("TaskDefaults"),
            "tasks": {
                "description": "Tasks in any order.",
                "type": "array",
                "minItems": 1,
                "maxItems": limits.TASKS_PER_WORKFLOW_MAX,
                "items": self._to("TaskDocument"),
            },
        }
        runs = {"type": "object", "anyOf": [_has(key) for key in CHOOSERS]}
        return {
            "title": "raftflow workflow",
            "description": "A graph of tasks, as submitted to a raftflow cluster.",
            "type": "object",
            "properties": {key: keys[key] for key in TOP_KEYS},
            "required": ["name", "tasks"],
            "additionalProperties": False,
            # A task says what it runs, unless the defaults do.
            "if": {"type": "object", "properties": {"defaults": {"not": runs}}},
            "then": {"type": "object", "properties": {"tasks": {"type": "array", "items": runs}}},
        }

    def _budgets(self) -> Schema:
        amount: Schema = {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": limits.BUDGET_MILLIONTHS_MAX // budgets.SCALE},
                {"type": "string", "pattern": budgets.AMOUNT_PATTERN, "maxLength": budgets.AMOUNT_CHARS_MAX},
            ]
        }
        return {
            "description": "What its tasks may spend, by name. When a budget is used up the workflow pauses.",
            "type": "object",
            "propertyNames": {
                "type": "string",
                "minLength": 1,
                "maxLength": limits.BUDGET_NAME_CHARS_MAX,
                "pattern": NAME_PATTERN,
            },
            "additionalProperties": {
                "anyOf": [
                    *amount["anyOf"],
                    {
                        "type": "object",
                        "properties": {
                            "hard": {"description": "When so much is spent the workflow pauses.", **amount},
                            "soft": {"description": "When so much is spent it is told; by default 80 %.", **amount},
                        },
                        "required": ["hard"],
                        "additionalProperties": False,
                    },
                ]
            },
            "maxProperties": limits.BUDGETS_PER_WORKFLOW_MAX,
        }

    def _task(self) -> Schema:
        keys = self._keys()
        return {
            "title": "Task",
            "description": f"One task. It has either {CHOICE}, here or in `defaults`.",
            "type": "object",
            "properties": keys,
            "required": ["id"],
            "additionalProperties": False,
            "not": {"anyOf": [*_two_programs(), *_foreign_options(), *_run_and_wait()]},
        }

    def _defaults(self) -> Schema:
        keys = {key: schema for key, schema in self._keys().items() if key not in fields.OWN_KEYS}
        for schema in keys.values():
            schema.pop("default", None)
        return {
            "title": "Defaults",
            "description": "Values for every task that has none of its own. `env`, `resources` and "
            "`constraints.labels` are merged key by key.",
            "type": "object",
            "properties": keys,
            "additionalProperties": False,
            "not": {"anyOf": _two_programs()},
        }

    def _keys(self) -> dict[str, Schema]:
        """Return the schema of every key of a task, in the reader's order."""
        made: dict[str, Schema] = {
            "id": self._to("Name", description="Unique in the workflow."),
            "needs": {
                "description": "Ids of the tasks that must succeed first.",
                "type": "array",
                "items": self._to("Name"),
                "maxItems": limits.NEEDS_PER_TASK_MAX,
                "uniqueItems": True,
            },
            **PROGRAM_SCHEMAS,
            "wait": wait_schema(self._to("Duration")),
            "env": {
                "description": "Environment variables. RAFTFLOW_* are set by the agent.",
                "type": "object",
                "propertyNames": {
                    "type": "string",
                    "pattern": "^[^=\\u0000]+$",
                    "not": {"type": "string", "pattern": "^RAFTFLOW_"},
                },
                "additionalProperties": {
                    "anyOf": [
                        {"type": "string", "pattern": NO_NUL_PATTERN},
                        {"type": "integer", "minimum": -(2**63) + 1, "maximum": 2**63 - 1},
                    ]
                },
            },
            "cwd": {
                "description": "Working directory on the agent; the agent's own by default.",
                "type": "string",
                "minLength": 1,
                "maxLength": fields.PATH_CHARS_MAX,
                "pattern": NO_NUL_PATTERN,
            },
            "resources": {
                "description": "What an attempt holds while it runs. Any other name than cpu and memory is a custom "
                "resource. Without `cpu` a task asks for one.",
                "type": "object",
                "properties": {
                    "cpu": self._to("Amount", description="CPUs, perhaps fractional; 0 for none.", default=1),
                    "memory": self._to("MemorySize"),
                },
                "propertyNames": self._to("Name"),
                "additionalProperties": self._to("Amount"),
                "maxProperties": limits.RESOURCES_PER_TASK_MAX,
            },
            "retries": {
                "description": "Attempts after the first. Attempts lost with an agent do not count.",
                "type": "integer",
                "minimum": 0,
                "maximum": limits.RETRIES_MAX,
                "default": _default(TaskSpec, "retries"),
            },
            "retry_delay": self._duration("Before the second attempt; doubles from there.", "retry_delay_ms"),
            "retry_delay_max": self._duration("Where the doubling stops.", "retry_delay_max_ms"),
            "timeout": self._duration("Longest run of one attempt, longer than zero; no limit by default."),
            "grace": self._duration("Between SIGTERM and SIGKILL when an attempt is stopped.", "grace_ms"),
            "expected": self._to(
                "Duration",
                description="Run time that ranks and plans assume, where nothing was learnt of its kind.",
                default=_shown_ms(EXPECTED_DEFAULT_MS),
            ),
            "constraints": self._constraints(),
            "kind": self._to(
                "Name", description="Run times are learnt for each kind; by default the name of what the task runs."
            ),
            "cache": {
                "description": "true: the result of a task that runs the same is reused. With `key`: of one with the "
                "same key, in which ${ID.digest} and ${ID.result} stand for the result of a task in `needs`.",
                "anyOf": [
                    {"type": "boolean"},
                    {
                        "type": "object",
                        "properties": {
                            "key": {
                                "type": "string",
                                "minLength": 1,
                                "maxLength": limits.CACHE_KEY_CHARS_MAX,
                                "pattern": NO_NUL_PATTERN,
                            }
                        },
                        "required": ["key"],
                        "additionalProperties": False,
                    },
                ],
                "default": False,
            },
            "memory_max": self._to(
                "MemorySize",
                description="How far the demand for memory may be raised when the task outgrows it; 4 times the "
                "demand by default.",
            ),
            "backup": {
                "description": "true: a second attempt may start on another agent when one is late, so the task may "
                "run twice at the same time.",
                "type": "boolean",
                "default": _default(TaskSpec, "backup"),
            },
            "rates": {
                "description": "Units that each attempt takes of rate limits (`raftflow limit set`) when it is "
                "placed, by name of the limit.",
                "type": "object",
                "propertyNames": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": limits.RATE_NAME_CHARS_MAX,
                    "pattern": NAME_PATTERN,
                },
                "additionalProperties": {"type": "integer", "minimum": 1, "maximum": limits.RATE_AMOUNT_MAX},
                "maxProperties": limits.RATES_PER_TASK_MAX,
            },
        }
        return {key: made[key] for key in fields.READERS}

    def _duration(self, description: str, field: str | None = None) -> Schema:
        more = {} if field is None else {"default": _shown_ms(_default(TaskSpec, field))}
        return self._to("Duration", description=description, **more)

    def _constraints(self) -> Schema:
        return {
            "description": "Where the task may run.",
            "type": "object",
            "properties": {
                "labels": {
                    "description": "Labels that the agent must carry.",
                    "type": "object",
                    "propertyNames": self._to("Name"),
                    "additionalProperties": {"type": "string", "maxLength": limits.LABEL_CHARS_MAX},
                    "maxProperties": limits.LABELS_MAX,
                },
                "exclusive": {
                    "description": "true: the task runs alone on its agent.",
                    "type": "boolean",
                    "default": _default(TaskSpec, "exclusive"),
                },
            },
            "additionalProperties": False,
        }


def _has(*keys: str) -> Schema:
    return {"type": "object", "properties": {key: {} for key in keys}, "required": list(keys)}


def _two_programs() -> list[Schema]:
    """Return what a task has that chooses two programs."""
    return [_has(first, second) for first, second in combinations(CHOOSERS, 2)]


def _foreign_options() -> list[Schema]:
    """Return what a task has that gives options of one program to another."""
    found = []
    for owner in PROGRAMS:
        for option in owner.options:
            kind = owner.schema[option]["type"]
            not_empty = {"type": kind, **({"minItems": 1} if kind == "array" else {"minProperties": 1})}
            for chooser in CHOOSERS:
                if chooser != owner.key:
                    both = _has(chooser, option)
                    both["properties"][option] = not_empty
                    found.append(both)
    return found


def _run_and_wait() -> list[Schema]:
    """Return what a task has that waits, and has keys of a task that runs."""
    return [_has("wait", key) for key in waiting_keys(fields.READERS) if key not in CHOOSERS]
