"""A graceful stop of a replica ends the log in order, also when a request does not end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from raftflow.api.server import _shut_down

CONFIG = SimpleNamespace(timing=SimpleNamespace(shutdown_ms=100))


class FakeParts:
    """A replica and a server in one, which note what is done to them."""

    def __init__(self, *, stuck: str = "") -> None:
        self.done: list[str] = []
        self._stuck = stuck

    def answer_held(self) -> None:
        self.done.append("polls are answered")

    def part(self, name: str) -> SimpleNamespace:
        async def stop() -> None:
            if name == self._stuck:
                await asyncio.Event().wait()
            self.done.append(name)

        return SimpleNamespace(stop=stop, answer_held=self.answer_held)


@pytest.mark.parametrize(
    ("stuck", "done"),
    [
        ("", ["polls are answered", "server", "replica"]),
        ("server", ["polls are answered", "replica"]),
        ("replica", ["polls are answered", "server"]),
    ],
)
async def test_the_log_is_closed_although_a_request_does_not_end(stuck: str, done: list[str]) -> None:
    parts = FakeParts(stuck=stuck)
    await asyncio.wait_for(_shut_down(parts.part("replica"), parts.part("server"), CONFIG), 5.0)
    assert parts.done == done
