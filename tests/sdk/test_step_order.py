"""Steps that run one after the other cost one request each, and occurrences are given out as steps begin."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.domain.contract.views import (
    Assignment,
    FindStep,
    KnownStep,
    RecordStep,
    RefusedCall,
    StepRecorded,
    StepsKnown,
)
from raftflow.domain.tasks.program import CommandLine
from raftflow.sdk import steps
from raftflow.sdk.attempt_socket import AttemptSocket, CallRefused


class Leader:
    """Records steps, and finds those of earlier attempts."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], bytes] = {}
        self.refuses = False

    def send(self, call: Any, told: Any) -> None:
        key = (call.name, call.occurrence)
        if isinstance(call, RecordStep) and self.refuses:
            told(RefusedCall(type="limit", detail="too much"))
        elif isinstance(call, RecordStep):
            assert key not in self.records, "a step is recorded once"
            self.records[key] = bytes(call.result)
            told(StepRecorded())
        else:
            assert isinstance(call, FindStep)
            found = self.records.get(key)
            raw = msgspec.Raw(found or b"null")
            known = KnownStep(name=call.name, occurrence=call.occurrence, function=NAME, result=raw, at_ms=0)
            told(StepsKnown(steps=[known] if found else []))

    def forget(self, _fence: int) -> None: ...

    def now_ms(self) -> int:
        return 0


class Socket(AttemptSocket):
    """The socket of an attempt without the socket: the real agent's side answers at once."""

    def __init__(self, leader: Leader, recorded: int = 0) -> None:
        super().__init__("nowhere")
        names = {"workflow_id": "w", "workflow_name": "w", "task_id": "t"}
        program = CommandLine(("x",))
        assignment = Assignment(fence=1, attempt=1, resources={}, program=program, steps=recorded, **names)
        loop = asyncio.new_event_loop()
        self.requests: list[str] = []

        async def make() -> CallingAttempt:
            return CallingAttempt(assignment, leader)  # type: ignore[arg-type]

        self._attempt = loop.run_until_complete(make())
        loop.close()

    def ask(self, line: bytes) -> bytes:
        self.requests.append(msgspec.json.decode(line)["call"])
        answers: list[bytes] = []
        self._attempt.handle(line, answers.append)
        answer = msgspec.json.decode(answers[0])
        if "error" in answer:
            raise CallRefused(answer["error"]["type"], answer["error"]["detail"])
        return msgspec.json.encode(answer["ok"])


def say(word: str) -> str:
    return word


NAME = steps.function_name(say)


def run(socket: Socket, name: str, function: Any, *args: Any) -> Any:
    return steps.run(socket, name, function, args, {})


def test_steps_one_after_the_other_cost_one_request_each() -> None:
    leader = Leader()
    socket = Socket(leader)
    assert [run(socket, "a", say, word) for word in ("x", "y", "z")] == ["x", "y", "z"]
    assert socket.requests == ["step", "record", "record", "record"]
    assert leader.records == {("a", 1): b'"x"', ("a", 2): b'"y"', ("a", 3): b'"z"'}


def test_a_later_attempt_asks_for_each_step_until_it_has_found_all() -> None:
    leader = Leader()
    first = Socket(leader)
    for word in ("x", "y"):
        run(first, "a", say, word)
    later = Socket(leader, recorded=2)
    assert [run(later, "a", say, "other") for _ in range(2)] == ["x", "y"]
    assert later.requests == ["step", "step"]
    assert [run(later, "a", say, word) for word in ("z", "w")] == ["z", "w"]
    assert later.requests == ["step", "step", "step", "record", "record"]
    assert leader.records["a", 4] == b'"w"'


def test_a_record_without_its_occurrence_is_refused_while_there_may_be_records() -> None:
    leader = Leader()
    with pytest.raises(CallRefused, match="step 'a' may have a record: begin it") as refused:
        Socket(leader, recorded=2).call("record", {"name": "a", "result": 1})
    assert refused.value.kind == "invalid"
    assert leader.records == {}


def test_a_step_inside_a_step_comes_after_it() -> None:
    leader = Leader()
    socket = Socket(leader)
    run(socket, "a", say, "first")

    def outer() -> str:
        return "around " + run(socket, "a", say, "inner")

    assert run(socket, "a", outer) == "around inner"
    assert leader.records == {("a", 1): b'"first"', ("a", 2): b'"around inner"', ("a", 3): b'"inner"'}


def test_steps_of_threads_have_the_occurrences_in_which_they_began() -> None:
    leader = Leader()
    socket = Socket(leader)
    run(socket, "a", say, "first")
    second_runs, third_is_done = threading.Event(), threading.Event()

    def slow() -> str:
        second_runs.set()
        assert third_is_done.wait(20)
        return "second"

    thread = threading.Thread(target=run, args=(socket, "a", slow))
    thread.start()
    assert second_runs.wait(20)
    run(socket, "a", say, "third")
    third_is_done.set()
    thread.join(20)
    assert leader.records == {("a", 1): b'"first"', ("a", 2): b'"second"', ("a", 3): b'"third"'}
    run(socket, "a", say, "fourth")
    assert socket.requests[-1] == "record" and leader.records["a", 4] == b'"fourth"'


def test_a_step_that_fails_leaves_its_occurrence_to_the_next() -> None:
    leader = Leader()
    socket = Socket(leader)
    run(socket, "a", say, "first")

    def fail() -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            run(socket, "a", fail)
    assert run(socket, "a", say, "second") == "second"
    assert leader.records["a", 2] == b'"second"'


@pytest.mark.parametrize("inside", [False, True])
def test_a_step_whose_record_is_refused_leaves_its_occurrence_to_the_next(*, inside: bool) -> None:
    """Else a later attempt would look for the record under the occurrence before it, and run the step again."""
    leader = Leader()
    socket = Socket(leader)
    run(socket, "a", say, "first")

    def outer() -> str:
        if inside:
            socket.begin_alone()  # it is begun as another step begins
        return "refused"

    leader.refuses = True
    for _ in range(2):
        with pytest.raises(CallRefused, match="too much"):
            run(socket, "a", outer)
    leader.refuses = False
    assert run(socket, "a", say, "second") == "second"
    assert leader.records == {("a", 1): b'"first"', ("a", 2): b'"second"'}
    later = Socket(leader, recorded=2)
    assert [run(later, "a", say, "again") for _ in range(2)] == ["first", "second"]


def test_steps_of_a_forked_process_come_after_the_step_that_forks(tmp_path: Path) -> None:
    leader = Leader()
    socket = Socket(leader)
    run(socket, "a", say, "first")

    def outer() -> str:
        pid = os.fork()
        if pid == 0:
            order = socket.order
            told = (order.alone, order.running, order.unasked, order.lock.acquire(timeout=5))
            (tmp_path / "child").write_text(repr(told))
            os._exit(0)
        os.waitpid(pid, 0)
        return "second"

    run(socket, "a", outer)
    assert (tmp_path / "child").read_text() == "(None, 0, 0, True)", "the child asks for each of its steps"
    assert socket.requests == ["step", "record", "step", "record"], "the step was begun before the process was made"
    assert leader.records["a", 2] == b'"second"'


def test_sleep_inside_a_step_comes_after_it() -> None:
    leader = Leader()
    socket = Socket(leader)
    run(socket, "a", say, "first")

    def outer() -> int:
        socket.begin_alone()
        socket.call("now", {"name": "a"})
        return 0

    run(socket, "a", outer)
    assert leader.records["a", 2] == b"0"


async def test_steps_of_an_event_loop_are_begun_at_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = Leader()
    socket = await asyncio.to_thread(Socket, leader)
    await asyncio.to_thread(run, socket, "a", say, "first")

    async def call_async(name: str, fields: dict[str, Any]) -> bytes:
        return socket.call(name, fields)

    async def later() -> str:
        return "second"

    monkeypatch.setattr(socket, "call_async", call_async)
    assert await steps.run(socket, "a", later, (), {}) == "second"
    assert socket.requests == ["step", "record", "step", "record"]
    assert leader.records["a", 2] == b'"second"'
