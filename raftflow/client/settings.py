"""How a client finds its cluster: arguments of the caller, then the environment, then a file.

The command line and programs use the same function. Each setting is looked up on its own: a program may give `peers`
and take the token from `RAFTFLOW_TOKEN`. The file is the one that `RAFTFLOW_CONFIG` names, and its table `[client]`
is read.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from raftflow.client.errors import UsageError
from raftflow.formats.readers.durations import parse_duration_ms
from raftflow.private_files import PrivateFileError, check_private, read_token

T = TypeVar("T")

KEYS: Final = ("peers", "token", "token_file", "cacert", "client_cert", "client_key", "request_timeout")
ENVIRONMENT: Final = {key: f"RAFTFLOW_{key.upper()}" for key in KEYS}
_FILES: Final = ("token_file", "cacert", "client_cert", "client_key")
TIMEOUT_S: Final = 30.0
"""Default of `request_timeout`."""


def resolve(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Merge settings: arguments win over the environment, and the environment over the file. None means "not given".

    `peers` becomes a list, and is missing if none are given. `request_timeout` is in seconds. An empty variable
    counts as not given. Raises `UsageError`.
    """
    settings: dict[str, Any] = {}
    for layer in (
        _from_file(environ.get("RAFTFLOW_CONFIG")),
        {key: environ[name] for key, name in ENVIRONMENT.items() if environ.get(name)},
        {key: given[key] for key in KEYS if given.get(key) is not None},
    ):
        if {"token", "token_file"} <= layer.keys():
            raise UsageError("a token and a token file are given in the same place: give one of them")
        if layer.keys() & {"token", "token_file"}:
            settings = {key: value for key, value in settings.items() if key not in {"token", "token_file"}}
        settings |= layer
    if "token_file" in settings:
        # A client reads it again when it changes, wherever its program has gone meanwhile.
        settings["token_file"] = str(Path(settings["token_file"]).absolute())
        settings["token"] = _checked(read_token, settings["token_file"])
    peers = settings.get("peers")
    if isinstance(peers, str):
        peers = peers.split(",")
    if peers is not None:
        settings["peers"] = [peer.strip() if isinstance(peer, str) else peer for peer in peers]
        settings["peers"] = [peer for peer in settings["peers"] if peer]
    if "request_timeout" in settings:
        settings["request_timeout"] = _seconds(settings["request_timeout"])
    return settings


def _checked(function: Callable[..., T], *args: Any) -> T:
    try:
        return function(*args)
    except PrivateFileError as error:
        raise UsageError(str(error)) from error


def _seconds(value: Any) -> float:
    """Return a time-out in seconds. A string may have units (`2s`); without a unit it is in seconds."""
    try:
        if isinstance(value, str):
            plain = value.strip().replace(".", "", 1)
            number = float(value) if plain.isascii() and plain.isdigit() else None
            value = parse_duration_ms(value) / 1000 if number is None else number
        seconds = float(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"the request time-out is not a duration such as 2s: {error}") from error
    if not 0 < seconds < math.inf:
        raise UsageError("the request time-out must be above 0")
    return seconds


def _from_file(name: str | None) -> dict[str, Any]:
    """Return the `[client]` table of a configuration file. Other tables are for other programs."""
    if not name:
        return {}
    try:
        with Path(name).open("rb") as file:
            table = tomllib.load(file).get("client", {})
    except (OSError, ValueError) as error:
        # A file that is not TOML or not UTF-8 raises a ValueError.
        if isinstance(error, OSError):
            raise UsageError(f"RAFTFLOW_CONFIG names {name}, which cannot be read: {error.strerror}") from error
        raise UsageError(f"{name} (RAFTFLOW_CONFIG) is not TOML: {error}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{name}: [client] must be a table")
    for key, value in table.items():
        if key not in KEYS:
            raise UsageError(f"{name}: unknown key client.{key}; known: {', '.join(KEYS)}")
        texts = value if key == "peers" and isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{name}: client.{key} must be a string{' or a list' if key == 'peers' else ''}")
    if "token" in table:
        _checked(check_private, name, "configuration file with a token")
    base = Path(name).absolute().parent
    return {**table, **{key: str(base / table[key]) for key in _FILES if key in table}}
