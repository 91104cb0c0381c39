"""What attempts ask their agent: the steps that it knows, the socket, and the channel to the leader."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.agent.calls import steps as calls_steps
from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.agent.calls.requests import LINE_BYTES_MAX
from raftflow.agent.calls.socket import CONNECTIONS_MAX, HELD_BYTES_MAX, PENDING_MAX, CallSocket
from raftflow.agent.calls.steps import READ_AHEAD_MAX, UNASKED_MAX, AttemptSteps
from raftflow.agent.exchange.call_channel import CallChannel
from raftflow.agent.exchange.leader import LeaderNotFoundError, RefusedError, StaleIncarnationError
from raftflow.domain.contract.views import (
    Assignment,
    CallsRequest,
    CallsResponse,
    FindStep,
    KnownStep,
    RateTaken,
    RateWait,
    RecordStep,
    RefusedCall,
    StepRecorded,
    StepsKnown,
    TakeRate,
)
from raftflow.domain.tasks.program import CommandLine


def known(name: str, occurrence: int = 1, result: bytes = b"1", function: str = "f", at_ms: int = 0) -> KnownStep:
    return KnownStep(name=name, occurrence=occurrence, function=function, result=msgspec.Raw(result), at_ms=at_ms)


# --- what an attempt knows of its steps


def test_the_first_attempt_asks_nobody() -> None:
    steps = AttemptSteps(0)
    assert [steps.begin("a"), steps.begin("b"), steps.begin("a")] == [1, 1, 2]
    assert not steps.must_ask and steps.take(("a", 1)) is None


def test_a_later_attempt_asks_until_it_has_found_all_records() -> None:
    steps = AttemptSteps(3)
    assert steps.must_ask
    steps.begin("a")
    steps.learn([known("a"), known("a", 2), known("b")])
    assert not steps.must_ask, "the others came with the first"
    assert steps.begin("a") == 2 and steps.take(("a", 2)) == known("a", 2)
    assert steps.take(("a", 2)) is None
    assert steps.begin("b") == 1 and steps.take(("b", 1)) == known("b")
    assert not steps.must_ask


def test_a_record_that_was_asked_for_does_not_wait_a_second_time() -> None:
    """Else the attempt would believe that it knows of a record that it has never seen, and run that step again."""
    steps = AttemptSteps(3)
    steps.begin("b")
    steps.learn([known("b")])
    steps.begin("a")
    steps.learn([known("a"), known("b")])
    assert steps.must_ask
    steps.begin("c")
    steps.learn([])
    assert steps.must_ask, "a step without a record is no record found"


def test_what_waits_is_bounded() -> None:
    steps = AttemptSteps(5_000)
    steps.begin("a")
    steps.learn([known("a"), *[known("b", number) for number in range(1, READ_AHEAD_MAX + 11)]])
    assert steps.take(("b", 10)) is None and steps.take(("b", 11)) is not None
    steps.begin("c")
    steps.learn([known("c"), *[known("d", number, b'"%s"' % (b"x" * 60_000)) for number in range(1, 31)]])
    assert steps.take(("d", 1)) is None and steps.take(("d", 30)) is not None


def test_a_failed_step_gives_its_occurrence_back() -> None:
    steps = AttemptSteps(0)
    assert [steps.begin("a") for _ in range(3)] == [1, 2, 3]
    assert steps.fail(("a", 2)) and steps.fail(("a", 1))
    assert not steps.fail(("a", 1)) and not steps.fail(("a", 4)) and not steps.fail(("b", 1))
    assert [steps.begin("a") for _ in range(3)] == [1, 2, 4]


def test_an_attempt_begins_a_bounded_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent remembers each of them."""
    monkeypatch.setattr(calls_steps, "STEPS_PER_TASK_MAX", 2)
    steps = AttemptSteps(0)
    assert [steps.begin("a"), steps.begin("a"), steps.begin("a"), steps.begin("b")] == [1, 2, None, None]
    steps.fail(("a", 1))
    assert [steps.begin("b"), steps.begin("a")] == [1, None]
    steps.fail(("b", 1))
    assert [steps.begin("c"), steps.begin("a")] == [None, 1], "a name that failed is remembered too"


def test_an_attempt_beside_another_one_always_asks() -> None:
    steps = AttemptSteps(-1)
    assert steps.must_ask and steps.others_record


# --- the socket


class Leader:
    """Answers calls as a leader that has these records."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], KnownStep] = {}
        self.calls: list[Any] = []
        self.forgotten: list[int] = []
        self.held: list[Callable[[], None]] | None = None
        self.used_up = False
        self.waits_ms: list[int] = []
        """How long those who take from a rate limit are told to wait."""

    def send(self, call: Any, told: Callable[[Any], None]) -> None:
        self.calls.append(call)
        answer = self._answer(call)
        if self.held is None:
            told(answer)
        else:
            self.held.append(lambda: told(answer))

    def _answer(self, call: Any) -> Any:
        key = (call.name, call.occurrence)
        if isinstance(call, FindStep):
            return StepsKnown(steps=[self.records[key]] if key in self.records else [], used_up=self.used_up)
        if key in self.records:
            return StepsKnown(steps=[self.records[key]], used_up=self.used_up)
        if call.name == "refused":
            return RefusedCall(type="limit", detail="too many")
        if isinstance(call, TakeRate):
            return RateWait(wait_ms=self.waits_ms.pop(0)) if self.waits_ms else RateTaken()
        self.records[key] = known(call.name, call.occurrence, bytes(call.result), call.function)
        return StepRecorded(used_up=self.used_up)

    def forget(self, fence: int) -> None:
        self.forgotten.append(fence)

    def now_ms(self) -> int:
        return 5_000


def assignment(steps: int = 0) -> Assignment:
    return Assignment(
        fence=7,
        workflow_id="w",
        workflow_name="w",
        task_id="t",
        attempt=1,
        resources={},
        program=CommandLine(("x",)),
        steps=steps,
    )


@pytest.fixture
def leader() -> Leader:
    return Leader()


@pytest.fixture
async def listening(tmp_path: Path, leader: Leader) -> AsyncIterator[CallSocket]:
    made = CallSocket(str(tmp_path), "s")
    made.attach(lambda: CallingAttempt(assignment(), leader))
    yield made
    made.close()


class Client:
    """A program of an attempt."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.socket.connect(str(path))
        self._lines = b""

    async def send(self, *requests: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.socket, b"".join(json.dumps(each).encode() + b"\n" for each in requests))

    async def line(self) -> Any:
        """Return the next answer, None at the end."""
        while b"\n" not in self._lines:
            try:
                data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 1 << 16), 10)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        return json.loads(line)

    async def ask(self, **request: Any) -> Any:
        await self.send({"id": 1, **request})
        answer = await self.line()
        return answer.get("ok", answer.get("error"))


async def test_a_step_from_begin_to_record(tmp_path: Path, listening: CallSocket, leader: Leader) -> None:
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    client = Client(tmp_path / "s")
    assert await client.ask(call="step", name="a", function="f") == {"known": False, "occurrence": 1}
    assert leader.calls == []
    assert await client.ask(call="record", name="a", occurrence=1, function="f", result={"x": 1}) == {}
    assert [bytes(call.result) for call in leader.calls] == [b'{"x": 1}']
    assert await client.ask(call="record", name="a", occurrence=1, function="f", result=2) == {"result": {"x": 1}}
    assert (await client.ask(call="record", name="a", occurrence=2))["type"] == "invalid"
    assert (await client.ask(call="fail", name="a", occurrence=9))["type"] == "invalid"
    await client.ask(call="step", name="refused")
    assert await client.ask(call="record", name="refused", occurrence=1) == {"type": "limit", "detail": "too many"}
    await client.ask(call="step", name="b")
    assert "NaN" not in json.dumps(await client.ask(call="record", name="b", occurrence=1, result="x" * 70_000))
    listening.detach()
    assert leader.forgotten == [7] and await client.line() is None


async def test_the_next_attempt_finds_the_records(tmp_path: Path, listening: CallSocket, leader: Leader) -> None:
    leader.records["a", 1] = known("a", result=b'"before"')
    leader.records["raftflow.sleep", 1] = known("raftflow.sleep", 1, b"4", "raftflow:sleep", at_ms=1_000)
    leader.records["raftflow.now", 1] = known("raftflow.now", 1, b"1.5", "raftflow:now")
    leader.records["raftflow.random", 1] = known("raftflow.random", 1, b"0.5", "other")
    listening.attach(lambda: CallingAttempt(assignment(4), leader))
    client = Client(tmp_path / "s")
    found = await client.ask(call="step", name="a", function="f")
    assert found == {"known": True, "occurrence": 1, "result": "before"}
    assert await client.ask(call="sleep", seconds=60) == {}, "it was over 4 s after 1000 ms, which is now"
    assert await client.ask(call="now") == {"result": 1.5}
    refused = await client.ask(call="random")
    assert (
        refused["type"] == "mismatch" and "recorded by other, and is now run by raftflow:random" in refused["detail"]
    )


async def test_units_are_taken_when_the_leader_says_so(tmp_path: Path, listening: CallSocket, leader: Leader) -> None:
    client = Client(tmp_path / "s")
    leader.waits_ms = [5, 1]
    assert await client.ask(call="rate", limit="llm", count=2) == {}
    assert [(call.limit, call.count, call.name, call.occurrence) for call in leader.calls] == [
        ("llm", 2, "raftflow.rate.llm", 1)
    ] * 3
    assert await client.ask(call="rate", limit="refused", name="refused") == {"type": "limit", "detail": "too many"}
    assert await client.ask(call="rate", limit="llm", name="refused") == {"type": "limit", "detail": "too many"}
    assert leader.calls[-1].occurrence == 1, "a refused one gives its occurrence back"
    leader.records["raftflow.rate.llm", 1] = known("raftflow.rate.llm", 1, b"2", "raftflow:rate")
    listening.attach(lambda: CallingAttempt(assignment(1), leader))
    listening.detach()
    listening.attach(lambda: CallingAttempt(assignment(1), leader))
    leader.calls.clear()
    client = Client(tmp_path / "s")
    assert await client.ask(call="rate", limit="llm", count=2) == {}
    assert [type(call) for call in leader.calls] == [FindStep], "a later attempt takes nothing again"
    assert (await client.ask(call="rate", limit="llm", count=0))["type"] == "invalid"


async def test_an_attempt_that_is_over_asks_no_more(tmp_path: Path, listening: CallSocket, leader: Leader) -> None:
    client = Client(tmp_path / "s")
    leader.waits_ms = [10]
    await client.send({"id": 1, "call": "rate", "limit": "llm"})
    while not leader.calls:  # noqa: ASYNC110 - the socket announces nothing
        await asyncio.sleep(0)
    listening.detach()
    await asyncio.sleep(0.02)
    assert len(leader.calls) == 1


async def test_answers_come_in_any_order(tmp_path: Path, listening: CallSocket, leader: Leader) -> None:
    client = Client(tmp_path / "s")
    leader.held = []
    await client.send(
        {"id": "a", "call": "now"},
        {"id": 2, "call": "step", "name": "x"},
        {"id": None, "call": "sleep", "seconds": 0},
    )
    assert await client.line() == {"id": 2, "ok": {"known": False, "occurrence": 1}}
    for answer in leader.held:
        answer()
    assert {str((await client.line())["id"]) for _ in range(2)} == {"a", "None"}


@pytest.mark.parametrize(
    "line", [b"{", b"\xff", b"[]", b'{"call":"none"}', b'{"call":"step"}', b"[" * 100_000, b'{"call":"step","x":1}']
)
async def test_garbage_is_answered(tmp_path: Path, listening: CallSocket, line: bytes) -> None:
    client = Client(tmp_path / "s")
    await asyncio.get_running_loop().sock_sendall(client.socket, line + b'\n\n{"id":3,"call":"step","name":"a"}\n')
    assert (await client.line())["error"]["type"] == "invalid"
    assert (await client.line())["id"] == 3


async def test_a_request_that_is_too_long_ends_the_connection(tmp_path: Path, listening: CallSocket) -> None:
    client = Client(tmp_path / "s")
    sending = asyncio.ensure_future(
        asyncio.get_running_loop().sock_sendall(client.socket, b"x" * (LINE_BYTES_MAX + 100_000))
    )
    assert (await client.line())["error"]["detail"] == f"a request has at most {LINE_BYTES_MAX} bytes"
    assert await client.line() is None
    await asyncio.wait({sending})
    sending.exception()


async def test_connections_requests_and_answers_are_bounded(
    tmp_path: Path, listening: CallSocket, leader: Leader
) -> None:
    clients = [Client(tmp_path / "s") for _ in range(CONNECTIONS_MAX)]
    assert await clients[-1].ask(call="step", name="a") == {"known": False, "occurrence": 1}
    assert await Client(tmp_path / "s").line() is None, "one too many"
    leader.held = []
    client = clients[0]
    await client.send(*[{"id": number, "call": "now"} for number in range(PENDING_MAX + 20)])
    await clients[1].ask(call="step", name="b")  # what came before was taken in by now
    assert len(leader.held) == PENDING_MAX
    for answer in leader.held:
        answer()
    assert [(await client.line())["id"] for _ in range(PENDING_MAX)] == list(range(PENDING_MAX))
    await clients[1].ask(call="step", name="c")
    assert len(leader.held) == PENDING_MAX + 20

    deaf = [{"id": "x" * 60_000, "call": "step", "name": "d"}] * 200
    with pytest.raises(OSError):  # noqa: PT011 - closed or reset
        await clients[2].send(*deaf)


async def test_what_all_connections_hold_is_bounded(tmp_path: Path, listening: CallSocket) -> None:
    half = b'"' + b"x" * (LINE_BYTES_MAX - 1_000)
    clients = [Client(tmp_path / "s") for _ in range(2 + HELD_BYTES_MAX // len(half))]
    sending = [asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(each.socket, half)) for each in clients]
    ends = [asyncio.ensure_future(each.line()) for each in clients]
    done, waiting = await asyncio.wait(ends, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert [end.result() for end in done] == [None] * len(done) and done
    for each in (*waiting, *sending):
        each.cancel()
    await asyncio.wait({*ends, *sending})
    assert await Client(tmp_path / "s").ask(call="step", name="a") == {"known": False, "occurrence": 1}


async def test_what_an_attempt_leaves_open_is_not_of_the_next_one(tmp_path: Path, leader: Leader) -> None:
    listening = CallSocket(str(tmp_path), "s")
    listening.attach(lambda: CallingAttempt(assignment(), leader))
    waits = Client(tmp_path / "s")  # connected, not accepted yet
    listening.detach()
    listening.attach(lambda: CallingAttempt(assignment(), leader))
    assert await waits.line() is None
    assert await Client(tmp_path / "s").ask(call="step", name="a") == {"known": False, "occurrence": 1}
    listening.close()
    assert leader.forgotten == [7], "the first one had never asked"


async def test_a_long_path_is_entered_by_its_folder(tmp_path: Path, leader: Leader) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    listening = CallSocket(str(folder), "s")
    assert stat.S_ISSOCK((folder / "s").stat().st_mode)
    listening.close()
    with pytest.raises(OSError, match="No such file"):
        CallSocket(str(tmp_path / "none"), "s")


# --- the channel


class Door:
    """Answers requests of the channel as a list of functions says, and remembers them."""

    def __init__(self, *answers: Callable[[CallsRequest], CallsResponse]) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[int, list[str]]] = []

    async def post(self, agent: str, body: bytes) -> CallsResponse:
        assert agent == "a1"
        request = msgspec.json.decode(body, type=CallsRequest)
        self.requests.append((request.incarnation, [call.name for call in request.calls]))
        await asyncio.sleep(0)
        return (self.answers.pop(0) if self.answers else recorded)(request)


def recorded(request: CallsRequest) -> CallsResponse:
    return CallsResponse(now_ms=9_000, answers=[StepRecorded() for _ in request.calls])


def failing(error: Exception) -> Callable[[CallsRequest], CallsResponse]:
    def fail(_: CallsRequest) -> CallsResponse:
        raise error

    return fail


def call(name: str, fence: int = 1) -> RecordStep:
    return RecordStep(fence=fence, name=name, occurrence=1)


def channel_to(door: Door) -> CallChannel:
    channel = CallChannel(door.post)
    channel.begin("a1", 3)
    return channel


async def asked(channel: CallChannel, *calls: RecordStep) -> list[Any]:
    """Send calls and wait for their answers."""
    waiting = [asyncio.get_running_loop().create_future() for _ in calls]
    for each, future in zip(calls, waiting, strict=True):
        channel.send(each, future.set_result)
    return list(await asyncio.wait_for(asyncio.gather(*waiting), 10))


async def test_calls_of_one_turn_share_a_request() -> None:
    door = Door()
    channel = channel_to(door)
    assert await asked(channel, call("a"), call("b", 2)) == [StepRecorded()] * 2
    assert door.requests == [(3, ["a", "b"])]
    assert 9_000 <= channel.now_ms() < 19_000
    await channel.close()


async def test_calls_are_sent_again_until_there_is_an_answer() -> None:
    door = Door(failing(LeaderNotFoundError("none", 0.0)), failing(LeaderNotFoundError("none", 0.0)))
    assert await asked(channel_to(door), call("a")) == [StepRecorded()]
    assert door.requests == [(3, ["a"])] * 3


async def test_one_call_that_is_refused_costs_the_others_nothing() -> None:
    def door_of(request: CallsRequest) -> CallsResponse:
        if any(each.name == "bad" for each in request.calls):
            raise RefusedError(400, "bad")
        return recorded(request)

    door = Door(*[door_of] * 9)
    answers = await asked(channel_to(door), call("a"), call("bad"), call("c"))
    assert answers == [StepRecorded(), RefusedCall(type="invalid", detail="bad"), StepRecorded()]


async def test_a_stale_incarnation_records_nothing() -> None:
    channel = channel_to(Door(failing(StaleIncarnationError("over"))))
    (answer,) = await asked(channel, call("a"))
    assert answer.type == "stale"
    door = Door(failing(LeaderNotFoundError("none", 0.0)))
    channel = channel_to(door)
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    channel.send(call("old"), told.set_result)
    await asyncio.sleep(0)
    channel.begin("a1", 4)
    assert await asked(channel, call("new", 2)) == [StepRecorded()]
    assert (await told).type == "stale" and (4, ["old"]) not in door.requests


async def test_calls_of_an_attempt_that_is_over_are_dropped() -> None:
    door = Door(failing(LeaderNotFoundError("none", 0.0)))
    channel = channel_to(door)
    told: list[Any] = []
    channel.send(call("a"), told.append)
    await asyncio.sleep(0)
    channel.send(call("b"), told.append)
    channel.forget(1)
    assert await asked(channel, call("c", 2)) == [StepRecorded()]
    assert told == [] and ["b"] not in [names for _, names in door.requests]
    await channel.close()


async def test_steps_that_cannot_have_a_record_need_not_be_begun(
    tmp_path: Path, listening: CallSocket, leader: Leader
) -> None:
    client = Client(tmp_path / "s")
    begun = await client.ask(call="step", name="a", unasked=True)
    assert begun == {"known": False, "occurrence": 1, "unasked": UNASKED_MAX}
    assert await client.ask(call="record", name="a", result=1) == {}
    assert [(call.name, call.occurrence) for call in leader.calls] == [("a", 2)]


async def test_what_is_spent_counts_also_without_a_record_of_its_own(
    tmp_path: Path, listening: CallSocket, leader: Leader
) -> None:
    client = Client(tmp_path / "s")

    async def spent_by(**request: Any) -> list[tuple[str, int, dict[str, int]]]:
        leader.calls.clear()
        await client.ask(**request)
        return [(call.name, call.occurrence, call.spent) for call in leader.calls]

    await client.ask(call="step", name="a")
    usd = {"usd": 0.5}
    assert await spent_by(call="record", name="a", occurrence=1, spent=usd) == [("a", 1, {"usd": 500_000})]
    await client.ask(call="step", name="b")
    failed = ("raftflow.failed.7", 1, {"usd": 500_000})
    assert await spent_by(call="fail", name="b", occurrence=1, spent=usd) == [failed]
    leader.records["b", 1] = known("b")
    await client.ask(call="step", name="b")
    told = await spent_by(call="record", name="b", occurrence=1, spent=usd)
    assert told[1:] == [("raftflow.failed.7", 2, {"usd": 500_000})], "another attempt has recorded the step first"
    assert await spent_by(call="spend", amounts={"usd": "1.5"}) == [("raftflow.spend", 1, {"usd": 1_500_000})]
    for wrong in ({"usd": -1}, {"usd": 1e-7}, {"usd": "x"}, {"x" * 101: 1}, {}):
        assert (await client.ask(call="spend", amounts=wrong))["type"] == "invalid"


async def test_no_step_begins_while_a_budget_is_used_up(
    tmp_path: Path, listening: CallSocket, leader: Leader
) -> None:
    client = Client(tmp_path / "s")
    await client.ask(call="step", name="a")
    leader.used_up = True
    assert await client.ask(call="record", name="a", occurrence=1) == {"used_up": True}
    leader.used_up = False
    assert (await client.ask(call="step", name="a"))["occurrence"] == 2, "it was raised meanwhile"
    leader.used_up = True
    await client.ask(call="record", name="a", occurrence=2)
    assert (await client.ask(call="step", name="a"))["type"] == "parked"
    assert (await client.ask(call="now"))["type"] == "parked"
    assert (await client.ask(call="spend", amounts={"usd": 1}))["type"] == "parked"
    assert leader.calls[-1].spent == {"usd": 1_000_000}, "what is gone counts"
    assert json.loads(listening.detach()) == {"budget": True}


async def test_a_program_that_only_spends_parks_when_it_spends_again(
    tmp_path: Path, listening: CallSocket, leader: Leader
) -> None:
    client = Client(tmp_path / "s")

    async def spend() -> Any:
        return await client.ask(call="spend", amounts={"usd": 1})

    assert await spend() == {}
    leader.used_up = True
    assert await spend() == {"used_up": True}, "what it does with what it has paid for can be finished"
    leader.used_up = False
    assert await spend() == {}, "it was raised meanwhile"
    leader.used_up = True
    assert await spend() == {"used_up": True}
    assert (await spend())["type"] == "parked"
    assert [call.occurrence for call in leader.calls if isinstance(call, RecordStep)] == [1, 2, 3, 4, 5], "all count"
    assert json.loads(listening.detach()) == {"budget": True}
