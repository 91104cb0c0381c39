"""Comparing payloads of signals with JSON Schemas, on the leader, without delaying its other work.

What is certainly quick is done at once. Everything else is done by a process of its own, one at a time, which is
killed when it takes too long: then the payload counts as one that does not fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio.subprocess import DEVNULL, PIPE
from typing import Final

from raftflow import helpers
from raftflow.coordinator.calls.schema_cost import COMPILE_STEPS, STEPS_MAX, schema_cost
from raftflow.coordinator.calls.schemas import schema_fault, schema_problem
from raftflow.coordinator.commit.submitter import BusyError
from raftflow.domain.limits import SCHEMA_BYTES_MAX

_log = logging.getLogger(__name__)

LENGTH_BYTES: Final = 4
WAIT_S: Final = 30.0
"""A process that needs longer is killed. It had no CPU time, else its own limit would have ended it."""
REFUSED_S: Final = 60.0
"""A schema that took too long is refused for so long without trying again."""
_REFUSED_MAX: Final = 1_000
TOO_LONG: Final = (
    "it takes too long to compare a value with the schema: use a simpler schema, without nested references"
)


class SchemaChecks:
    """Compares payloads with schemas. Only the leader uses it."""

    def __init__(self, *, wait_s: float = WAIT_S, refused_s: float = REFUSED_S) -> None:
        self._wait_s = wait_s
        self._refused_s = refused_s
        self._turn = asyncio.Lock()
        self._refused: dict[bytes, float] = {}
        """Schemas that took too long, and until when they are refused, oldest first."""

    async def problem(self, schema: bytes) -> str | None:
        """Say why this cannot be the schema of a signal, None if it can. Raises `BusyError`."""
        if len(schema) > SCHEMA_BYTES_MAX or schema_cost(schema) * COMPILE_STEPS <= STEPS_MAX:
            return schema_problem(schema)
        return await self._ask(schema, b"")

    async def fault(self, schema: bytes, payload: bytes) -> str | None:
        """Say why a payload does not fit a schema, None if it does. Raises `BusyError`."""
        if schema_cost(schema) * len(payload) <= STEPS_MAX:
            return schema_fault(schema, payload)
        return await self._ask(schema, payload)

    async def _ask(self, schema: bytes, payload: bytes) -> str | None:
        loop = asyncio.get_running_loop()
        async with self._turn:
            if self._refused.get(schema, 0) > loop.time():
                return TOO_LONG
            try:
                async with asyncio.timeout(self._wait_s):
                    answer = await _run(len(schema).to_bytes(LENGTH_BYTES, "big") + schema + payload)
            except OSError as error:  # `TimeoutError` is one
                _log.warning("a signal was not compared with its schema: %r", error)
                raise BusyError("the machine is too busy to compare the signal with its schema") from error
            if answer is not None:
                return answer or None
            _log.warning("comparing a signal with a schema of %d bytes takes too long: it is refused", len(schema))
            self._refused.pop(schema, None)
            if len(self._refused) >= _REFUSED_MAX:
                del self._refused[next(iter(self._refused))]
            self._refused[schema] = loop.time() + self._refused_s
            return TOO_LONG


async def _run(request: bytes) -> str | None:
    """Run the process, and return its answer; None if it was killed for what it used."""
    command = helpers.command("raftflow.coordinator.calls.schema_process")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
    )
    try:
        answer, _ = await process.communicate(request)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return answer.decode("utf-8", "replace") if process.returncode == 0 else None
