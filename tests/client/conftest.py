"""Fake replicas: real HTTP servers on loopback that speak the contract and do as a test tells them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import web

from raftflow.domain.contract.views import PROBLEM_TYPE_PREFIX, Problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem(word: str, status: int, **more: Any) -> web.Response:
    document = Problem(type=PROBLEM_TYPE_PREFIX + word, title=word.replace("-", " "), status=status, **more)
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    return web.Response(
        status=status,
        body=msgspec.json.encode(document),
        content_type="application/problem+json",
        headers=headers,
    )


def answer(content: Any, status: int = 200, **headers: str) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(content), content_type="application/json", headers=headers
    )


@dataclass
class Seen:
    """One request as a fake replica got it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeReplica:
    """Answers each request with the next thing of `script`, or with the route's own answer when it is empty."""

    url: str = ""
    script: list[web.Response | Handler] = field(default_factory=list)
    routes: dict[tuple[str, str], Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    runner: web.AppRunner | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.method, request.path, dict(request.query), dict(request.headers), body))
        if self.script:
            step = self.script.pop(0)
            return step if isinstance(step, web.Response) else await step(request)
        content = self.routes.get((request.method, request.path))
        if content is None:
            return problem("not-found", 404, detail=f"there is no {request.path}")
        if callable(content):
            content = content(request)
        return content if isinstance(content, web.Response) else answer(content)

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{tail:.*}", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        host, port = self.runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None


@pytest.fixture
async def replicas() -> AsyncIterator[list[FakeReplica]]:
    three = [FakeReplica() for _ in range(3)]
    for replica in three:
        await replica.start()
    yield three
    for replica in three:
        await replica.stop()


@pytest.fixture
def dead_url() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    raise AssertionError


async def drop(request: web.Request) -> web.StreamResponse:
    """Cut the connection in place of an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.fixture
def make() -> Any:
    """The helpers above, for tests (conftest modules cannot be imported)."""

    class Make:
        problem = staticmethod(problem)
        answer = staticmethod(answer)
        hang = staticmethod(hang)
        drop = staticmethod(drop)

    return Make
