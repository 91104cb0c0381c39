"""Certificates are checked before a replica uses them, and read again while it runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from raftflow.certificates import CertificateReloader
from raftflow.replication.net import tls


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.file = folder, folder / f"{name}.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        _write(self.file, self._sign(name, self._key.public_key(), days=1, authority=True))

    def issue(self, name: str, *, days: float = 1) -> tuple[Path, Path]:
        """Write a certificate for 127.0.0.1 and its key under this name, in place of those that are there."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        _write(cert_file, self._sign(name, key.public_key(), days=days, authority=False))
        return cert_file, key_file

    def _sign(
        self, name: str, public: ec.EllipticCurvePublicKey, *, days: float, authority: bool
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=30))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


def test_a_certificate_that_peers_would_refuse_is_refused_here(ours: Authority, tmp_path: Path) -> None:
    tls.contexts(*ours.issue("n1"), ours.file)
    with pytest.raises(tls.TLSConfigError, match="expired"):
        tls.contexts(*ours.issue("n1", days=-1), ours.file)
    foreign = Authority(tmp_path, "foreign")
    with pytest.raises(tls.TLSConfigError, match=r"n1\.pem is refused with authority .*issuer certificate"):
        tls.contexts(*ours.issue("n1"), foreign.file)


def test_files_that_have_changed_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    read: list[str] = []
    files = [tmp_path / "one", tmp_path / "other"]

    def load(path: Path) -> None:
        text = path.read_text()
        if text == "broken":
            raise ValueError(f"{path.name} is broken")
        read.append(text)

    reloader = CertificateReloader()
    for path in files:
        path.write_text("first")
        reloader.add((path,), partial(load, path))
    reloader.reload(changed_only=True)
    assert read == []
    files[1].write_text("second")
    os.utime(files[1], ns=(1, 1))
    reloader.reload(changed_only=True)
    assert read == ["second"]
    files[0].write_text("broken")
    os.utime(files[0], ns=(2, 2))
    for _ in range(2):  # a file that cannot be used is told once
        reloader.reload(changed_only=True)
    assert read == ["second"]
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == [
        "what was read before stays in use: one is broken"
    ]
    reloader.reload()
    assert read == ["second", "second"]


def document(folder: Path, ours: Authority, *, peer_days: float = 1, api_days: float = 1) -> tuple[str, int]:
    """Return the configuration of a cluster of one with certificates, and its port."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        peer, port = one.getsockname()[1], other.getsockname()[1]
    ours.issue("api", days=api_days)
    ours.issue("peer", days=peer_days)
    (folder / "secret").write_text("s" * 40)
    (folder / "secret").chmod(0o600)
    return (
        f'[cluster]\nid = "c"\nsecret_file = "secret"\n[[cluster.members]]\nname = "n1"\npeer = "127.0.0.1:{peer}"\n'
        f'url = "https://127.0.0.1:{port}"\n[replica]\nname = "n1"\ndata_dir = "n1"\n[tls]\napi_cert = "api.pem"\n'
        f'api_key = "api.key"\napi_ca = "ours.pem"\npeer_cert = "peer.pem"\npeer_key = "peer.key"\n'
        'peer_ca = "ours.pem"\n'
    ), port


class Replica:
    """A replica's process, with the lines that it has logged."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[str] = []

    async def until_logged(self, text: str) -> None:
        """Wait for a line. Fails when the process ends."""
        assert self.child.stderr is not None
        async with asyncio.timeout(30):
            while True:
                line = (await self.child.stderr.readline()).decode()
                self.lines.append(line)
                assert line, "".join(self.lines)
                if text in line:
                    return


async def start(file: Path) -> Replica:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "raftflow", "coordinator", "run", "--config", str(file), stderr=asyncio.subprocess.PIPE
    )
    return Replica(child)


@pytest.fixture
async def replica(tmp_path: Path, ours: Authority) -> AsyncIterator[tuple[Replica, int]]:
    text, port = document(tmp_path, ours)
    (tmp_path / "n1.toml").write_text(text)
    made = await start(tmp_path / "n1.toml")
    await made.until_logged(" serves ")
    yield made, port
    if made.child.returncode is None:
        made.child.kill()
        await made.child.wait()


async def shown_serial(port: int, ca: Path) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=ca)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


def serial_of(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


async def test_a_replica_takes_new_certificates_on_sighup(
    replica: tuple[Replica, int], ours: Authority, tmp_path: Path
) -> None:
    process, port = replica
    first = serial_of(tmp_path / "api.pem")
    assert await shown_serial(port, ours.file) == first
    ours.issue("api")
    ours.issue("peer")
    assert await shown_serial(port, ours.file) == first
    process.child.send_signal(signal.SIGHUP)
    await process.until_logged("read again: " + str(tmp_path / "ours.pem"))
    second = serial_of(tmp_path / "api.pem")
    assert await shown_serial(port, ours.file) == second
    (tmp_path / "api.pem").write_text("not a certificate")
    process.child.send_signal(signal.SIGHUP)
    await process.until_logged("what was read before stays in use: tls.api_cert")
    assert await shown_serial(port, ours.file) == second
    process.child.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.child.wait(), 20) == 0


@pytest.mark.parametrize("expired", ["api", "peer"])
async def test_a_replica_does_not_start_with_an_expired_certificate(
    ours: Authority, tmp_path: Path, expired: str
) -> None:
    text, _ = document(tmp_path, ours, **{f"{expired}_days": -1})
    (tmp_path / "n1.toml").write_text(text)
    process = await start(tmp_path / "n1.toml")
    await process.until_logged("certificate has expired")
    assert f"{expired}.pem" in process.lines[-1]
    assert await asyncio.wait_for(process.child.wait(), 20) == 2
