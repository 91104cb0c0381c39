"""What a certificate file says: for which names it is valid, and until when.

The library of Python shows a certificate only after a handshake with it. So the fields are read here from the encoded
form (X.509, RFC 5280, section 4.1; DER, X.690). Nothing is verified: that is done where the certificate is used.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from raftflow.domain.contract.cluster import CertificateFacts

_FILE_BYTES_MAX: Final = 1024 * 1024
_NAMES_MAX: Final = 100
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_COMMON_NAME: Final = bytes.fromhex("550403")
_ALTERNATIVE_NAMES: Final = bytes.fromhex("551d11")
_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_UTC_TIME, _GENERAL_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87


class _DerValue(NamedTuple):
    """One value in DER."""

    tag: int
    content: bytes


def certificate_facts(setting: str, path: Path) -> CertificateFacts:
    """Read the first certificate of a file. A file that cannot be read or understood has an `error`."""
    found = CertificateFacts(setting=setting, path=str(path))
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX).decode("ascii", "replace")
    except OSError as error:
        found.error = f"it cannot be read: {error.strerror}"
        return found
    pem = _PEM.search(text)
    if pem is None:
        found.error = "it has no certificate in PEM form"
        return found
    try:
        _read_fields(ssl.PEM_cert_to_DER_cert(pem.group()), found)
    except (ValueError, IndexError, OverflowError) as error:
        found.error = f"its certificate is not understood: {str(error) or type(error).__name__}"[:200]
    return found


def list_facts(setting: str, path: Path) -> CertificateFacts:
    """Read until when a list of revoked certificates is fresh. One that cannot be used has an `error`."""
    from cryptography import x509  # noqa: PLC0415 - heavy, and few replicas have a list

    found = CertificateFacts(setting=setting, path=str(path))
    try:
        with path.open("rb") as file:
            revoked = x509.load_pem_x509_crl(file.read(_FILE_BYTES_MAX))
    except OSError as error:
        found.error = f"it cannot be read: {error.strerror}"
        return found
    except ValueError:
        found.error = "it has no list of revoked certificates in PEM form"
        return found
    until = revoked.next_update_utc or revoked.last_update_utc
    found.not_before_ms = int(revoked.last_update_utc.timestamp() * 1000)
    found.not_after_ms = int(until.timestamp() * 1000)
    return found


def _read_fields(der: bytes, found: CertificateFacts) -> None:
    """Fill in what the encoded certificate says. Raises `ValueError`, `IndexError`."""
    (certificate,) = _values(der)
    signed, *_ = _values(certificate.content)
    fields = list(_values(signed.content))
    if fields[0].tag == _VERSION:
        del fields[0]
    _serial, _algorithm, _issuer, validity, subject = fields[:5]
    found.not_before_ms, found.not_after_ms = (_time_ms(each) for each in _values(validity.content))
    found.subject = _common_name(subject)
    for field in fields:
        if field.tag == _EXTENSIONS:
            found.names = list(_alternative_names(field))[:_NAMES_MAX]


def _common_name(subject: _DerValue) -> str:
    for group in _values(subject.content):
        for attribute in _values(group.content):
            kind, value = _values(attribute.content)
            if kind == (_OID, _COMMON_NAME):
                return value.content.decode("utf-8", "replace")
    return ""


def _alternative_names(extensions: _DerValue) -> Iterator[str]:
    (listed,) = _values(extensions.content)
    for extension in _values(listed.content):
        kind, *_critical, value = _values(extension.content)
        if kind != (_OID, _ALTERNATIVE_NAMES) or value.tag != _OCTETS:
            continue
        (names,) = _values(value.content)
        for name in _values(names.content):
            if name.tag == _DNS_NAME:
                yield name.content.decode("ascii", "replace")
            elif name.tag == _IP_ADDRESS:
                yield str(ipaddress.ip_address(name.content))


def _time_ms(value: _DerValue) -> int:
    """Return a time in milliseconds since the epoch. A year of two digits is one from 1950 to 2049."""
    text = value.content.decode("ascii")
    if value.tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif value.tag != _GENERAL_TIME:
        raise ValueError("its validity is not a time")
    return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp() * 1000)


def _values(data: bytes) -> Iterator[_DerValue]:
    """Yield the values that are encoded one after the other. Raises `ValueError`, `IndexError`."""
    place = 0
    while place < len(data):
        tag, size = data[place], data[place + 1]
        place += 2
        if size & 0x80:
            digits = size & 0x7F
            if not 0 < digits <= 4:
                raise ValueError("a length has no bound")
            size = int.from_bytes(data[place : place + digits], "big")
            place += digits
        content = data[place : place + size]
        if len(content) < size:
            raise ValueError("it is cut off")
        yield _DerValue(tag, content)
        place += size
