"""From a user's workflow document to the normalised `WorkflowSpec`: every fault is named with its path.

The document is already parsed (TOML, YAML or JSON). Its shape is not trusted, because it also arrives over HTTP. Each
key of a task has one reader (`readers/fields.py`). A reader notes its faults and continues, so one answer lists all
of them. Equal sub-values (a resource demand, a duration) are read once and shared, because documents of 100,000 tasks
repeat the same values.

Values of a task replace those of the document's `[defaults]`. The tables `env`, `resources` and `constraints.labels`
are merged key by key. A demand without `cpu` asks for one CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.resources import MEMORY
from raftflow.domain.tasks.workflow import OnFailure, TaskSpec, WorkflowSpec, check_graph
from raftflow.domain.values.code_bundle import is_digest
from raftflow.domain.values.ids import name_problem
from raftflow.formats.faults import PROBLEMS_MAX, DocumentError, DocumentFaults, shown
from raftflow.formats.foreign.other_systems import kind_of, refuse
from raftflow.formats.readers.budgets import read_budgets
from raftflow.formats.readers.fields import OWN_KEYS, READERS
from raftflow.formats.readers.part import DocumentPart
from raftflow.formats.readers.programs import PLACEHOLDER, check_choice, drop_inherited, take_program
from raftflow.formats.readers.values import text_bytes
from raftflow.formats.readers.waits import check_waiting

__all__ = ["PROBLEMS_MAX", "DocumentError", "normalize"]

ENTRY_OVERHEAD_BYTES = 4 * 1024
"""Room left in a log entry for what surrounds the workflow."""

TOP_KEYS = ("$schema", "name", "priority", "on_failure", "max_parallel", "code", "budgets", "defaults", "tasks")
_DELAY_MS = 1_000
_DELAY_MAX_MS = 60_000


def normalize(document: object) -> WorkflowSpec:
    """Check a parsed workflow document and return the workflow that it describes.

    Raises `DocumentError` naming every fault of the fields, of the graph and of the limits.
    """
    faults = DocumentFaults()
    if not isinstance(document, dict):
        raise DocumentError([FieldProblem("", "a workflow document must be a table with `name` and `tasks`")])
    refuse(kind_of(document))
    for key in document:
        if key not in TOP_KEYS:
            faults.unknown_key("", key, TOP_KEYS)
    if not isinstance(document.get("$schema", ""), str):
        faults.add("$schema", "must be a string: the place where editors find the schema")
    name = _read_name(document, faults)
    priority = _read_priority(document.get("priority", 50), faults)
    on_failure = _read_on_failure(document.get("on_failure", "stop"), faults)
    max_parallel = _read_max_parallel(document.get("max_parallel"), faults)
    code = _read_code(document["code"], faults) if "code" in document else ""
    budgets = read_budgets(document["budgets"], faults) if "budgets" in document else ()
    raw_tasks = _read_task_list(document, faults)
    reader = _TaskReader(faults)
    reader.read_defaults(document.get("defaults", {}))
    tasks = tuple(reader.read(number, raw) for number, raw in enumerate(raw_tasks))
    spec = WorkflowSpec(
        name=name,
        tasks=tasks,
        priority=priority,
        on_failure=on_failure,
        max_parallel=max_parallel,
        code=code,
        budgets=budgets,
    )
    if tasks:
        for problem in check_graph(spec, PROBLEMS_MAX):
            if problem.path not in reader.bad_id_paths:
                faults.add(problem.path, problem.message)
    faults.raise_any()
    size = len(msgspec.msgpack.encode(spec))
    size_max = limits.ENTRY_BYTES_MAX - ENTRY_OVERHEAD_BYTES
    if size > size_max:
        faults.add("tasks", f"the workflow takes {size} bytes, the limit is {size_max}: split it", size_max)
        faults.raise_any()
    return spec


def _read_name(document: Mapping[str, Any], faults: DocumentFaults) -> str:
    name = document.get("name")
    if name is None:
        faults.add("name", "is required")
    elif not isinstance(name, str):
        faults.add("name", "must be a string")
    else:
        wrong = name_problem(name)
        if wrong is None:
            return name
        faults.add("name", f"{shown(name)} {wrong}")
    return "unnamed"


def _read_priority(value: object, faults: DocumentFaults) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limits.PRIORITY_MAX:
        return value
    faults.add("priority", f"must be a whole number from 0 to {limits.PRIORITY_MAX}, higher goes first")
    return 50


def _read_on_failure(value: object, faults: DocumentFaults) -> OnFailure:
    if value not in ("stop", "continue"):
        faults.add("on_failure", 'must be "stop" or "continue"')
        return "stop"
    return value


def _read_max_parallel(value: object, faults: DocumentFaults) -> int | None:
    if value is None:
        return None
    most = limits.TASKS_PER_WORKFLOW_MAX
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    faults.add("max_parallel", f"must be a whole number from 1 to {most}")
    return None


def _read_code(value: object, faults: DocumentFaults) -> str:
    if isinstance(value, str) and is_digest(value):
        return value
    faults.add("code", "must be the digest of a code bundle: 64 hexadecimal digits in lower case")
    return ""


def _read_task_list(document: Mapping[str, Any], faults: DocumentFaults) -> list[Any]:
    tasks = document.get("tasks")
    if not isinstance(tasks, list):
        faults.add("tasks", "is required: a list of tasks" if tasks is None else "must be a list of tasks")
        return []
    if not tasks:
        faults.add("tasks", "must have at least one task")
    count_max = limits.TASKS_PER_WORKFLOW_MAX
    if len(tasks) > count_max:
        faults.add("tasks", f"{len(tasks)} tasks, the limit is {count_max}: split the workflow", count_max)
        return []
    edges = sum(len(t["needs"]) for t in tasks if isinstance(t, dict) and isinstance(t.get("needs"), list))
    edges_max = limits.EDGES_PER_WORKFLOW_MAX
    if edges > edges_max:
        faults.add("tasks", f"{edges} needs in all, the limit is {edges_max}", edges_max)
        return []
    return tasks


class _TaskReader:
    """Reads the tasks of one document, each over the defaults."""

    def __init__(self, faults: DocumentFaults) -> None:
        self.faults = faults
        self.part = DocumentPart(faults)
        self.defaults: dict[str, Any] = {}
        self.bad_id_paths: set[str] = set()

    def read_defaults(self, raw: object) -> None:
        """Read `[defaults]`: any key of a task except `id` and `needs`."""
        part = self.part
        if not isinstance(raw, dict):
            self.faults.add("defaults", "must be a table")
            return
        fields: dict[str, Any] = {}
        for key, value in raw.items():
            if key in OWN_KEYS:
                part.fault(key, "is not allowed in defaults: each task has its own")
                continue
            read = READERS.get(key) if isinstance(key, str) else None
            if read is None:
                self.faults.unknown_key("defaults.", key, READERS.keys() - OWN_KEYS)
            else:
                read(part, value, fields)
        check_choice(part, fields)
        part.plain_resources = {**part.plain_resources, **fields.pop("resources", {})}
        if len(part.plain_resources) > limits.RESOURCES_PER_TASK_MAX:
            count, limit = len(part.plain_resources), limits.RESOURCES_PER_TASK_MAX
            part.fault("resources", f"{count} resources, the limit is {limit}", limit)
        self.defaults = fields

    def read(self, number: int, raw: object) -> TaskSpec:
        """Read one task. A task with faults is returned with what could be read, for the checks of the graph."""
        part = self.part
        part.where = f"tasks[{number}]"
        if not isinstance(raw, dict):
            self.faults.add(part.where, "must be a table with an `id`")
            return self._placeholder(number, ())
        fields: dict[str, Any] = {}
        for key, value in raw.items():
            read = READERS.get(key) if isinstance(key, str) else None
            if read is None:
                self.faults.unknown_key(f"{part.where}.", key, READERS.keys())
            else:
                read(part, value, fields)
        if "id" not in fields:
            if "id" not in raw:
                part.fault("id", "is required")
            return self._placeholder(number, fields.get("needs", ()))
        if self.defaults:
            fields = self._with_defaults(fields)
        if "resources" not in fields:
            fields["resources"] = part.plain_resources
        check_whole(part, fields, raw)
        if type(fields["program"]) is TaskWait:
            fields = check_waiting(part, fields, raw)
        return TaskSpec(**fields)

    def _placeholder(self, number: int, needs: tuple[str, ...]) -> TaskSpec:
        """Return a stand-in for a task without a readable id. What the graph check says of that id is left out."""
        self.bad_id_paths.add(f"tasks[{number}].id")
        return TaskSpec(id=f"\0{number}", needs=needs, program=PLACEHOLDER)

    def _with_defaults(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Merge the defaults with a task's own fields, which win."""
        merged = {**self.defaults, **fields}
        drop_inherited(fields, merged)
        for table in ("env", "labels"):
            if table in fields and table in self.defaults:
                merged[table] = {**self.defaults[table], **fields[table]}
        return merged


def check_whole(part: DocumentPart, fields: dict[str, Any], raw: Collection[str]) -> None:
    """Check the whole task, defaults included, and put its program into `fields`.

    `raw` are the keys that the task itself has in the document.
    """
    size = len(fields.get("cwd") or "")
    env = fields.get("env")
    if env:
        size += sum(text_bytes(key) + text_bytes(value) for key, value in env.items())
    fields["program"] = take_program(part, fields, raw, size)
    _check_delays(part, fields)
    memory_max_mib, demand_mib = fields.get("memory_max_mib"), fields.get("resources", {}).get(MEMORY, 0)
    if memory_max_mib is not None and memory_max_mib < demand_mib:
        part.fault("memory_max", f"is less than the demand, {demand_mib} MiB")
    labels = fields.get("labels")
    if labels and len(labels) > limits.LABELS_MAX:
        part.fault("constraints.labels", f"{len(labels)} labels, the limit is {limits.LABELS_MAX}", limits.LABELS_MAX)


def _check_delays(part: DocumentPart, fields: dict[str, Any]) -> None:
    """Fit the limit of the back-off to its start: the value that was not given follows the given one."""
    first, most = fields.get("retry_delay_ms"), fields.get("retry_delay_max_ms")
    if first is None:
        if most is not None:
            fields["retry_delay_ms"] = min(_DELAY_MS, most)
    elif most is None:
        fields["retry_delay_max_ms"] = max(_DELAY_MAX_MS, first)
    elif first > most:
        part.fault("retry_delay", "is longer than retry_delay_max")
