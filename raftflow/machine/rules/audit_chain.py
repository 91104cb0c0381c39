"""The audit chain: every applied command leaves a record, and every record seals all before it.

    chain(n) = BLAKE2b-256( chain(n-1) + MessagePack of record n with an empty chain field )

The first record's predecessor is `CHAIN_START`. Equal chains mean equal histories, so the chain is also the digest
by which replicas are compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from raftflow.domain.contract.views import AuditRecord
from raftflow.domain.values.exact import UNREADABLE

CHAIN_BYTES = 32
CHAIN_START = bytes(CHAIN_BYTES)

# `chain` is the last field, so a record with the chain is the record without it, less the empty bytes at its end,
# and the bytes of the chain. One encoding serves the hash and the file.
_EMPTY_BYTES = b"\xc4\x00"
_CHAIN_HEAD = b"\xc4" + bytes([CHAIN_BYTES])

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AuditRecord)


def seal(previous: bytes, record: AuditRecord) -> tuple[bytes, bytes]:
    """Return the chain after `record`, whose own chain is empty, and the record's encoding with that chain in it."""
    body = _encoder.encode(record)
    chain = blake2b(previous + body, digest_size=CHAIN_BYTES).digest()
    return chain, body[: -len(_EMPTY_BYTES)] + _CHAIN_HEAD + chain


def decode_record(data: bytes) -> AuditRecord:
    """Read a record. Raises `ValueError` if the bytes are not a record."""
    try:
        return _decoder.decode(data)
    except UNREADABLE as error:
        raise ValueError(f"not an audit record: {error}") from error


def chain_of(previous: bytes, record: AuditRecord) -> bytes:
    """Return what the chain is after `record`, whatever the record says."""
    return seal(previous, msgspec.structs.replace(record, chain=b""))[0]


def verify_chain(records: Iterable[AuditRecord], start_chain: bytes = CHAIN_START) -> tuple[bytes, list[str]]:
    """Check records that follow on each other. Returns the chain that the last one shows, and what is wrong.

    After a record that does not fit, checking goes on from what that record shows: each fault is reported once.
    """
    chain = start_chain
    problems = []
    before = (0, -1)
    for record in records:
        place = f"index {record.index}, position {record.position}"
        if (record.index, record.position) <= before:
            problems.append(f"{place}: out of order, after index {before[0]}, position {before[1]}")
        if chain_of(chain, record) != record.chain:
            problems.append(
                f"{place}: the chain does not fit: this record or one before it was changed or is missing"
            )
        chain = record.chain
        before = (record.index, record.position)
    return chain, problems
