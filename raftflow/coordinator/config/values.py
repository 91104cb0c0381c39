"""Values of settings: how they are read, and how a wrong one is reported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raftflow.coordinator.config.hostnames import parse_host
from raftflow.formats.readers.durations import parse_duration_ms
from raftflow.logstore.stores import LogStoreError, open_store

if TYPE_CHECKING:
    from raftflow.settings import DeclaredSetting


class ConfigError(ValueError):
    """The configuration cannot be used. Names the key, where its value came from, and what is expected."""


class GivenValue(NamedTuple):
    """A value and where it came from."""

    value: object
    source: str
    from_file: bool = False

    def where(self, name: str) -> str:
        """Return how an error names the setting and the source."""
        return f"{name} ({self.source})"


def text_of(value: object, where: str) -> str:
    """Return a string that is not empty. Raises `ConfigError`."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise ConfigError(f"{where} must be a string that is not empty")
    return str(value)


def parse_number(declared: DeclaredSetting, given: GivenValue) -> int:
    """Return a whole number within its bounds. Raises `ConfigError`."""
    value = given.value
    if not given.from_file and isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    low, high = declared.minimum, declared.maximum
    if isinstance(value, bool) or not isinstance(value, int) or not _within(value, low, high):
        where = given.where(declared.name)
        raise ConfigError(f"{where}: {given.value!r} is not a whole number from {low} to {high}")
    return value


def _within(value: int, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def parse_path(declared: DeclaredSetting, given: GivenValue, base: Path) -> Path:
    """Return an absolute path; one from the file is relative to the file's folder. Raises `ConfigError`."""
    value = Path(text_of(given.value, given.where(declared.name))).expanduser()
    return (base if given.from_file else Path()).joinpath(value).absolute()


def parse_flag(declared: DeclaredSetting, given: GivenValue) -> bool:
    """Return a truth value. Raises `ConfigError`."""
    if isinstance(given.value, bool):
        return given.value
    if not given.from_file and given.value in {"1", "true", "yes", "0", "false", "no"}:
        return given.value in {"1", "true", "yes"}
    raise ConfigError(f"{given.where(declared.name)}: {given.value!r} is neither true nor false")


def parse_hosts(declared: DeclaredSetting, given: GivenValue) -> tuple[str, ...]:
    """Return host names, each with or without a port; outside the file commas divide them. Raises `ConfigError`."""
    where = given.where(declared.name)
    values: Any = given.value
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


def parse_log_store(declared: DeclaredSetting, given: GivenValue) -> str:
    """Return the place of a log store. Raises `ConfigError`."""
    where = given.where(declared.name)
    place = text_of(given.value, where)
    try:
        open_store(place)
    except LogStoreError as error:
        raise ConfigError(f"{where}: {error}") from error
    return place


def parse_duration(declared: DeclaredSetting, given: GivenValue) -> int:
    """Return a duration of at least a second, in milliseconds. Raises `ConfigError`."""
    where = given.where(declared.name)
    try:
        value = parse_duration_ms(given.value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if value < 1000:
        raise ConfigError(f"{where}: {given.value!r} is too short; use at least 1s")
    return value
