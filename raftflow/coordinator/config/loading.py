"""Reading a replica's configuration: a TOML file, environment variables over it, command line flags over both.

Every setting but the member list can be given in the environment as `RAFTFLOW_<TABLE>_<KEY>`
(`RAFTFLOW_TIMING_LEASE_MS=5000`) and as a flag `<table>.<key>`. Paths are relative to the configuration file, those
in the environment and in flags to the working directory. Unknown keys are refused, so that a typing error cannot
pass for a setting.
"""

from __future__ import annotations

import difflib
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from raftflow.coordinator.config.addresses import Address, parse_address, parse_url
from raftflow.coordinator.config.replica_config import (
    SECTIONS,
    CoordinatorConfig,
    Limits,
    MemberConfig,
    SavedSnapshots,
    Timing,
    Tls,
)
from raftflow.coordinator.config.values import (
    ConfigError,
    GivenValue,
    parse_duration,
    parse_flag,
    parse_hosts,
    parse_log_store,
    parse_number,
    parse_path,
    text_of,
)
from raftflow.domain.values.ids import name_problem
from raftflow.private_files import PrivateFileError, check_private, read_tokens
from raftflow.replication.net.handshake import SECRET_BYTES_MIN
from raftflow.replication.net.secret import SecretError, load_secrets

MEMBERS_MAX = 9
TOKEN_CHARS_MIN = 16
_log = logging.getLogger("raftflow.coordinator.config")

_ENV_PREFIX = "RAFTFLOW_"
_VARIABLE = "environment variable "
_ENV_SHORT = {
    declared.variable: (section, key)
    for section, settings in SECTIONS.items()
    for key, declared in settings.items()
    if declared.variable
}
_PAIRS = {"secret": "secret_file", "secret_file": "secret", "token": "token_file", "token_file": "token"}
"""Keys of which the one takes the place of the other."""
_PRIVATE_FILES = (("cluster", "secret_file"), ("replica", "token_file"), ("tls", "api_key"), ("tls", "peer_key"))

Given = dict[str, dict[str, GivenValue]]
"""The values that were given, by section and key."""


def load_config(
    path: Path | None, *, environ: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> CoordinatorConfig:
    """Read a replica's configuration. Raises `ConfigError`, which names the key and where its value came from.

    Args:
        path: the TOML file; None if everything but the members could be given elsewhere (which is refused).
        environ: environment variables; those that raftflow does not know are left alone.
        flags: `<table>.<key>` to value; None values count as not given.
    """
    given, members = _read_file(path)
    _overlay_environment(given, environ)
    _overlay_flags(given, flags or {})
    base = Path() if path is None else path.absolute().parent
    config = _build_config(given, _read_members(members, path), base)
    return msgspec.structs.replace(
        config, file=None if path is None else path.absolute(), private_files=_private_files(given, base)
    )


# --- layers


def _read_file(path: Path | None) -> tuple[Given, object]:
    given: Given = {section: {} for section in SECTIONS}
    if path is None:
        return given, None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from error
    members = None
    for section, content in document.items():
        if section not in given or not isinstance(content, dict):
            known = ", ".join(f"[{name}]" for name in SECTIONS)
            raise ConfigError(f"{path}: unknown key {section!r} at the top; the tables are {known}")
        for key, value in content.items():
            if (section, key) == ("cluster", "members"):
                members = value
            else:
                _check_key(section, key, str(path))
                given[section][key] = GivenValue(value, str(path), from_file=True)
    return given, members


def _overlay_environment(given: Given, environ: Mapping[str, str]) -> None:
    if environ.get("RAFTFLOW_TOKEN") and environ.get("RAFTFLOW_TOKEN_FILE"):
        raise ConfigError("RAFTFLOW_TOKEN and RAFTFLOW_TOKEN_FILE are both set: set one of them")
    for variable, value in environ.items():
        if not variable.startswith(_ENV_PREFIX):
            continue
        place = _ENV_SHORT.get(variable)
        if place is None:
            section, _, key = variable.removeprefix(_ENV_PREFIX).lower().partition("_")
            # Other programs of raftflow read other variables (RAFTFLOW_PEERS). So an unknown name is refused only if
            # it is about one of these sections: there it is a typing error.
            if section not in SECTIONS or not key:
                continue
            _check_key(section, key, f"environment variable {variable}")
            place = (section, key)
        _replace_value(given, place, GivenValue(value, f"{_VARIABLE}{variable}"))


def _overlay_flags(given: Given, flags: Mapping[str, object]) -> None:
    for flag, value in flags.items():
        if value is None:
            continue
        section, _, key = flag.partition(".")
        _check_key(section, key, f"flag {flag}")
        _replace_value(given, (section, key), GivenValue(value, f"flag {flag}"))


def _check_key(section: str, key: str, source: str) -> None:
    """Raise `ConfigError` unless a setting exists."""
    keys = SECTIONS.get(section, {})
    if key in keys:
        return
    close = difflib.get_close_matches(key, sorted(keys), 1)
    hint = f"; did you mean {section}.{close[0]}?" if close else ""
    raise ConfigError(f"{source}: unknown key {section}.{key}{hint}")


def _replace_value(given: Given, place: tuple[str, str], value: GivenValue) -> None:
    """Let a value replace that of the layers below, also if they use the other key of a pair."""
    section, key = place
    others = [each for each in (key, _PAIRS.get(key)) if each is not None and each in given[section]]
    for each in others:
        old = given[section].pop(each)
        if old.from_file and value.source.startswith(_VARIABLE) and (each != key or old.value != value.value):
            _log.warning("%s takes the place of %s.%s in %s", value.source, section, each, old.source)
    given[section][key] = value


# --- values


def _parse_section(section: str, given: Given, base: Path) -> dict[str, Any]:
    """Return the values that were given for a section, by the fields of its struct. Raises `ConfigError`."""
    parsed: dict[str, Any] = {}
    for key, value in given[section].items():
        declared = SECTIONS[section][key]
        if declared.kind == "duration":
            parsed[declared.field] = parse_duration(declared, value)
        elif declared.kind == "log store":
            parsed[declared.field] = parse_log_store(declared, value)
        elif declared.type is int:
            parsed[declared.field] = parse_number(declared, value)
        elif declared.type is bool:
            parsed[declared.field] = parse_flag(declared, value)
        elif declared.type is Path:
            parsed[declared.field] = parse_path(declared, value, base)
        elif declared.type is Address:
            where = value.where(declared.name)
            parsed[declared.field] = parse_address(text_of(value.value, where), where)
        elif declared.type is str:
            parsed[declared.field] = text_of(value.value, value.where(declared.name))
        else:
            parsed[declared.field] = parse_hosts(declared, value)
    return parsed


def _private_files(given: Given, base: Path) -> tuple[tuple[str, Path], ...]:
    """Return the files with keys, tokens and secrets, by setting."""
    return tuple(
        (f"{section}.{key}", parse_path(SECTIONS[section][key], given[section][key], base))
        for section, key in _PRIVATE_FILES
        if key in given[section]
    )


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
        name = text_of(entry["name"], f"{where}.name")
        if wrong := name_problem(name):
            raise ConfigError(f"{where}.name {name!r} {wrong}")
        if any(name == member.name for member in members):
            raise ConfigError(f"{where}.name {name!r} is listed twice")
        peer = parse_address(text_of(entry["peer"], f"{where}.peer"), f"{where}.peer")
        members.append(MemberConfig(name, peer, parse_url(text_of(entry["url"], f"{where}.url"), f"{where}.url")))
    return tuple(members)


def _build_config(given: Given, members: tuple[MemberConfig, ...], base: Path) -> CoordinatorConfig:
    for section, key in (("cluster", "id"), ("replica", "name"), ("replica", "data_dir")):
        if key not in given[section]:
            raise ConfigError(f"{section}.{key} is missing")
    cluster, replica = (_parse_section(section, given, base) for section in ("cluster", "replica"))
    if wrong := name_problem(cluster["id"]):
        raise ConfigError(f"{given['cluster']['id'].where('cluster.id')}: {cluster['id']!r} {wrong}")
    name = replica["name"]
    member = next((member for member in members if member.name == name), None)
    if member is None:
        names = ", ".join(member.name for member in members)
        where = given["replica"]["name"].where("replica.name")
        raise ConfigError(f"{where}: {name!r} is not a member; the members are {names}")
    parts = urlsplit(member.url)
    url_port = parts.port or (443 if parts.scheme == "https" else 80)
    secret, *other_secrets = _read_secrets(given, cluster.get("secret_file"))
    tokens = _read_tokens(given, replica.get("token_file"))
    config = CoordinatorConfig(
        cluster_id=cluster["id"],
        secret=secret,
        other_secrets=tuple(other_secrets),
        members=members,
        name=name,
        data_dir=replica["data_dir"],
        bind=replica.get("bind", Address(parts.hostname or "", url_port)),
        peer_bind=replica.get("peer_bind", member.peer),
        token=tokens[0] if tokens else None,
        other_tokens=tokens[1:],
        insecure=replica.get("insecure", False),
        hosts=replica.get("hosts", ()),
        log_store=replica.get("log_store", ""),
        join=replica.get("join", False),
        tls=_build_tls(given, base, parts.scheme),
        timing=_build_timing(_parse_section("timing", given, base)),
        limits=Limits(**_parse_section("limits", given, base)),
        snapshot=_build_snapshot(_parse_section("snapshot", given, base)),
    )
    is_open = config.token is None and config.tls.api_client_ca is None
    if is_open and not config.bind.is_loopback and not config.insecure:
        raise ConfigError(
            f"replica.bind: {config.bind.host} can be reached from other machines. A client that reaches it can "
            "run commands on every agent. Set a token (replica.token_file, or RAFTFLOW_TOKEN) or tls.api_client_ca, "
            "or give --insecure."
        )
    return config


def _build_snapshot(values: dict[str, Any]) -> SavedSnapshots:
    snapshot = SavedSnapshots(**values)
    if snapshot.every_ms and snapshot.directory is None:
        raise ConfigError("snapshot.dir is missing: the folder in which a snapshot is saved every snapshot.every")
    return snapshot


def _build_timing(values: dict[str, Any]) -> Timing:
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


def _build_tls(given: Given, base: Path, scheme: str) -> Tls:
    paths = _parse_section("tls", given, base)
    tls = Tls(**paths)
    if (tls.api_cert is None) != (tls.api_key is None):
        raise ConfigError("tls.api_cert and tls.api_key must be given together")
    if (tls.api_cert is not None) != (scheme == "https"):
        raise ConfigError("this replica's url must begin with https:// exactly if tls.api_cert is given")
    if tls.api_client_ca is not None and tls.api_cert is None:
        raise ConfigError(
            "tls.api_client_ca needs tls.api_cert and tls.api_key: clients show certificates over TLS alone"
        )
    if tls.crl is not None and tls.api_client_ca is None and tls.peer_ca is None:
        raise ConfigError("tls.crl needs tls.api_client_ca or tls.peer_ca: no certificate is looked at without them")
    peer = (tls.peer_cert, tls.peer_key, tls.peer_ca)
    if any(peer) and not all(peer):
        raise ConfigError("tls.peer_cert, tls.peer_key and tls.peer_ca must be given together")
    for key in ("api_key", "peer_key"):
        if key in paths:
            try:
                check_private(paths[key], "key file")
            except PrivateFileError as error:
                raise ConfigError(f"{given['tls'][key].where(f'tls.{key}')}: {error}") from error
    return tls


def _read_secrets(given: Given, file: Path | None) -> tuple[bytes, ...]:
    value = given["cluster"].get("secret")
    if value is not None:
        where = value.where("cluster.secret")
        if value.from_file:
            raise ConfigError(f"{where}: keep the secret out of the file; use secret_file")
        secret = text_of(value.value, where).strip().encode()
        if len(secret) < SECRET_BYTES_MIN:
            raise ConfigError(f"{where}: {len(secret)} bytes; use at least {SECRET_BYTES_MIN}")
        return (secret,)
    if file is None:
        raise ConfigError("cluster.secret_file is missing; give it, or set RAFTFLOW_CLUSTER_SECRET")
    return secrets_in(file, given["cluster"]["secret_file"].where("cluster.secret_file"))


def secrets_in(file: Path, where: str = "cluster.secret_file") -> tuple[bytes, ...]:
    """Return the secrets in a file. Raises `ConfigError`."""
    try:
        return load_secrets(file)
    except SecretError as error:
        raise ConfigError(f"{where}: {error}") from error


def _read_tokens(given: Given, file: Path | None) -> tuple[str, ...]:
    value = given["replica"].get("token")
    if value is not None:
        where = value.where("replica.token")
        if value.from_file:
            raise ConfigError(f"{where}: keep the token out of the file; use token_file")
        return _checked_tokens((text_of(value.value, where).strip(),), where)
    if file is not None:
        return tokens_in(file, given["replica"]["token_file"].where("replica.token_file"))
    return ()


def tokens_in(file: Path, where: str = "replica.token_file") -> tuple[str, ...]:
    """Return the tokens in a file. Raises `ConfigError`."""
    try:
        return _checked_tokens(read_tokens(file), where)
    except PrivateFileError as error:
        raise ConfigError(f"{where}: {error}") from error


def _checked_tokens(tokens: tuple[str, ...], where: str) -> tuple[str, ...]:
    for token in tokens:
        if len(token) < TOKEN_CHARS_MIN or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"{where}: a token has at least {TOKEN_CHARS_MIN} printable ASCII characters, no spaces"
            )
    return tokens
