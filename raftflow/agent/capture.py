"""Output of a program, read by the launcher: the head is kept, the rest is dropped, and the program never waits."""

from __future__ import annotations

import os
import sys

from raftflow.agent.files import CaptureFolder, UnfitFileError, write_all

_CHUNK_BYTES = 1 << 16
_TAIL_BYTES = 2048


class Stream:
    """One captured output stream: the head goes to a file, the rest is dropped, the tail is remembered."""

    __slots__ = ("bytes_max", "fd", "file", "folder", "name", "problem", "size", "tail", "truncated")

    def __init__(self, fd: int, folder: CaptureFolder, name: str, bytes_max: int) -> None:
        self.fd = fd
        self.folder = folder
        self.name = name
        self.bytes_max = bytes_max
        self.file = -1
        self.problem = ""
        """Why the file cannot be created: somebody meddled with the folder."""
        self.size = 0
        self.truncated = False
        self.tail = b""

    def read(self) -> int | None:
        """Take what is there and return how much; 0 at the end of the stream, None if there is nothing now."""
        try:
            chunk = os.read(self.fd, _CHUNK_BYTES)
        except BlockingIOError:
            return None
        if not chunk:
            return 0
        self.tail = (self.tail + chunk)[-_TAIL_BYTES:] if len(chunk) < _TAIL_BYTES else chunk[-_TAIL_BYTES:]
        room = self.bytes_max - self.size
        if len(chunk) > room:
            self.truncated = True
        if room > 0:
            self._write(chunk[:room])
        return len(chunk)

    def _write(self, chunk: bytes) -> None:
        try:
            if self.file < 0:
                self.file = self.folder.create(self.name, f"the file of captured {self.name}")
            write_all(self.file, chunk)
            self.size += len(chunk)
        except UnfitFileError as error:
            self.problem = str(error)
            self._drop(error)
        except OSError as error:  # a full disk must not stop the program
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        self.truncated = True
        self.bytes_max = self.size
        print(f"raftflow launcher: cannot keep output in {self.folder.path}: {error}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Close both ends of ours."""
        os.close(self.fd)
        if self.file >= 0:
            os.close(self.file)
