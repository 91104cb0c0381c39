"""Keys, certificates and the list of revoked ones. No files here: objects in, PEM out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raftflow.certified_names import REPLICA, CertifiedName

SKEW: Final = timedelta(minutes=5)
"""Certificates are valid from so long ago: the clocks of machines differ."""
LIST_VALID: Final = timedelta(days=30)
"""How long a list of revoked certificates is fresh. An older one still counts, and the doctor warns."""


class Revoked(NamedTuple):
    """A certificate that is not valid any more."""

    serial: int
    revoked_at: datetime


class Authority(NamedTuple):
    """A key and its certificate, which signs itself."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key, on the curve P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(label: str, now: datetime, valid: timedelta) -> Authority:
    """Return a new authority. Its name has the label and some of its serial number, so that no two are alike."""
    key, serial = new_key(), x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{label} {serial & 0xFFFFFFFF:08x}")])
    return Authority(key, _sign_authority(key.public_key(), name, serial, now, valid, name, key))


def cross_certificate(new: Authority, old: Authority, now: datetime) -> x509.Certificate:
    """Return the certificate by which those who know the old authority alone trust the new one."""
    valid = old.certificate.not_valid_after_utc - now
    subject, issuer = new.certificate.subject, old.certificate.subject
    return _sign_authority(new.key.public_key(), subject, x509.random_serial_number(), now, valid, issuer, old.key)


def sign(  # noqa: PLR0917 - all of them are in the certificate
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    owner: CertifiedName,
    hosts: Iterable[str],
    now: datetime,
    valid: timedelta,
) -> x509.Certificate:
    """Return a certificate for an owner. It ends with its authority at the latest.

    A replica may serve and ask with it; everybody else may ask.
    """
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if owner.role == REPLICA:
        uses.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    names: list[x509.GeneralName] = [_host_name(host) for host in hosts]
    names.append(x509.UniformResourceIdentifier(owner.uri))
    issuer = authority.certificate
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, owner.name[:64])]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(min(now + valid, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def revocation_list(authority: Authority, revoked: Iterable[Revoked], now: datetime) -> bytes:
    """Return the list of revoked certificates in PEM form, signed by the authority."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - SKEW)
        .next_update(now + LIST_VALID)
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(each.serial).revocation_date(each.revoked_at).build()
        )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem_of(certificates: Sequence[x509.Certificate]) -> bytes:
    """Return certificates in PEM form, one after the other."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key in PEM form, without a password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_authority(key: bytes, certificates: bytes) -> tuple[Authority, list[x509.Certificate]]:
    """Return the authority whose key it is, and the other certificates. Raises `ValueError`."""
    private = serialization.load_pem_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not on an elliptic curve")
    known = x509.load_pem_x509_certificates(certificates)
    mine = [each for each in known if each.public_key() == private.public_key()]
    if not mine:
        raise ValueError("no certificate of the authority belongs to the key")
    return Authority(private, mine[0]), [each for each in known if each is not mine[0]]


def now_utc() -> datetime:
    """Return the time in whole seconds, as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)


def _sign_authority(  # noqa: PLR0917 - all of them are in the certificate
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    serial: int,
    now: datetime,
    valid: timedelta,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - SKEW)
        .not_valid_after(now + valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
