"""Options that many commands share: how to reach the cluster, and in which form to print.

Where the cluster is comes from a flag (`--peers`, or `--data-dir` of a local cluster), else the environment, else
the `[client]` table of the file that `RAFTFLOW_CONFIG` names. The flags may stand before the noun or after the verb.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from raftflow.client import Client

P = ParamSpec("P")
T = TypeVar("T")

_KEYS = ("peers", "token", "token_file", "cacert", "client_cert", "client_key", "request_timeout")


class ConnectionOption(click.Option):
    """An option that many commands have alike: their help names the topic that explains it."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return one line for all of these options."""
        del ctx
        return (
            ("--peers, --data-dir, ...", "Where the cluster is: `raftflow help connecting`.") if self._first else None
        )

    @property
    def _first(self) -> bool:
        return self.name == "peers"


CONNECTION_OPTIONS: tuple[ConnectionOption, ...] = (
    ConnectionOption(
        ["--peers"], metavar="URL,URL,...", help="Coordinator replicas, any of them.  [env: RAFTFLOW_PEERS]"
    ),
    ConnectionOption(
        ["--data-dir", "local_dir"],
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIRECTORY",
        help="Directory of a local cluster, in place of --peers.",
    ),
    ConnectionOption(
        ["--token"],
        metavar="TEXT",
        help="The cluster's token. Others see it in the list of processes: the environment is better.  "
        "[env: RAFTFLOW_TOKEN]",
    ),
    ConnectionOption(
        ["--token-file"],
        metavar="FILE",
        help="A private file (mode 600) with the token.  [env: RAFTFLOW_TOKEN_FILE]",
    ),
    ConnectionOption(
        ["--cacert"], metavar="FILE", help="Authority of the replicas' certificates, PEM.  [env: RAFTFLOW_CACERT]"
    ),
    ConnectionOption(
        ["--client-cert"], metavar="FILE", help="The client's own certificate, PEM.  [env: RAFTFLOW_CLIENT_CERT]"
    ),
    ConnectionOption(["--client-key"], metavar="FILE", help="Its private key, PEM.  [env: RAFTFLOW_CLIENT_KEY]"),
    ConnectionOption(
        ["--request-timeout"],
        metavar="DURATION",
        help="How long a call is retried before it fails (default 30s).  [env: RAFTFLOW_REQUEST_TIMEOUT]",
    ),
)
_NAMES = (*_KEYS, "local_dir")
_LOG_LEVELS = ["debug", "info", "warning", "error"]


class Duration(click.ParamType[float]):
    """A duration such as 40s or 1h30m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        from raftflow.formats.readers.durations import parse_duration_ms  # noqa: PLC0415 - only for commands that use it

        if isinstance(value, float):
            return value
        try:
            return parse_duration_ms(float(value) if str(value).replace(".", "", 1).isdigit() else value) / 1000
        except ValueError as error:
            self.fail(str(error), param, ctx)


def name_values(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    """Turn NAME=VALUE options into a table, as the callback of an option; None without any."""
    pairs: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param=param)
        if name in pairs:
            raise click.BadParameter(f"{name} is given twice", param=param)
        pairs[name] = value
    return pairs or None


class Moment(click.ParamType[int]):
    """A time, or a duration before now; in milliseconds since 1970."""

    name = "duration or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return milliseconds since 1970; a time without a zone is one of this machine's zone."""
        if isinstance(value, int):
            return value
        try:
            seconds = datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            seconds = time.time() - Duration().convert(value, param, ctx)
        return max(int(seconds * 1000), 0)


def connection_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options that say where the cluster is; they are kept in the context and not passed on."""

    @functools.wraps(command)
    def keep(*args: Any, **kwargs: Any) -> T:
        context = click.get_current_context()
        given: dict[str, Any] = context.ensure_object(dict)
        for name in _NAMES:
            value = kwargs.pop(name, None)
            if value is not None:
                given[name] = value
        return command(*args, **kwargs)

    wrapped: Callable[..., T] = keep
    own: list[click.Parameter] = wrapped.__dict__.setdefault("__click_params__", [])
    own.extend(reversed(CONNECTION_OPTIONS))  # as click's own decorators keep them: the last one first
    return wrapped


def output_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add `-o table|json|jsonl`."""
    option: Callable[[Callable[..., T]], Callable[..., T]] = click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "jsonl"]),
        default="table",
        show_default=True,
        help="For people, or for programs; jsonl is one JSON value per line.",
    )
    return option(command)


def config_option(about: str, *, required: bool = False) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Add `--config FILE`, the TOML file of one process of the cluster; `about` says of which."""
    option: Callable[[Callable[..., T]], Callable[..., T]] = click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        envvar="RAFTFLOW_CONFIG",
        required=required,
        help=f"{about}  [env: RAFTFLOW_CONFIG]",
    )
    return option


def log_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add `--log-level`."""
    option: Callable[[Callable[..., T]], Callable[..., T]] = click.option(
        "--log-level",
        type=click.Choice(_LOG_LEVELS),
        default="info",
        show_default=True,
        help="The least weight of what is logged, to standard error.",
    )
    return option(command)


def given_flags() -> dict[str, Any]:
    """Return the connection flags of this command line."""
    flags: dict[str, Any] = click.get_current_context().ensure_object(dict)
    return flags


def connect(code: Path | None = None) -> Client:
    """Return a client for the cluster that flags, environment or file name. Raises `click.UsageError`.

    `code` is a folder whose code goes with what is submitted.
    """
    from raftflow.client import Client  # noqa: PLC0415 - heavy
    from raftflow.client.http.leader_cache import default_folder  # noqa: PLC0415

    settings = resolve(given_flags(), os.environ)
    timeout_s = settings.pop("request_timeout", None)
    # All that there is to find was found: the client looks nowhere else.
    return Client(timeout_s=timeout_s, environ={}, cache_folder=default_folder(os.environ), code=code, **settings)


def resolve(flags: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Merge flag over environment over file; `peers` is always there, as a list. Raises `click.UsageError`."""
    from raftflow.client import UsageError, settings  # noqa: PLC0415 - heavy

    if flags.get("peers") is not None and flags.get("local_dir") is not None:
        raise click.UsageError("give --peers or --data-dir, not both")
    local = {} if flags.get("local_dir") is None else local_settings(flags["local_dir"])
    if flags.get("token") is not None or flags.get("token_file") is not None:
        local.pop("token", None)
    given = local | {key: flags[key] for key in _KEYS if flags.get(key) is not None}
    try:
        found = settings.resolve(given, environment)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    if local and local.get("token", "") is None:
        found.pop("token_file", None)
        found["token"] = None  # the environment's is for another cluster
    if "token_file" in found:
        found.pop("token", None)  # the client reads it from there, also when it changes
    if not found.get("peers"):
        raise click.UsageError(
            "where is the cluster? Give --peers URL,URL,URL (or set RAFTFLOW_PEERS), or --data-dir of a local cluster"
        )
    return found


def local_settings(directory: Path) -> dict[str, Any]:
    """Return peers and token (None without one) of a local cluster. Raises `click.UsageError`."""
    from raftflow.local.cluster import LocalCluster  # noqa: PLC0415 - heavy
    from raftflow.local.cluster_file import LocalClusterError  # noqa: PLC0415 - heavy

    try:
        local = LocalCluster.load(directory)
    except LocalClusterError as error:
        raise click.UsageError(str(error)) from error
    return {"peers": local.urls, "token": local.token}
