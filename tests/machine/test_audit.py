"""The audit chain: any change of a record, their order or their number shows."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.machine.rules.audit_chain import CHAIN_START, chain_of, decode_record, seal, verify_chain


@pytest.fixture
def records(drive):
    drive.register()
    drive.submit(drive.chain(2), request_id="r1")
    drive.place(0)
    drive.finish(1)
    return drive.records


def test_the_chain_of_a_machine_verifies(drive, records):
    assert verify_chain(records) == (drive.machine.chain, [])
    assert chain_of(CHAIN_START, records[0]) == records[0].chain
    assert verify_chain(records[2:], records[1].chain) == (drive.machine.chain, [])


def test_sealing_and_reading_are_inverse(records):
    first = msgspec.structs.replace(records[1], chain=b"")
    chain, encoded = seal(records[0].chain, first)
    assert chain == records[1].chain
    assert decode_record(encoded) == records[1]
    assert encoded == msgspec.msgpack.encode(records[1])


def test_what_is_no_record_is_refused():
    with pytest.raises(ValueError, match="not an audit record"):
        decode_record(b"\x00")


FORGERIES = {
    "changed": lambda r: [r[0], msgspec.structs.replace(r[1], actor="somebody"), *r[2:]],
    "left out": lambda r: [r[0], *r[2:]],
    "put in twice": lambda r: [r[0], r[0], *r[1:]],
    "swapped": lambda r: [r[1], r[0], *r[2:]],
    "another start": lambda r: r[1:],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_shows(records, forgery):
    assert verify_chain(FORGERIES[forgery](records))[1]


def test_a_fault_is_told_once(records):
    forged = [msgspec.structs.replace(records[0], actor="somebody"), *records[1:]]
    _, problems = verify_chain(forged)
    assert problems == [
        "index 1, position 0: the chain does not fit: this record or one before it was changed or is missing"
    ]
