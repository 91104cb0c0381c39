"""Code bundles in the simulation: between replicas, and from replicas to agents, over simulated calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from raftflow.agent.workdir.code import CodeFolder
from raftflow.agent.workdir.inputs import InputsError
from raftflow.coordinator.bundles.replication import BundlePeerError
from raftflow.coordinator.bundles.store import BundleMissingError
from raftflow.coordinator.commit.submitter import ProposeError
from raftflow.domain.limits import BUNDLE_BYTES_MAX
from raftflow.domain.values.code_bundle import digest_of
from raftflow.simulation.world.calls import CallFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.coordinator.replica import Replica
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.loop import Process

TIMEOUT_S: Final = 1.0
_PATIENCE_S: Final = 5.0
_AGAIN_S: Final = 0.1


class SimBundlePeers:
    """Implements `BundlePeers`."""

    def __init__(self, calls: Calls, process: Process) -> None:
        self._calls = calls
        self._process = process

    async def send(self, url: str, digest: str, bundle: bytes) -> None:
        """Have a replica keep a bundle."""

        async def serve(replica: Replica) -> str | None:
            try:
                refusal = await replica.bundles.keep(digest, bundle)
            except OSError as error:
                return str(error)
            return None if refusal is None else refusal.message

        problem = await self._ask(url, serve)
        if problem is not None:
            raise BundlePeerError(problem)

    async def fetch(self, url: str, digest: str, size: int) -> bytes:
        """Return the bytes that a replica has for a bundle."""
        del size
        content = await self._ask(url, _reading(digest))
        if content is None:
            raise BundlePeerError("it has no such bundle")
        return bytes(content)

    async def has(self, url: str, digest: str, size: int) -> bool:
        """Ask a replica whether it has a bundle."""
        del size
        return await self._ask(url, _reading(digest)) is not None

    async def _ask(self, url: str, serve: Callable[[Replica], Awaitable[Any]]) -> Any:
        try:
            return await self._calls.call(self._process, url.removeprefix("sim://"), serve, TIMEOUT_S)
        except (CallFailed, ProposeError) as error:
            raise BundlePeerError(str(error)) from error


def _reading(digest: str) -> Callable[[Replica], Awaitable[bytes | None]]:
    """Return what has a replica give out a bundle."""

    async def serve(replica: Replica) -> bytes | None:
        try:
            return await replica.bundles.read(digest, 0, BUNDLE_BYTES_MAX)
        except (BundleMissingError, OSError):
            return None

    return serve


class FetchedCode:
    """Takes the place of an agent's `CodeCache`: every attempt fetches its code, and nothing is unpacked."""

    def __init__(self, calls: Calls, process: Process, replicas: Callable[[], list[str]]) -> None:
        self._calls = calls
        self._process = process
        self._replicas = replicas

    def take_ready(self, _digest: str) -> CodeFolder | None:
        """Return None: nothing is kept."""
        return None

    async def take(self, digest: str) -> CodeFolder:
        """Fetch a bundle from any replica. Raises `InputsError`."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _PATIENCE_S
        while loop.time() < until_s:
            for replica in self._replicas():
                try:
                    content = await self._calls.call(self._process, replica, _reading(digest), TIMEOUT_S)
                except (CallFailed, ProposeError):
                    continue
                if content is not None and digest_of(content) == digest:
                    return CodeFolder("", {}, len(content))
            await asyncio.sleep(_AGAIN_S)
        raise InputsError(f"no replica gave the code bundle {digest}", over=True)

    def give_back(self, _folder: CodeFolder) -> None:
        """Do nothing."""
