"""The whole audit of a replica in one file: JSON lines, the last of which seals the ones before.

```
{"format": 1, "cluster": ..., "replica": ..., "anchor_index": ...}
{"index": ..., "position": ..., ..., "chain": ...}                    one line a record, in log order
{"end": true, "records": ..., "first_index": ..., "last_index": ..., "chain": ..., "digest": ...}
```

The chain of every record is computed again from the one before; the digest at the end is BLAKE2b-256 of all lines
before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from raftflow.domain.contract.views import AuditLine, AuditRecord
from raftflow.machine.rules.audit_chain import chain_of

if TYPE_CHECKING:
    from types import TracebackType

FORMAT: Final = 1


class AuditExportError(Exception):
    """The records, or the file, are not a whole audit. Says what is wrong."""


class ExportHead(msgspec.Struct, kw_only=True):
    """The first line."""

    format: int = FORMAT
    cluster: str
    replica: str
    anchor_index: int
    """Records up to this one were dropped before; 0 for none."""


class ExportEnd(msgspec.Struct, kw_only=True):
    """The last line."""

    end: bool = True
    records: int
    first_index: int
    last_index: int
    chain: str
    digest: str


class _ChainOfLines:
    """Follows the chain through the lines. A gap, which a snapshot left, begins it again."""

    def __init__(self) -> None:
        self._chain: bytes | None = None
        self.records = 0
        self.first_index = self.last_index = 0

    @property
    def chain(self) -> str:
        return "" if self._chain is None else self._chain.hex()

    def take(self, line: AuditLine, *, after_gap: bool) -> None:
        record = record_of_line(line)
        if self._chain is not None and not after_gap and chain_of(self._chain, record) != record.chain:
            raise AuditExportError(
                f"index {line.index}, position {line.position}: the chain does not fit: this record or the one "
                f"before it was changed or is missing"
            )
        self._chain = record.chain
        self.records += 1
        self.first_index = self.first_index or line.index
        self.last_index = line.index


def record_of_line(line: AuditLine) -> AuditRecord:
    """Return the record that a line of a listing shows."""
    at_ms = round(datetime.fromisoformat(line.at).timestamp() * 1000)
    names = set(AuditRecord.__struct_fields__) - {"at_ms", "chain", "transitions"}
    shown = {name: getattr(line, name) for name in names}
    return AuditRecord(**shown, at_ms=at_ms, chain=bytes.fromhex(line.chain), transitions=tuple(line.transitions))


class AuditExportWriter:
    """Writes an export. Use it in a `with`: without `finish` nothing is left behind."""

    def __init__(self, path: Path, head: ExportHead, gap_ends: frozenset[int]) -> None:
        """Begin the file under a temporary name. `gap_ends` are the last indexes of gaps. Raises `OSError`."""
        self._path = path
        self._gap_ends = gap_ends
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._digest = hashlib.blake2b(digest_size=32)
        self._lines = _ChainOfLines()
        fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "wb")
        self._write(msgspec.json.encode(head) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what is left in the buffer of a file that is dropped
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def add(self, lines: list[AuditLine]) -> None:
        """Add records that follow on those before. Raises `AuditExportError`, `OSError`."""
        for line in lines:
            before = self._lines.last_index
            after_gap = any(before < end < line.index for end in self._gap_ends)
            self._lines.take(line, after_gap=after_gap)
            self._write(msgspec.json.encode(line) + b"\n")

    def finish(self) -> ExportEnd:
        """Seal the file, sync it and give it its name. Raises `OSError`."""
        lines = self._lines
        end = ExportEnd(
            records=lines.records,
            first_index=lines.first_index,
            last_index=lines.last_index,
            chain=lines.chain,
            digest=self._digest.hexdigest(),
        )
        self._put(msgspec.json.encode(end) + b"\n", sync=True)
        self._partial.replace(self._path)
        return end

    def _write(self, line: bytes) -> None:
        self._digest.update(line)
        self._put(line)

    def _put(self, line: bytes, *, sync: bool = False) -> None:
        try:
            self._file.write(line)
            if sync:
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            raise AuditExportError(f"{self._path} cannot be written: {error.strerror}; free space") from error
