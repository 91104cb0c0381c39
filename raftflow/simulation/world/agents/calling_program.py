"""A simulated program that asks its agent as the programs of users do, one line after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextvars import Context

    from raftflow.agent.calls.attempt import CallingAttempt
    from raftflow.simulation.world.loop import Process
    from raftflow.simulation.world.observer import ExecutionObserver, TaskKey


class CallingProgram:
    """What one attempt runs. `done` is called in the world's context when nothing is left to do, or it has parked."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        world: Context,
        process: Process,
        observer: ExecutionObserver,
        attempt: CallingAttempt,
        task: TaskKey,
        done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._world = world
        self._process = process
        self._observer = observer
        self._attempt = attempt
        self._task = task
        self._done = done
        self._over = False
        self._told_to_end = False
        """The agent has said that the attempt has parked."""
        self._draw()

    def _draw(self) -> None:
        """Draw what this attempt will do."""
        raise NotImplementedError

    def begin(self) -> None:
        """Begin with the first request."""
        raise NotImplementedError

    @property
    def parked(self) -> bytes:
        """What the attempt waits for, as JSON, if it has parked; empty if not."""
        return self._attempt.parked

    def end(self) -> None:
        """The program is gone."""
        self._over = True
        # The agent closes the attempt's connections when it learns of the end.
        self._loop.call_soon(self._attempt.end, context=self._process.context)

    def _ask(
        self,
        request: dict[str, Any],
        then: Callable[[dict[str, Any]], None],
        refused: Callable[[], None] | None = None,
    ) -> None:
        """Send a line to the agent's process, and continue with its answer. Refused attempts do nothing more.

        With `refused` they continue so if the request is found to be invalid. An attempt that is told that it has
        parked, because a budget is used up, ends.
        """

        def answered(line: bytes) -> None:
            self._loop.call_soon(take, msgspec.json.decode(line), context=self._world)

        def take(answer: dict[str, Any]) -> None:
            if self._over:
                return
            if "ok" in answer:
                then(answer["ok"])
            elif answer["error"]["type"] == "parked" and not self._told_to_end:
                self._told_to_end = True
                self._done()
            elif answer["error"]["type"] == "invalid" and refused is not None:
                refused()

        self._loop.call_soon(
            self._attempt.handle, msgspec.json.encode(request), answered, context=self._process.context
        )
