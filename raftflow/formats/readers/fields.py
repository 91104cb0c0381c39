"""The keys of a task. Each has a reader: it checks the value, puts the result into `fields` and notes faults.

`fields` holds arguments of `TaskSpec`. The keys of what a task runs are in `programs`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from raftflow.domain import limits
from raftflow.domain.tasks.resources import MEMORY, parse_amount
from raftflow.domain.values.cachekeys import parse_key
from raftflow.domain.values.exact import judge_integer
from raftflow.domain.values.ids import name_problem
from raftflow.formats.faults import shown
from raftflow.formats.readers.durations import parse_duration_ms
from raftflow.formats.readers.part import DocumentPart, Reader, is_clean, read_strings
from raftflow.formats.readers.programs import PROGRAM_READERS
from raftflow.formats.readers.values import text_bytes

PATH_CHARS_MAX = 4_096
AMOUNT_CHARS_MAX = 40
OWN_KEYS = frozenset({"id", "needs"})
"""Keys that every task has for itself: not allowed in `defaults`."""
_AMOUNT = re.compile(r"[0-9.]*\s*[A-Za-z]*")
_PLAIN_TYPES = frozenset({int, float, str})


def _id(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, str):
        part.fault("id", "must be a string")
    else:
        fields["id"] = value


def _needs(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    needs = read_strings(part, "needs", value)
    count_max = limits.NEEDS_PER_TASK_MAX
    if needs and len(needs) > count_max:
        part.fault(
            "needs", f"{len(needs)} needs, the limit is {count_max}: add a task that joins some of them", count_max
        )
    elif needs:
        fields["needs"] = needs


def _env(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        part.fault("env", "must be a table of strings")
        return
    env: dict[str, str] = {}
    for key, item in value.items():
        if not isinstance(key, str) or not key or "=" in key or text_bytes(key) < 0:
            part.fault("env", f"{shown(key)} is not a valid name of a variable")
        elif key.startswith("RAFTFLOW_"):
            part.fault(f"env.{key[:80]}", "variables RAFTFLOW_* are set by the agent")
        elif type(item) is int and judge_integer(item) is None:
            env[key] = str(item)
        elif not isinstance(item, str):
            part.fault(f"env.{key[:80]}", f"is {_type_name(item)}, but must be a string: quote it")
        elif is_clean(part, f"env.{key[:80]}", key) and is_clean(part, f"env.{key[:80]}", item):
            env[key] = item
    fields["env"] = env


def _type_name(value: object) -> str:
    """Return what a value is, in the words of the document formats."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return {float: "a number", int: "a number", list: "a list", dict: "a table"}.get(type(value), shown(value))


def _cwd(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, str) or not value or len(value) > PATH_CHARS_MAX:
        part.fault("cwd", f"must be a directory: a string of 1 to {PATH_CHARS_MAX} characters")
    elif is_clean(part, "cwd", value):
        fields["cwd"] = value


def _resources(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        part.fault("resources", 'must be a table such as { cpu = 2, memory = "512MiB" }')
        return
    plain = all(type(amount) in _PLAIN_TYPES for amount in value.values())
    shape = tuple(value.items()) if plain else ()
    seen = part.resources_seen.get(shape) if plain else None
    if seen is None or part.where == "defaults":
        seen = _read_resources(part, value)
        if seen is None:
            return
        if part.where != "defaults":
            seen = {**part.plain_resources, **seen}
            if len(seen) > limits.RESOURCES_PER_TASK_MAX:
                limit = limits.RESOURCES_PER_TASK_MAX
                part.fault("resources", f"{len(seen)} resources, the limit is {limit}", limit)
            elif plain:
                part.resources_seen[shape] = seen
    fields["resources"] = seen


def _read_resources(part: DocumentPart, value: Mapping[Any, Any]) -> dict[str, int] | None:
    """Return the amounts in integer units, or None after noting a fault."""
    amounts: dict[str, int] = {}
    valid = True
    for key, amount in value.items():
        wrong = name_problem(key) if isinstance(key, str) else "is not a string"
        if wrong is not None:
            part.fault("resources", f"{shown(key)} {wrong}")
            valid = False
            continue
        try:
            amounts[key] = parse_amount(key, _bounded_number(amount))
        except ValueError as error:
            part.fault(f"resources.{key}", str(error)[:300])
            valid = False
    return amounts if valid else None


def _retries(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limits.RETRIES_MAX:
        part.fault("retries", f"must be a whole number from 0 to {limits.RETRIES_MAX}")
    else:
        fields["retries"] = value


def _duration(part: DocumentPart, field: str, value: object, fields: dict[str, Any], *, minimum_ms: int = 0) -> None:
    known = part.durations_seen.get(value) if isinstance(value, str) else None
    if known is None:
        try:
            known = parse_duration_ms(value)
        except ValueError as error:
            part.fault(field, str(error))
            return
        if isinstance(value, str):
            part.durations_seen[value] = known
    if known < minimum_ms:
        part.fault(field, "must be longer than zero")
    else:
        fields[f"{field}_ms"] = known


def _constraints(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        part.fault("constraints", 'must be a table such as { labels = { zone = "a" } }')
        return
    for key, item in value.items():
        if key == "exclusive":
            if isinstance(item, bool):
                fields["exclusive"] = item
            else:
                part.fault("constraints.exclusive", "must be true or false")
        elif key != "labels":
            part.faults.unknown_key(f"{part.where}.constraints.", key, ("labels", "exclusive"))
        elif not isinstance(item, dict):
            part.fault("constraints.labels", "must be a table of strings")
        else:
            labels: dict[str, str] = {}
            for label, wanted in item.items():
                wrong = name_problem(label) if isinstance(label, str) else "is not a string"
                if wrong is not None:
                    part.fault("constraints.labels", f"{shown(label)} {wrong}")
                elif not isinstance(wanted, str) or not 0 <= text_bytes(wanted) <= limits.NAME_CHARS_MAX:
                    path = f"constraints.labels.{label}"
                    part.fault(path, f"must be a string of at most {limits.NAME_CHARS_MAX} bytes")
                else:
                    labels[label] = wanted
            fields["labels"] = labels


def _cache(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if isinstance(value, bool):
        fields["cache"] = "" if value else None
        return
    if not isinstance(value, dict):
        part.fault("cache", 'must be true, false, or a table such as { key = "train-${fetch.digest}" }')
        return
    for key in value:
        if key != "key":
            part.faults.unknown_key(f"{part.where}.cache.", key, ("key",))
    template = value.get("key")
    if not isinstance(template, str) or not template or text_bytes(template) < 0:
        part.fault("cache.key", "must be a string; `cache = true` makes a key from all that the task runs")
        return
    try:
        parse_key(template)
    except ValueError as error:
        part.fault("cache.key", str(error))
    else:
        fields["cache"] = template


def _kind(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    wrong = name_problem(value) if isinstance(value, str) else "is not a string"
    if wrong is not None:
        part.fault("kind", f"{shown(value)} {wrong}")
    else:
        fields["kind"] = value


def _memory_max(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    try:
        fields["memory_max_mib"] = parse_amount(MEMORY, _bounded_number(value))
    except ValueError as error:
        part.fault("memory_max", str(error)[:300])


def _bounded_number(value: object) -> object:
    """Refuse numbers that are expensive to read: integers of thousands of digits, and very long strings."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > limits.RESOURCE_UNITS_MAX:
        raise ValueError("is larger than any machine")
    if isinstance(value, str) and (len(value) > AMOUNT_CHARS_MAX or not _AMOUNT.fullmatch(value.strip())):
        raise ValueError(f"{shown(value[:40])} is not an amount")
    return value


def _backup(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if isinstance(value, bool):
        fields["backup"] = value
    else:
        part.fault("backup", "must be true or false")


def _rates(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        part.fault("rates", "must be a table such as { llm = 2 }")
        return
    most = limits.RATES_PER_TASK_MAX
    if len(value) > most:
        part.fault("rates", f"{len(value)} rates, the limit is {most}", most)
        return
    rates: dict[str, int] = {}
    for name, count in value.items():
        wrong = (
            name_problem(name, chars_max=limits.RATE_NAME_CHARS_MAX) if isinstance(name, str) else "is not a string"
        )
        if wrong is not None:
            part.fault("rates", f"{shown(name)} {wrong}")
        elif not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= limits.RATE_AMOUNT_MAX:
            part.fault(f"rates.{name}", f"must be a whole number from 1 to {limits.RATE_AMOUNT_MAX}")
        else:
            rates[name] = count
    fields["rates"] = rates


def _duration_reader(field: str, minimum_ms: int = 0) -> Reader:
    def read(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
        _duration(part, field, value, fields, minimum_ms=minimum_ms)

    return read


READERS: dict[str, Reader] = {
    "id": _id,
    "needs": _needs,
    **PROGRAM_READERS,
    "env": _env,
    "cwd": _cwd,
    "resources": _resources,
    "retries": _retries,
    "retry_delay": _duration_reader("retry_delay"),
    "retry_delay_max": _duration_reader("retry_delay_max"),
    "timeout": _duration_reader("timeout", minimum_ms=1),
    "grace": _duration_reader("grace"),
    "expected": _duration_reader("expected"),
    "constraints": _constraints,
    "kind": _kind,
    "cache": _cache,
    "memory_max": _memory_max,
    "backup": _backup,
    "rates": _rates,
}
