"""Peers that take a long time to be connected: silent machines, name servers, TLS handshakes. Others are tried."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raftflow.client import AsyncClient, OutcomeUnknown, Unreachable
from raftflow.client.http import hedge, race

DOCUMENT = {"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}
SUBMIT = ("POST", "/v1/workflows")
AGENTS = ("GET", "/v1/agents")
SOON_S = 1.0


@contextlib.contextmanager
def silent_address() -> Iterator[str]:
    """Yield an address that answers no SYN: its queue of connections is full, so the kernel drops them."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def mute_address() -> Iterator[str]:
    """Yield an address that accepts connections and says nothing: a TLS handshake with it hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names below `silent.test` are looked up until the test ends."""
    real, end = socket.getaddrinfo, threading.Event()

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith("silent.test"):
            end.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield
    end.set()


@pytest.fixture(params=["packets dropped", "TLS hangs", "name server silent"])
def silent_url(request: pytest.FixtureRequest, slow_names: None) -> Iterator[str]:
    if request.param == "packets dropped":
        with silent_address() as address:
            yield f"http://{address}"
    elif request.param == "TLS hangs":
        with mute_address() as address:
            yield f"https://{address}"
    else:
        yield "http://n1.silent.test:7001"


async def test_a_first_peer_that_is_never_connected_costs_little(replicas: list[Any], silent_url: str) -> None:
    one, two, _ = replicas
    one.routes[AGENTS] = two.routes[AGENTS] = {"agents": []}
    one.routes[SUBMIT] = two.routes[SUBMIT] = {"id": "wf-1"}
    for call in ("agents", "submit"):
        began = time.monotonic()
        async with AsyncClient([silent_url, one.url, two.url], timeout_s=2.0) as client:
            await (client.agents() if call == "agents" else client.submit(DOCUMENT))
            assert time.monotonic() - began < SOON_S
            again = time.monotonic()
            await (client.agents() if call == "agents" else client.submit(DOCUMENT))
            assert time.monotonic() - again < SOON_S / 4, "who answered is asked first"
        assert time.monotonic() - began < SOON_S, "closing waits for nobody"
    assert len([seen for seen in one.seen if (seen.method, seen.path) == SUBMIT]) == 2
    assert two.seen == [], "only one peer has a request at a time"


async def test_peers_that_are_never_connected_leave_nothing_unknown(silent_url: str) -> None:
    async with AsyncClient([silent_url], timeout_s=0.3) as client:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer in time") as caught:
            await client.submit(DOCUMENT)
        assert time.monotonic() - began < SOON_S
    assert not isinstance(caught.value, OutcomeUnknown), "nothing was sent"


async def test_four_silent_peers_are_tried_side_by_side(replicas: list[Any], slow_names: None) -> None:
    replicas[0].routes[AGENTS] = {"agents": []}
    silent = [f"http://n{number}.silent.test:7001" for number in range(4)]
    began = time.monotonic()
    async with AsyncClient([*silent, replicas[0].url], timeout_s=2.0) as client:
        assert await client.agents() == []
    assert time.monotonic() - began < SOON_S


async def test_who_is_connected_first_keeps_the_request(replicas: list[Any], make: Any) -> None:
    """A busy replica that is connected is waited for: its request is not sent to others as well."""
    slow, other, _ = replicas

    async def late(_request: Any) -> Any:
        import asyncio

        await asyncio.sleep(0.6)
        return make.answer({"id": "wf-1"}, 201)

    slow.script = [late]
    other.routes["GET", "/v1/leader"] = {"leader": "n1", "url": slow.url, "term": 1}
    async with AsyncClient([slow.url, other.url]) as client:
        assert (await client.submit(DOCUMENT)).id == "wf-1"
    assert [seen.path for seen in other.seen if seen.method == "POST"] == []


async def test_many_calls_at_once_do_not_take_each_other_for_silence(
    replicas: list[Any], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More calls than one client makes at a time wait for their turn; the other peers get none of them.

    The last calls wait for longer than a silent replica has, and no call takes so long by itself.
    """
    import asyncio

    silence_s = 4.0
    monkeypatch.setattr(hedge, "HEDGE_S", silence_s)
    monkeypatch.setattr(race, "STAGGER_S", silence_s)

    async def late(_request: Any) -> Any:
        await asyncio.sleep(silence_s * 0.4)
        return make.answer({"agents": []})

    replicas[0].script = [late for _ in range(350)]
    async with AsyncClient([replica.url for replica in replicas]) as client:
        await asyncio.gather(*(client.agents() for _ in range(350)))
    assert [len(replica.seen) for replica in replicas] == [350, 0, 0]


def test_a_look_up_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    program = """
import socket, time
from raftflow.client import Client, Unreachable
socket.getaddrinfo = lambda *a, **k: time.sleep(60)
client = Client(["http://name.test:1"], timeout_s=0.2)
try:
    client.agents()
except Unreachable:
    print("told")
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "told\n"
    assert time.monotonic() - began < 15
