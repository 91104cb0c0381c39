"""Effects in a task: what is called, asked and told, in each state in which an attempt may find one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import raftflow
from raftflow.domain.limits import EFFECT_RESULT_BYTES_MAX
from raftflow.sdk import context, effects
from raftflow.sdk.attempt_socket import AttemptSocket

BEGUN = {"state": "begun", "occurrence": 1, "effect": 4, "idempotency_key": "wf/t/k/1", "fence": 7}
OPEN = {**BEGUN, "state": "open"}


class Socket(AttemptSocket):
    """Answers requests with what the test has prepared for `effect_begin`, and notes them."""

    def __init__(self, *begins: Any) -> None:
        super().__init__("nowhere")
        self.begins = list(begins)
        self.told: list[Any] = []

    def call(self, name: str, fields: dict[str, Any]) -> bytes:
        if self.parked:
            raise raftflow.TaskParked("the attempt has parked")
        answer: dict[str, Any] = {}
        if name == "effect_begin":
            answer = self.begins.pop(0)
        elif name == "effect_end":
            told = {key: fields[key] for key in fields if key not in {"name", "occurrence"}}
            self.told.append({**told, "result": json.loads(bytes(told["result"]))} if "result" in told else told)
            answer = {"effect": 4, "wait": 9}
        else:
            self.told.append((name, fields))
        return json.dumps(answer).encode()

    async def call_async(self, name: str, fields: dict[str, Any]) -> bytes:
        await asyncio.sleep(0)
        return self.call(name, fields)


@pytest.fixture(params=["sync", "async"])
def do(request: Any) -> Callable[..., Any]:
    """Do an effect in a thread or in an event loop; both come to the same."""

    def do(
        socket: Socket, function: Any, *args: Any, verify: Any = None, idempotent: bool = False, **more: Any
    ) -> Any:
        told = effects.EffectFunction("k", function, args, more, verify, idempotent)
        if request.param == "sync":
            return effects.run(socket, told)
        return asyncio.run(effects.run_async(socket, told))

    return do


def fails(*_: Any) -> None:
    raise OSError("the line is cut")


def certainly_fails() -> None:
    raise raftflow.NotDone("refused")


def never() -> None:
    raise AssertionError("this must not be called")


def test_a_call_and_its_result(do: Any) -> None:
    socket = Socket(BEGUN)
    assert do(socket, lambda a, b: (a, b), 1, b=2) == [1, 2], "as JSON makes it"
    assert socket.told == [{"outcome": "done", "result": [1, 2]}]


def test_what_is_known_is_not_called(do: Any) -> None:
    assert do(Socket({"state": "done", "occurrence": 1, "result": {"a": 1}}), never) == {"a": 1}
    with pytest.raises(raftflow.EffectFailed, match="effect 'k' failed: refunded") as failed:
        do(Socket({"state": "failed", "occurrence": 1, "error": "refunded"}), never)
    assert (failed.value.key, failed.value.why) == ("k", "refunded")


def test_the_key_and_the_fence_reach_the_function(do: Any) -> None:
    assert do(Socket(BEGUN), lambda idempotency_key, fence: [idempotency_key, fence]) == ["wf/t/k/1", 7]
    assert do(Socket(BEGUN), lambda fence, **_: fence, fence=1) == 1, "the caller gives another one"
    assert do(Socket(BEGUN), lambda fence: fence, 2) == 2
    assert do(Socket(BEGUN), lambda **more: more) == {}
    assert do(Socket(BEGUN), dict, [("a", 1)]) == {"a": 1}, "a function without a signature"
    found = do(Socket(BEGUN), lambda: (raftflow.current_effect().idempotency_key, raftflow.current_effect().fence))
    assert found == ["wf/t/k/1", 7]
    with pytest.raises(RuntimeError, match="called as an effect"):
        raftflow.current_effect()


@pytest.mark.parametrize(
    ("answer", "result"), [(raftflow.done([3]), [3]), (True, None), (raftflow.EffectDone("x"), "x")]
)
def test_an_earlier_call_that_has_happened_is_not_repeated(do: Any, answer: Any, result: Any) -> None:
    socket = Socket(OPEN)
    assert do(socket, never, verify=lambda: answer) == result
    assert socket.told == [{"outcome": "done", "result": result}]


@pytest.mark.parametrize("answer", [raftflow.NOT_DONE, False])
def test_an_earlier_call_that_has_not_happened_is_made(do: Any, answer: Any) -> None:
    asked: list[Any] = []

    def verify(x: int, fence: int) -> Any:
        asked.append((x, fence))
        return answer

    socket = Socket(OPEN)
    assert do(socket, lambda x: x + 1, 5, verify=verify) == 6
    assert asked == [(5, 7)] and socket.told == [{"outcome": "done", "result": 6}]


def broken() -> None:
    raise ValueError("no answer")


@pytest.mark.parametrize(
    ("verify", "why"),
    [
        (None, "there is no `verify`"),
        (lambda: raftflow.UNKNOWN, "`verify` does not know"),
        (lambda: None, "`verify` does not know"),
        (broken, "`verify` raised ValueError: no answer"),
        (lambda: "id-7", "`verify` returned str: return raftflow.done(result), NOT_DONE or UNKNOWN"),
    ],
)
def test_what_nobody_can_tell_is_uncertain_unless_the_service_recognises_the_key(
    do: Any, verify: Any, why: str
) -> None:
    socket = Socket(OPEN)
    with pytest.raises(raftflow.TaskParked):
        do(socket, never, verify=verify)
    assert socket.told == [{"outcome": "uncertain", "detail": why}, ("park", {"waits": [9]})]
    assert socket.parked
    assert do(Socket(OPEN), lambda: 1, verify=verify, idempotent=True) == 1


def test_an_uncertain_effect_parks_the_task(do: Any) -> None:
    socket = Socket({**BEGUN, "state": "uncertain", "wait": 3})
    with pytest.raises(raftflow.TaskParked):
        do(socket, never)
    assert socket.told == [("park", {"waits": [3]})]


def test_a_function_that_raises(do: Any) -> None:
    socket = Socket(BEGUN, BEGUN, BEGUN, BEGUN)
    with pytest.raises(raftflow.NotDone):
        do(socket, certainly_fails)
    with pytest.raises(OSError, match="the line is cut") as unknown:
        do(socket, fails)
    assert unknown.value.__notes__ == ["It is not known whether effect 'k' was done: there is no `verify`."]
    with pytest.raises(OSError, match="the line is cut"):
        do(socket, fails, verify=lambda: False)
    assert do(socket, fails, verify=lambda: raftflow.done(8)) == 8
    assert [told["outcome"] for told in socket.told] == ["not_done", "unknown", "not_done", "done"]


def test_an_interrupted_call_leaves_the_intent(do: Any) -> None:
    socket = Socket(BEGUN)

    def interrupted() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        do(socket, interrupted)
    assert socket.told == [{"outcome": "unknown"}]


@pytest.mark.parametrize(("value", "why"), [(object(), "not JSON"), ("x" * EFFECT_RESULT_BYTES_MAX, "the limit is")])
def test_a_result_that_cannot_be_recorded_fails_everywhere(do: Any, value: Any, why: str) -> None:
    socket = Socket(BEGUN)
    with pytest.raises(raftflow.EffectFailed, match=why):
        do(socket, lambda: value)
    (told,) = socket.told
    assert told["outcome"] == "done" and told["detail"].startswith("it was done, but its result")


def test_a_plain_effect_does_not_await_verify() -> None:
    async def verify() -> bool:
        return True

    with pytest.raises(raftflow.UsageError, match="await `effect_async`"):
        effects.run(Socket(), effects.EffectFunction("k", never, (), {}, verify))


def test_coroutines_are_awaited() -> None:
    async def call(x: int) -> str:
        await asyncio.sleep(0)
        return f"{x} {raftflow.current_effect().key}"

    async def verify(x: int) -> Any:
        await asyncio.sleep(0)
        return raftflow.done(x)

    told = effects.EffectFunction("k", call, (1,), {}, verify)
    assert asyncio.run(effects.run_async(Socket(BEGUN), told)) == "1 k"
    assert asyncio.run(effects.run_async(Socket(OPEN), told)) == 1


def test_a_cancelled_effect_ends_with_its_call() -> None:
    """A thread cannot be cancelled: what it comes to is recorded, and then the cancellation goes on."""
    socket = Socket(BEGUN)

    async def cancelled() -> None:
        loop = asyncio.get_running_loop()
        calling, released = asyncio.Event(), __import__("threading").Event()

        def call() -> int:
            loop.call_soon_threadsafe(calling.set)
            released.wait(10)
            return 5

        task = loop.create_task(effects.run_async(socket, effects.EffectFunction("k", call, (), {})))
        await calling.wait()
        task.cancel()
        await asyncio.sleep(0)
        released.set()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert socket.told == [{"outcome": "done", "result": 5}]


def test_a_cancelled_coroutine_leaves_the_intent() -> None:
    socket = Socket(BEGUN)

    async def forever() -> None:
        await asyncio.Event().wait()

    async def cancelled() -> None:
        told = effects.EffectFunction("k", forever, (), {})
        await asyncio.wait_for(effects.run_async(socket, told), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert socket.told == [{"outcome": "unknown"}]


def test_an_effect_that_parks_inside_says_nothing(do: Any) -> None:
    socket = Socket(BEGUN)

    def parks() -> None:
        socket.parked = True
        raise raftflow.TaskParked("children")

    with pytest.raises(raftflow.TaskParked):
        do(socket, parks)
    assert socket.told == []


def test_outside_of_a_cluster_it_is_called() -> None:
    ctx = raftflow.Context("wf", "t", 1, 9)

    async def call(idempotency_key: str) -> str:
        await asyncio.sleep(0)
        return idempotency_key

    assert ctx.effect("k", lambda fence: fence) == 9
    assert asyncio.run(ctx.effect_async("k", lambda: 3, verify=never)) == 3
    assert asyncio.run(ctx.effect_async("k", call)) == "wf/t/k/1"
    coroutine: Any = ctx.effect("k", call)
    assert asyncio.run(coroutine) == "wf/t/k/1"


def test_a_context_in_a_task_asks_its_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, socket = raftflow.Context("wf", "t", 1, 9), Socket(BEGUN, BEGUN, BEGUN)
    monkeypatch.setattr(context, "_socket_of", lambda _: socket)

    async def call() -> int:
        await asyncio.sleep(0)
        return 2

    assert ctx.effect("k", lambda: 1) == 1
    coroutine: Any = ctx.effect("k", call)
    assert asyncio.run(coroutine) == 2
    assert asyncio.run(ctx.effect_async("k", lambda: 3)) == 3
    assert [told["result"] for told in socket.told] == [1, 2, 3]
