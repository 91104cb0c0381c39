"""The whole audit in one file: complete, checked while it is written, sealed at its end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain.contract.views import AuditLine
from raftflow.domain.values.times import iso_utc
from raftflow.machine.machine import Machine
from raftflow.machine.rules.audit_chain import decode_record
from raftflow.recovery.audit_export import AuditExportError, AuditExportWriter, ExportEnd, ExportHead, record_of_line

START_MS = 1_790_000_000_123
HEAD = ExportHead(cluster="c", replica="n1", anchor_index=0)


def lines(count: int = 20) -> list[AuditLine]:
    machine, found = Machine(), []
    for index in range(1, count + 1):
        command = c.RegisterAgent(
            at_ms=START_MS + index * 7, actor="agent:a", name=f"a{index}", instance="i", capacity={"cpu": 1}
        )
        record = decode_record(machine.apply(index, 1, c.encode_entry((command,))).audit[0])
        fields = {name: getattr(record, name) for name in set(AuditLine.__struct_fields__) - {"at", "chain"}}
        line = AuditLine(
            **{**fields, "transitions": list(record.transitions)}, at=iso_utc(record.at_ms), chain=record.chain.hex()
        )
        assert record_of_line(line) == record
        found.append(line)
    return found


def test_the_file_has_every_record_and_a_seal(tmp_path: Path) -> None:
    records = lines()
    with AuditExportWriter(tmp_path / "audit", HEAD, frozenset()) as writer:
        writer.add(records[:7])
        writer.add(records[7:])
        end = writer.finish()
    written = (tmp_path / "audit").read_bytes().splitlines(keepends=True)
    assert msgspec.json.decode(written[0], type=ExportHead) == HEAD
    assert [msgspec.json.decode(line, type=AuditLine) for line in written[1:-1]] == records
    assert msgspec.json.decode(written[-1], type=ExportEnd) == end
    assert (end.records, end.first_index, end.last_index, end.chain) == (20, 1, 20, records[-1].chain)
    assert end.digest == hashlib.blake2b(b"".join(written[:-1]), digest_size=32).hexdigest()
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600


def test_a_record_that_was_changed_or_is_missing_ends_it(tmp_path: Path) -> None:
    records = lines()
    changed = [*records[:5], msgspec.structs.replace(records[5], actor="evil"), *records[6:]]
    for wrong, place in ((changed, 6), ([*records[:5], *records[6:]], 7)):
        refused = pytest.raises(AuditExportError, match=f"index {place}, position 0")
        with AuditExportWriter(tmp_path / "audit", HEAD, frozenset()) as writer, refused:
            writer.add(wrong)
        assert list(tmp_path.iterdir()) == []


def test_a_gap_begins_the_chain_again(tmp_path: Path) -> None:
    records = lines()
    with AuditExportWriter(tmp_path / "audit", HEAD, frozenset({8})) as writer:
        writer.add([*records[:5], *records[8:]])
        assert writer.finish().records == 17
