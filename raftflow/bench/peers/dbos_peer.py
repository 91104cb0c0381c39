"""DBOS on one PostgreSQL server with its durable defaults: steps of one workflow, and of many at once.

The workflows run in this process. A step is on the disk of the server before the next line runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dbos  # type: ignore[import-not-found]
from peer_loop import Programs, given, serve, step_figures  # type: ignore[import-not-found]
from postgres_server import start_postgres  # type: ignore[import-not-found]

WARM_UP = 20


@dbos.DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
def one() -> int:
    """Do nothing, durably."""
    return 1


@dbos.DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
def steps(count: int) -> list[float]:
    """Return the seconds that each of some steps takes, one after the other."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        one()
        found.append(time.perf_counter() - began)
    return found


def at_once(workflows: int, count: int) -> None:
    """Run many workflows of some steps at the same time."""
    for handle in [dbos.DBOS.start_workflow(steps, count) for _ in range(workflows)]:
        handle.get_result()


def start(programs: Programs) -> Callable[[], dict[str, Any]]:
    """Start the server and the library."""
    settings = given()
    address = start_postgres(programs, Path(settings["directory"]))
    dbos.DBOS(config={"name": "bench", "system_database_url": address, "log_level": "ERROR"})
    dbos.DBOS.launch()
    steps(WARM_UP)
    at_once(WARM_UP, 1)
    return lambda: step_figures(steps, at_once, settings)


if __name__ == "__main__":
    serve(start, ["dbos"])
