"""The service of the Restate peer: durable steps in one handler."""

from __future__ import annotations

import time

import restate  # type: ignore[import-not-found]

bench = restate.Service("bench")


@bench.handler()  # type: ignore[untyped-decorator,unused-ignore]
async def steps(context: restate.Context, count: int) -> list[float]:
    """Return the seconds that each of some steps takes, one after the other."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        await context.run_typed("one", lambda: 1)
        found.append(time.perf_counter() - began)
    return found


app = restate.app(services=[bench])
