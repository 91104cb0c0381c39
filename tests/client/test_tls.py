"""Certificates: the replica's is checked, the client's own is shown."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from raftflow.client import AsyncClient, Unreachable


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    key_file.touch(mode=0o600)
    key_file.write_bytes(pem)
    return cert_file, key_file


async def test_both_sides_show_a_certificate(tmp_path: Path) -> None:
    server_cert, server_key = make_certificate(tmp_path, "server")
    client_cert, client_key = make_certificate(tmp_path, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_cert, server_key)
    context.load_verify_locations(client_cert)
    context.verify_mode = ssl.CERT_REQUIRED

    async def agents(request: web.Request) -> web.Response:
        return web.json_response({"agents": []})

    app = web.Application()
    app.router.add_get("/v1/agents", agents)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    peers = [f"https://127.0.0.1:{runner.addresses[0][1]}"]
    try:
        async with AsyncClient(peers, cacert=server_cert, client_cert=client_cert, client_key=client_key) as client:
            assert await client.agents() == []
        async with AsyncClient(peers, cacert=server_cert, timeout_s=0.3) as client:
            with pytest.raises(Unreachable):
                await client.agents()
        async with AsyncClient(peers, client_cert=client_cert, client_key=client_key, timeout_s=0.3) as client:
            with pytest.raises(Unreachable, match="certificate is not trusted"):
                await client.agents()
    finally:
        await runner.cleanup()
