"""The folder of an authority: what it issues is trusted by whom it should be, and by nobody else."""

from __future__ import annotations

import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from raftflow.authority.folder import AuthorityError, AuthorityFolder
from raftflow.certificates import check_handshake
from raftflow.certified_names import CertifiedName, owner_of, serial_of
from raftflow.revoked_certificates import RevokedCertificates

REPLICA = CertifiedName("replica", "n1")
AGENT = CertifiedName("agent", "a1")
HOSTS = ("127.0.0.1", "n1.example")


@pytest.fixture
def folder(tmp_path: Path) -> AuthorityFolder:
    made = AuthorityFolder(tmp_path / "ca")
    made.create()
    return made


def server(files: Path, name: str, trusts: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    context.load_verify_locations(trusts)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client(files: Path, name: str, trusts: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    context.load_verify_locations(trusts)
    return context


def details(path: Path) -> dict[str, Any]:
    return ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined, no-any-return]


def copy(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes())
    return to


def test_what_it_issues_is_trusted(folder: AuthorityFolder) -> None:
    folder.issue(REPLICA, HOSTS)
    folder.issue(AGENT)
    ca = folder.path / "ca.pem"
    check_handshake(server(folder.path, "n1", ca), client(folder.path, "a1", ca))
    found = details(folder.path / "n1.pem")
    assert owner_of(found) == REPLICA
    assert {("IP Address", "127.0.0.1"), ("DNS", "n1.example")} <= set(found["subjectAltName"])
    assert owner_of(details(folder.path / "a1.pem")) == AGENT


def test_an_agent_cannot_serve_with_its_certificate(folder: AuthorityFolder) -> None:
    folder.issue(REPLICA, HOSTS)
    folder.issue(AGENT)
    ca = folder.path / "ca.pem"
    with pytest.raises(ssl.SSLError, match="purpose"):
        check_handshake(server(folder.path, "a1", ca), client(folder.path, "n1", ca))


def test_everything_is_private(folder: AuthorityFolder) -> None:
    folder.issue(REPLICA, HOSTS)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()} == {0o600}
    folder.path.chmod(0o755)
    with pytest.raises(ValueError, match="other users may enter"):
        folder.issued()


def test_a_rotation_refuses_nobody_in_any_order(folder: AuthorityFolder, tmp_path: Path) -> None:
    """Old and new files meet in every combination while both are trusted; in the end the old ones are not."""
    folder.issue(REPLICA, HOSTS)
    folder.issue(AGENT)
    old = tmp_path / "old"
    old.mkdir()
    for name in ("n1.pem", "n1.key", "a1.pem", "a1.key", "ca.pem"):
        copy(folder.path / name, old / name)
    folder.rotate()
    with pytest.raises(AuthorityError, match="rotation is under way"):
        folder.rotate()
    with pytest.raises(AuthorityError, match="certificates of the old authority are in use: a1, n1"):
        folder.finish()
    assert folder.renew() == ["n1", "a1"]
    for files_of_server in (old, folder.path):
        for files_of_client in (old, folder.path):
            # A machine that has new files has the new ca.pem; one that has not keeps the old one.
            check_handshake(
                server(files_of_server, "n1", files_of_server / "ca.pem"),
                client(files_of_client, "a1", files_of_client / "ca.pem"),
            )
    folder.finish()
    ca = folder.path / "ca.pem"
    check_handshake(server(folder.path, "n1", ca), client(folder.path, "a1", ca))
    with pytest.raises(ssl.SSLError):
        check_handshake(server(folder.path, "n1", ca), client(old, "a1", ca))
    with pytest.raises(AuthorityError, match="no rotation"):
        folder.finish()


def test_revoked_certificates_are_in_a_signed_list(folder: AuthorityFolder, tmp_path: Path) -> None:
    folder.issue(AGENT)
    first = serial_of(details(folder.path / "a1.pem"))
    folder.renew(("a1",))
    second = serial_of(details(folder.path / "a1.pem"))
    known = RevokedCertificates(folder.path / "crl.pem", (folder.path / "ca.pem",))
    assert not known.is_revoked(first)
    assert folder.revoke("a1") == 2
    known.load()
    assert known.is_revoked(first)
    assert known.is_revoked(second)
    assert [line.state for line in folder.issued()] == ["revoked", "revoked"]
    with pytest.raises(AuthorityError, match="no valid certificate"):
        folder.revoke("a1")
    with pytest.raises(AuthorityError, match="no certificate that could be renewed"):
        folder.renew(("a1",))
    folder.issue(AGENT)
    assert not known.is_revoked(serial_of(details(folder.path / "a1.pem")))
    other = AuthorityFolder(tmp_path / "other")
    other.create()
    with pytest.raises(ValueError, match="not signed by an authority"):
        RevokedCertificates(other.path / "crl.pem", (folder.path / "ca.pem",))
    copy(other.path / "crl.pem", folder.path / "crl.pem")
    with pytest.raises(ValueError, match="not signed by an authority"):
        known.load()
    assert known.is_revoked(first)


def test_a_list_that_is_damaged_changes_nothing(folder: AuthorityFolder) -> None:
    folder.issue(AGENT)
    serial = serial_of(details(folder.path / "a1.pem"))
    folder.revoke(f"{serial:x}")
    known = RevokedCertificates(folder.path / "crl.pem", (folder.path / "ca.pem",))
    for content in (b"", b"no list", (folder.path / "crl.pem").read_bytes()[:-60]):
        (folder.path / "crl.pem").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be used"):
            known.load()
        assert known.is_revoked(serial)


@pytest.mark.parametrize(
    ("owner", "hosts", "why"),
    [
        (CertifiedName("agent", "../a"), (), "may hold letters"),
        (CertifiedName("agent", "ca"), (), "name of a file of the authority"),
        (CertifiedName("agent", "a" * 65), (), "the limit is 64"),
        (CertifiedName("agent", "a1"), ("10.0.0.1",), "--host is for replicas"),
        (CertifiedName("replica", "n1"), (), "needs --host"),
        (CertifiedName("replica", "n1"), ("10.0.0.1/8",), "not a host"),
        (CertifiedName("replica", "n1"), ("",), "not a host"),
    ],
)
def test_wrong_owners_are_refused(
    folder: AuthorityFolder, owner: CertifiedName, hosts: tuple[str, ...], why: str
) -> None:
    with pytest.raises(AuthorityError, match=why):
        folder.issue(owner, hosts)
    assert folder.issued() == []


def test_nobody_gets_a_second_certificate_by_accident(folder: AuthorityFolder) -> None:
    folder.issue(AGENT)
    with pytest.raises(AuthorityError, match="a1 has a certificate"):
        folder.issue(CertifiedName("admin", "a1"))
    with pytest.raises(AuthorityError, match="has an authority already"):
        folder.create()


def test_a_certificate_ends_with_its_authority(tmp_path: Path) -> None:
    folder = AuthorityFolder(tmp_path / "ca")
    folder.create(timedelta(hours=1))
    folder.issue(AGENT, valid=timedelta(days=30))
    (line,) = folder.issued()
    assert ssl.cert_time_to_seconds(details(folder.path / "a1.pem")["notAfter"]) == line.not_after.timestamp()
    assert details(folder.path / "a1.pem")["notAfter"] == details(folder.path / "ca.pem")["notAfter"]


def test_two_at_once_do_not_lose_what_the_other_issued(folder: AuthorityFolder) -> None:
    names = [f"a{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: AuthorityFolder(folder.path).issue(CertifiedName("agent", name)), names))
    assert sorted(line.name for line in folder.issued()) == sorted(names)


@pytest.mark.parametrize("name", ["ca.key", "ca.pem", "issued.json"])
def test_a_damaged_folder_says_so(folder: AuthorityFolder, name: str) -> None:
    (folder.path / name).write_text("x")
    with pytest.raises(AuthorityError, match="damaged"):
        folder.issue(AGENT)


def test_a_folder_without_an_authority_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="raftflow cert init --dir"):
        AuthorityFolder(tmp_path / "nothing").issued()
    assert not (tmp_path / "nothing").exists()
