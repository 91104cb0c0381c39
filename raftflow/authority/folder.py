"""The folder of an authority: its key, what it issued, and the files that machines need.

    ca.pem          certificates of the authority; during a rotation of the old one, too. Everybody gets it.
    ca.key          its key. It stays here.
    crl.pem         the list of revoked certificates. Replicas get it.
    issued.json     what was issued: name, role, until when
    NAME.pem        the certificate of NAME, with what leads from it to the authority
    NAME.key        its key. NAME gets both.

Everything is private (modes 0700 and 0600), each file is replaced as a whole, and one process at a time changes the
folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from raftflow.authority import signing
from raftflow.authority.signing import Authority, Revoked, now_utc
from raftflow.certified_names import REPLICA, CertifiedName
from raftflow.domain.values.exact import UNREADABLE
from raftflow.domain.values.ids import name_problem
from raftflow.private_files import make_private_folder, write_private

CA_CERTIFICATES: Final = "ca.pem"
CA_KEY: Final = "ca.key"
CRL: Final = "crl.pem"
INDEX: Final = "issued.json"
_CROSS: Final = "cross.pem"
_LOCK: Final = ".lock"
_RESERVED: Final = frozenset({"ca", "crl", "cross", "issued"})
AUTHORITY_VALID: Final = timedelta(days=3650)
LEAF_VALID: Final = timedelta(days=30)
NAME_CHARS_MAX: Final = 64
"""As many as a common name has."""
ENDS_SOON_SHARE: Final = 3
"""A certificate ends soon if less than one part in so many of its time is left."""


class AuthorityError(ValueError):
    """The folder cannot be used this way. Says why and what to do."""


class IssuedCertificate(msgspec.Struct, kw_only=True):
    """One certificate, as the index of an authority has it. Times are ISO 8601 in UTC."""

    name: str
    role: str
    serial: str
    """Hexadecimal."""
    hosts: list[str] = []
    not_before: datetime
    not_after: datetime
    authority: str
    """Serial number of the authority that signed it, hexadecimal."""
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """Return `valid`, `ends soon`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        if now >= self.not_after:
            return "expired"
        left, whole = self.not_after - now, self.not_after - self.not_before
        return "ends soon" if left * ENDS_SOON_SHARE < whole else "valid"

    def is_valid(self, now: datetime) -> bool:
        """Tell whether it is neither revoked nor expired."""
        return self.revoked_at is None and now < self.not_after


class CertificateLine(msgspec.Struct, kw_only=True):
    """A certificate as `cert list` shows it."""

    name: str
    role: str
    state: str
    not_after: datetime
    serial: str
    hosts: list[str]


class AuthorityFolder:
    """The authority in a folder. Methods raise `AuthorityError`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, valid: timedelta = AUTHORITY_VALID) -> None:
        """Make the folder and a new authority in it."""
        with _readable_errors(self.path):
            make_private_folder(self.path, "the key of the authority")
            with self._locked():
                if os.path.lexists(self.path / CA_KEY) or os.path.lexists(self.path / CA_CERTIFICATES):
                    raise AuthorityError(
                        f"{self.path} has an authority already. For a new key give --rotate; for another authority "
                        "another --dir"
                    )
                made = signing.new_authority("raftflow authority", now_utc(), valid)
                self._write(INDEX, b"[]")
                self._write(CRL, signing.revocation_list(made, (), now_utc()))
                self._write(CA_CERTIFICATES, signing.pem_of([made.certificate]))
                self._write(CA_KEY, signing.pem_of_key(made.key))

    def rotate(self, valid: timedelta = AUTHORITY_VALID) -> None:
        """Make a new authority beside the old one. From now on it signs, and both are trusted.

        Those who know the old one alone trust what it signs, too: each file has the certificate that leads there.
        """
        with self._opened() as (old, others):
            if others:
                raise AuthorityError(
                    f"a rotation is under way in {self.path}: renew all certificates, hand out ca.pem, then --finish"
                )
            now = now_utc()
            new = signing.new_authority("raftflow authority", now, valid)
            self._write(_CROSS, signing.pem_of([signing.cross_certificate(new, old, now)]))
            self._write(CA_CERTIFICATES, signing.pem_of([new.certificate, old.certificate]))
            self._write(CA_KEY, signing.pem_of_key(new.key))
            self._write_revoked(new, self._read_index())

    def finish(self) -> None:
        """Trust the old authority no more. Refused while it has signed the newest certificate of an owner."""
        with self._opened() as (authority, others):
            if not others:
                raise AuthorityError(f"no rotation is under way in {self.path}")
            now, mine = now_utc(), _hex(authority.certificate.serial_number)
            index = self._read_index()
            newest = {entry.name: entry for entry in index if entry.is_valid(now)}
            left = sorted(entry.name for entry in newest.values() if entry.authority != mine)
            if left:
                raise AuthorityError(
                    f"certificates of the old authority are in use: {', '.join(left[:10])}. Run: raftflow cert renew "
                    f"{' '.join(left[:10])}, and hand the files out"
                )
            self._write(CA_CERTIFICATES, signing.pem_of([authority.certificate]))
            (self.path / _CROSS).unlink(missing_ok=True)

    def issue(self, owner: CertifiedName, hosts: tuple[str, ...] = (), valid: timedelta = LEAF_VALID) -> None:
        """Issue a certificate to an owner that has none."""
        _check_owner(owner, hosts)
        with self._opened() as (authority, _):
            index = self._read_index()
            if any(entry.name == owner.name and entry.is_valid(now_utc()) for entry in index):
                raise AuthorityError(
                    f"{owner.name} has a certificate. Run: raftflow cert renew {owner.name}; or revoke it first"
                )
            self._sign(authority, index, owner, hosts, valid)

    def renew(self, names: tuple[str, ...] = (), valid: timedelta | None = None) -> list[str]:
        """Issue new certificates, with new keys, to some owners, or to all with a valid one. Returns their names.

        The old ones stay valid until they end, so that machines can be changed one after the other.
        """
        with self._opened() as (authority, _):
            index, now = self._read_index(), now_utc()
            newest = {entry.name: entry for entry in index if entry.revoked_at is None}
            for name in names:
                if name not in newest:
                    raise AuthorityError(f"{name} has no certificate that could be renewed; see: raftflow cert list")
            chosen = names or tuple(name for name, entry in newest.items() if entry.is_valid(now))
            for name in chosen:
                entry = newest[name]
                span = valid or entry.not_after - entry.not_before - signing.SKEW
                self._sign(authority, index, CertifiedName(entry.role, name), tuple(entry.hosts), span)
            return list(chosen)

    def revoke(self, name: str) -> int:
        """Revoke every certificate of an owner; `name` may be a serial number, too. Returns how many."""
        with self._opened() as (authority, _):
            index, now = self._read_index(), now_utc()
            mine = [entry for entry in index if name in {entry.name, entry.serial} and entry.is_valid(now)]
            if not mine:
                raise AuthorityError(f"{name} has no valid certificate; see: raftflow cert list")
            for entry in mine:
                entry.revoked_at = now
            self._write_index(index)
            self._write_revoked(authority, index)
            return len(mine)

    def refresh_list(self) -> None:
        """Sign the list of revoked certificates again."""
        with self._opened() as (authority, _):
            self._write_revoked(authority, self._read_index())

    def issued(self) -> list[CertificateLine]:
        """Return what was issued, the newest last."""
        with self._opened():
            now = now_utc()
            return [
                CertificateLine(
                    name=entry.name,
                    role=entry.role,
                    state=entry.state(now),
                    not_after=entry.not_after,
                    serial=entry.serial,
                    hosts=entry.hosts,
                )
                for entry in self._read_index()
            ]

    # --- inside

    def _sign(
        self,
        authority: Authority,
        index: list[IssuedCertificate],
        owner: CertifiedName,
        hosts: tuple[str, ...],
        valid: timedelta,
    ) -> None:
        key, now = signing.new_key(), now_utc()
        made = signing.sign(authority, key.public_key(), owner, hosts, now, valid)
        index.append(
            IssuedCertificate(
                name=owner.name,
                role=owner.role,
                serial=_hex(made.serial_number),
                hosts=list(hosts),
                not_before=made.not_valid_before_utc,
                not_after=made.not_valid_after_utc,
                authority=_hex(authority.certificate.serial_number),
            )
        )
        self._write_index(index)  # first: what is not in the index cannot be revoked
        cross = self.path / _CROSS
        chain = cross.read_bytes() if cross.exists() else b""
        self._write(f"{owner.name}.key", signing.pem_of_key(key))
        self._write(f"{owner.name}.pem", signing.pem_of([made]) + chain)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Authority, list[x509.Certificate]]]:
        with _readable_errors(self.path):
            if not (self.path / CA_KEY).exists():
                raise AuthorityError(f"{self.path} has no authority. Run: raftflow cert init --dir {self.path}")
            make_private_folder(self.path, "the key of the authority")
            with self._locked():
                try:
                    found = signing.read_authority(
                        (self.path / CA_KEY).read_bytes(), (self.path / CA_CERTIFICATES).read_bytes()
                    )
                except (ValueError, TypeError) as error:
                    raise AuthorityError(f"{self.path / CA_KEY} or {CA_CERTIFICATES} is damaged: {error}") from error
                yield found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _read_index(self) -> list[IssuedCertificate]:
        try:
            return msgspec.json.decode((self.path / INDEX).read_bytes(), type=list[IssuedCertificate])
        except UNREADABLE as error:
            raise AuthorityError(f"{self.path / INDEX} is damaged: {error}") from error

    def _write_index(self, index: list[IssuedCertificate]) -> None:
        self._write(INDEX, msgspec.json.format(msgspec.json.encode(index)))

    def _write_revoked(self, authority: Authority, index: list[IssuedCertificate]) -> None:
        now = now_utc()
        revoked = [
            Revoked(int(entry.serial, 16), entry.revoked_at)
            for entry in index
            if entry.revoked_at is not None and entry.not_after > now - signing.LIST_VALID
        ]
        self._write(CRL, signing.revocation_list(authority, revoked, now))

    def _write(self, name: str, content: bytes) -> None:
        write_private(self.path / name, content.decode("ascii"))


def _check_owner(owner: CertifiedName, hosts: tuple[str, ...]) -> None:
    if wrong := name_problem(owner.name, chars_max=NAME_CHARS_MAX):
        raise AuthorityError(f"{owner.name[:100]!r} {wrong}")
    if owner.name in _RESERVED:
        raise AuthorityError(f"{owner.name} is the name of a file of the authority itself; choose another one")
    if owner.role == REPLICA and not hosts:
        raise AuthorityError("a replica needs --host: the name or address in its url, and that of its peer port")
    if owner.role != REPLICA and hosts:
        raise AuthorityError("--host is for replicas: nobody connects to an agent or a client")
    for host in hosts:
        if not host or len(host) > 253 or not host.isascii() or not set(host) <= _HOST_CHARS:
            raise AuthorityError(f"{host[:100]!r} is not a host; give a name or an address, without a port")


_HOST_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:_")


def _hex(serial: int) -> str:
    return f"{serial:x}"


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AuthorityError(f"{error.filename or path} cannot be used: {error.strerror}") from error
