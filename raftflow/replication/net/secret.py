"""Reading the cluster's secret from a file or an environment variable.

A file may have two secrets, one a line, while one replaces the other: the first is used, both are accepted.
"""

from __future__ import annotations

import os
from pathlib import Path

from raftflow.private_files import SECRET_BYTES_MAX, SECRETS_MAX, PrivateFileError, read_private, split_secrets
from raftflow.replication.net.handshake import SECRET_BYTES_MIN


class SecretError(ValueError):
    """The secret cannot be used. The message says what to do."""


def load_secret(source: str | os.PathLike[str]) -> bytes:
    """Return the first secret of a source; see `load_secrets`."""
    return load_secrets(source)[0]


def load_secrets(source: str | os.PathLike[str]) -> tuple[bytes, ...]:
    """Return the secrets from a file, or with `env:NAME` from that environment variable.

    White space around it is stripped. A file must be private: see `raftflow.private_files`. Raises `SecretError`.
    """
    text = os.fspath(source)
    if text.startswith("env:"):
        name = text.removeprefix("env:")
        value = os.environ.get(name)
        if value is None:
            raise SecretError(f"the environment variable {name} with the cluster's secret is not set")
        return _checked(value.encode(), f"the environment variable {name}")
    return _checked(_read(Path(text)), f"the file {text}")


def _read(path: Path) -> bytes:
    how = (
        f"make one with: (umask 077; head -c 32 /dev/urandom | base64 > {path}) and copy it to every replica; if the "
        "cluster has one already, copy that"
    )
    try:
        return read_private(path, "secret file", how_to_make=how)
    except PrivateFileError as error:
        raise SecretError(str(error)) from error


def _checked(raw: bytes, where: str) -> tuple[bytes, ...]:
    secrets = tuple(split_secrets(raw))
    if len(raw) > SECRET_BYTES_MAX:
        raise SecretError(f"the secret in {where} is longer than {SECRET_BYTES_MAX} bytes")
    if len(secrets) > SECRETS_MAX:
        raise SecretError(f"{where} has {len(secrets)} lines, and {SECRETS_MAX} secrets are the most, one a line")
    if not secrets:
        raise SecretError(f"the secret in {where} has 0 bytes; use at least {SECRET_BYTES_MIN}")
    for secret in secrets:
        if len(secret) < SECRET_BYTES_MIN:
            raise SecretError(f"the secret in {where} has {len(secret)} bytes; use at least {SECRET_BYTES_MIN}")
    return secrets
