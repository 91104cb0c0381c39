"""A race of connections: what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable

from raftflow.client.http.race import ConnectionRace


async def test_an_attempt_that_fails_while_its_race_is_given_up_is_not_left_unheard() -> None:
    """It was logged as "Task exception was never retrieved"."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    sent = asyncio.Event()

    async def send(_peer: str, _within_s: float, connected: Callable[[], None]) -> bytes:
        connected()
        sent.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise TimeoutError from None  # its time was over in the same moment
        return b""

    run = asyncio.ensure_future(ConnectionRace(send).run(["one"], 60.0, {}))
    await sent.wait()
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    del run
    await asyncio.sleep(0)  # what the loop still holds of it goes
    gc.collect()
    assert told == []
