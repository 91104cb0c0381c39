"""The API's door with certificates: clients and forwarded requests are encrypted and checked."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from raftflow.api.forwarding.forwarder import Forwarder
from raftflow.api.forwarding.proof import ForwardingProof
from raftflow.api.http.tls import forward_context, tls_context
from raftflow.api.server import HttpServer
from raftflow.coordinator.config.replica_config import CoordinatorConfig, Tls
from raftflow.coordinator.config.values import ConfigError


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that is its own authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


def with_tls(config: CoordinatorConfig, **files: Path) -> CoordinatorConfig:
    return msgspec.structs.replace(config, tls=Tls(**files))


async def test_the_api_speaks_tls(one: Any, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    one.replica.config = with_tls(one.config, api_cert=cert, api_key=key, api_ca=cert)
    door = HttpServer(one.replica)
    await door.start()
    url = f"https://127.0.0.1:{door.port}/healthz"
    trusting = forward_context(one.replica.config)
    assert trusting is not None
    async with aiohttp.ClientSession() as session:
        async with session.get(url, ssl=trusting) as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url, ssl=ssl.create_default_context())
    await door.stop()
    forwarder = Forwarder(one.replica.news, ForwardingProof(lambda: (b"s" * 32,)), trusting)
    await forwarder.close()


async def test_unusable_tls_files_are_refused(one: Any, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    assert tls_context(one.config) is None
    assert forward_context(one.config) is None
    with pytest.raises(ConfigError, match=r"tls\.api_cert .*broken\.pem"):
        tls_context(with_tls(one.config, api_cert=broken, api_key=key))
    with pytest.raises(ConfigError, match=r"tls\.api_ca .*broken\.pem"):
        forward_context(with_tls(one.config, api_cert=cert, api_key=key, api_ca=broken))
