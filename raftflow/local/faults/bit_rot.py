"""Damage to the files of a stopped replica, and how their readers judge it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.coordinator.audit.frames import AuditError, Frame
from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.identity import DataDir
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.membership import Membership, load_first
from raftflow.replication.messages import envelope
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.storage import records
from raftflow.replication.storage.recovery import JournalImage, recover
from raftflow.replication.storage.segments import SegmentScan, read_segment
from raftflow.replication.storage.snapshot_file import SnapshotInfo
from raftflow.replication.storage.snapshot_store import SnapshotStore

_WEIGHTS: Final = {"journal": 10, "snapshot": 6, "meta": 3, "audit": 2}
_USED_SHARE: Final = 0.9
"""So many of the changed bytes lie where something was written, the others anywhere in the file."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One change of one file."""

    kind: str
    path: Path
    offset: int
    xor: int
    """What the byte at `offset` is changed with; 0 cuts the file off there."""

    def __str__(self) -> str:
        what = f"byte {self.offset} ^ {self.xor:#04x}" if self.xor else f"cut to {self.offset} bytes"
        return f"{self.path.parent.name}/{self.path.name}: {what}"

    def apply(self) -> None:
        """Do it."""
        with self.path.open("r+b") as file:
            if self.xor == 0:
                file.truncate(self.offset)
                return
            file.seek(self.offset)
            old = file.read(1)[0]
            file.seek(self.offset)
            file.write(bytes([old ^ self.xor]))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Do it, and undo it afterwards."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            kept = file.read() if self.xor == 0 else file.read(1)
        self.apply()
        try:
            yield
        finally:
            with self.path.open("r+b") as file:
                file.seek(self.offset)
                file.write(kept)


@dataclass(frozen=True, slots=True)
class RotFinding:
    """What the reader made of it."""

    outcome: str
    words: str


class StoppedReplica:
    """The data directory of a stopped replica, and what its readers saw before any damage."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fs = RealFileSystem()
        self._meta = self._read_meta()
        recovered = recover(self._fs, directory / "journal", envelope.check)
        self.image: JournalImage = recovered.image
        self.segments = [segment.path for segment in recovered.segments]
        self._scans: dict[Path, SegmentScan] = {}
        end = None
        for segment in reversed(recovered.segments):
            scan = read_segment(segment.path, segment.number, segment.path.read_bytes(), end=end)
            self._scans[segment.path], end = scan, scan.opening.cut
        self.snapshots = self._store().valid()[0]
        self._states = {info.index: self._digest(info) for info in self.snapshots}
        self._audit = self._frames(directory / "audit")
        self.files: dict[str, list[Path]] = {
            "journal": self.segments,
            "snapshot": sorted((directory / "snapshots").glob("*.snapshot")),
            "meta": [directory / name for name in ("identity", "peers", "members")],
            "audit": sorted((directory / "audit").glob("audit-*")),
        }

    def used_bytes(self, path: Path) -> int:
        """Return how many bytes of a file were written with something; a segment is filled with zeros behind them."""
        scan = self._scans.get(path)
        return path.stat().st_size if scan is None else scan.end

    @contextlib.contextmanager
    def copied(self) -> Iterator[None]:
        """Put everything back afterwards, for a process that is started on the directory."""
        with tempfile.TemporaryDirectory(dir=self.directory.parent) as place:
            kept = Path(place) / "kept"
            shutil.copytree(self.directory, kept)
            try:
                yield
            finally:
                shutil.rmtree(self.directory)
                shutil.copytree(kept, self.directory)

    def judge(self, damage: Damage) -> RotFinding:
        """Let the reader of the file look at it with the damage."""
        with damage.applied():
            try:
                if damage.kind == "journal":
                    return self._judge_journal(damage)
                if damage.kind == "snapshot":
                    return self._judge_snapshots()
                if damage.kind == "meta":
                    return self._judge_meta()
                return self._judge_audit()
            except (LogFailedError, AuditError) as error:
                words = str(error)
                clear = damage.path.name in words or str(damage.path.parent) in words
                return RotFinding("refused" if clear else "ACCEPTED", words)

    # --- the readers

    def _open_dir(self) -> DataDir:
        cluster, name = self._names()
        return DataDir.open(self._fs, self.directory, cluster, name)

    def _names(self) -> tuple[str, str]:
        if not hasattr(self, "_named"):
            text = (self.directory / "identity").read_text(encoding="utf-8")
            self._named = tuple(text.split(f'"{key}":"')[1].split('"')[0] for key in ("cluster", "replica"))
        return self._named[0], self._named[1]

    def _store(self) -> SnapshotStore:
        return SnapshotStore(self._fs, self.directory / "snapshots")

    def _digest(self, info: SnapshotInfo) -> bytes:
        digest = hashlib.sha256()
        for piece in self._store().read(info):
            digest.update(piece)
        return digest.digest()

    def _judge_journal(self, damage: Damage) -> RotFinding:
        found = recover(self._fs, self.directory / "journal", envelope.check).image
        same = (found.entries, found.term, found.vote, found.base, found.start) == (
            self.image.entries,
            self.image.term,
            self.image.vote,
            self.image.base,
            self.image.start,
        )
        if not same:
            return RotFinding("ACCEPTED", f"log up to {found.next_index - 1} instead of {self.image.next_index - 1}")
        return RotFinding("harmless", self._why_harmless(damage))

    def _why_harmless(self, damage: Damage) -> str:
        scan = self._scans[damage.path]
        data = damage.path.read_bytes()
        if damage.offset >= scan.end:
            last = damage.path == self.segments[-1]
            return "journal: behind the records" if last else "journal: the seal of a finished segment, or behind it"
        at = records.PREFIX_BYTES
        while at < scan.end:
            header = records.decode_header(data, at, segment=scan.number)
            if header is None:
                break
            if at + records.HEADER_BYTES + header.payload_bytes < damage.offset < at + header.record_bytes:
                return "journal: padding between two records"
            if at <= damage.offset < at + header.record_bytes and at + header.record_bytes == scan.end:
                break
            at += header.record_bytes
        return f"journal: the last record, without entries ({scan.end - damage.offset} bytes before the end)"

    def _judge_snapshots(self) -> RotFinding:
        store = self._store()
        first = self.image.entries[0][1] if self.image.entries else 0
        chosen = store.load_newest(first)
        if chosen is None or self._states.get(chosen.index) != self._digest(chosen):
            return RotFinding("ACCEPTED", f"the snapshot {chosen} was never written")
        if chosen.index == self.snapshots[0].index:
            if len(store.valid()[1]) == 0:
                return RotFinding("harmless", "snapshot: nothing is seen of it")
            return RotFinding("repaired", "snapshot: an older one, which is not needed")
        return RotFinding("repaired", "snapshot: the older one and the journal hold everything")

    def _judge_meta(self) -> RotFinding:
        found = self._read_meta()
        if found == self._meta:
            return RotFinding("harmless", "identity, peers, members: read the same")
        return RotFinding("ACCEPTED", f"{found}")

    def _read_meta(self) -> tuple[object, ...]:
        """Read the small files beside the log: whose directory it is, the peers' disks, the first members."""
        with contextlib.closing(self._open_dir()) as data:
            introducer = Introducer(self._fs, self.directory, level=1)
            introducer.open()
            return data.identity, introducer.known, load_first(self._fs, self.directory, Membership())

    def _judge_audit(self) -> RotFinding:
        with tempfile.TemporaryDirectory(dir=self.directory.parent) as place:
            copy = Path(place) / "audit"
            shutil.copytree(self.directory / "audit", copy)
            try:
                found = self._frames(copy)
            except AuditError as error:
                return RotFinding("refused", str(error).replace(str(copy), str(self.directory / "audit")))
        if found == self._audit:
            return RotFinding("harmless", "audit: reads the same")
        if found == self._audit[: len(found)]:
            return RotFinding(
                "repaired", "audit: cut off before the damage; made again from the log, or shown as a gap"
            )
        return RotFinding("ACCEPTED", "the audit says something else")

    def _frames(self, directory: Path) -> list[Frame]:
        """Open the audit as a replica does, and read all of it."""
        audit = AuditFile(self._fs, directory, lambda _error: None)
        audit.open()

        async def read() -> list[Frame]:
            try:
                return [frame for path in await audit.segments() for frame in await audit.frames_of(path)]
            finally:
                await audit.close()

        return asyncio.run(read())


def damage_of(replica: StoppedReplica, chance: random.Random) -> Damage:
    """Choose what to damage: mostly bits where something was written, sometimes whole bytes and ends of files."""
    kind = chance.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
    path = chance.choice(replica.files[kind])
    size = path.stat().st_size
    used = replica.used_bytes(path) if chance.random() < _USED_SHARE else size
    offset = chance.randrange(used)
    how = chance.random()
    if how < 0.15:
        return Damage(kind, path, offset, 0)
    return Damage(kind, path, offset, 1 << chance.randrange(8) if how < 0.8 else chance.randrange(1, 256))


__all__ = ["Damage", "RotFinding", "StoppedReplica", "damage_of"]
