"""Python callables as attempts. The functions live in a module that the workers find on PYTHONPATH."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from raftflow.domain.contract.views import ReportedEnd

FUNCTIONS = """
import asyncio, os, subprocess, sys, time
from raftflow import current

def pid(): return os.getpid()
def echo(*args, **kwargs): return [list(args), kwargs]
def fail(): raise ValueError("that is wrong")
def leave(): sys.exit(3)
def give(kind): return {"set": {1}, "bytes": b"x", "big": "x" * 5000, "huge": 10**640, "none": None}[kind]
def crash(code): os._exit(code)
def kill(number): os.kill(os.getpid(), number)
async def later(x):
    await asyncio.sleep(0)
    return x + 1
def context():
    c = current()
    return [c.workflow, c.task, c.attempt, c.fence, dict(c.inputs), os.environ["RAFTFLOW_TASK"],
            os.environ["RAFTFLOW_FENCE"], os.environ.get("MINE"), os.getcwd(), "RAFTFLOW_TOKEN" in os.environ]
def say(out, err):
    print(out, end="")
    print(err, end="", file=sys.stderr)
    subprocess.run(["sh", "-c", "printf child"], check=True)
def flood(count):
    for _ in range(count): os.write(1, b"o" * 10_000)
def wait(fifo):
    with open(fifo, "w") as f: f.write(str(os.getpid()))
    time.sleep(300)
def orphan(fifo):
    child = subprocess.Popen(["sleep", "300"])
    return child.pid
def zombie():
    subprocess.Popen(["/bin/true"])
    time.sleep(0.05)
    return os.getpid()
def grow():
    b"x" * (200 << 20)
    return os.getpid()
def obey(fifo):
    import signal
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    with open(fifo, "w") as f: f.write("x")
    while not told: time.sleep(0.01)
    return "obeyed"
def fork():
    return os.fork()
def print_and_wait(fifo):
    print("so far")
    with open(fifo, "w") as f: f.write("x")
    time.sleep(300)
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "fns.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def value(end: ReportedEnd) -> Any:
    assert end.outcome == "succeeded", end.error
    return json.loads(bytes(end.result))


async def test_arguments_and_results_of_needs(leader: Any, start_agent: Any) -> None:
    start_agent()
    end = await leader.run(
        python="fns:echo",
        args=[1, {"deep": [{"$result": "a"}]}],
        kwargs={"k": {"$result": "b"}, "$result": "kept"},
        inputs={"a": {"x": 1}, "b": None},
    )
    assert value(end) == [[1, {"deep": [{"x": 1}]}], {"k": None, "$result": "kept"}]
    end = await leader.run(python="fns:echo", args=[{"$result": "other"}])
    assert end.outcome == "failed"
    assert "'other'" in end.error
    assert "needs" in end.error


async def test_context_and_environment(
    leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAFTFLOW_TOKEN", "secret")
    start_agent(resources={"cpu": 1})
    end = await leader.run(
        python="fns:context", task_id="t", attempt=2, env={"MINE": "1"}, cwd=str(tmp_path), inputs={"a": [1]}
    )
    fence = end.fence
    assert value(end) == ["wf-1", "t", 2, fence, {"a": [1]}, "t", str(fence), "1", str(tmp_path), False]
    after = value(await leader.run(python="fns:context"))
    assert after[4] == {}
    assert after[7] is None  # the same worker, and nothing of the call before
    assert after[8] == str(Path.cwd())


async def test_a_worker_is_used_again(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    pids = {value(await leader.run(python="fns:pid")) for _ in range(4)}
    assert len(pids) == 1
    await leader.run(python="fns:fail")
    assert {value(await leader.run(python="fns:pid"))} == pids


async def test_concurrent_calls_have_workers_of_their_own(leader: Any, start_agent: Any, fifo: Path) -> None:
    start_agent(resources={"cpu": 2})
    (first,) = await leader.assign({"python": "fns:wait", "args": [str(fifo)]})
    busy = int(await asyncio.to_thread(fifo.read_text))
    assert value(await leader.run(python="fns:pid")) != busy
    assert first not in leader.accepted


async def test_async_function(leader: Any, start_agent: Any) -> None:
    start_agent()
    assert value(await leader.run(python="fns:later", args=[1])) == 2


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"python": "fns:fail"}, ["ValueError: that is wrong", "fns.py", "in fail"]),
        ({"python": "fns:leave"}, ["SystemExit: 3"]),
        ({"python": "fns:nothing"}, ["'fns' has no function 'nothing'"]),
        ({"python": "no_such_module:f"}, ["no module 'no_such_module'"]),
        ({"python": "fns:give", "args": ["set"]}, ["not a JSON value", "set"]),
        ({"python": "fns:give", "args": ["bytes"]}, ["not a JSON value", "bytes"]),
        ({"python": "fns:give", "args": ["huge"]}, ["more than 640 digits"]),
        ({"python": "fns:give", "args": ["big"]}, ["5002 bytes, the limit is 1000"]),
        ({"python": "fns:pid", "cwd": "/no/such/folder"}, ["/no/such/folder"]),
    ],
)
async def test_failures_say_what_was_wrong(
    leader: Any, start_agent: Any, task: dict[str, Any], words: list[str]
) -> None:
    leader.result_bytes_max = 1000
    start_agent()
    end = await leader.run(**task)
    assert (end.outcome, bytes(end.result)) == ("failed", b"null")
    for word in words:
        assert word in end.error
    assert "worker.py" not in end.error


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [("fns:crash", 7, "worker died: exit code 7"), ("fns:kill", int(signal.SIGSEGV), "worker died: signal 11")],
)
async def test_a_worker_that_dies_is_replaced(
    leader: Any, start_agent: Any, function: str, argument: int, words: str
) -> None:
    start_agent(resources={"cpu": 1})
    first = value(await leader.run(python="fns:pid"))
    end = await leader.run(python=function, args=[argument])
    assert end.outcome == "failed"
    assert end.error.startswith(words)
    assert value(await leader.run(python="fns:pid")) != first


async def test_an_idle_worker_that_dies_is_replaced(leader: Any, start_agent: Any, gone: Any) -> None:
    start_agent(resources={"cpu": 1})
    first = value(await leader.run(python="fns:pid"))
    os.kill(first, signal.SIGKILL)
    await gone(first)
    # The call may have been given to it before its end was noticed.
    assert value(await leader.run(python="fns:pid")) != first


async def test_timeout_and_cancel(leader: Any, start_agent: Any, fifo: Path, gone: Any) -> None:
    start_agent(resources={"cpu": 1})
    value(await leader.run(python="fns:pid"))  # the start of a worker may take longer than the timeout below
    (fence,) = await leader.assign({"python": "fns:wait", "args": [str(fifo)], "timeout_ms": 1500})
    worker = int(await asyncio.to_thread(fifo.read_text))
    end = await leader.end_of(fence)
    assert end.outcome == "timeout"
    await gone(worker)
    (fence,) = await leader.assign({"python": "fns:wait", "args": [str(fifo)]})
    worker = int(await asyncio.to_thread(fifo.read_text))
    leader.stop.append(fence)
    await leader.notify()
    assert (await leader.end_of(fence)).outcome == "cancelled"
    await gone(worker)


async def test_a_worker_that_was_sent_a_signal_gets_no_other_call(leader: Any, start_agent: Any, fifo: Path) -> None:
    """The signal might come late and hit the next attempt."""
    start_agent(resources={"cpu": 1})
    first = value(await leader.run(python="fns:pid"))
    (fence,) = await leader.assign({"python": "fns:obey", "args": [str(fifo)]})
    await asyncio.to_thread(fifo.read_text)
    leader.stop.append(fence)
    await leader.notify()
    assert (await leader.end_of(fence)).outcome == "cancelled"
    assert value(await leader.run(python="fns:pid")) != first


async def test_a_forked_process_cannot_answer_for_the_worker(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    assert value(await leader.run(python="fns:fork")) > 0
    assert value(await leader.run(python="fns:later", args=[1])) == 2


async def test_an_environment_that_cannot_be_set(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    first = value(await leader.run(python="fns:pid"))
    for env in ({"A": "\0"}, {"B=C": "1"}):
        end = await leader.run(python="fns:pid", env=env)
        assert end.outcome == "failed"
        assert "ValueError" in end.error or "OSError" in end.error
        end = await leader.run(command=["/bin/true"], env=env)
        assert end.outcome == "failed"
        assert end.error.startswith("cannot start /bin/true")
    assert value(await leader.run(python="fns:pid")) == first


async def test_processes_that_a_call_leaves_behind_end_with_it(leader: Any, start_agent: Any, gone: Any) -> None:
    start_agent(resources={"cpu": 1})
    first = value(await leader.run(python="fns:pid"))
    child = value(await leader.run(python="fns:orphan", args=[""]))
    await gone(child)
    assert value(await leader.run(python="fns:pid")) != first


async def test_an_ended_child_does_not_cost_the_worker(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    first = value(await leader.run(python="fns:zombie"))
    assert value(await leader.run(python="fns:pid")) == first


@pytest.mark.parametrize(
    ("settings", "function"), [({"worker_calls_max": 1}, "fns:pid"), ({"worker_rss_max_mib": 128}, "fns:grow")]
)
async def test_spent_workers_are_replaced(
    leader: Any, start_agent: Any, settings: dict[str, Any], function: str, gone: Any
) -> None:
    start_agent(resources={"cpu": 1}, **settings)
    first = value(await leader.run(python=function))
    await gone(first)
    assert value(await leader.run(python=function)) != first


async def test_output_of_a_call(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    said = await leader.run(python="fns:say", args=["out ", "err"])
    silent = await leader.run(python="fns:pid")
    failed = await leader.run(python="fns:fail")
    read = {
        (end.fence, stream): (await leader.log_of(end.fence, stream)).data
        for end in (said, silent, failed)
        for stream in ("stdout", "stderr")
    }
    assert read[said.fence, "stdout"] == b"out child"
    assert read[said.fence, "stderr"] == b"err"
    assert read[silent.fence, "stdout"] == read[silent.fence, "stderr"] == b""
    assert b"ValueError: that is wrong" in read[failed.fence, "stderr"]


async def test_output_of_a_call_is_cut_at_the_limit(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1}, output_bytes_max=10_000)
    end = await leader.run(python="fns:flood", args=[300])
    piece = await leader.log_of(end.fence, "stdout")
    assert (piece.data, piece.size, piece.truncated, piece.complete) == (b"o" * 5_000, 3_000_000, True, True)
    rest = await leader.log_of(end.fence, "stdout", 5_000)
    assert (rest.data, rest.offset) == (b"o" * 5_000, 2_995_000)


async def test_output_of_a_call_that_runs_and_of_one_that_was_killed(
    leader: Any, start_agent: Any, fifo: Path
) -> None:
    start_agent(resources={"cpu": 1})
    (fence,) = await leader.assign({"python": "fns:print_and_wait", "args": [str(fifo)]})
    await asyncio.to_thread(fifo.read_text)
    piece = await leader.log_of(fence, "stdout")
    assert (piece.data, piece.complete) == (b"so far\n", False)
    leader.stop.append(fence)
    await leader.notify()
    await leader.end_of(fence)
    piece = await leader.log_of(fence, "stdout", offset=3)
    assert (piece.data, piece.size, piece.complete) == (b"far\n", 7, True)


FORGE = """
import os, struct, msgspec, time
from raftflow.agent.launcher.messages import Returned
fence = int(os.environ["RAFTFLOW_FENCE"]) + {shift}
data = msgspec.msgpack.encode(Returned(fence, True, {result}, sizes={sizes}))
nested = {nested}
if nested:  # in a field that nobody knows
    data = bytes([data[0] + 1]) + data[1:] + bytes([0x91]) * nested
os.write(3, struct.pack("<I", len(data)) + data{more})
"""


def forge(
    *, shift: int = 0, result: bytes = b"1", sizes: tuple[int, int] = (0, 0), more: str = "", nested: int = 0
) -> str:
    return FORGE.format(shift=shift, result=result, sizes=sizes, more=more, nested=nested)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (forge(shift=1) + "time.sleep(60)", "it answered for attempt"),
        (forge(more=" + b'x'") + "time.sleep(60)", "more in its answer"),
        (forge(result=b"1" * 65537) + "time.sleep(60)", "its result has 65537 bytes"),
        (
            "import os; os.write(3, b'\\xff' * 9); os.read(0, 1); import time; time.sleep(60)",
            "its answer has 4294967295",
        ),
        (forge(sizes=(1 << 60, 0)) + "time.sleep(60)", "its answer cannot be read"),
        (forge(sizes=(0, -1)) + "time.sleep(60)", "its answer cannot be read"),
        (forge(nested=5_000) + "time.sleep(60)", "its answer cannot be read"),
        ("import os; os.write(3, b'\\x01\\0\\0\\0\\xc1'); import time; time.sleep(60)", "its answer cannot be read"),
    ],
)
async def test_what_a_worker_must_not_say_costs_the_worker_and_the_attempt(
    leader: Any, start_agent: Any, code: str, words: str
) -> None:
    agent = start_agent()
    end = await leader.run(python="builtins:exec", args=[code, {}])
    assert (end.outcome, words in end.error) == ("failed", True), end
    assert (await leader.run(python="fns:echo")).outcome == "succeeded"
    assert not agent.done()


async def test_an_answer_in_the_workers_name_is_not_the_next_calls_fault(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    first, second = await leader.assign(
        {"python": "builtins:exec", "args": [forge() + "time.sleep(0.3)", {}]}, {"python": "fns:echo", "args": ["x"]}
    )
    assert bytes((await leader.end_of(first)).result) == b"1"
    end = await leader.end_of(second)
    # Whether the worker had read it is chance. If not, another worker got it.
    assert end.outcome in ("abandoned", "succeeded"), end
    assert (await leader.run(python="fns:echo")).outcome == "succeeded"


@pytest.mark.parametrize(
    "code",
    ["import orjson\norjson.dumps = None", "import sys\nsys.stdout.close()", "import os\nos.fstat = os.open = None"],
)
async def test_a_failed_call_that_broke_what_others_need_costs_its_worker(
    leader: Any, start_agent: Any, code: str
) -> None:
    start_agent(resources={"cpu": 1})
    end = await leader.run(python="builtins:exec", args=[code + "\nraise ValueError", {}])
    assert end.outcome == "failed"
    end = await leader.run(python="fns:say", args=["out", "err"])
    assert end.outcome == "succeeded", end
