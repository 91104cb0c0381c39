"""The only form in which the bytes of a log entry may reach PySyncObj.

The library unpickles the body of every regular command when it applies it, so an entry is as powerful as a program.
Here the pickle is built by hand and compared byte by byte: a command that passes `check` can only unpickle to
`(0, (payload,))`, that is, a call of the one replicated method with one `bytes` argument. Layout of a sealed entry:

    00                 the library's command type REGULAR
    80 03              PROTO 3
    4B 00              BININT1 0: the id of the replicated method
    42 n n n n         BINBYTES, length as little-endian u32
    ...                the payload
    85 86 2E           TUPLE1, TUPLE2, STOP

Two other commands pass: the library's no-op, the single byte 01, and raftflow's membership commands (type 10, see
membership.py), which the library does not read. The library's membership (02) and version (03) commands are
refused. Entries are checked on the wire and when a journal is opened.
"""

from __future__ import annotations

import struct
from typing import Final

from raftflow.replication.members import membership

ENTRY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Longest payload of one entry."""

NO_OP: Final = b"\x01"
"""The command that the library itself appends when a leader begins its term."""

_HEAD: Final = b"\x00\x80\x03K\x00B"
_TAIL: Final = b"\x85\x86."
_LENGTH: Final = struct.Struct("<I")
_START: Final = len(_HEAD) + _LENGTH.size

ENVELOPE_BYTES: Final = _START + len(_TAIL)
"""What sealing adds to a payload."""

COMMAND_BYTES_MAX: Final = ENTRY_BYTES_MAX + ENVELOPE_BYTES
"""Longest sealed command."""


class EnvelopeError(ValueError):
    """The bytes are not a command that this system writes."""


def seal(payload: bytes) -> bytes:
    """Return the command for `payload`, type byte included.

    Hand it to the library as `_applyCommand(seal(payload), callback)`, without a command type, since that would put
    a second type byte in front. Raises `EnvelopeError` if the payload is longer than `ENTRY_BYTES_MAX`.
    """
    size = len(payload)
    if size > ENTRY_BYTES_MAX:
        raise EnvelopeError(f"entry of {size} bytes is over the limit of {ENTRY_BYTES_MAX}")
    return b"".join((_HEAD, _LENGTH.pack(size), payload, _TAIL))


def check(command: bytes) -> None:
    """Raise `EnvelopeError` unless `command` is a sealed payload within the limit, or the library's no-op.

    The cost does not depend on the length: only the frame around the payload is checked.
    """
    if type(command) is not bytes:
        raise EnvelopeError(f"a command is bytes, not {type(command).__name__}")
    if command == NO_OP:
        return
    if command[:1] == membership.MARK:
        try:
            membership.check_command(command)
        except membership.MembershipError as error:
            raise EnvelopeError(str(error)) from None
        return
    size = len(command) - ENVELOPE_BYTES
    if (
        0 <= size <= ENTRY_BYTES_MAX
        and command.startswith(_HEAD)
        and command.endswith(_TAIL)
        and _LENGTH.unpack_from(command, len(_HEAD))[0] == size
    ):
        return
    raise EnvelopeError(_describe(command))


def unseal(command: bytes) -> bytes:
    """Return the payload of a sealed command. Raises `EnvelopeError` for anything else, the no-op included."""
    check(command)
    if command == NO_OP or command[:1] == membership.MARK:
        raise EnvelopeError("a no-op or membership command carries no payload")
    return command[_START : -len(_TAIL)]


def _describe(command: bytes) -> str:
    """Describe what is wrong with a command that failed the check."""
    if not command:
        return "empty command"
    if command[0] in {2, 3}:
        kind = "membership" if command[0] == 2 else "version"
        return f"{kind} commands of the library are not accepted"
    if len(command) > COMMAND_BYTES_MAX:
        return f"command of {len(command)} bytes is over the limit of {COMMAND_BYTES_MAX}"
    return f"command of {len(command)} bytes, beginning with {command[:12].hex()}, is not in the envelope"
