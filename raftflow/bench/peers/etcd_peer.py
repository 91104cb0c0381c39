"""etcd with three members on loopback: puts of 256 bytes through gRPC to the leader."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped,import-not-found,unused-ignore]
from peer_loop import PeerError, Programs, free_port, given, program, serve, wait_port  # type: ignore[import-not-found]

PUT = "/etcdserverpb.KV/Put"
VALUE = b"x" * 256
CLIENTS = (4, 16, 64, 256)
READY_S = 30.0


def put_request(key: bytes) -> bytes:
    """Encode a PutRequest: field 1 is the key, field 2 the value, each with its length before it."""
    size = len(VALUE)
    return b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([size & 0x7F | 0x80, size >> 7]) + VALUE


class Puts:
    """One client with a connection of its own."""

    def __init__(self, address: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._put = self._channel.unary_unary(PUT)
        self._number = 0

    def times(self, seconds: float) -> list[float]:
        """Put one after the other; returns the seconds that each took."""
        found = []
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            self._number += 1
            self._put(put_request(b"key-%d" % self._number), timeout=10)
            found.append(time.perf_counter() - began)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


async def rate(address: str, clients: int, seconds: float) -> float:
    """Return puts a second of many clients."""
    done = 0
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal done
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            put = channel.unary_unary(PUT)
            while time.perf_counter() < until:
                await put(put_request(b"key-%d-%d" % (number, done)), timeout=10)
                done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return done / (time.perf_counter() - began)


def members(programs: Programs, folder: Path) -> list[str]:
    """Start three members; returns where clients reach them."""
    binary = program("etcd", "etcd-server")
    client_ports, peer_ports = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    everybody = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(peer_ports))
    for number in range(3):
        client, peer = f"http://127.0.0.1:{client_ports[number]}", f"http://127.0.0.1:{peer_ports[number]}"
        programs.start(
            [
                *(binary, "--name", f"m{number}", "--data-dir", str(folder / f"m{number}")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", everybody, "--initial-cluster-state", "new", "--log-level", "error"),
            ]
        )
    for port in client_ports:
        wait_port(port)
    return [f"127.0.0.1:{port}" for port in client_ports]


def fastest(addresses: list[str]) -> str:
    """Return the leader's address: puts that go to it need no second hop."""
    deadline = time.monotonic() + READY_S
    while True:
        found = {}
        try:
            for address in addresses:
                client = Puts(address)
                client.times(0.1)
                found[address] = statistics.median(client.times(0.4))
                client.close()
        except grpc.RpcError as error:
            if time.monotonic() > deadline:
                raise PeerError(f"etcd takes no writes: {error}") from error
            time.sleep(0.1)
        else:
            return min(addresses, key=lambda address: found[address])


def start(programs: Programs) -> Callable[[], dict[str, Any]]:
    """Start the members."""
    settings = given()
    leader = fastest(members(programs, Path(settings["directory"])))

    def run() -> dict[str, Any]:
        client = Puts(leader)
        client.times(0.5)
        times = sorted(client.times(settings["seconds"]))
        client.close()
        figures = {"ms_median": statistics.median(times) * 1e3, "ms_p99": times[len(times) * 99 // 100] * 1e3}
        rates = {f"per_s_{clients}": asyncio.run(rate(leader, clients, settings["seconds"])) for clients in CLIENTS}
        return {**figures, "per_s": max(rates.values()), **rates}

    return run


def version() -> str:
    """Return what etcd calls itself."""
    try:
        shown = subprocess.run(
            [program("etcd", "etcd-server"), "--version"], capture_output=True, text=True, check=True
        )
    except PeerError:
        return ""
    return shown.stdout.split("\n", 1)[0].rpartition(" ")[2]


if __name__ == "__main__":
    serve(start, ["grpcio"], etcd=version())
