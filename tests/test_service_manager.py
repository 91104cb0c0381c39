"""What the service manager hears: from a replica, from an agent, and while nothing is ready."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from raftflow.service_manager import ServiceManager

REPLICA = """
import os, sys
from pathlib import Path
from raftflow.api.server import run
from raftflow.coordinator.config.loading import load_config
code = run(load_config(Path(sys.argv[1]), environ={}))
assert not any(name in os.environ for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"))
sys.exit(code)
"""


class Listener:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(0)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[str] = []

    async def until(self, wanted: str, timeout_s: float = 60) -> None:
        """Hear messages until one has this line."""
        async with asyncio.timeout(timeout_s):
            while True:
                lines = (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode().split("\n")
                self.heard += lines
                if wanted in lines:
                    return

    def rest(self) -> list[str]:
        """Hear what was said until now."""
        lines: list[str] = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    opened: list[Listener] = []

    def listener(address: str = "") -> Listener:
        opened.append(Listener(address or str(tmp_path / "notify")))
        return opened[-1]

    yield listener
    for each in opened:
        each.socket.close()


@pytest.mark.parametrize("address", ["", f"@raftflow-test-{os.getpid()}"], ids=["a file", "abstract"])
async def test_a_process_is_ready_once_and_the_watchdog_hears_from_it(
    listen: Callable[..., Listener], address: str
) -> None:
    listener = listen(address)
    environ = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "90000", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager(environ)
    assert not environ
    assert service.watchdog_s == pytest.approx(0.09)
    ready = asyncio.Event()
    service.start(ready.is_set)
    await listener.until("EXTEND_TIMEOUT_USEC=60000000")
    await listener.until("WATCHDOG=1")
    assert "READY=1" not in listener.heard
    ready.set()
    await listener.until("READY=1")
    await listener.until("WATCHDOG=1")
    await listener.until("WATCHDOG=1")
    service.stopping()
    service.stopping()
    await listener.until("STOPPING=1")
    await listener.until("WATCHDOG=1")
    assert (listener.heard.count("READY=1"), listener.heard.count("STOPPING=1")) == (1, 1)
    service.close()
    assert service._timer is None


async def test_a_loop_that_hangs_is_silent(listen: Callable[..., Listener]) -> None:
    listener = listen()
    service = ServiceManager({"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "30000"})
    service.start(lambda: True)
    await listener.until("READY=1")
    listener.rest()
    listener.socket.settimeout(0.2)  # the loop hangs meanwhile
    with pytest.raises(TimeoutError):
        listener.socket.recv(4096)
    service.close()


async def test_without_a_service_manager_nothing_runs() -> None:
    service = ServiceManager({})
    service.start(lambda: pytest.fail("nobody wants to know"))
    service.stopping()
    service.close()
    assert not service.present


async def test_the_watchdog_of_another_process_is_not_fed(listen: Callable[..., Listener]) -> None:
    listener = listen()
    environ = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"}
    service = ServiceManager(environ)
    service.start(lambda: True)
    await listener.until("READY=1")
    assert service.watchdog_s is None
    assert "WATCHDOG=1" not in listener.heard


async def test_a_service_manager_that_is_gone_or_does_not_listen_stops_nobody(
    listen: Callable[..., Listener],
) -> None:
    listener = listen()
    service = ServiceManager({"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "30000"})
    for _ in range(1000):  # more than the socket takes
        service._tell("WATCHDOG=1")
    assert 0 < len(listener.rest()) < 1000
    os.unlink(listener.address)  # noqa: PTH108 - a socket
    service.start(lambda: True)
    service.stopping()
    service.close()


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
async def start_replica(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[asyncio.subprocess.Process]]]:
    """Start n1 of a cluster whose other members do not run."""
    (tmp_path / "secret").write_text("s" * 40)
    (tmp_path / "secret").chmod(0o600)
    children: list[asyncio.subprocess.Process] = []

    async def start(listener: Listener, others: tuple[str, ...]) -> asyncio.subprocess.Process:
        members = ""
        for name in ("n1", *others):
            peer, api = free_ports()
            members += (
                f'[[cluster.members]]\nname = "{name}"\npeer = "127.0.0.1:{peer}"\nurl = "http://127.0.0.1:{api}"\n'
            )
        file = tmp_path / "n1.toml"
        file.write_text(
            f'[cluster]\nid = "c"\nsecret_file = "secret"\n{members}[replica]\nname = "n1"\ndata_dir = "n1"\n'
        )
        environment = {**os.environ, "NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "300000"}
        children.append(
            await asyncio.create_subprocess_exec(sys.executable, "-c", REPLICA, str(file), env=environment)
        )
        return children[-1]

    yield start
    for child in children:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_a_replica_says_when_it_serves_and_when_it_stops(
    listen: Callable[..., Listener], start_replica: Callable[..., Awaitable[asyncio.subprocess.Process]]
) -> None:
    listener = listen()
    child = await start_replica(listener, ())
    await listener.until("READY=1")
    await listener.until("WATCHDOG=1")
    child.send_signal(signal.SIGTERM)
    await listener.until("STOPPING=1")
    assert await asyncio.wait_for(child.wait(), 60) == 0


async def test_a_replica_that_lacks_the_others_is_not_ready_and_asks_for_time(
    listen: Callable[..., Listener], start_replica: Callable[..., Awaitable[asyncio.subprocess.Process]]
) -> None:
    listener = listen()
    child = await start_replica(listener, ("n2", "n3"))
    await listener.until("EXTEND_TIMEOUT_USEC=60000000")
    await listener.until("WATCHDOG=1")
    child.send_signal(signal.SIGTERM)
    await listener.until("STOPPING=1")
    assert "READY=1" not in listener.heard
    assert await asyncio.wait_for(child.wait(), 60) == 0
