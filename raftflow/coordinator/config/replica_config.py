"""The configuration of one replica: a TOML file, environment variables over it, command line flags over both.

Every setting but the member list can be given in the environment as `RAFTFLOW_<TABLE>_<KEY>`
(`RAFTFLOW_TIMING_LEASE_MS=5000`) and as a flag `<table>.<key>`. Paths are relative to the configuration file, those
in the environment and in flags to the working directory. Unknown keys are refused, so that a typing error cannot
pass for a setting.
"""

from __future__ import annotations

import ipaddress
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from raftflow.coordinator.audit import audit_file
from raftflow.coordinator.config import settings
from raftflow.coordinator.config.settings import ConfigError, Given
from raftflow.domain.values.ids import name_problem
from raftflow.private_files import PrivateFileError, check_private, read_token
from raftflow.replication.net.secret import SecretError, load_secret

MEMBERS_MAX = 9
_log = logging.getLogger("raftflow.coordinator.config")

_ENV_PREFIX = "RAFTFLOW_"
_VARIABLE = "environment variable "
_ENV_SHORT = {
    "RAFTFLOW_TOKEN": ("replica", "token"),
    "RAFTFLOW_TOKEN_FILE": ("replica", "token_file"),
    "RAFTFLOW_CLUSTER_SECRET": ("cluster", "secret"),
}
_PAIRS = {"secret": "secret_file", "secret_file": "secret", "token": "token_file", "token_file": "token"}
"""Keys of which the one takes the place of the other."""
TOKEN_CHARS_MIN = 16


class Address(NamedTuple):
    """Where to listen or connect."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `host:port`, with an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class MemberConfig(msgspec.Struct, frozen=True):
    """One replica of the cluster."""

    name: str
    peer: Address
    """Where the other replicas reach it."""
    url: str
    """Where clients and agents reach it, without a trailing slash."""


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates. A door without them speaks plain TCP."""

    api_cert: Path | None = None
    api_key: Path | None = None
    api_ca: Path | None = None
    """Authority that signed the replicas' API certificates, for requests that one replica passes to another."""
    peer_cert: Path | None = None
    peer_key: Path | None = None
    peer_ca: Path | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in milliseconds."""

    election_min_ms: int = 300
    election_max_ms: int = 600
    heartbeat_ms: int = 49
    lease_ms: int = 10_000
    """An agent that was silent for so long stops its attempts; the leader gives it 10 % more."""
    poll_wait_ms: int = 3_000
    """How long an idle poll is held; by default the lesser of 3 s and a third of the lease."""
    submit_timeout_ms: int = 5_000
    """After this a write whose entry has not been applied is answered with `outcome-unknown`."""
    read_timeout_ms: int = 2_000
    shutdown_ms: int = 10_000
    """Longest graceful stop."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one replica."""

    body_bytes: int = 16 * 1024 * 1024
    poll_bytes: int = 1024 * 1024
    submissions_in_flight: int = 10_000
    held_polls: int = 40_000
    connections: int = 50_000
    retention_ms: int = 7 * 24 * 3600 * 1000
    """How long finished workflows are kept, if there are not too many."""
    kept_workflows: int = 50_000
    """Finished workflows that are kept at most; the oldest are forgotten first. The same holds for their tasks."""
    kept_tasks: int = 250_000
    kept_result_bytes: int = 2 * 1024 * 1024 * 1024
    """The same of the results of their tasks."""
    snapshot_entries: int = 20_000
    snapshot_bytes: int = 64 * 1024 * 1024
    audit_bytes: int = audit_file.BYTES_MAX
    """The oldest part of the audit file beyond this is dropped."""


class CoordinatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one replica needs to know."""

    cluster_id: str
    secret: bytes
    members: tuple[MemberConfig, ...]
    name: str
    data_dir: Path
    bind: Address
    peer_bind: Address
    token: str | None = None
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    """Names, with or without a port, under which clients may ask this replica beside its addresses and the members'
    URLs. Looked at without a token, and with one if there are any."""
    log_store: str = ""
    """Where agents keep output as well: a path, file:///path or s3://bucket/prefix. What an agent does not have any
    more is read from there."""
    join: bool = False
    """True for a replica that starts on an empty disk to join a cluster; later starts do not look at it."""
    bootstrap: bool = False
    """`--bootstrap`: the operator says that the members which cannot be reached never had data."""
    tls: Tls = Tls()
    timing: Timing = Timing()
    limits: Limits = Limits()

    @property
    def member(self) -> MemberConfig:
        """This replica's entry in the member list."""
        return next(member for member in self.members if member.name == self.name)

    def url_of(self, name: str | None) -> str | None:
        """Return where clients reach a member, or None if there is no such member."""
        return next((member.url for member in self.members if member.name == name), None)

    def __repr__(self) -> str:
        """Show neither the secret nor the token."""
        return (
            f"CoordinatorConfig(cluster_id={self.cluster_id!r}, name={self.name!r}, data_dir={str(self.data_dir)!r})"
        )


def load_config(
    path: Path | None, *, environ: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> CoordinatorConfig:
    """Read a replica's configuration. Raises `ConfigError`, which names the key and where its value came from.

    Args:
        path: the TOML file; None if everything but the members could be given elsewhere (which is refused).
        environ: environment variables; those that raftflow does not know are left alone.
        flags: `<table>.<key>` to value; None values count as not given.
    """
    tables, members = _read_file(path)
    _overlay_environment(tables, environ)
    _overlay_flags(tables, flags or {})
    base = Path() if path is None else path.absolute().parent
    return _build(tables, _read_members(members, path), base)


def _read_file(path: Path | None) -> tuple[dict[str, dict[str, Given]], object]:
    tables: dict[str, dict[str, Given]] = {table: {} for table in settings.TABLES}
    if path is None:
        return tables, None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from error
    members = None
    for table, content in document.items():
        if table not in tables or not isinstance(content, dict):
            known = ", ".join(f"[{name}]" for name in settings.TABLES)
            raise ConfigError(f"{path}: unknown key {table!r} at the top; there are the tables {known}")
        for key, value in content.items():
            if (table, key) == ("cluster", "members"):
                members = value
            else:
                settings.known(table, key, str(path))
                tables[table][key] = Given(value, str(path), from_file=True)
    return tables, members


def _overlay_environment(tables: dict[str, dict[str, Given]], environ: Mapping[str, str]) -> None:
    if environ.get("RAFTFLOW_TOKEN") and environ.get("RAFTFLOW_TOKEN_FILE"):
        raise ConfigError("RAFTFLOW_TOKEN and RAFTFLOW_TOKEN_FILE are both set: set one of them")
    for variable, value in environ.items():
        if not variable.startswith(_ENV_PREFIX):
            continue
        place = _ENV_SHORT.get(variable)
        if place is None:
            table, _, key = variable.removeprefix(_ENV_PREFIX).lower().partition("_")
            # Other programs of the system read other variables (RAFTFLOW_PEERS), so an unknown name is not refused
            # unless it is about one of our tables, where it would be a typing error.
            if table not in settings.TABLES or not key:
                continue
            settings.known(table, key, f"environment variable {variable}")
            place = (table, key)
        _replace(tables, place, Given(value, f"{_VARIABLE}{variable}"))


def _overlay_flags(tables: dict[str, dict[str, Given]], flags: Mapping[str, object]) -> None:
    for flag, value in flags.items():
        if value is None:
            continue
        table, _, key = flag.partition(".")
        settings.known(table, key, f"flag {flag}")
        _replace(tables, (table, key), Given(value, f"flag {flag}"))


def _replace(tables: dict[str, dict[str, Given]], place: tuple[str, str], given: Given) -> None:
    """Put a value over whatever the layers below said, also when they said it by the other of a pair of keys."""
    table, key = place
    others = [each for each in (key, _PAIRS.get(key)) if each is not None and each in tables[table]]
    for each in others:
        old = tables[table].pop(each)
        if old.from_file and given.source.startswith(_VARIABLE) and (each != key or old.value != given.value):
            _log.warning("%s takes the place of %s.%s in %s", given.source, table, each, old.source)
    tables[table][key] = given


def _read_members(value: object, path: Path | None) -> tuple[MemberConfig, ...]:
    source = "the configuration file" if path is None else str(path)
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{source}: [[cluster.members]] is missing: list every replica with name, peer and url")
    if len(value) > MEMBERS_MAX:
        raise ConfigError(f"{source}: {len(value)} members in [[cluster.members]], the limit is {MEMBERS_MAX}")
    members: list[MemberConfig] = []
    for number, entry in enumerate(value):
        where = f"{source}: cluster.members[{number}]"
        if not isinstance(entry, dict) or set(entry) != {"name", "peer", "url"}:
            raise ConfigError(f"{where} must have exactly the keys name, peer and url")
        name = settings.text(entry["name"], f"{where}.name")
        if wrong := name_problem(name):
            raise ConfigError(f"{where}.name {name!r} {wrong}")
        if any(name == member.name for member in members):
            raise ConfigError(f"{where}.name {name!r} is listed twice")
        peer = parse_address(settings.text(entry["peer"], f"{where}.peer"), f"{where}.peer")
        members.append(
            MemberConfig(name, peer, parse_url(settings.text(entry["url"], f"{where}.url"), f"{where}.url"))
        )
    return tuple(members)


def parse_url(text: str, where: str) -> str:
    """Read the URL of a replica, and drop a slash at its end. Raises `ConfigError`."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and not (parts.path.strip("/") or parts.query)
        good = good and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{where} {text!r} is not a URL such as http://10.0.0.1:7001")
    return text.rstrip("/")


def parse_address(text: str, where: str) -> Address:
    """Read `host:port`, with an IPv6 host in brackets. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{where} {text!r} is not an address such as 10.0.0.1:7101")
    return Address(host, int(port))


def _build(tables: dict[str, dict[str, Given]], members: tuple[MemberConfig, ...], base: Path) -> CoordinatorConfig:
    cluster, replica = tables["cluster"], tables["replica"]
    cluster_id = settings.required(cluster, "cluster", "id")
    if wrong := name_problem(cluster_id):
        raise ConfigError(f"cluster.id ({cluster['id'].source}): {cluster_id!r} {wrong}")
    name = settings.required(replica, "replica", "name")
    member = next((member for member in members if member.name == name), None)
    if member is None:
        names = ", ".join(member.name for member in members)
        raise ConfigError(f"replica.name ({replica['name'].source}): {name!r} is not a member; members are {names}")
    parts = urlsplit(member.url)
    url_port = parts.port or (443 if parts.scheme == "https" else 80)
    tls = _build_tls(tables["tls"], base, parts.scheme)
    config = CoordinatorConfig(
        cluster_id=cluster_id,
        secret=_read_secret(cluster, base),
        members=members,
        name=name,
        data_dir=settings.path(replica, "replica", "data_dir", base),
        bind=_bind(replica, "bind", Address(parts.hostname or "", url_port)),
        peer_bind=_bind(replica, "peer_bind", member.peer),
        token=_read_token(replica, base),
        insecure=settings.flag(replica, "replica", "insecure"),
        hosts=settings.hosts(replica, "replica", "hosts"),
        log_store=settings.log_store(replica, "replica", "log_store"),
        join=settings.flag(replica, "replica", "join"),
        tls=tls,
        timing=_build_timing(tables["timing"]),
        limits=Limits(**settings.numbers(tables["limits"], "limits")),
    )
    if not config.bind.is_loopback and config.token is None and not config.insecure:
        raise ConfigError(
            f"replica.bind: {config.bind.host} can be reached from other machines. A client that reaches it can "
            f"run commands on every agent. Set a token (replica.token_file, or RAFTFLOW_TOKEN), or give --insecure."
        )
    return config


def _bind(replica: dict[str, Given], key: str, default: Address) -> Address:
    given = replica.get(key)
    if given is None:
        return default
    where = f"replica.{key} ({given.source})"
    return parse_address(settings.text(given.value, where), where)


def _build_timing(table: dict[str, Given]) -> Timing:
    values = settings.numbers(table, "timing")
    if "poll_wait_ms" not in values:
        values["poll_wait_ms"] = min(Timing().poll_wait_ms, values.get("lease_ms", Timing().lease_ms) // 3)
    timing = Timing(**values)
    if timing.election_min_ms >= timing.election_max_ms:
        raise ConfigError("timing.election_max_ms must be greater than timing.election_min_ms")
    if 3 * timing.heartbeat_ms >= timing.election_min_ms:
        raise ConfigError("timing.election_min_ms must be more than three times timing.heartbeat_ms")
    if 2 * timing.poll_wait_ms > timing.lease_ms:
        raise ConfigError("timing.poll_wait_ms must be at most half of timing.lease_ms, or agents lose their leases")
    return timing


def _build_tls(table: dict[str, Given], base: Path, scheme: str) -> Tls:
    paths: dict[str, Any] = {key: settings.path(table, "tls", key, base) for key in table}
    tls = Tls(**paths)
    if (tls.api_cert is None) != (tls.api_key is None):
        raise ConfigError("tls.api_cert and tls.api_key must be given together")
    if (tls.api_cert is not None) != (scheme == "https"):
        raise ConfigError("this replica's url must begin with https:// exactly if tls.api_cert is given")
    peer = (tls.peer_cert, tls.peer_key, tls.peer_ca)
    if any(peer) and not all(peer):
        raise ConfigError("tls.peer_cert, tls.peer_key and tls.peer_ca must be given together")
    for key in ("api_key", "peer_key"):
        if key in table:
            try:
                check_private(paths[key], "key file")
            except PrivateFileError as error:
                raise ConfigError(f"tls.{key} ({table[key].source}): {error}") from error
    return tls


def _read_secret(cluster: dict[str, Given], base: Path) -> bytes:
    given = cluster.get("secret")
    try:
        if given is None:
            if "secret_file" not in cluster:
                raise ConfigError("cluster.secret_file is missing; give it, or set RAFTFLOW_CLUSTER_SECRET")
            return load_secret(settings.path(cluster, "cluster", "secret_file", base))
        if given.from_file:
            raise ConfigError(f"cluster.secret ({given.source}): keep the secret out of the file; use secret_file")
        return settings.secret_text(given)
    except SecretError as error:
        raise ConfigError(f"cluster.secret_file ({cluster['secret_file'].source}): {error}") from error


def _read_token(replica: dict[str, Given], base: Path) -> str | None:
    given = replica.get("token")
    if given is not None:
        if given.from_file:
            raise ConfigError(f"replica.token ({given.source}): keep the token out of the file; use token_file")
        source, token = f"replica.token ({given.source})", settings.text(given.value, "replica.token").strip()
    elif "token_file" in replica:
        file = settings.path(replica, "replica", "token_file", base)
        source = f"replica.token_file ({replica['token_file'].source})"
        try:
            token = read_token(file)
        except PrivateFileError as error:
            raise ConfigError(f"{source}: {error}") from error
    else:
        return None
    if len(token) < TOKEN_CHARS_MIN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{source}: a token has at least {TOKEN_CHARS_MIN} printable ASCII characters, no spaces")
    return token
