"""Host names are resolved on daemon threads.

The resolver of the C library cannot be interrupted: with a silent name server it takes many seconds. On asyncio's own
threads it would block the end of the process, and other names would wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult


class DaemonResolver(AbstractResolver):
    """Resolves each name on a daemon thread of its own. aiohttp resolves a name once at a time."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Any]] = loop.create_future()

        def finish(infos: list[Any], error: OSError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(infos)
            else:
                done.set_exception(error)

        def look_up() -> None:
            infos: list[Any] = []
            failure: OSError | None = None
            try:
                infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            except OSError as error:
                failure = error
            except ValueError as error:  # such as a label of more than 63 characters
                failure = socket.gaierror(socket.EAI_NONAME, str(error))
            with contextlib.suppress(RuntimeError):  # the loop may have been closed meanwhile
                loop.call_soon_threadsafe(finish, infos, failure)

        threading.Thread(target=look_up, name="raftflow-dns", daemon=True).start()
        return [_result(host, info) for info in await done]

    async def close(self) -> None:
        """Do nothing: the threads end by themselves."""


def _result(host: str, info: Any) -> ResolveResult:
    family, _, proto, _, address = info
    # A link-local address of IPv6 is useful only with its interface.
    scope = f"%{address[3]}" if family == socket.AF_INET6 and address[3] else ""
    return ResolveResult(
        hostname=host,
        host=address[0] + scope,
        port=address[1],
        family=family,
        proto=proto,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
