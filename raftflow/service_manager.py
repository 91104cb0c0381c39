"""What a replica or an agent tells the service manager that started it, by the protocol of `sd_notify(3)`.

systemd names a datagram socket in `NOTIFY_SOCKET`, and in `WATCHDOG_USEC` how long the process may be silent:

    READY=1                  the replica serves, the agent is registered: what waits for this unit may start
    EXTEND_TIMEOUT_USEC=N    not ready yet, and alive: a start may take long, while a replica waits for the others
    WATCHDOG=1               the event loop turns; a process whose loop hangs is ended and started again
    STOPPING=1               asked to stop

All of it comes from the event loop, so a loop that hangs is silent. A message that cannot be sent is dropped: the
next one says the same. Without the variable nothing is sent, and no timer runs. Programs that the process starts do
not see the variables: only the process itself may say how it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

STARTING_EVERY_S: Final = 0.2
"""How often it is looked whether the process is ready."""
_EXTENSION_S: Final = 60
_EXTEND_EVERY: Final = 50
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """Tells the service manager how this process is. Make it before other programs are started."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Take the variables out of the environment; `environ` is that of this process by default."""
        environ = os.environ if environ is None else environ
        address, usec, pid = (environ.pop(name, "") for name in _VARIABLES)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = usec.isdecimal() and int(usec) > 0 and pid in {"", str(os.getpid())}
        self.watchdog_s: float | None = int(usec) / 1e6 if watched else None
        """How long the process may be silent, None if nobody looks."""
        self._is_ready: Callable[[], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beats = 0
        self._stopping = False

    @property
    def present(self) -> bool:
        """Whether a service manager listens."""
        return bool(self._address)

    def start(self, is_ready: Callable[[], bool]) -> None:
        """Say from now on, from the running event loop, how the process is. `is_ready` is asked until it is true."""
        if self.present:
            self._is_ready = is_ready
            self._beat()

    def stopping(self) -> None:
        """Say that the process stops. The watchdog goes on hearing from it."""
        if not self._stopping:
            self._stopping = True
            self._tell("STOPPING=1")

    def close(self) -> None:
        """Say nothing more: the process is about to end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        lines = [] if self.watchdog_s is None else ["WATCHDOG=1"]
        wait_s = None if self.watchdog_s is None else self.watchdog_s / 3
        if self._is_ready is not None and not self._stopping:
            if self._is_ready():
                self._is_ready = None
                lines.append("READY=1")
            else:
                if self._beats % _EXTEND_EVERY == 0:
                    lines.append(f"EXTEND_TIMEOUT_USEC={_EXTENSION_S * 1_000_000}")
                wait_s = min(STARTING_EVERY_S, wait_s or STARTING_EVERY_S)
        self._beats += 1
        if lines:
            self._tell(*lines)
        if wait_s is not None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._beat)

    def _tell(self, *lines: str) -> None:
        """Send lines without waiting."""
        if not self.present:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0)
            sender.sendto("\n".join(lines).encode(), self._address)
