"""Agents files (TOML): the agents for which plans are made and traces are simulated.

[[agents]]
name = "a1"
count = 1                # this many like it: a1-1, a1-2, ... if there is more than one
speed = 1.0              # a task of 10 s takes 10 / speed
cost_rate = 3.0          # cost of a second of use, for any task
fail_rate = "0.02/h"     # failures of one such agent per hour; for traces only
resources = { cpu = 3, memory = "8GiB" }
labels = { zone = "a" }
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.checks import label_problems, resource_problems
from raftflow.domain.tasks.resources import parse_amount
from raftflow.domain.values.ids import name_problem
from raftflow.formats.faults import DocumentFaults
from raftflow.formats.files import FormatError
from raftflow.formats.readers.toml_reader import TomlError, parse_toml

FILE_BYTES_MAX = 16 * 1024 * 1024
_MILLI_MAX = 1e9
_KEYS = ("name", "count", "speed", "cost_rate", "fail_rate", "resources", "labels")


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One agent of an agents file."""

    name: str
    capacity: dict[str, int]
    """Integer units (`raftflow.domain.tasks.resources`)."""
    labels: dict[str, str] = {}
    speed_milli: int = 1_000
    cost_rate_milli: int = 1_000
    fails_per_hour: float | None = None
    """None if the file does not say."""


def load_agents(path: Path) -> tuple[AgentEntry, ...]:
    """Read an agents file. Raises `FormatError`, `DocumentError` naming every fault, and `OSError`."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise FormatError(f"{path}: larger than {FILE_BYTES_MAX // 1024**2} MiB")
    try:
        document = parse_toml(data.decode("utf-8-sig"))
    except (TomlError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not TOML: {error}") from None
    return read_agents(document)


def read_agents(document: dict[str, Any]) -> tuple[AgentEntry, ...]:
    """Turn a parsed agents file into agents. Raises `DocumentError` naming every fault."""
    faults = DocumentFaults()
    for key in document:
        if key != "agents":
            faults.unknown_key("", key, ("agents",))
    rows = document.get("agents")
    if not isinstance(rows, list) or not rows:
        faults.add("agents", "is required: at least one [[agents]] table")
        rows = []
    entries: list[AgentEntry] = []
    for number, row in enumerate(rows):
        path = f"agents[{number}]"
        if isinstance(row, dict):
            entries += _read_row(row, path, faults, limits.AGENTS_MAX - len(entries))
        else:
            faults.add(path, "must be a table")
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            faults.add("agents", f"two agents have the name {entry.name!r}")
        seen.add(entry.name)
    faults.raise_any()
    return tuple(entries)


def _read_row(row: dict[str, Any], path: str, faults: DocumentFaults, room: int) -> list[AgentEntry]:
    for key in row:
        if key not in _KEYS:
            faults.unknown_key(f"{path}.", key, _KEYS)
    name = row.get("name")
    wrong = name_problem(name) if isinstance(name, str) else "must be a string"
    if wrong is not None:
        faults.add(f"{path}.name", wrong)
        name = "unnamed"
    count = row.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= room:
        faults.add(f"{path}.count", f"must be a whole number above 0; {limits.AGENTS_MAX} agents at most in all")
        count = 1
    entry = AgentEntry(
        name=str(name),
        capacity=_resources(row.get("resources"), path, faults),
        labels=_labels(row.get("labels", {}), path, faults),
        speed_milli=_milli(row.get("speed", 1.0), f"{path}.speed", faults, minimum=1),
        cost_rate_milli=_milli(row.get("cost_rate", 1.0), f"{path}.cost_rate", faults, minimum=0),
        fails_per_hour=_fail_rate(row.get("fail_rate"), path, faults),
    )
    if count == 1:
        return [entry]
    digits = len(str(count))
    return [msgspec.structs.replace(entry, name=f"{name}-{n:0{digits}d}") for n in range(1, count + 1)]


def _resources(value: object, path: str, faults: DocumentFaults) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        faults.add(f"{path}.resources", 'is required, such as { cpu = 4, memory = "16GiB" }')
        return {}
    amounts = {}
    for name, amount in value.items():
        try:
            amounts[name] = parse_amount(name, amount)
        except ValueError as error:
            faults.add(f"{path}.resources.{name[:80]}", str(error))
    for message in resource_problems(amounts):
        faults.add(f"{path}.resources", message)
    return amounts


def _labels(value: object, path: str, faults: DocumentFaults) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        faults.add(f"{path}.labels", "must be a table of strings")
        return {}
    for message in label_problems(value):
        faults.add(f"{path}.labels", message)
    return value


def _milli(value: object, path: str, faults: DocumentFaults, *, minimum: int) -> int:
    if not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= _MILLI_MAX:
        amount = round(value * 1_000)
        if amount >= minimum:
            return amount
    faults.add(path, f"must be a number, at least {minimum / 1_000:g}")
    return 1_000


def _fail_rate(value: object, path: str, faults: DocumentFaults) -> float | None:
    if value is None:
        return None
    try:
        return parse_rate_per_hour(value)
    except ValueError as error:
        faults.add(f"{path}.fail_rate", str(error))
        return None


def parse_rate_per_hour(value: object) -> float:
    """Read a rate such as `0.02/h` or `2/d`; a bare number is per hour. Raises `ValueError`."""
    number, unit = value, "h"
    if isinstance(value, str):
        number, _, unit = value.replace(" ", "").partition("/")
        unit = unit or "h"
    hours = {"s": 1 / 3600, "m": 1 / 60, "min": 1 / 60, "h": 1.0, "d": 24.0}.get(unit)
    try:
        rate = float(number) if isinstance(number, str | int | float) and not isinstance(number, bool) else math.nan
    except ValueError:
        rate = math.nan
    if hours is None or not 0 <= rate <= 1e9:
        raise ValueError(f"{str(value)[:40]!r} is not a rate: write 0.02/h or 1/d")
    return rate / hours
