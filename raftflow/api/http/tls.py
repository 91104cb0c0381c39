"""The TLS contexts of the API: for requests that come, and for those that are passed on to other replicas."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from raftflow.certificates import check_dates, tls_reason
from raftflow.coordinator.config.values import ConfigError
from raftflow.revoked_certificates import RevokedCertificates

if TYPE_CHECKING:
    from pathlib import Path

    from raftflow.coordinator.config.replica_config import CoordinatorConfig


def tls_context(config: CoordinatorConfig) -> ssl.SSLContext | None:
    """Return the TLS context of the API, None for plain TCP. Raises `ConfigError`, also for one that has expired."""
    tls = config.tls
    if tls.api_cert is None or tls.api_key is None:
        return None
    try:
        context = _checked_context(tls.api_cert, tls.api_key)
    except (OSError, ssl.SSLError) as error:
        why = tls_reason(error) if isinstance(error, ssl.SSLError) else error
        raise ConfigError(
            f"tls.api_cert {tls.api_cert} with tls.api_key {tls.api_key} cannot be used: {why}"
        ) from error
    if tls.api_client_ca is not None:
        try:
            _ask_for_certificates(context, tls.api_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls.api_client_ca {tls.api_client_ca} cannot be used: {error}") from error
    return context


def _ask_for_certificates(context: ssl.SSLContext, authority: Path) -> None:
    """Have clients show a certificate of this authority, if they have one. Raises `OSError`, `ssl.SSLError`."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=authority)
    context.verify_mode = ssl.CERT_OPTIONAL


def revoked_certificates(config: CoordinatorConfig) -> RevokedCertificates | None:
    """Return which certificates of clients are revoked, None if certificates of clients do not count.

    Raises `ConfigError`.
    """
    tls = config.tls
    if tls.api_client_ca is None:
        return None
    try:
        return RevokedCertificates(tls.crl, (tls.api_client_ca, tls.peer_ca))
    except ValueError as error:
        raise ConfigError(f"tls.crl: {error}") from error


def _checked_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return a context with a certificate that is valid now. Raises `OSError`, `ssl.SSLError`."""
    made = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    for context in made:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(cert, key)
    check_dates(cert, made[0])
    return made[1]


def forward_context(config: CoordinatorConfig) -> ssl.SSLContext | None:
    """Return the TLS context for requests to other replicas, None for the defaults. Raises `ConfigError`."""
    if config.tls.api_ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=config.tls.api_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls.api_ca {config.tls.api_ca} cannot be used: {error}") from error
