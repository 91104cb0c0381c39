"""What the agent says to its launcher and to its python workers, and what they answer. MessagePack, arrays.

agent  -- Spawn, Signal, Lease, Sample, Ping -->  launcher  -- Exited, Sampled, Alive -->  agent
agent  -- Call -->  worker  -- Returned -->  agent

To the launcher: one packet a message, SOCK_SEQPACKET. To a worker: 4 bytes of length before each message. A worker
says `READY` first.
"""

from __future__ import annotations

import array
import socket
from typing import Annotated

import msgspec

from raftflow.domain import limits

CONTROL_FD = 3
"""Descriptor of the worker's end of its socket, in the worker."""

INSTANCE_VARIABLE = "RAFTFLOW_AGENT_INSTANCE"
"""In the environment of the launcher and of all that it starts: `WorkDirectory.mark`."""

READY = b"R"
"""What a worker says once, before anything else: it has started, and waits for calls."""

_PACKET_BYTES_MAX = 1 << 20
_FDS_MAX = 3
"""Descriptors that may come with a packet."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)

MESSAGE_BYTES_MAX = 1 << 24
"""Of one message from the agent to a worker: a call and its inputs come in one answer to a poll, or are in a file."""

_Amount = Annotated[int, msgspec.Meta(ge=0, le=limits.USAGE_NUMBER_MAX)]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Common form."""


class Spawn(_Message, frozen=True, tag="spawn"):
    """Start a program in a session of its own.

    Descriptors sent along become its standard output, standard error and `CONTROL_FD`; without them the two streams
    are captured.
    """

    id: int
    """Chosen by the agent; `Signal` and `Exited` carry it."""
    argv: tuple[str, ...]
    env: dict[str, str]
    """Added to what the launcher inherited."""
    cwd: str | None
    folder: str
    """For its captured streams (`kept`), made when the first byte comes."""
    bytes_max: int
    """Kept of each of them. 0: the program gets descriptors that were sent along."""
    cleanup: tuple[str, ...] = ()
    """A program that the launcher runs when this one has ended for any reason. It ends what this one has started
    elsewhere. `Exited` is sent after it. The launcher also runs it when the agent is gone."""
    cleanup_env: dict[str, str] = {}
    """Added to what the launcher inherited, for that program."""


class Signal(_Message, frozen=True, tag="signal"):
    """Send a signal to the process group of a program. Unknown ids are ignored: it has ended already."""

    id: int
    signal: int


class LeaseExtension(_Message, frozen=True, tag="lease"):
    """Programs may run until this time of CLOCK_BOOTTIME, in ns; then all of them are killed."""

    until_ns: int


class Sample(_Message, frozen=True, tag="sample"):
    """Say what programs use. One `Sampled` answers it."""

    wanted: list[tuple[int, int]]
    """Id of a program, and the memory in KiB from which on its processes are named; 0 for never."""


class Sampled(_Message, frozen=True, tag="sampled"):
    """What programs use, children included; programs that have ended are left out."""

    used: list[tuple[int, int, int, int, list[int]]]
    """Id, CPU time in ms, memory that it holds and resident pages of files (`process_tree.Memory`), both in KiB, and
    its processes if it holds as much as was said."""


class Ping(_Message, frozen=True, tag="ping"):
    """Say that you are there."""


class Alive(_Message, frozen=True, tag="alive"):
    """The launcher works: said once at its start, and for each `Ping`."""


class Exited(_Message, frozen=True, tag="exited"):
    """A program ended, its process group is dead and its output is on disk."""

    id: int
    code: int | None
    """Negative for a signal; None if it never started."""
    error: str = ""
    """Why it never started."""
    lease_over: bool = False
    """The launcher killed it because the lease was over."""
    sizes: tuple[int, int] = (0, 0)
    """Bytes written to stdout and stderr."""
    truncated: tuple[bool, bool] = (False, False)
    """Whether some of them are not kept."""
    stderr_tail: bytes = b""
    """Only of a program that failed."""
    cpu_ms: int = 0
    """CPU time of the program and of its children that it waited for."""
    rss_max_kib: int = 0
    """Most memory of one of these; 0 if it was less than can be told."""
    signalled: bool = False
    """The agent, or the launcher for it, had sent it a signal before it ended."""
    problem: str = ""
    """What is wrong with the files of its captured output; the program itself may have succeeded."""
    agent_fault: bool = False
    """The machine could not start it, or the launcher died: whatever it was, it is not to blame."""
    uncleaned: bool = False
    """Its cleanup failed, or took too long: what it has started elsewhere may still run."""


class FunctionCall(_Message, frozen=True):
    """Call a function."""

    fence: int
    attempt: int
    workflow: str
    task: str
    function: str
    args: bytes
    """JSON array."""
    kwargs: bytes
    """JSON object."""
    env: dict[str, str]
    cwd: str | None
    inputs: dict[str, bytes]
    """JSON result of each need."""
    directory: str
    """Where the output of the call goes, made when there is any."""
    output_bytes_max: int
    result_bytes_max: int
    inputs_path: str = ""
    """File of the inputs if they were too large to be here; empty if it is not used."""
    inputs_places: dict[str, tuple[int, int]] = {}
    """For each need where in that file its result begins, and how many bytes it has."""


class Returned(_Message, frozen=True):
    """The function returned or raised."""

    fence: int
    ok: bool
    result: bytes = b""
    error: Annotated[str, msgspec.Meta(max_length=limits.ERROR_CHARS_MAX)] = ""
    sizes: tuple[_Amount, _Amount] = (0, 0)
    truncated: tuple[bool, bool] = (False, False)
    leftovers: bool = False
    """The call left something behind that lasts as long as the worker: it must go, with its group."""
    rss_max_kib: _Amount = 0
    """Most memory of the worker, or of one of its children, during the call, without pages of files at its end."""
    rss_kib: _Amount = 0
    """Memory that the worker keeps after the call, without pages of files."""
    cpu_ms: _Amount = 0
    """CPU time of the call, children that were waited for included."""
    cpu_life_ms: _Amount = 0
    """CPU time of the worker since it was started."""
    stale: Annotated[str, msgspec.Meta(max_length=limits.ERROR_CHARS_MAX)] = ""
    """The call was not begun, for this file has changed since the worker imported it: a new worker is needed. Never
    the answer to a worker's first call."""


ToLauncher = Spawn | Signal | LeaseExtension | Sample | Ping
FromLauncher = Exited | Sampled | Alive


def receive_packet(control: socket.socket) -> tuple[bytes, list[int]]:
    """Return a packet and the descriptors that came with it, which programs do not inherit.

    `socket.recv_fds` of Python 3.11 ignores its flags.
    """
    data, ancillary, _, _ = control.recvmsg(_PACKET_BYTES_MAX, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
