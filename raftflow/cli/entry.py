"""Where the `raftflow` command begins: Ctrl-C is tidy from the first import to the end of the interpreter."""

from __future__ import annotations

import signal
import sys

_INTERRUPTIBLE = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _INTERRUPTIBLE:
    # Until the command line stands, and after it has ended, an interrupt ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line and exit."""
    from raftflow.cli.main import root  # noqa: PLC0415 - after the signal is taken care of

    if _INTERRUPTIBLE:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code: object = 0
    try:
        root(prog_name="raftflow")
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:  # while an earlier one was being told
        code = 130
    finally:
        if _INTERRUPTIBLE:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code if code is None or isinstance(code, int) else str(code))
