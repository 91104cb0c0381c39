"""Output of a program, read by the launcher: head and tail are kept, and the program never waits."""

from __future__ import annotations

import os
import sys

from raftflow.agent.output.stream_file import StreamFile
from raftflow.agent.workdir.files import CaptureFolder, UnfitFileError

_CHUNK_BYTES = 1 << 16
_TAIL_BYTES = 2048


class CapturedStream:
    """One captured output stream: head and tail go to files, the rest is counted, the very end is remembered."""

    __slots__ = ("fd", "folder", "is_lost", "kept", "name", "problem", "size", "tail")

    def __init__(self, fd: int, folder: CaptureFolder, name: str, bytes_max: int) -> None:
        self.fd = fd
        self.folder = folder
        self.name = name
        self.kept = StreamFile(folder, name, bytes_max)
        self.problem = ""
        """Why the file cannot be created: somebody changed the folder."""
        self.is_lost = False
        """Nothing more can be kept."""
        self.size = 0
        """Bytes that the program has written."""
        self.tail = b""

    @property
    def truncated(self) -> bool:
        """True if some of the bytes are not kept."""
        return self.is_lost or self.kept.is_cut

    def read(self) -> int | None:
        """Take what is there and return how much; 0 at the end of the stream, None if there is nothing now."""
        try:
            chunk = os.read(self.fd, _CHUNK_BYTES)
        except BlockingIOError:
            return None
        if not chunk:
            return 0
        self.tail = (self.tail + chunk)[-_TAIL_BYTES:] if len(chunk) < _TAIL_BYTES else chunk[-_TAIL_BYTES:]
        self.size += len(chunk)
        if not self.is_lost:
            self._write(chunk)
        return len(chunk)

    def _write(self, chunk: bytes) -> None:
        try:
            self.kept.note_time()
            self.kept.write(chunk)
        except UnfitFileError as error:
            self.problem = str(error)
            self._drop(error)
        except OSError as error:  # a full disk must not stop the program
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        self.is_lost = True
        print(f"raftflow launcher: cannot keep output in {self.folder.path}: {error}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Close both ends of ours."""
        os.close(self.fd)
        self.kept.close()
