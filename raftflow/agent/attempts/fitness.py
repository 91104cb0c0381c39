"""Whether the agent itself is in order: what was its own fault, and when it works again.

What an attempt could not get from its agent (space, descriptors, processes, a work directory, an interpreter) is not
a failure of the task. The first such end puts the agent aside: it starts nothing, gives its queue back, and tells the
leader why, until a probe has done what could not be done. What runs goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from typing import TYPE_CHECKING, Final, Protocol

from raftflow.agent.clock import now_ns
from raftflow.agent.workdir.directory import EXCHANGE
from raftflow.agent.workdir.files import UnfitFileError, create_file, is_of_the_system, write_all
from raftflow.domain.contract.reportable import reportable_text
from raftflow.domain.limits import TROUBLE_CHARS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from raftflow.agent.executors.base import Executor
    from raftflow.agent.workdir.directory import WorkDirectory

_log = logging.getLogger("raftflow.agent.fitness")

PROBE_FIRST_S: Final = 1.0
"""From a fault to the first probe; each further one comes after twice as long."""
PROBE_MAX_S: Final = 10.0
_PROBE_BYTES: Final = 16 << 10
_ROOM_BYTES: Final = 4 << 10
"""What must be free in the work directory if a failed attempt is to have failed by itself."""


class Probe(Protocol):
    """Looks whether the machine has what attempts need."""

    def find_shortage(self) -> str:
        """Return what the machine lacks now, as far as can be told at once; empty if nothing."""

    async def run(self) -> str:
        """Try whatever an attempt needs. Returns what is wrong, empty if nothing is."""


class Fitness:
    """Knows whether the agent is fit for work.

    Args:
        changed: called when the agent becomes unfit, when the reason changes, and when it is fit again.
    """

    def __init__(self, probe: Probe, changed: Callable[[], None]) -> None:
        self.trouble = ""
        """Why the agent is unfit, empty while it is fit."""
        self._probe = probe
        self._changed = changed
        self._last_shortage = (-1, "")
        """When the machine was last seen to lack something, and what."""
        self._probing: asyncio.Task[None] | None = None

    def shortage_since(self, since_ns: int) -> str:
        """Return what the machine lacks, or was seen to lack at or after a time of the boot clock."""
        found = self._probe.find_shortage()
        if found:
            self._last_shortage = (now_ns(), found)
        return self._last_shortage[1] if self._last_shortage[0] >= since_ns else ""

    def report_fault(self, why: str) -> None:
        """Note that an attempt could not run by the agent's own fault."""
        self.shortage_since(now_ns())
        if self.trouble:
            return
        _log.error("this agent takes no work until a probe succeeds: %s", why)
        self._tell(why)
        self._probing = asyncio.get_running_loop().create_task(self._recover())

    def close(self) -> None:
        """End probing."""
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    def _tell(self, trouble: str) -> None:
        trouble = reportable_text(trouble, TROUBLE_CHARS_MAX)
        if trouble != self.trouble:
            self.trouble = trouble
            self._changed()

    async def _recover(self) -> None:
        wait_s = PROBE_FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            self.shortage_since(now_ns())
            wrong = await self._probe.run()
            if not wrong:
                break
            _log.warning("still unfit: %s", wrong)
            self._tell(wrong)
            wait_s = min(wait_s * 2, PROBE_MAX_S)
        _log.info("this agent works again")
        self._probing = None
        self._tell("")


class MachineProbe:
    """Implements `Probe` by doing, in small, what attempts need."""

    def __init__(self, work: WorkDirectory, executors: Collection[Executor]) -> None:
        self._work = work
        self._executors = executors

    def find_shortage(self) -> str:
        """Return what the work directory lacks: a small file is written. Anything but the system's refusal passes."""
        try:
            self._write(_ROOM_BYTES)
        except (OSError, UnfitFileError) as error:
            if is_of_the_system(error):
                return self._refused(error)
        return ""

    async def run(self) -> str:
        """Write a file, and let each executor try whether it can start something."""
        try:
            self._work.restore()
            self._write(_PROBE_BYTES)
        except (OSError, UnfitFileError) as error:
            return self._refused(error)
        for executor in self._executors:
            wrong = await executor.probe()
            if wrong:
                return wrong
        return ""

    def _refused(self, error: Exception) -> str:
        what = error.strerror if isinstance(error, OSError) and error.strerror else error
        return f"the agent's work directory {self._work.path} cannot be written ({what})"

    def _write(self, size: int) -> None:
        """Write a file of so many bytes and remove it. Raises `OSError` and `UnfitFileError`."""
        name = f"{self._work.part(EXCHANGE)}/probe-{secrets.token_hex(8)}"
        fd = create_file(name, "a file for a probe")
        try:
            write_all(fd, bytes(size))
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108 - a plain path
