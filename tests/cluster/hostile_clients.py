"""Clients that mean harm: a program of its own, so that it takes no time from the good client that is measured.

    python hostile_clients.py KIND SECONDS URL[,URL...] PEER[,PEER...]

It ends by itself, opens a bounded number of connections to loopback addresses, and prints how many answers of which
status it got, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

JSON = "Content-Type: application/json\r\n"
STATUS = re.compile(rb"HTTP/1\.[01] (\d\d\d)")
WORKFLOW = b'{"name": "hostile", "tasks": [{"id": "t", "command": ["true"]}]}'
ANSWER_S = 2.0


class Place:
    """A replica under attack."""

    def __init__(self, url: str, peer: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname in {"127.0.0.1", "::1", "localhost"}
        self.host, self.port = parts.hostname, parts.port
        self.netloc = parts.netloc
        self.peer = peer.rpartition(":")[2]

    def head(self, path: str = "/v1/workflows", more: str = "", method: str = "POST") -> bytes:
        return f"{method} {path} HTTP/1.1\r\nHost: {self.netloc}\r\n{more}".encode()


class Attack:
    """One kind of attack for so many seconds."""

    def __init__(self, places: list[Place], seconds: float) -> None:
        self.places = places
        self.seconds = seconds
        self.until = 0.0
        """Set when the attack begins: making what it sends takes a while."""
        self.tally: Counter[str] = Counter()
        self.random = random.Random(7)

    def begin(self) -> None:
        self.until = time.monotonic() + self.seconds

    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    async def send(self, place: Place, *pieces: bytes, pause_s: float = 0.0, port: object = None) -> None:
        """Send pieces on a connection of their own, and look at what comes back."""
        self.tally["tries"] += 1
        writer = None
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(place.host, port or place.port)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if pause_s:
                        await asyncio.sleep(pause_s)
                answer = await reader.read(65_536)
            match = STATUS.match(answer)
            self.tally[match[1].decode() if match else "closed" if not answer else "other"] += 1
        except TimeoutError:
            self.tally["no answer"] += 1
        except OSError:
            self.tally["broken"] += 1
        finally:
            if writer is not None:
                writer.transport.abort()

    async def repeat(self, crowd: int, once: Callable[[Place, int], Awaitable[None]]) -> None:
        """Have so many do something again and again, on all replicas."""

        self.begin()

        async def one(number: int) -> None:
            turn = number
            while self.goes_on():
                await once(self.places[turn % len(self.places)], turn)
                turn += crowd

        await asyncio.gather(*[one(number) for number in range(crowd)])

    async def hold(self, count: int, data: Callable[[Place, int], bytes]) -> None:
        """Keep connections open that have said no more than this."""
        self.begin()
        writers = []
        for number in range(count):
            place = self.places[number % len(self.places)]
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(place.host, place.port)
                writer.write(data(place, number))
                writers.append(writer)
        self.tally["held"] += len(writers)
        await asyncio.sleep(max(0.0, self.until - time.monotonic()))
        for writer in writers:
            writer.transport.abort()

    # --- the kinds

    async def bombs(self) -> None:
        zeros = bytes(64 << 20)
        packed = {"gzip": gzip.compress(zeros, 9), "deflate": zlib.compress(zeros, 9)}
        packed["gzip, gzip"] = gzip.compress(packed["gzip"] * 4, 9)
        packed["br"] = packed["zstd"] = bytes(1000)
        paths = ("/v1/workflows", "/v1/agents/a/poll", "/v1/nothing", "/healthz", "/v1/agents")
        codings = list(packed)

        async def once(place: Place, number: int) -> None:
            coding = codings[number % len(codings)]
            head = place.head(paths[number % len(paths)], f"{JSON}Content-Encoding: {coding}\r\n")
            body = packed[coding]
            if number % 2:
                await self.send(place, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            else:
                framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                await self.send(place, head + b"Transfer-Encoding: chunked\r\n\r\n" + framed)

        await self.repeat(8, once)
        assert set(self.tally) <= {"tries", "415", "broken", "no answer", "429"}, self.tally

    async def chunks(self) -> None:
        tiny = b"1\r\n \r\n" * 100_000

        async def once(place: Place, number: int) -> None:
            head = place.head("/v1/workflows", f"{JSON}Transfer-Encoding: chunked\r\n\r\n")
            extension = b"1;" + b"x" * 7_000 + b"\r\n \r\n"
            await self.send(place, head, tiny if number % 3 else extension * 100)

        await self.repeat(8, once)
        assert not self.tally["201"], self.tally

    async def drips(self) -> None:
        async def once(place: Place, number: int) -> None:
            head = place.head("/v1/workflows", f"{JSON}Content-Length: 5000\r\n\r\n")
            pieces = [b" "] * 200
            if number % 2:
                await self.send(place, head, *pieces, pause_s=0.005)
            else:  # the head itself byte by byte
                await self.send(place, *[head[i : i + 1] for i in range(len(head))], pause_s=0.005)

        await self.repeat(60, once)

    async def sockets(self) -> None:
        def data(place: Place, number: int) -> bytes:
            head = place.head("/v1/workflows", f"{JSON}Content-Length: 5000\r\n")
            return (b"", b"P", head, head + b"\r\n{")[number % 4]

        await self.hold(900, data)

    async def headers(self) -> None:
        many = b"".join(b"X-%d: y\r\n" % number for number in range(5_000))

        async def once(place: Place, number: int) -> None:
            head = place.head("/healthz", "", "GET")
            shapes = (
                head + many,
                head + b"X: " + b"y" * 300_000,
                b"GET /" + b"x" * 300_000,
                b"x" * 300_000,
                b"\r\n" * 100_000,
                place.head("/v1/workflows", f"{JSON}Transfer-Encoding: chunked\r\n\r\n") + b"0\r\n" + many,
            )
            await self.send(place, shapes[number % len(shapes)])

        await self.repeat(16, once)
        assert not self.tally["201"], self.tally

    async def pipelines(self) -> None:
        async def once(place: Place, number: int) -> None:
            one = (
                place.head("/v1/nothing", "\r\n", "GET"),
                place.head("/v1/workflows?limit=1000", "\r\n", "GET"),
                b"GET /x HTTP/1.1\r\nHost:localhost\r\n\r\n",
            )[number % 3]
            await self.send(place, one * (65_536 // len(one)))

        await self.repeat(24, once)

    async def smuggling(self) -> None:
        hidden = b"DELETE /v1/agents/a HTTP/1.1\r\nHost: localhost\r\n\r\n"

        async def once(place: Place, number: int) -> None:
            head = place.head("/v1/workflows", JSON)
            shapes = (
                head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
                head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
                head + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
                head + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + hidden,
                head + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden,
                head + b"Content-Length : %d\r\n\r\n" % len(hidden) + hidden,
                head + b"Content-Length: %d\nX: y\r\n\r\n" % len(hidden) + hidden,
                head + b"X: y\r\n Content-Length: 3\r\n\r\n" + hidden,
                b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n" + hidden,
                head + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n" + hidden,
                b"GET http://evil.example/v1/workflows HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
                b"\x16\x03\x01\x02\x00" + bytes(600),
            )
            await self.send(place, shapes[number % len(shapes)])

        await self.repeat(16, once)
        assert not any(self.tally[status] for status in ("200", "201", "204")), self.tally

    async def documents(self) -> None:
        deep = b"[" * 200_000 + b"]" * 200_000
        bodies = (
            deep,
            b'{"name": ' * 50_000,
            b"9" * 300_000,
            b'{"name": "w", "tasks": ' + b"9" * 300_000 + b"}",
            b"1e999999999",
            b'{"name": "w", "priority": -1e400, "tasks": []}',
            b"[" + b"[]," * 300_000 + b"[]]",
            b'"' + b"\\ud800" * 50_000 + b'"',
            b"\xff\xfe" * 50_000,
            b"{" + b'"a": 1,' * 100_000 + b'"a": 1}',
            b"a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n" * 1_000,
        )

        async def once(place: Place, number: int) -> None:
            body = bodies[number % len(bodies)]
            path = ("/v1/workflows", "/v1/agents/a/poll", "/v1/agents", "/v1/members")[number // len(bodies) % 4]
            media = "Content-Type: application/yaml\r\n" if body.startswith(b"a: &a") else JSON
            await self.send(place, place.head(path, f"{media}Content-Length: {len(body)}\r\n\r\n") + body)

        await self.repeat(6, once)
        assert not self.tally["201"], self.tally
        assert not self.tally["500"], self.tally

    async def names(self) -> None:
        async def once(place: Place, number: int) -> None:
            host = ("evil.example", f"evil.example:{place.port}", "127.0.0.1.evil.example", "a@localhost", "")[
                number % 5
            ]
            length = f"{JSON}Content-Length: {len(WORKFLOW)}\r\n\r\n"
            head = f"POST /v1/workflows HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n{length}"
            if number % 7 == 0:
                head = f"POST /v1/workflows HTTP/1.1\r\nHost: {place.netloc}\r\nOrigin: http://[x\r\n{length}"
            await self.send(place, head.encode() + WORKFLOW)

        await self.repeat(16, once)
        assert not self.tally["201"], self.tally

    async def peers(self) -> None:
        async def once(place: Place, number: int) -> None:
            size = self.random.choice((0, 1, 60, 200, 5_000, 200_000))
            noise = self.random.randbytes(size)
            framed = b"\x00\x00\x00\x20" + noise if number % 2 else noise
            await self.send(place, framed, b"GET / HTTP/1.1\r\n\r\n", port=place.peer)

        await self.repeat(80, once)

    async def readers(self) -> None:
        """Ask for much and read nothing."""

        def data(place: Place, number: int) -> bytes:
            path = ("/v1/openapi.json", "/metrics", "/v1/workflows?limit=1000", "/v1/ledger")[number % 4]
            return place.head(path, "\r\n", "GET") * 100

        await self.hold(120, data)

    async def churn(self) -> None:
        async def once(place: Place, number: int) -> None:
            await self.send(place, (b"", b"G", b"POST /v1/agents/x/poll HTTP/1.1\r\n")[number % 3] + b"\r\n\r\n")

        await self.repeat(32, once)


KINDS = (
    *("bombs", "chunks", "drips", "sockets", "headers", "pipelines", "smuggling", "documents", "names", "peers"),
    *("readers", "churn"),
)


async def main(kind: str, seconds: float, urls: str, peers: str) -> None:
    places = [Place(url, peer) for url, peer in zip(urls.split(","), peers.split(","), strict=True)]
    attack = Attack(places, seconds)
    await getattr(attack, kind)()
    sys.stdout.write(json.dumps(attack.tally))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:]))
