"""Restate with three replicas on loopback, replication 2 and four partitions: steps of one call, and of many at once.

The server is the binary of the npm package in this environment; the service runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx  # type: ignore[import-not-found]
from peer_loop import PeerError, Programs, free_port, given, serve, step_figures, wait_port  # type: ignore[import-not-found]

SERVER = Path(sys.prefix) / "node_modules/@restatedev/restate-server-linux-x64/bin/restate-server"
REPLICAS = 3
READY_S = 60.0
CALL_S = 300.0
WARM_UP = 20
CONFIGURATION = """
roles = ["http-ingress", "admin", "worker", "log-server", "metadata-server"]
node-name = "{name}"
cluster-name = "bench"
base-dir = "{folder}"
bind-address = "127.0.0.1:{node}"
advertised-address = "http://127.0.0.1:{node}"
auto-provision = {first}
default-replication = 2
default-num-partitions = 4
disable-telemetry = true
listen-mode = "tcp"
[metadata-client]
type = "replicated"
addresses = {addresses}
[bifrost]
default-provider = "replicated"
[ingress]
bind-address = "127.0.0.1:{ingress}"
advertised-address = "http://127.0.0.1:{ingress}"
[admin]
bind-address = "127.0.0.1:{admin}"
advertised-address = "http://127.0.0.1:{admin}"
"""


class RestateCluster:
    """Three replicas and the service."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        nodes, admins = [free_port() for _ in range(REPLICAS)], [free_port() for _ in range(REPLICAS)]
        self.ingresses = [free_port() for _ in range(REPLICAS)]
        self.admin = admins[0]
        addresses = "[" + ", ".join(f'"http://127.0.0.1:{port}"' for port in nodes) + "]"
        for number in range(REPLICAS):
            name = f"n{number + 1}"
            file = folder / f"{name}.toml"
            file.write_text(
                CONFIGURATION.format(
                    name=name,
                    folder=folder / name,
                    node=nodes[number],
                    first="true" if number == 0 else "false",
                    addresses=addresses,
                    ingress=self.ingresses[number],
                    admin=admins[number],
                ),
                encoding="utf-8",
            )
            programs.start([str(SERVER), "--no-logo", "-c", str(file)])
        self.service = free_port()
        programs.start(
            [sys.executable, "-m", "hypercorn", "restate_service:app", "-b", f"127.0.0.1:{self.service}"],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def register(self) -> None:
        """Tell the cluster where the service is, and wait until it answers calls. Raises `PeerError`."""
        wait_port(self.service)
        deadline = time.monotonic() + READY_S
        while True:
            try:
                httpx.post(
                    f"http://127.0.0.1:{self.admin}/deployments",
                    json={"uri": f"http://127.0.0.1:{self.service}"},
                    timeout=10,
                ).raise_for_status()
                for port in self.ingresses:
                    call(port, 1)
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise PeerError(f"Restate does not start: {error}") from error
                time.sleep(0.2)
            else:
                return


def call(port: int, count: int) -> list[float]:
    """Run one call of some steps, and return the seconds that each took."""
    answer = httpx.post(f"http://127.0.0.1:{port}/bench/steps", json=count, timeout=CALL_S)
    answer.raise_for_status()
    found: list[float] = answer.json()
    return found


async def at_once(ports: list[int], calls: int, count: int) -> None:
    """Run many calls of some steps at the same time, spread over the replicas."""
    async with httpx.AsyncClient(timeout=CALL_S, limits=httpx.Limits(max_connections=calls)) as client:
        answers = await asyncio.gather(
            *(
                client.post(f"http://127.0.0.1:{ports[number % len(ports)]}/bench/steps", json=count)
                for number in range(calls)
            )
        )
    for answer in answers:
        answer.raise_for_status()


def start(programs: Programs) -> Callable[[], dict[str, Any]]:
    """Start the replicas and the service."""
    settings = given()
    if not SERVER.exists():
        raise PeerError("the server of Restate is not in this environment: install npm, and remove the environment")
    cluster = RestateCluster(programs, Path(settings["directory"]))
    cluster.register()
    ports = cluster.ingresses
    call(ports[0], WARM_UP)
    asyncio.run(at_once(ports, WARM_UP, 1))
    return lambda: step_figures(
        lambda count: call(ports[0], count), lambda calls, count: asyncio.run(at_once(ports, calls, count)), settings
    )


if __name__ == "__main__":
    serve(
        start,
        ["restate-sdk"],
        restate=SERVER.parent.parent.joinpath("package.json").read_text().split('"version": "')[1].split('"')[0],
    )
