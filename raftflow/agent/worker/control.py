"""The worker's end of the socket to its agent: a length of 4 bytes, then a message, in both directions."""

from __future__ import annotations

import os
import socket
import struct

from raftflow.agent.launcher.messages import CONTROL_FD, MESSAGE_BYTES_MAX

_RECEIVE_BYTES = 1 << 16


class WorkerControl:
    """Receives calls and sends answers. Nobody but this process has the socket.

    Programs that a function starts do not inherit it. A process that a function forks finds the null device in its
    place: it could otherwise answer for the worker, or take the next call away.

    Args:
        control: the socket, at any descriptor.
    """

    def __init__(self, control: socket.socket) -> None:
        os.set_inheritable(control.fileno(), False)  # noqa: FBT003 - positional only
        self._control = control
        self._received = bytearray()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        os.dup2(self._null, self._control.fileno(), inheritable=False)

    def send(self, message: bytes) -> None:
        """Send a message. Raises `OSError` if the agent is gone."""
        self._control.sendall(struct.pack("<I", len(message)) + message)

    def send_ready(self, word: bytes) -> None:
        """Send what comes before all messages, as it is."""
        self._control.sendall(word)

    def receive(self) -> bytes | None:
        """Return the next message, None if the agent is gone. Raises `ValueError` for one that is too long."""
        received = self._received
        while True:
            if len(received) >= 4:
                (size,) = struct.unpack_from("<I", received)
                if size > MESSAGE_BYTES_MAX:
                    raise ValueError(f"a message of {size} bytes from the agent")
                if len(received) >= 4 + size:
                    message = bytes(received[4 : 4 + size])
                    del received[: 4 + size]
                    return message
            chunk = self._control.recv(_RECEIVE_BYTES)
            if not chunk:
                return None
            received += chunk


def open_control() -> WorkerControl:
    """Return the control of this worker: its launcher has put the socket at `CONTROL_FD`."""
    return WorkerControl(socket.socket(fileno=CONTROL_FD))
