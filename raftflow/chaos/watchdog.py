"""The watchdog of the nemesis: it holds the list of what is to be undone, and undoes it when the nemesis is gone.

The nemesis writes lines to its standard input. When that closes, however the nemesis ended, everything that is left
on the list is carried out, the newest first. It ignores Ctrl-C and SIGTERM: it ends when its work is done.
"""

from __future__ import annotations

import contextlib
import signal
import sys

import msgspec

from raftflow.chaos.undo import Undo, perform


class WatchdogLine(msgspec.Struct, kw_only=True):
    """What the nemesis says: add one to the list, or drop one."""

    add: int | None = None
    undo: Undo | None = None
    drop: int | None = None


def main() -> None:
    """Read the list until the nemesis is gone, then undo what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pending: dict[int, Undo] = {}
    decoder = msgspec.json.Decoder(WatchdogLine)
    for line in sys.stdin.buffer:
        with contextlib.suppress(msgspec.DecodeError):  # the last line of a killed process may be cut off
            word = decoder.decode(line)
            if word.add is not None and word.undo is not None:
                pending[word.add] = word.undo
            elif word.drop is not None:
                pending.pop(word.drop, None)
    for _, undo in sorted(pending.items(), reverse=True):
        with contextlib.suppress(OSError):
            perform(undo)


if __name__ == "__main__":
    main()
