"""A leader made of an aiohttp application and a small model, and agents that run against it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from raftflow.agent.config import AgentConfig, load_config
from raftflow.agent.main import run_agent
from raftflow.domain.contract.views import (
    PROBLEM_TYPE_PREFIX,
    Assignment,
    AttemptUsage,
    LeaderNotice,
    LogPiece,
    LogWanted,
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
    ReportedEnd,
    ReportVerdict,
)


class FakeLeader:
    """Implements the agents' part of the contract on a loopback port, for one agent."""

    valid_tokens: set[str] | None = None
    """If there are any, polls with another token are refused."""

    def __init__(self) -> None:
        self.lease_ms = 10_000
        self.poll_wait_ms = 2_000
        self.result_bytes_max = 64 * 1024
        self.feature_level = 1
        self.poll_bytes_max = 1 << 20
        self.deaf_registrations = 0
        """So many registrations are cut off after they were read."""
        self.name_in_use = 0
        """So many registrations are refused, for another agent has the name."""
        self.refuses_offers = False
        self.redirect_to: str | None = None
        self.peers_told = ""
        """What answers tell of the cluster's members."""
        self.no_leader = False
        self.tokens: set[str] = set()
        self.refused = 0
        """Requests that got 503."""
        self.refuses: Callable[[RegisterRequest | PollRequest], int] = lambda _request: 0
        """Returns the status with which a request is refused; 0 for none."""
        self.refused_requests: list[RegisterRequest | PollRequest] = []
        self.silent = False
        """Nothing is answered any more."""
        self.deaf_polls = 0
        """So many polls are cut off after they were read."""
        self.cut_after_apply = 0
        """So many polls are cut off after their ends were taken, before the answer."""
        self.hold_reports: asyncio.Event | None = None
        """Polls with ends wait for it."""
        self.registrations: list[RegisterRequest] = []
        self.polls: list[PollRequest] = []
        self.reports: list[ReportedEnd] = []
        """Every end of every poll that arrived, repeated ones included."""
        self.accepted: dict[int, ReportedEnd] = {}
        self.pieces: dict[str, LogPiece] = {}
        self.goodbye = False
        self.stop: list[int] = []
        self.release: list[int] = []
        self.logs: list[LogWanted] = []
        self.inputs: dict[int, list[tuple[str, bytes]]] = {}
        """Inputs that are fetched, by fence, two in a piece."""
        self.inputs_status = 0
        """What requests for inputs are answered with instead."""
        self.hold_inputs: asyncio.Event | None = None
        """Requests for inputs but the first wait for it."""
        self.asked: list[tuple[int, int]] = []
        """Fence and first need of each request for inputs."""
        self.live: dict[int, Assignment] = {}
        self.stale: set[int] = set()
        self.missing: list[int] = []
        """Live attempts that the agent was sent and a poll did not account for. A real leader has them lost."""
        self.leads: LeaderNotice | None = None
        """What it tells of the leader, None if it does not know the question; see `elect`."""
        self.asked_terms: list[int] = []
        self.in_flight = self.in_flight_max = self.incarnation = 0
        self._changed = asyncio.Condition()
        self._changes = 0
        self._last_seq = 0
        self._fence = 0
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/agents", self._register)
        app.router.add_post("/v1/agents/{id}/poll", self._poll)
        app.router.add_get("/v1/leader", self._who_leads)
        app.router.add_get("/v1/agents/{id}/attempts/{fence}/inputs", self._inputs)
        app.on_response_prepare.append(self._tell_peers)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def close(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._runner is not None:
            for connection in list(self._runner.server.connections):  # type: ignore[union-attr]
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def _tell_peers(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Raftflow-Peers"] = self.peers_told

    async def _who_leads(self, request: web.Request) -> web.Response:
        term = int(request.query["term"])
        self.asked_terms.append(term)
        await self.notify()
        if self.leads is None:
            return self._problem(404, "not-found")
        await self.until(lambda: self.leads is not None and self.leads.leader and self.leads.term > term, 60.0)
        return web.Response(body=msgspec.json.encode(self.leads), content_type="application/json")

    async def elect(self, leader: str, url: str, term: int) -> None:
        """Let this replica know who leads."""
        self.leads = LeaderNotice(leader=leader, url=url, term=term)
        await self.notify()

    def _problem(self, status: int, word: str, **headers: str) -> web.Response:
        body = {"type": PROBLEM_TYPE_PREFIX + word, "title": word, "status": status, "detail": "as the test wants"}
        return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")

    async def _elsewhere(self, request: web.Request) -> web.Response | None:
        if self.no_leader:
            self.refused += 1
            await self.notify()
            return self._problem(503, "no-leader", **{"Retry-After": "1"})
        if self.redirect_to is not None:
            return web.Response(status=307, headers={"Location": self.redirect_to + request.path})
        return None

    async def _register(self, request: web.Request) -> web.Response:
        elsewhere = await self._elsewhere(request)
        if elsewhere is not None:
            return elsewhere
        registration = msgspec.json.decode(await request.read(), type=RegisterRequest)
        if self.silent:
            await asyncio.sleep(60)
        if refused := await self._refuse(registration):
            return refused
        if not self.registrations or self.registrations[-1].instance != registration.instance or self.stale:
            self.incarnation += 1
            self._last_seq = 0
        self.registrations.append(registration)
        await self.notify()
        if self.deaf_registrations:
            self.deaf_registrations -= 1
            return self._cut(request)
        if self.name_in_use:
            self.name_in_use -= 1
            return self._problem(409, "name-in-use")
        if registration.offers and self.refuses_offers:
            return self._problem(422, "invalid-document")
        answer = RegisterResponse(
            id=registration.name,
            incarnation=self.incarnation,
            lease_ms=self.lease_ms,
            poll_wait_ms=self.poll_wait_ms,
            result_bytes_max=self.result_bytes_max,
            feature_level=self.feature_level,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def _poll(self, request: web.Request) -> web.Response:
        elsewhere = await self._elsewhere(request)
        if elsewhere is not None:
            return elsewhere
        body = await request.read()
        if len(body) > self.poll_bytes_max:
            return self._problem(413, "too-large")
        poll = msgspec.json.decode(body, type=PollRequest)
        if refused := await self._refuse(poll):
            return refused
        token = request.headers.get("Authorization", "")
        if self.valid_tokens is not None and token not in self.valid_tokens:
            return self._problem(401, "unauthorized")
        self.tokens.add(token)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            return await self._answer(request, poll)
        finally:
            self.in_flight -= 1

    async def _inputs(self, request: web.Request) -> web.Response:
        fence, first = int(request.match_info["fence"]), int(request.query["first"])
        self.asked.append((fence, first))
        await self.notify()
        if self.hold_inputs is not None and first:
            await self.hold_inputs.wait()
        if self.inputs_status:
            return self._problem(self.inputs_status, "as-told", **{"Retry-After": "0"})
        inputs = self.inputs[fence]
        members = b",".join(
            b"%s:%s" % (json.dumps(need).encode(), result) for need, result in inputs[first : first + 2]
        )
        following = b"%d" % (first + 2) if first + 2 < len(inputs) else b"null"
        return web.Response(body=b'{"inputs":{%s},"next":%s}' % (members, following), content_type="application/json")

    async def _refuse(self, request: RegisterRequest | PollRequest) -> web.Response | None:
        status = self.refuses(request)
        if not status:
            return None
        self.refused_requests.append(request)
        await self.notify()
        return self._problem(status, "invalid-document")

    def _cut(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    async def _answer(self, request: web.Request, poll: PollRequest) -> web.Response:
        if self.silent:
            await asyncio.sleep(60)
        self.polls.append(poll)
        self.reports.extend(poll.ends)
        await self.notify()
        if self.deaf_polls and poll.ends:
            self.deaf_polls -= 1
            return self._cut(request)
        if poll.incarnation != self.incarnation or poll.incarnation in self.stale:
            return self._problem(409, "stale-incarnation")
        self._last_seq = max(self._last_seq, poll.seq)
        told = {*poll.running, *poll.queued, *(end.fence for end in poll.ends)}
        self.missing += [fence for fence in self.live if fence <= poll.seen and fence not in told]
        if poll.ends and self.hold_reports is not None:
            await self.hold_reports.wait()
        verdicts = []
        for end in poll.ends:
            known = end.fence in self.accepted
            verdicts.append(ReportVerdict(fence=end.fence, verdict="duplicate" if known else "accepted"))
            self.accepted.setdefault(end.fence, end)
            self.live.pop(end.fence, None)
        for piece in poll.logs:
            self.pieces[piece.request] = piece
        self.goodbye = self.goodbye or poll.goodbye
        if self.cut_after_apply and poll.ends:
            self.cut_after_apply -= 1
            return self._cut(request)
        await self.notify()
        answer = PollResponse(lease_ms=self.lease_ms, verdicts=verdicts, feature_level=self.feature_level)
        deadline = time.monotonic() + poll.wait_ms / 1000
        while True:
            changes = self._changes
            answer.assign = [self.live[fence] for fence in sorted(self.live) if fence > poll.seen]
            answer.stop, self.stop = self.stop, []
            answer.release, self.release = self.release, []
            answer.logs, self.logs = self.logs, []
            left_s = deadline - time.monotonic()
            spoken = answer.assign or answer.stop or answer.release or answer.logs or verdicts
            if spoken or poll.seq < self._last_seq or left_s <= 0 or poll.incarnation in self.stale:
                break
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait_for(lambda c=changes: self._changes != c), left_s)
                except TimeoutError:
                    continue
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def notify(self) -> None:
        self._changes += 1
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
        """Wait until the condition holds; looked at after every request."""

        async def wait() -> Any:
            async with self._changed:
                while not (value := condition()):
                    await self._changed.wait()
                return value

        return await asyncio.wait_for(wait(), timeout_s)

    async def assign(self, *tasks: dict[str, Any]) -> list[int]:
        """Assign tasks, in order. Returns their fences."""
        fences = []
        for number, task in enumerate(tasks):
            self._fence += 1
            known = {"workflow_id": "wf-1", "workflow_name": "w", "task_id": f"t{number}", "attempt": 1}
            known["resources"] = {"cpu": 1000}
            body = json.dumps({**known, **_with_program(task), "fence": self._fence})
            self.live[self._fence] = msgspec.json.decode(body, type=Assignment)
            fences.append(self._fence)
        await self.notify()
        return fences

    async def assign_apart(self, inputs: dict[str, Any], **task: Any) -> int:
        """Assign a task whose inputs are to be fetched. Returns its fence."""
        given = [(need, json.dumps(result).encode()) for need, result in inputs.items()]
        self.inputs[self._fence + 1] = given
        size = sum(len(result) for _, result in given)
        (fence,) = await self.assign({"inputs_apart": {"count": len(given), "size": size}, **task})
        return fence

    async def end_of(self, fence: int, timeout_s: float = 15.0) -> ReportedEnd:
        end: ReportedEnd = await self.until(lambda: self.accepted.get(fence), timeout_s)
        return end

    async def run(self, **task: Any) -> ReportedEnd:
        """Assign one task and wait for its end."""
        (fence,) = await self.assign(task)
        return await self.end_of(fence)

    async def usage_of(
        self, fence: int, true: Callable[[AttemptUsage], Any], timeout_s: float = 15.0
    ) -> AttemptUsage:
        """Wait until a poll tells of an attempt what the test waits for."""

        def find() -> AttemptUsage | None:
            told = (usage for poll in self.polls for usage in poll.usage)
            return next((usage for usage in told if usage.fence == fence and true(usage)), None)

        usage: AttemptUsage = await self.until(find, timeout_s)
        return usage

    async def log_of(self, fence: int, stream: str, offset: int = 0, bytes_max: int = 1 << 20) -> LogPiece:
        name = f"log-{len(self.pieces)}-{fence}-{stream}"
        self.logs.append(
            msgspec.convert(
                {"request": name, "fence": fence, "stream": stream, "offset": offset, "bytes_max": bytes_max},
                LogWanted,
            )
        )
        await self.notify()
        piece: LogPiece = await self.until(lambda: self.pieces.get(name))
        return piece

    def lose_agent(self) -> None:
        """Declare the present incarnation lost."""
        self.stale.add(self.incarnation)
        self.live.clear()


def _with_program(task: dict[str, Any]) -> dict[str, Any]:
    """Return an assignment's JSON from the keys of a document that choose its program."""
    rest = dict(task)
    if "container" in task:
        given = rest.pop("container")
        return {**rest, "program": {"type": "container", "image": given["image"], "argv": given.get("command", [])}}
    if "command" in task:
        program = {"type": "command", "argv": rest.pop("command")}
    else:
        program = {"type": "python", "function": rest.pop("python")}
        program |= {key: rest.pop(key) for key in ("args", "kwargs") if key in task}
    return {**rest, "program": program}


@pytest.fixture
async def leader() -> AsyncIterator[FakeLeader]:
    fake = FakeLeader()
    await fake.start()
    yield fake
    await fake.close()
    assert not fake.missing


@pytest.fixture
async def make_leader() -> AsyncIterator[Callable[[], Awaitable[FakeLeader]]]:
    made: list[FakeLeader] = []

    async def make() -> FakeLeader:
        fake = FakeLeader()
        await fake.start()
        made.append(fake)
        return fake

    yield make
    for fake in made:
        await fake.close()


@pytest.fixture
def make_config(tmp_path: Path, leader: FakeLeader) -> Callable[..., AgentConfig]:
    def make(**settings: Any) -> AgentConfig:
        flags = {"name": "a1", "peers": [leader.url], "work_dir": str(tmp_path / "agent"), **settings}
        flags.setdefault("resources", {"cpu": 2, "memory": 4096})
        return load_config(None, {}, flags)

    return make


@pytest.fixture
async def start_agent(make_config: Callable[..., AgentConfig]) -> AsyncIterator[Callable[..., asyncio.Task[int]]]:
    """Run an agent in this event loop."""
    tasks: list[asyncio.Task[int]] = []

    def start(**settings: Any) -> asyncio.Task[int]:
        task = asyncio.ensure_future(run_agent(make_config(**settings)))
        tasks.append(task)
        return task

    yield start
    for task in tasks:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class AgentProcess:
    """An agent in a process of its own."""

    def __init__(
        self, folder: Path, limits: tuple[int, int] | None = None, prefix: Sequence[str] = (), **settings: Any
    ) -> None:
        """`limits` are the soft and the hard limit of open files that it begins with; `prefix` starts its command."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "agent.toml"
        lines = []
        for key, value in settings.items():
            shown = (
                "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"
                if isinstance(value, dict)
                else json.dumps(value)
            )
            lines.append(f"{key} = {shown}")
        file.write_text("[agent]\n" + "\n".join(lines) + "\n")
        command = [sys.executable, "-m", "raftflow.agent.main", str(file)]
        if limits is not None:
            soft, hard = limits
            command = ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh", *command]
        self.process = subprocess.Popen([*prefix, *command], env=dict(os.environ))

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout_s: float = 15.0) -> int:
        return await asyncio.to_thread(self.process.wait, timeout_s)


@pytest.fixture
def gone() -> Callable[[int], Awaitable[None]]:
    """Wait until a process has ended (a zombie that nobody reaps has ended too)."""

    async def wait(pid: int, timeout_s: float = 30.0) -> None:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), timeout_s)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    return wait


@pytest.fixture
def trusted_folder() -> Iterator[Path]:
    """Yield a folder of which every part above it belongs to root: agents of any user can work in it."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    for _ in range(100):  # launchers of agents that were killed end a little later
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


@pytest.fixture
def agent_process(tmp_path: Path, trusted_folder: Path, leader: FakeLeader) -> Any:
    made: list[AgentProcess] = []

    def make(**settings: Any) -> AgentProcess:
        known = {"name": "a1", "peers": [leader.url], "work_dir": str(tmp_path / "agent"), "resources": {"cpu": 2}}
        made.append(AgentProcess(tmp_path / "config", **{**known, **settings}))
        return made[-1]

    yield make
    for agent in made:
        if agent.process.poll() is None:
            agent.signal(signal.SIGCONT)
            agent.signal(signal.SIGKILL)
            agent.process.wait()
