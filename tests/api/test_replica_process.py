"""A replica as a process: it starts, serves, hands over, stops, and says why it will not start."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PROGRAM = """
import logging, os, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from raftflow.api.server import run
from raftflow.coordinator.config.loading import load_config
sys.exit(run(load_config(Path(sys.argv[1]), environ={})))
"""


class Process:
    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def end(self, timeout_s: float = 20) -> tuple[int, str, str]:
        out, err = await asyncio.wait_for(self.child.communicate(), timeout_s)
        assert self.child.returncode is not None
        return self.child.returncode, out.decode(), err.decode()


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    (tmp_path / "secret").write_text("s" * 40)
    (tmp_path / "secret").chmod(0o600)
    started: list[Process] = []

    async def start(text: str, name: str = "n1", before: str = "") -> Process:
        file = tmp_path / f"{name}.toml"
        file.write_text(text)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            before + PROGRAM,
            str(file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        process = Process(child)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.child.returncode is None:
            process.child.kill()
            await process.child.communicate()


def document(ports: list[int], *, cluster: str = "c", name: str = "n1", data: str = "n1", more: str = "") -> str:
    return (
        f'[cluster]\nid = "{cluster}"\nsecret_file = "secret"\n[[cluster.members]]\nname = "{name}"\n'
        f'peer = "127.0.0.1:{ports[0]}"\nurl = "http://127.0.0.1:{ports[1]}"\n'
        f'[replica]\nname = "{name}"\ndata_dir = "{data}"\n{more}'
    )


@pytest.fixture
def ports() -> list[int]:
    import socket

    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


async def fetch(url: str, method: str = "GET", body: Any = None) -> Any:
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(30):
            while True:
                try:
                    async with session.request(method, url, json=body) as answer:
                        if answer.status < 500:
                            return await answer.json()
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.02)


async def test_a_replica_serves_stops_and_remembers(launch: Any, ports: list[int]) -> None:
    url = f"http://127.0.0.1:{ports[1]}"
    process = await launch(document(ports))
    made = await fetch(f"{url}/v1/workflows", "POST", {"name": "w", "tasks": [{"id": "a", "command": ["true"]}]})
    process.child.send_signal(signal.SIGTERM)
    code, out, err = await process.end()
    assert (code, out) == (0, ""), err
    process = await launch(document(ports))
    shown = await fetch(f"{url}/v1/workflows/{made['id']}")
    assert shown["state"] == "pending"
    assert (await fetch(f"{url}/v1/audit/verify"))["ok"]
    process.child.kill()
    await process.end()
    process = await launch(document(ports))
    assert (await fetch(f"{url}/v1/workflows/{made['id']}"))["state"] == "pending"
    # The submission alone: a new cluster has the highest feature level.
    assert (await fetch(f"{url}/v1/audit/verify"))["records"] == 1
    process.child.send_signal(signal.SIGINT)
    assert (await process.end())[0] == 0


async def test_a_held_poll_does_not_delay_the_shutdown(launch: Any, ports: list[int]) -> None:
    url = f"http://127.0.0.1:{ports[1]}"
    process = await launch(document(ports))
    agent = {"name": "a1", "instance": "i" * 8, "resources": {"cpu": 1}}
    made = await fetch(f"{url}/v1/agents", "POST", agent)
    poll = {"incarnation": made["incarnation"], "seq": 1, "wait_ms": 60_000}
    polling = asyncio.ensure_future(fetch(f"{url}/v1/agents/a1/poll", "POST", poll))
    await asyncio.sleep(0.3)
    process.child.send_signal(signal.SIGTERM)
    assert (await process.end())[0] == 0
    assert (await asyncio.wait_for(polling, 5))["lease_ms"] == 10_000


FAILING_SYNC = """
import errno, os
def fails(fd):
    raise OSError(errno.{0}, os.strerror(errno.{0}))
os.fdatasync = fails
"""


@pytest.mark.parametrize(("error", "code"), [("ENOSPC", 1), ("EROFS", 1), ("EIO", 1), ("EACCES", 2)])
async def test_a_disk_failure_at_the_start_is_not_a_configuration_error(
    launch: Any, ports: list[int], error: str, code: int
) -> None:
    process = await launch(document(ports), before=FAILING_SYNC.format(error))
    ended, _, err = await process.end()
    assert ended == code, err
    assert "cannot start" in err and "epair" in err
    assert "Traceback" not in err


async def test_data_of_another_cluster_is_refused(launch: Any, ports: list[int], tmp_path: Path) -> None:
    process = await launch(document(ports))
    await fetch(f"http://127.0.0.1:{ports[1]}/healthz")
    second = await launch(document([ports[0], ports[1]]), "second")
    code, _, err = await second.end()
    assert (code, "in use by another process" in err) == (2, True), err
    process.child.send_signal(signal.SIGTERM)
    await process.end()
    other = await launch(document(ports, cluster="other"), "other")
    code, _, err = await other.end()
    assert code == 2
    assert "belongs to cluster 'c'" in err
    assert "Traceback" not in err


async def test_a_port_in_use_is_refused_at_the_start(launch: Any, ports: list[int]) -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", ports[1])
    process = await launch(document(ports))
    code, _, err = await process.end()
    assert code == 2
    assert f"cannot listen at 127.0.0.1:{ports[1]}" in err
    server.close()


async def test_a_damaged_audit_stops_the_replica_loudly(launch: Any, ports: list[int], tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{ports[1]}"
    process = await launch(document(ports))
    for number in range(3):
        await fetch(
            f"{url}/v1/workflows", "POST", {"name": f"w{number}", "tasks": [{"id": "a", "command": ["true"]}]}
        )
    process.child.send_signal(signal.SIGTERM)
    await process.end()
    [segment] = [path for path in (tmp_path / "n1" / "audit").iterdir() if path.suffix == ".log"]
    data = segment.read_bytes()
    # A forger who also repairs the checksum is found by the comparison with the log.
    from zlib import crc32

    start = 8
    while True:
        end = start + 17 + int.from_bytes(data[start + 4 : start + 8], "little")
        if b"client:api" in data[start:end]:
            break
        start = end
    forged = data[start + 4 : end].replace(b"client:api", b"client:bpi", 1)
    data = data[:start] + crc32(forged).to_bytes(4, "little") + forged + data[end:]
    segment.write_bytes(data)
    process = await launch(document(ports))
    code, _, err = await process.end()
    assert code in {1, 2}
    assert "holds another record at index" in err
    assert segment.stat().st_size == len(data), "the evidence is untouched"
