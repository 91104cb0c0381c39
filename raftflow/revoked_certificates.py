"""The list of revoked certificates that a replica uses.

A certificate is refused if its serial number is in the list. The list counts if an authority that the replica
trusts has signed it, also when its time is over: an old list is better than none, and `raftflow cluster doctor` warns
of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

_FILE_BYTES_MAX: Final = 16 * 1024 * 1024


class RevokedCertificates:
    """Which certificates are revoked.

    Args:
        path: the list in PEM form; None without one.
        authorities: files with the certificates of the authorities, one of which must have signed it.
    """

    def __init__(self, path: Path | None, authorities: Iterable[Path | None]) -> None:
        self._path = path
        self._authorities = [each for each in authorities if each is not None]
        self._serials: frozenset[int] = frozenset()
        self.version = 0
        """Grows with each list that is read."""
        self.load()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that it is read from."""
        return () if self._path is None else (self._path, *self._authorities)

    def load(self) -> None:
        """Read the list. Raises `ValueError`, and then the old one stays."""
        if self._path is not None:
            self._serials = _read(self._path, self._authorities)
            self.version += 1

    def is_revoked(self, serial: int) -> bool:
        """Tell whether the certificate with this serial number is revoked."""
        return serial in self._serials


def _read(path: Path, authorities: Iterable[Path]) -> frozenset[int]:
    from cryptography import x509  # noqa: PLC0415 - heavy, and few replicas have a list
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    try:
        revoked = x509.load_pem_x509_crl(_read_file(path))
        signers = [each for file in authorities for each in x509.load_pem_x509_certificates(_read_file(file))]
        for signer in signers:
            key = signer.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
                continue
            if signer.subject == revoked.issuer and revoked.is_signature_valid(key):
                return frozenset(each.serial_number for each in revoked)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the list of revoked certificates {path} cannot be used: {error}") from error
    raise ValueError(f"the list of revoked certificates {path} is not signed by an authority in use")


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_FILE_BYTES_MAX + 1)
    if len(content) > _FILE_BYTES_MAX:
        raise ValueError(f"{path} is longer than {_FILE_BYTES_MAX} bytes")
    return content
