"""TLS: both sides show a certificate of the cluster's authority, and still prove the secret inside."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from raftflow.authority.folder import AuthorityFolder
from raftflow.certified_names import CertifiedName
from raftflow.replication.net.connection import LinkLimits
from raftflow.replication.net.peer_certificates import PeerCertificates
from raftflow.replication.net.tls import TLSConfigError, client_context, server_context
from raftflow.revoked_certificates import RevokedCertificates


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
        self.path = folder / "ca.pem"
        ca = x509.BasicConstraints(ca=True, path_length=0)
        self.path.write_bytes(
            self._sign(self.name, self.key.public_key(), ca).public_bytes(serialization.Encoding.PEM)
        )

    def _sign(self, subject: Any, public_key: Any, constraints: Any, *extra: Any) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(constraints, critical=True)
        )
        for extension in extra:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str, host: str = "127.0.0.1") -> tuple[Path, Path]:
        """Return the paths of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._sign(subject, key.public_key(), constraints, names)
        cert_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert_path, key_path

    def contexts(self, name: str, trust: Any = None, **options: Any) -> dict[str, Any]:
        cert, key = self.issue(name, **options)
        ca = (trust or self).path
        return {"tls_server": server_context(cert, key, ca), "tls_client": client_context(ca, cert, key)}


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "foreign")


async def test_frames_travel_inside_tls(world: Any, ours: Any) -> None:
    b = await world.node("b", peers=["a"], **ours.contexts("b"))
    a = await world.node("a", addresses={"b": b.address}, **ours.contexts("a"))
    await a.until_event("up", "b")
    sent = [b"small", bytes(300_000), bytes(range(256)) * 10_000]
    for frame in sent:
        assert a.links.send("b", frame)
        await b.until_event("up", "a")
        assert b.links.send("a", frame)
    await a.until(lambda: a.frames == sent)
    await b.until(lambda: b.frames == sent)
    assert a.links._up["b"]._transport.get_extra_info("ssl_object").version() >= "TLSv1.2"
    a.links.reset("b")
    await b.until(lambda: b.ups_and_downs("a") == ["up", "down", "up"])


async def test_the_secret_is_still_needed(world: Any, ours: Any) -> None:
    b = await world.node("b", peers=["a"], **ours.contexts("b"))
    a = await world.node("a", addresses={"b": b.address}, secret=b"some other secret", **ours.contexts("a"))
    await b.until_counted("refused_wrong_secret")
    await a.until_counted("refused_by_peer_wrong_secret")
    assert a.events == b.events == []


async def test_a_dialer_with_a_foreign_certificate_is_refused(world: Any, ours: Any, foreign: Any) -> None:
    b = await world.node("b", peers=["a"], **ours.contexts("b"))
    a = await world.node("a", addresses={"b": b.address}, **foreign.contexts("a", trust=ours))
    await b.until_counted("refused_tls", 2)
    assert a.events == b.events == []


async def test_a_listener_with_a_foreign_certificate_is_refused(world: Any, ours: Any, foreign: Any) -> None:
    b = await world.node("b", peers=["a"], **foreign.contexts("b", trust=ours))
    a = await world.node("a", addresses={"b": b.address}, **ours.contexts("a"))
    await a.until_counted("unreachable", 2)
    assert a.events == b.events == []


async def test_a_certificate_for_another_host_is_refused(world: Any, ours: Any) -> None:
    b = await world.node("b", peers=["a"], **ours.contexts("b", host="192.0.2.1"))
    a = await world.node("a", addresses={"b": b.address}, **ours.contexts("a"))
    await a.until_counted("unreachable", 2)
    assert a.events == b.events == []


async def test_plain_bytes_on_a_tls_port_are_refused_and_it_serves_on(world: Any, ours: Any) -> None:
    b = await world.node("b", peers=["a"], **ours.contexts("b"))
    raw = await world.raw(b)
    raw.writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await raw.rest()
    await b.until_counted("refused_tls")
    a = await world.node("a", addresses={"b": b.address}, **ours.contexts("a"))
    await a.until_event("up", "b")


async def test_a_stranger_that_never_begins_tls_is_cut(world: Any, ours: Any) -> None:
    b = await world.node("b", peers=["a"], limits=world.limits(handshake_s=0.2), **ours.contexts("b"))
    raw = await world.raw(b)
    assert await raw.rest() == b""
    await b.until(lambda: b.links.stats["handshake_timeout"] + b.links.stats["refused_tls"] == 1)
    assert b.links._unproven == {}
    await b.until(lambda: not b.links._listener.openings)


def test_files_that_do_not_fit_are_named(ours: Any, foreign: Any, tmp_path: Path) -> None:
    cert, key = ours.issue("a")
    _, other_key = foreign.issue("a")
    with pytest.raises(TLSConfigError, match=r"a\.pem with key"):
        server_context(cert, other_key, ours.path)
    with pytest.raises(TLSConfigError, match="authority"):
        client_context(tmp_path / "none.pem", cert, key)


def named(tmp_path: Path, owner: CertifiedName) -> dict[str, Any]:
    """Return the options of links whose certificate an authority of raftflow has issued to an owner."""
    folder = AuthorityFolder(tmp_path / "ca")
    if not folder.path.exists():
        folder.create()
    if not (folder.path / f"{owner.name}.pem").exists():
        folder.issue(owner, ("127.0.0.1",) if owner.role == "replica" else ())
    cert, key, ca = folder.path / f"{owner.name}.pem", folder.path / f"{owner.name}.key", folder.path / "ca.pem"
    return {
        "tls_server": server_context(cert, key, ca),
        "tls_client": client_context(ca, cert, key),
        "certificates": PeerCertificates(),
    }


async def test_a_replica_needs_the_certificate_of_its_name(world: Any, tmp_path: Path) -> None:
    b = await world.node("b", peers=["a", "c", "agent"], **named(tmp_path, CertifiedName("replica", "b")))
    at = {"b": b.address}
    a = await world.node("a", addresses=at, **named(tmp_path, CertifiedName("replica", "a")))
    await b.until_event("up", "a")
    # These have the secret and a certificate of the cluster: that of another replica, that of an agent.
    for owner in (CertifiedName("replica", "c"), CertifiedName("agent", "agent")):
        count = b.links.stats["refused_certificate"]
        thief = await world.node("a", addresses=at, **named(tmp_path, owner))
        await b.until_counted("refused_certificate", count + 1)
        assert thief.frames == []
        await thief.links.close()
    assert a.is_up("b")


async def test_a_dialled_replica_needs_the_certificate_of_its_name(world: Any, tmp_path: Path) -> None:
    b = await world.node("b", peers=["a"], **named(tmp_path, CertifiedName("replica", "other")))
    a = await world.node("a", addresses={"b": b.address}, **named(tmp_path, CertifiedName("replica", "a")))
    await a.until_counted("refused_certificate")
    assert a.events == []


async def test_a_link_ends_when_the_certificate_is_revoked(world: Any, tmp_path: Path) -> None:
    options = named(tmp_path, CertifiedName("replica", "b"))
    folder = AuthorityFolder(tmp_path / "ca")
    revoked = RevokedCertificates(folder.path / "crl.pem", (folder.path / "ca.pem",))
    b = await world.node("b", peers=["a"], **(options | {"certificates": PeerCertificates(revoked)}))
    await world.node("a", addresses={"b": b.address}, **named(tmp_path, CertifiedName("replica", "a")))
    await b.until_event("up", "a")
    b.links.check_certificates()
    assert b.is_up("a")
    folder.revoke("a")
    revoked.load()
    b.links.check_certificates()
    assert b.ups_and_downs("a") == ["up", "down"]
    await b.until_counted("refused_certificate", 2)
    assert not b.is_up("a")


async def test_a_link_ends_when_its_certificate_has_expired(world: Any, tmp_path: Path, ours: Any) -> None:
    limits = LinkLimits(idle_s=0.3)
    b = await world.node("b", peers=["a"], limits=limits, **ours.contexts("b"))
    await world.node("a", addresses={"b": b.address}, limits=limits, **ours.contexts("a"))
    await b.until_event("up", "a")
    b.links._up["a"].expires_s = 1.0  # of 1970
    await b.until_counted("refused_certificate")
