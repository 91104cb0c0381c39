"""Group commit: commands that arrive while an entry is in flight share the next entry.

A command that is alone leaves in the same turn of the event loop. Under load an entry carries the commands that
arrived while earlier entries were replicated, so the cost of a commit is shared. There are bounds for entries in
flight, for commands and bytes of an entry, and for waiting commands (`BusyError` asks the caller to come back later).

Clients take turns (`fair_queue`): a thousand waiting commands of one client do not delay a single command of another,
and a large command does not delay small ones. Internal commands (the leader's own, agents' registrations and reports)
go first and keep their order, but leave clients a quarter of each entry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from raftflow.coordinator.commit.fair_queue import FairQueue
from raftflow.domain import limits
from raftflow.domain.commands import AnyCommand, RaiseFeatureLevel, encode_entry
from raftflow.domain.features import LEVEL, level_of
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.machine.commands.features import refusal
from raftflow.replication.log import Applied, Rejected, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.replies import AnyReply
    from raftflow.replication.log import Outcome, ReplicatedLog

FOUNDING = "the cluster is new and not yet on the feature level of its founders"
_RAISE_TAG = str(RaiseFeatureLevel.__struct_config__.tag)
_ENTRY_OVERHEAD_BYTES = 64
"""An upper bound for the version and the array headers around the commands of an entry."""

ENTRY_TARGET_BYTES = 1024 * 1024
"""An entry is closed when it has grown to this size; a single larger command gets an entry of its own."""


WAITING_BYTES_MAX = 128 * 1024 * 1024
"""Bytes of clients' commands that may wait or be in flight. A single command is never refused for its size."""

SMALL_BYTES = 16 * 1024
"""Every client has one queue for commands up to this size and one for larger ones. Also the quantum of a queue."""

MIN_BYTES = 4 * 1024
"""The smallest command counts as this many bytes in its client's turn, since applying it takes time too."""

_decoder = msgspec.msgpack.Decoder(AnyCommand)


class ProposeError(Exception):
    """The command did not get a reply."""


class NoLeaderError(ProposeError):
    """There is no leader at the moment. The command is not in the log; try again soon."""


class NotLeaderError(ProposeError):
    """Another replica leads. The command is not in the log; send it there."""

    def __init__(self, leader: str, leader_url: str) -> None:
        super().__init__(f"the leader is {leader} at {leader_url}")
        self.leader = leader
        self.leader_url = leader_url


class OutcomeUnknownError(ProposeError):
    """Leadership or contact was lost while the command was in flight. It may have been applied."""


class BusyError(ProposeError):
    """Too many commands are waiting. The command is not in the log; try again later."""


class EncodedCommand(NamedTuple):
    """A command that every replica can read, encoded once."""

    encoded: bytes
    tag: str
    level: int
    """The feature level that the cluster must be on."""


def encode_command(command: AnyCommand) -> EncodedCommand | Rejection:
    """Encode a command and make sure that every replica can read it. Pure; large ones are encoded in a thread.

    An entry that cannot be read stops every replica. So what comes from outside is decoded once before it is
    proposed.
    """
    try:
        encoded = msgspec.msgpack.encode(command)
        if not command.actor.startswith("leader:"):
            command = _decoder.decode(encoded)  # parts of it were encoded earlier and are raw bytes so far
    except (OverflowError, ValueError, RecursionError) as error:
        # A number beyond 64 bits, a string that is not Unicode, a value of the wrong type.
        return Rejection(RejectionCode.INVALID, f"the request holds a value that cannot be stored: {error}")
    if len(encoded) + _ENTRY_OVERHEAD_BYTES > limits.ENTRY_BYTES_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"the request takes {len(encoded)} bytes when stored, the limit is {limits.ENTRY_BYTES_MAX}",
            limit=limits.ENTRY_BYTES_MAX,
        )
    return EncodedCommand(encoded, str(type(command).__struct_config__.tag), level_of(command))


class _Waiting:
    """A command that waits or is in flight."""

    __slots__ = ("bounded", "client", "encoded", "future")

    def __init__(self, encoded: bytes, future: asyncio.Future[AnyReply], *, bounded: bool, client: str) -> None:
        self.encoded = encoded
        self.future = future
        self.bounded = bounded
        self.client = client


class _ClientBacklog:
    """How much one client has waiting or in flight."""

    __slots__ = ("bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0


class Submitter:
    """Puts commands into entries of the log and gives each its own reply.

    Args:
        log: where entries go. Its `apply` must return an object whose `replies` has one reply for each command.
        find_leader: returns (name, url) of the present leader, or None.
        waiting_max: commands of clients that may wait or be in flight. The leader's own and the agents' reports
            do not count: their number is bounded by the number of agents.
        timeout_s: after this an entry's outcome is unknown.
        feature_level: returns the level that the cluster is on, 0 until a new one has its founders' level. A command
            that needs a higher one must not come into the log, for older replicas could not read the entry.
    """

    def __init__(
        self,
        log: ReplicatedLog,
        find_leader: Callable[[], tuple[str, str] | None],
        *,
        waiting_max: int = 10_000,
        in_flight_max: int = 2,
        commands_max: int = 1_024,
        timeout_s: float = 5.0,
        on_commit: Callable[[float, int], None] | None = None,
        feature_level: Callable[[], int] = lambda: LEVEL,
    ) -> None:
        self._log = log
        self._find_leader = find_leader
        self._waiting_max = waiting_max
        self._in_flight_max = in_flight_max
        self._commands_max = commands_max
        self._timeout_s = timeout_s
        self._on_commit = on_commit
        self._feature_level = feature_level
        self._own: deque[_Waiting] = deque()
        """Internal commands, of the leader and of agents."""
        self._clients: FairQueue[_Waiting] = FairQueue(SMALL_BYTES)
        self._passed_over = False
        """True if clients' commands waited and none of them went into the last entry."""
        self._backlogs: dict[str, _ClientBacklog] = {}
        """Clients that have anything waiting or in flight."""
        self._bounded = 0
        self._bounded_bytes = 0
        self._in_flight: set[asyncio.Task[None]] = set()
        self._pump_scheduled = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Commands that wait for an entry."""
        return len(self._own) + len(self._clients)

    async def propose(
        self, command: AnyCommand | EncodedCommand, *, bounded: bool = False, client: str = ""
    ) -> AnyReply:
        """Submit one command and return what the state machine answered, a `Rejection` included.

        `bounded` commands are refused with `BusyError` when too many are waiting. Those of one `client` (an address)
        share its turns and may not take more of the room than they leave. Raises `ProposeError`s; after
        `OutcomeUnknownError` alone the command may have been applied.
        """
        queued = self.enqueue(command, bounded=bounded, client=client)
        return queued if isinstance(queued, Rejection) else await queued

    def enqueue(
        self, command: AnyCommand | EncodedCommand, *, bounded: bool = False, client: str = ""
    ) -> asyncio.Future[AnyReply] | Rejection:
        """Do as `propose` does, without waiting. Commands that name no client leave in this order."""
        if self._closed:
            raise NoLeaderError("this replica is stopping")
        prepared = command if isinstance(command, EncodedCommand) else encode_command(command)
        if isinstance(prepared, Rejection):
            return prepared
        level = self._feature_level()
        if prepared.level > level:
            if level:
                return refusal(prepared.tag, prepared.level, level)
            if prepared.tag != _RAISE_TAG:
                raise NoLeaderError(FOUNDING)
        size = len(prepared.encoded)
        if bounded:
            self._reserve_room(client, size)
        future: asyncio.Future[AnyReply] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(prepared.encoded, future, bounded=bounded, client=client)
        if client:
            self._clients.add((client, size > SMALL_BYTES), max(size, MIN_BYTES), waiting)
        else:
            self._own.append(waiting)
        self._schedule_pump()
        return future

    def _reserve_room(self, client: str, size: int) -> None:
        """Count a client's command. Raises `BusyError` if too many wait, or if this client has more than is left."""
        if self._bounded >= self._waiting_max:
            raise BusyError(f"{self._bounded} commands are waiting, the limit is {self._waiting_max}")
        if self._bounded and self._bounded_bytes + size > WAITING_BYTES_MAX:
            raise BusyError(f"the waiting commands take {self._bounded_bytes} bytes already")
        if client:
            share = self._backlogs.get(client) or _ClientBacklog()
            if share.count and share.count >= self._waiting_max - self._bounded:
                raise BusyError(f"{share.count} commands of {client} are waiting, and others need room")
            if share.count and share.bytes + size > WAITING_BYTES_MAX - self._bounded_bytes:
                raise BusyError(f"the waiting commands of {client} take {share.bytes} bytes, and others need room")
            share.count += 1
            share.bytes += size
            self._backlogs[client] = share
        self._bounded += 1
        self._bounded_bytes += size

    def refuse(self) -> None:
        """Refuse the commands that wait and those that come from now on."""
        self._closed = True
        while self.waiting:
            item = self._own.popleft() if self._own else self._clients.pop()
            self._settle(item, NoLeaderError("this replica is stopping"))

    async def close(self) -> None:
        """Refuse the commands that wait, and wait for the outcome of those in flight."""
        self.refuse()
        if self._in_flight:
            await asyncio.wait(tuple(self._in_flight))

    def _schedule_pump(self) -> None:
        # In the next turn of the loop, so that everything that this turn brings shares an entry.
        if not self._pump_scheduled and len(self._in_flight) < self._in_flight_max:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        while self.waiting and len(self._in_flight) < self._in_flight_max:
            task = asyncio.get_running_loop().create_task(self._send(self._take_batch()))
            self._in_flight.add(task)
            task.add_done_callback(self._end_entry)

    def _end_entry(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # `submit` never raises for what the cluster did, so this is a bug: let the loop's handler report it.
            raise error
        self._pump()

    def _take_batch(self) -> list[_Waiting]:
        """Take what the next entry carries: at least one command, and more as far as they fit."""
        own, clients = self._own, self._clients
        batch: list[_Waiting] = []
        size = 0

        def take(item: _Waiting) -> None:
            nonlocal size
            batch.append(item)
            size += len(item.encoded)

        def fits(more: int, quarters: int = 4) -> bool:
            room = len(batch) < max(1, self._commands_max * quarters // 4)
            return not batch or (room and size + more <= ENTRY_TARGET_BYTES * quarters // 4)

        if clients and self._passed_over:
            take(clients.pop())
        self._passed_over = bool(clients)
        while own and fits(len(own[0].encoded), 3 if clients else 4):
            take(own.popleft())
        while clients and fits(clients.head_size()):
            take(clients.pop())
            self._passed_over = False
        while own and fits(len(own[0].encoded)):
            take(own.popleft())
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        # Each command is encoded already; `Raw` puts those bytes into the entry as they are.
        commands = cast("tuple[AnyCommand, ...]", tuple(msgspec.Raw(item.encoded) for item in batch))
        try:
            outcome = await self._log.submit(encode_entry(commands), self._timeout_s)
        except BaseException:
            for item in batch:
                self._settle(item, OutcomeUnknownError("the log failed"))
            raise
        if isinstance(outcome, Applied):
            replies = cast("Any", outcome.reply).replies
            for item, reply in zip(batch, replies, strict=True):
                self._settle(item, reply)
            if self._on_commit is not None:
                self._on_commit(loop.time() - started_s, len(batch))
            return
        for item in batch:
            self._settle(item, self._explain(outcome))

    def _settle(self, item: _Waiting, result: AnyReply | ProposeError) -> None:
        if item.bounded:
            self._bounded -= 1
            self._bounded_bytes -= len(item.encoded)
            share = self._backlogs.get(item.client)
            if share is not None:
                share.count -= 1
                share.bytes -= len(item.encoded)
                if not share.count:
                    del self._backlogs[item.client]
        if item.future.done():  # the caller went away
            return
        if isinstance(result, ProposeError):
            item.future.set_exception(result)
        else:
            item.future.set_result(result)

    def _explain(self, outcome: Outcome) -> ProposeError:
        if isinstance(outcome, Unknown):
            return OutcomeUnknownError(f"the outcome is unknown ({outcome.reason})")
        assert isinstance(outcome, Rejected)  # noqa: S101 - Outcome has three members
        if outcome.reason == "queue_full":
            return BusyError("the log's queue is full")
        return self.no_leader_error()

    def no_leader_error(self) -> NoLeaderError | NotLeaderError:
        """Return the error that says where the leader is."""
        leader = self._find_leader()
        if leader is None:
            return NoLeaderError("there is no leader at the moment")
        return NotLeaderError(*leader)
