"""TLS contexts for the links between replicas: both sides show a certificate of the cluster's authority."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from raftflow.certificates import check_handshake, tls_reason

if TYPE_CHECKING:
    from pathlib import Path


class TLSConfigError(ValueError):
    """A certificate, key or authority file cannot be used. The message says which."""


def server_context(cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """Return the context for accepting: TLS 1.2 or newer, clients must show a certificate signed by `ca`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, cert, key, ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """Return the context for dialling: the peer's certificate must be signed by `ca` and name the dialled host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, cert, key, ca)
    return context


def contexts(cert: Path, key: Path, ca: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts for accepting and for dialling, checked: they would accept each other now.

    Raises `TLSConfigError`, also for a certificate that has expired or that another authority has signed.
    """
    server, client = server_context(cert, key, ca), client_context(ca, cert, key)
    try:
        check_handshake(server_context(cert, key, ca), client_context(ca, cert, key))
    except ssl.SSLError as error:
        raise TLSConfigError(f"certificate {cert} is refused with authority {ca}: {tls_reason(error)}") from error
    return server, client


def _load(context: ssl.SSLContext, cert: Path, key: Path, ca: Path) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise TLSConfigError(f"certificate {cert} with key {key} cannot be used: {error}") from error
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise TLSConfigError(f"certificate authority {ca} cannot be used: {error}") from error
