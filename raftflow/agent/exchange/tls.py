"""The TLS context of an agent: the authorities that it trusts, and the certificate that it shows."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from raftflow.agent.config import AgentConfigError

if TYPE_CHECKING:
    from raftflow.agent.config import AgentConfig


def tls_context(config: AgentConfig) -> ssl.SSLContext | None:
    """Return the context, None for the defaults. Raises `AgentConfigError` if a file cannot be used."""
    if not config.cacert and not config.client_cert:
        return None
    try:
        context = ssl.create_default_context(cafile=config.cacert or None)
        if config.client_cert:
            context.load_cert_chain(config.client_cert, config.client_key or None)
    except (OSError, ssl.SSLError) as error:
        raise AgentConfigError(f"cacert, client_cert, client_key: cannot be used: {error}") from error
    return context


def tls_files(config: AgentConfig) -> list[Path]:
    """Return the files of which the context is made."""
    return [Path(file) for file in (config.cacert, config.client_cert, config.client_key) if file]
