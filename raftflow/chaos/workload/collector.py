"""The collector: what tasks tell while they run, and the outside store that checks their fences.

It listens on a Unix socket, which no fault of the network reaches. Each attempt keeps one connection open while it
runs, so that the end of a killed attempt is seen at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from raftflow.chaos.history import HistoryWriter

THAW_GRACE_S: Final = 1.0
"""An attempt that was frozen past its lease may exist for so long after it goes on: then it must have been killed."""


class TaskWord(msgspec.Struct, kw_only=True):
    """One line of a task."""

    event: str
    """`start`, `effect` or `end`; `ran` or `known` of a durable step; `child`: the result of one came."""
    workflow: str
    task: str
    attempt: int
    fence: int
    agent: str
    step: str = ""
    child: str = ""
    value: Any = None


@dataclass(slots=True, eq=False)
class ConnectedAttempt:
    """An attempt whose connection is open."""

    about: dict[str, Any]
    agent: str
    frozen: bool = False
    ended: bool = False


class Collector:
    """Writes attempts and effects into the history. Use it on one event loop."""

    def __init__(self, history: HistoryWriter, path: Path) -> None:
        self.path = path
        self._history = history
        self._server: asyncio.Server | None = None
        self._fences: dict[tuple[str, str], int] = {}
        """The greatest fence that was presented for each task: what an outside store keeps with its data."""
        self._running: set[ConnectedAttempt] = set()
        self.started = 0

    async def start(self) -> None:
        """Listen. Raises `OSError`."""
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def close(self) -> None:
        """Stop to listen."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempt: ConnectedAttempt | None = None
        try:
            while line := await reader.readline():
                word = msgspec.json.decode(line, type=TaskWord)
                about = {
                    "workflow": word.workflow,
                    "task": word.task,
                    "attempt": word.attempt,
                    "fence": word.fence,
                }
                answer = b"+\n"
                if word.event == "start":
                    attempt = ConnectedAttempt(about, word.agent)
                    self._running.add(attempt)
                    self.started += 1
                    self._write(attempt, "start")
                elif word.event == "effect":
                    accepted = self._accept(word)
                    self._history.write("effect", **about, accepted=accepted)
                    answer = b"+\n" if accepted else b"-\n"
                elif word.event in {"ran", "known"}:
                    self._history.write("step", event=word.event, **about, step=word.step, value=word.value)
                elif word.event == "child":
                    self._history.write("child", **about, child=word.child, value=word.value)
                elif attempt is not None:
                    self._end(attempt, "told")
                writer.write(answer)
                await writer.drain()
        except (OSError, ValueError, msgspec.DecodeError):
            pass
        finally:
            if attempt is not None:
                self._end(attempt, "closed")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _accept(self, word: TaskWord) -> bool:
        """Check a fence as a store does: refuse one that is smaller than the greatest that was seen."""
        key = (word.workflow, word.task)
        if word.fence < self._fences.get(key, 0):
            return False
        self._fences[key] = word.fence
        return True

    def freeze(self, agent: str) -> int:
        """Note that all processes of an agent are stopped: its attempts do not run. Returns how many there are."""
        frozen = [attempt for attempt in self._running if attempt.agent == agent and not attempt.frozen]
        for attempt in frozen:
            attempt.frozen = True
            self._write(attempt, "end", why="frozen")
        return len(frozen)

    async def thaw(self, agent: str) -> None:
        """Note that they go on: attempts that still exist after a grace run again."""
        await asyncio.sleep(THAW_GRACE_S)
        for attempt in [each for each in self._running if each.agent == agent and each.frozen]:
            attempt.frozen = False
            self._write(attempt, "start", why="thawed")

    def _end(self, attempt: ConnectedAttempt, why: str) -> None:
        self._running.discard(attempt)
        if not attempt.ended and not attempt.frozen:
            self._write(attempt, "end", why=why)
        attempt.ended = True

    def _write(self, attempt: ConnectedAttempt, event: str, **more: str) -> None:
        self._history.write("attempt", event=event, agent=attempt.agent, **attempt.about, **more)
