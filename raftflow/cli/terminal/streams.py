"""The standard streams. A closed or full stream, or a small character set, never ends a command with a traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any


class OutputError(Exception):
    """Standard output cannot be written; `errno` says why."""

    def __init__(self, number: int) -> None:
        """Keep the number."""
        self.errno = number
        why = os.strerror(number)
        super().__init__("standard output is closed" if number == errno.EBADF else f"standard output: {why}")

    @classmethod
    def of(cls, error: BaseException) -> OutputError:
        """Make one of what a write or flush raised."""
        return cls(getattr(error, "errno", None) or errno.EPIPE)


def prepare() -> None:
    """Give a process all three standard streams, and let texts that they cannot hold pass in an escaped form.

    A stream that was closed by the caller gets a descriptor that refuses what the stream is for: later files and
    sockets cannot take its number, and using it fails as it should. Standard error alone swallows what it gets.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, _closed_stream(number))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _closed_stream(number: int) -> Any:
    flags = os.O_RDONLY if number == 1 else os.O_WRONLY
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
    mode = "r" if number == 0 else "w"
    return open(number, mode, encoding="utf-8", closefd=False)


def tell(text: str) -> None:
    """Print a line to standard error, without control characters. Never fails."""
    stream = sys.stderr
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        stream.write(_encodable(safe(text), stream) + "\n")
        stream.flush()


def echo(text: str = "", *, nl: bool = True) -> None:
    """Print a text to standard output as it is. Raises `OutputError`."""
    stream = sys.stdout
    if stream is None:
        raise OutputError(errno.EBADF)
    try:
        stream.write(_encodable(text, stream) + ("\n" if nl else ""))
        if stream.isatty():
            stream.flush()
    except (OSError, ValueError) as error:
        raise OutputError.of(error) from None


def echo_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are, and at once. Raises `OutputError`."""
    flush()
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except AttributeError:
        if sys.stdout is None:
            raise OutputError(errno.EBADF) from None
        echo(data.decode(errors="replace"), nl=False)  # it was replaced by a stream that only accepts text
    except (OSError, ValueError) as error:
        raise OutputError.of(error) from None


def flush() -> None:
    """Write out what standard output has buffered. Raises `OutputError`."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            raise OutputError.of(error) from None


def abandon() -> None:
    """Drop what could not be written to standard output, so that the interpreter does not try again when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is there and a terminal."""
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:  # closed
        return False


def can_show(text: str) -> bool:
    """Tell whether standard output can hold a text as it is."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def is_utf8(text: str) -> bool:
    """Tell whether standard output writes a text as UTF-8."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    return text.isascii() or (encoding in ("utf-8", "utf8") and can_show(text))


def safe(text: str) -> str:
    """Return a text with control characters escaped; line breaks stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return "    " if char == "\t" else ascii(char)[1:-1]


def _encodable(text: str, stream: Any) -> str:
    """Return a text that the stream can hold: what its character set lacks is escaped."""
    if text.isascii():
        return text
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode()
    return text
