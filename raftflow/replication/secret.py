"""Reading the cluster's secret from a file or an environment variable."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from raftflow.replication.handshake import SECRET_BYTES_MIN

_SECRET_BYTES_MAX = 4096


class SecretError(ValueError):
    """The secret cannot be used. Says what to do."""


def load_secret(source: str | os.PathLike[str]) -> bytes:
    """Return the secret from a file, or with `env:NAME` from that environment variable.

    White space around it is stripped. A file may be readable by its owner and group only, never by the world.
    Raises `SecretError`.
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
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SecretError(f"the secret file {path} is not a regular file")
            if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise SecretError(f"others may read or write the secret file {path}; run: chmod 600 {path}")
            return file.read(_SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise SecretError(
            f"the secret file {path} cannot be read ({error.strerror}); make one with: "
            f"(umask 077; head -c 32 /dev/urandom | base64 > {path}) and copy it to every replica"
        ) from error


def _checked(raw: bytes, where: str) -> bytes:
    secret = raw.strip()
    if len(secret) < SECRET_BYTES_MIN:
        raise SecretError(f"the secret in {where} has {len(secret)} bytes; use at least {SECRET_BYTES_MIN}")
    if len(raw) > _SECRET_BYTES_MAX:
        raise SecretError(f"the secret in {where} is longer than {_SECRET_BYTES_MAX} bytes")
    return secret
