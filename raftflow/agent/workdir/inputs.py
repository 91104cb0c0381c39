"""Inputs that are too large to come with an assignment: fetched in pieces, into a file, before the attempt starts.

Any replica has them, so followers are asked first and the leader, whose time is everybody's, last. A replica that is
behind, busy or silent is passed over; one that refuses is not asked again. No more than one piece of an attempt is in
memory, and a few attempts fetch at a time; the others wait, in no order that anybody relies on.

The file is what a program finds at RAFTFLOW_INPUTS. A python worker reads from it what its function looks at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from raftflow.agent.workdir.directory import INPUTS
from raftflow.agent.workdir.files import UnfitFileError, create_file, opened_folder, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raftflow.agent.workdir.directory import WorkDirectory
    from raftflow.domain.contract.views import Assignment, InputsPiece

_log = logging.getLogger("raftflow.agent.inputs")

FETCHES_MAX: Final = 4
"""Attempts that fetch at the same time."""
ASK_S: Final = 2.0
"""How long a replica has for a piece."""
AWAY_S: Final = 30.0
"""For so long a replica that did not answer is asked after the others, whatever attempt is fetched for."""
PATIENCE_S: Final = 60.0
"""An attempt that has got no piece for so long is given back."""
_WAIT_MIN_S: Final = 0.01
_WAIT_MAX_S: Final = 0.5

_encode = msgspec.json.Encoder().encode


class InputsError(Exception):
    """The inputs are not available. Says why."""

    def __init__(self, message: str, *, own: bool = False, over: bool = False) -> None:
        super().__init__(message)
        self.own = own
        """It is a fault of the agent, or of the cluster, and not of the task: another agent may get the inputs."""
        self.over = over
        """The attempt is over, as a replica says: nobody waits for its end."""


class ReplicaUnavailableError(Exception):
    """A replica has nothing to give at the moment: it is behind, busy, or cannot be reached."""

    def __init__(self, message: str, retry_after_s: float = 0.0, *, away: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.away = away
        """It did not answer: the next time others are asked before it."""


class InputsRefusedError(Exception):
    """A replica refuses this request, and would again."""


class AttemptOverError(Exception):
    """A replica that knows the attempt says that it is over."""


class InputsSource(Protocol):
    """Where pieces come from."""

    def replicas(self) -> list[str]:
        """Return the replicas, in the order in which they should be asked."""

    async def inputs(self, replica: str, agent: str, fence: int, first: int, timeout_s: float) -> InputsPiece:
        """Ask for a piece. Raises `ReplicaUnavailableError`, `InputsRefusedError`, `AttemptOverError`."""


class FetchedInputs(Protocol):
    """Inputs that were fetched."""

    @property
    def path(self) -> str:
        """File that holds them as one JSON object."""

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """For each need where in the file its result begins, and how many bytes it has."""

    async def add(self, inputs: Mapping[str, msgspec.Raw]) -> None:
        """Take a piece. Raises `OSError`."""

    async def finish(self) -> None:
        """Be told that this is all. Raises `OSError`."""

    def remove(self) -> None:
        """Be forgotten. Safe at any time, and more than once."""


class InputsFetcher:
    """Fetches the inputs of attempts.

    Args:
        agent: returns the agent's id.
        make: makes the place for the inputs of an attempt. Raises `OSError` and `UnfitFileError`.
        bytes_max: of one attempt's inputs.
    """

    def __init__(
        self,
        source: InputsSource,
        make: Callable[[int], FetchedInputs],
        *,
        agent: str,
        bytes_max: int,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._source = source
        self._make = make
        self._agent = agent
        self._bytes_max = bytes_max
        self._patience_s = patience_s
        self._room = asyncio.Semaphore(FETCHES_MAX)
        self._away: dict[str, float] = {}
        """Replicas that did not answer, and until when others are asked before them."""

    async def fetch(self, assignment: Assignment) -> FetchedInputs:
        """Return all inputs of an attempt. Raises `InputsError`. Being cancelled leaves nothing behind."""
        apart, fence = assignment.inputs_apart, assignment.fence
        assert apart is not None  # noqa: S101 - only such attempts are fetched for
        if apart.size > self._bytes_max:
            raise InputsError(
                f"the results of the {apart.count} tasks that it needs have {apart.size} bytes, and this agent takes "
                f"{self._bytes_max} (inputs_bytes_max); write large results to files and return their names"
            )
        async with self._room:
            try:
                inputs = self._make(fence)
            except (OSError, UnfitFileError) as error:
                raise InputsError(f"there is no place for its inputs: {error}", own=True) from error
            try:
                await self._fetch(fence, apart.count, inputs)
            except OSError as error:
                inputs.remove()
                raise InputsError(f"its inputs cannot be written: {error}", own=True) from error
            except BaseException:
                inputs.remove()
                raise
        return inputs

    async def _fetch(self, fence: int, count: int, inputs: FetchedInputs) -> None:
        got = size = 0
        passes = _ReplicaPasses(self._source, fence, self._patience_s, self._away)
        first: int | None = 0
        while first is not None:
            piece = await passes.piece(self._agent, first)
            got += len(piece.inputs)
            size += sum(map(len, piece.inputs.values()))
            more = piece.next is not None and piece.inputs and piece.next == got < count
            if not (more or (piece.next is None and got == count)) or size > self._bytes_max:
                raise InputsError(f"{got} of {count} inputs with {size} bytes came from input {first} on", own=True)
            await inputs.add(piece.inputs)
            first = piece.next
        await inputs.finish()


class _ReplicaPasses:
    """Asks one replica after the other for pieces of one attempt's inputs; stays with one that answers."""

    def __init__(self, source: InputsSource, fence: int, patience_s: float, away: dict[str, float]) -> None:
        self._source = source
        self._fence = fence
        self._patience_s = patience_s
        self._good: str | None = None
        """The one that answered last."""
        self._away = away
        self._refused: dict[str, str] = {}

    async def piece(self, agent: str, first: int) -> InputsPiece:
        """Return a piece. Raises `InputsError`."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._patience_s
        wait_s = _WAIT_MIN_S
        while True:
            why, pause_s = "no replica could be asked", 0.0
            for replica in self._order():
                try:
                    piece = await self._source.inputs(replica, agent, self._fence, first, ASK_S)
                except AttemptOverError as error:
                    raise InputsError(str(error), over=True) from None
                except InputsRefusedError as error:
                    self._refused[replica] = str(error)
                except ReplicaUnavailableError as error:
                    why, pause_s = str(error), max(pause_s, error.retry_after_s)
                    if error.away:
                        self._away[replica] = loop.time() + AWAY_S
                else:
                    self._good = replica
                    self._away.pop(replica, None)
                    return piece
            if self._refused and not self._order():
                raise InputsError(f"no replica gives out its inputs: {'; '.join(self._refused.values())}")
            if loop.time() >= until_s:
                raise InputsError(f"no replica gave out its inputs for {self._patience_s:g} s: {why}", own=True)
            _log.debug("attempt %d waits for its inputs: %s", self._fence, why)
            await asyncio.sleep(max(pause_s, wait_s) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            wait_s = min(wait_s * 2, _WAIT_MAX_S)

    def _order(self) -> list[str]:
        """Return the replicas to ask, in order: followers in turn by attempt, the leader, those without an answer."""
        replicas = [replica for replica in self._source.replicas() if replica not in self._refused]
        others, leader = replicas[:-1], replicas[-1:]
        turn = self._fence % max(1, len(others))
        if self._good in others:
            turn = others.index(self._good)
        now_s = asyncio.get_running_loop().time()
        order = [*others[turn:], *others[:turn], *leader]
        return sorted(order, key=lambda replica: self._away.get(replica, 0.0) > now_s)


class InputFolder:
    """The files of inputs. One thread writes and removes them, so that a slow disk delays nothing else."""

    def __init__(self, work: WorkDirectory) -> None:
        self._work = work
        self._folder = work.part(INPUTS)
        self.thread = ThreadPoolExecutor(1, "inputs")

    def make(self, fence: int) -> InputFile:
        """Create the file of an attempt, under a name that nobody can guess. Raises `OSError` and `UnfitFileError`.

        Tasks run as the same user: the folder may be gone, and is then made again.
        """
        name = f"{fence}-{secrets.token_hex(8)}.json"
        try:
            return self._make(name)
        except (OSError, UnfitFileError):
            self._work.restore()
        return self._make(name)

    def _make(self, name: str) -> InputFile:
        with opened_folder(self._folder, "the folder of inputs") as folder:
            if folder is None:
                raise UnfitFileError("the folder of inputs is gone")
            fd = create_file(name, "the file of the inputs", folder=folder)
        return InputFile(f"{self._folder}/{name}", fd, self.thread)

    def close(self) -> None:
        """End the thread when it has done what it was given."""
        self.thread.shutdown(wait=False)


class InputFile:
    """Implements `FetchedInputs`."""

    def __init__(self, path: str, fd: int, thread: ThreadPoolExecutor) -> None:
        """`fd` is open for writing, and is closed by this."""
        self.path = path
        self._fd = fd
        self.places: dict[str, tuple[int, int]] = {}
        self._thread = thread
        self._size = 0
        self._removed = False

    async def add(self, inputs: Mapping[str, msgspec.Raw]) -> None:
        """Write a piece."""
        parts: list[bytes | msgspec.Raw] = []
        for need, result in inputs.items():
            key = b"%s%s:" % (b"," if self.places else b"{", _encode(need))
            self.places[need] = (self._size + len(key), len(result))
            self._size += len(key) + len(result)
            parts += (key, result)
        await self._run(self._write, b"".join([bytes(part) for part in parts]))

    async def finish(self) -> None:
        """Write the end."""
        await self._run(self._write, b"}" if self.places else b"{}")
        await self._run(self._close)

    def remove(self) -> None:
        """Close and remove the file, after what is being written."""
        if not self._removed:
            self._removed = True
            self._thread.submit(self._unlink)

    async def _run(self, work: Callable[..., None], *args: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _write(self, data: bytes) -> None:
        write_all(self._fd, data)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unlink(self) -> None:
        self._close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - a plain path
