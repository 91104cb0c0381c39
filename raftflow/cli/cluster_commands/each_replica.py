"""Commands about single replicas: find one, or ask all of them to check their state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from raftflow.cli.terminal.exits import FAILED, USAGE, CommandFailure
from raftflow.cli.terminal.output import note

if TYPE_CHECKING:
    from raftflow.client import Client

T = TypeVar("T")


def ask_each_replica(client: Client, ask: Callable[[str], T]) -> tuple[list[tuple[str, T]], list[str]]:
    """Ask every member. Returns the answers by URL, and the members that did not answer. Raises if none answered."""
    from raftflow.client.errors import Unreachable  # noqa: PLC0415 - heavy

    answers: list[tuple[str, T]] = []
    last: Unreachable | None = None
    status = client.cluster_status()  # finds out quickly which members answer
    silent = [line.url or line.name for line in status.replicas if line.contact != "ok"]
    for line in status.replicas:
        if line.contact != "ok":
            continue
        try:
            answers.append((line.url, ask(line.url)))
        except Unreachable as error:
            silent.append(line.url)
            last = error
    if not answers and last is not None:
        raise last
    return answers, silent


def end_check(*, ok: bool, silent: list[str], complaint: str) -> None:
    """Name the replicas that were not asked, and fail with the complaint unless all is well."""
    if silent:
        note(f"raftflow: not asked, because they do not answer: {', '.join(silent)}")
    if not ok:
        raise CommandFailure(complaint, FAILED)


def url_of_replica(client: Client, replica: str | None) -> str:
    """Return the URL of a replica given by URL or name; without one, of the first that answers."""
    if replica is not None and "://" in replica:
        return replica
    status = client.cluster_status()
    for line in status.replicas:
        if line.contact == "ok" and replica in (None, line.name):
            return line.url
    names = ", ".join(line.name for line in status.replicas if line.contact == "ok")
    raise CommandFailure(f"no replica called {replica!r} answers; there are {names}", USAGE)
