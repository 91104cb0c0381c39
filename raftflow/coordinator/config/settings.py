"""The table of settings: which keys exist, what values they take, and how a wrong one is reported."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, NamedTuple

from raftflow.coordinator.config.hostnames import parse_host
from raftflow.domain.limits import RESULTS_BYTES_MAX, TASKS_PER_WORKFLOW_MAX, WORKFLOWS_MAX
from raftflow.formats.readers.durations import parse_duration_ms
from raftflow.logstore.stores import LogStoreError, open_store
from raftflow.replication.net.handshake import SECRET_BYTES_MIN


class ConfigError(ValueError):
    """The configuration cannot be used. Names the key, where its value came from, and what is expected."""


class Given(NamedTuple):
    """A value and where it came from."""

    value: object
    source: str
    from_file: bool = False


class _Bounds(NamedTuple):
    least: int
    most: int


_DAY_MS = 24 * 3600 * 1000
_MIB = 1024 * 1024

NUMBERS: dict[str, dict[str, _Bounds]] = {
    "timing": {
        "election_min_ms": _Bounds(20, 60_000),
        "election_max_ms": _Bounds(30, 120_000),
        "heartbeat_ms": _Bounds(5, 10_000),
        "lease_ms": _Bounds(300, _DAY_MS),
        "poll_wait_ms": _Bounds(10, 60_000),
        "submit_timeout_ms": _Bounds(100, 120_000),
        "read_timeout_ms": _Bounds(100, 120_000),
        "shutdown_ms": _Bounds(100, 600_000),
    },
    "limits": {
        "body_bytes": _Bounds(1024, 16 * _MIB),
        "poll_bytes": _Bounds(256 * 1024, 16 * _MIB),
        "submissions_in_flight": _Bounds(1, 1_000_000),
        "held_polls": _Bounds(1, 1_000_000),
        "connections": _Bounds(10, 1_000_000),
        "kept_workflows": _Bounds(1_000, WORKFLOWS_MAX // 2),
        "kept_tasks": _Bounds(TASKS_PER_WORKFLOW_MAX, 100_000_000),
        "kept_result_bytes": _Bounds(_MIB, RESULTS_BYTES_MAX),
        "snapshot_entries": _Bounds(100, 100_000_000),
        "snapshot_bytes": _Bounds(_MIB, 64 * 1024 * _MIB),
        "audit_bytes": _Bounds(_MIB, 1024 * 1024 * _MIB),
    },
}

TABLES: dict[str, frozenset[str]] = {
    "cluster": frozenset({"id", "secret", "secret_file", "members"}),
    "replica": frozenset(
        {"name", "data_dir", "bind", "peer_bind", "token", "token_file", "insecure", "join", "hosts", "log_store"}
    ),
    "tls": frozenset({"api_cert", "api_key", "api_ca", "peer_cert", "peer_key", "peer_ca"}),
    "timing": frozenset(NUMBERS["timing"]),
    "limits": frozenset({*NUMBERS["limits"], "retention"}),
}


def known(table: str, key: str, source: str) -> None:
    """Raise `ConfigError` unless the key exists; the members can be listed in the file alone."""
    keys = TABLES.get(table)
    if keys is not None and key in keys and key != "members":
        return
    close = difflib.get_close_matches(key, sorted(keys or ()), 1)
    hint = f"; did you mean {table}.{close[0]}?" if close else ""
    raise ConfigError(f"{source}: unknown key {table}.{key}{hint}")


def text(value: object, where: str) -> str:
    """Return a text that is not empty. Raises `ConfigError`."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise ConfigError(f"{where} must be a text that is not empty")
    return str(value)


def required(table: dict[str, Given], name: str, key: str) -> str:
    """Return a text that must be given. Raises `ConfigError`."""
    given = table.get(key)
    if given is None:
        raise ConfigError(f"{name}.{key} is missing")
    return text(given.value, f"{name}.{key} ({given.source})")


def path(table: dict[str, Given], name: str, key: str, base: Path) -> Path:
    """Return a path that must be given; one from the file is relative to the file. Raises `ConfigError`."""
    value = Path(required(table, name, key)).expanduser()
    return (base if table[key].from_file else Path()).joinpath(value).absolute()


def flag(table: dict[str, Given], name: str, key: str) -> bool:
    """Return a truth value, false if not given. Raises `ConfigError`."""
    given = table.get(key)
    if given is None:
        return False
    if isinstance(given.value, bool):
        return given.value
    if not given.from_file and given.value in {"1", "true", "yes", "0", "false", "no"}:
        return given.value in {"1", "true", "yes"}
    raise ConfigError(f"{name}.{key} ({given.source}): {given.value!r} is neither true nor false")


def hosts(table: dict[str, Given], name: str, key: str) -> tuple[str, ...]:
    """Return host names, each with or without a port; outside the file commas divide them. Raises `ConfigError`."""
    given = table.get(key)
    if given is None:
        return ()
    where = f"{name}.{key} ({given.source})"
    values = given.value
    if not given.from_file and isinstance(values, str):
        values = [each.strip() for each in values.split(",") if each.strip()]
    if not isinstance(values, list):
        raise ConfigError(f"{where} must be a list of names such as cluster.example or cluster.example:7001")
    for value in values:
        if not isinstance(value, str) or parse_host(value) is None:
            raise ConfigError(
                f"{where}: {value!r} is not a host name such as cluster.example or cluster.example:7001"
            )
    return tuple(values)


def log_store(table: dict[str, Given], name: str, key: str) -> str:
    """Return the place of a log store, empty if not given. Raises `ConfigError`."""
    given = table.get(key)
    if given is None:
        return ""
    where = f"{name}.{key} ({given.source})"
    place = text(given.value, where)
    try:
        open_store(place)
    except LogStoreError as error:
        raise ConfigError(f"{where}: {error}") from error
    return place


def secret_text(given: Given) -> bytes:
    """Return a cluster secret that was given itself, not as a file. Raises `ConfigError`."""
    secret = text(given.value, f"cluster.secret ({given.source})").strip().encode()
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(f"cluster.secret ({given.source}): {len(secret)} bytes; use at least {SECRET_BYTES_MIN}")
    return secret


def numbers(table: dict[str, Given], name: str) -> dict[str, Any]:
    """Return the numbers of a table that were given, each within its bounds. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    for key, given in table.items():
        where = f"{name}.{key} ({given.source})"
        if key == "retention":
            values["retention_ms"] = _duration(given, where)
            continue
        value = given.value
        if not given.from_file and isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
            value = int(value)
        bounds = NUMBERS[name][key]
        if isinstance(value, bool) or not isinstance(value, int) or not bounds.least <= value <= bounds.most:
            raise ConfigError(f"{where}: {given.value!r} is not a whole number from {bounds.least} to {bounds.most}")
        values[key] = value
    return values


def _duration(given: Given, where: str) -> int:
    try:
        value = parse_duration_ms(given.value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if value < 1000:
        raise ConfigError(f"{where}: {given.value!r} is too short; use at least 1s")
    return value
