"""The file of a snapshot that comes in from another replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftflow.replication.storage import snapshot_file
from raftflow.replication.storage.snapshot_file import check_file

if TYPE_CHECKING:
    from raftflow.replication.files import FileSystem, OpenFile
    from raftflow.replication.storage.snapshot_file import SnapshotInfo
    from raftflow.replication.storage.snapshot_store import SnapshotStore

SNAPSHOT_BYTES_MAX: Final = 64 * 1024**3


class PartialSnapshot:
    """Takes the file of a snapshot, chunk by chunk, and installs it only if every checksum is right."""

    def __init__(self, fs: FileSystem, store: SnapshotStore) -> None:
        """Begin with nothing received. `store` is on `fs`."""
        self._fs = fs
        self._store = store
        self._file: OpenFile | None = None
        self._size = 0
        self._received = 0

    @property
    def received(self) -> int:
        """Bytes received so far."""
        return self._received

    def begin(self, size: int) -> None:
        """Start to receive a file of `size` bytes. What was received before is dropped.

        Raises `ValueError` if it is over the limit, and `OSError`.
        """
        if not 0 < size <= SNAPSHOT_BYTES_MAX:
            raise ValueError(f"a snapshot of {size} bytes; the limit is {SNAPSHOT_BYTES_MAX}")
        self.abort()
        self._file = self._store.create_partial()
        self._size = size

    def write(self, chunk: bytes) -> None:
        """Append a chunk: a bounded write into the page cache. Raises `ValueError` if it is too much, `OSError`."""
        if self._file is None:
            raise ValueError("no snapshot is being received")
        if len(chunk) > snapshot_file.CHUNK_BYTES_MAX or self._received + len(chunk) > self._size:
            raise ValueError(f"{len(chunk)} more bytes after {self._received} of {self._size}")
        self._file.write_at(self._received, chunk)
        self._received += len(chunk)

    async def finish(self) -> SnapshotInfo:
        """Check everything, make it durable, give it its final name.

        Raises `SnapshotCorruptError` or `OSError`; then what was received is removed.
        """
        file, self._file = self._file, None
        if file is None:
            raise ValueError("no snapshot is being received")
        store, size, received = self._store, self._size, self._received

        def install() -> SnapshotInfo:
            try:
                check_file(file, size, received)
                file.sync()
                return store.install(file)
            except Exception:
                store.discard(file)
                raise

        self._received = 0
        return await self._fs.off_loop(install)

    def abort(self) -> None:
        """Drop what was received. May be called at any time."""
        file, self._file, self._received = self._file, None, 0
        if file is not None:
            self._store.discard(file)
