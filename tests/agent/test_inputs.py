"""Large inputs: fetched in pieces before an attempt starts, beside all else that an agent does."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from raftflow.agent.attempts.runner import AttemptRunner
from raftflow.agent.workdir import inputs as agent_inputs
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.agent.workdir.inputs import (
    AttemptOverError,
    InputFolder,
    InputsError,
    InputsFetcher,
    InputsRefusedError,
    ReplicaUnavailableError,
)
from raftflow.domain.contract.views import Assignment, InputsApart, InputsPiece
from raftflow.domain.tasks.program import CommandLine

TRUE = ["/bin/true"]
SHOW = ["sh", "-c", 'cp "$RAFTFLOW_INPUTS" "$RAFTFLOW_RESULT"; stat -c %a "$RAFTFLOW_INPUTS" >&2; exit $?']
INPUTS = {"a": {"rows": [1, 2]}, 'quo"te': "ä", "c": None, "d": "x" * 20_000, "e": [[]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "inputs"


async def nothing_left(folder: Path) -> None:
    """Wait until no file of inputs is there: a thread removes them."""
    async with asyncio.timeout(10):
        while os.listdir(folder):  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.005)


def text_of(inputs: Any) -> str:
    return Path(inputs.path).read_text()


async def test_a_program_finds_all_its_inputs_in_its_file(leader: Any, start_agent: Any, folder: Path) -> None:
    start_agent()
    end = await leader.end_of(await leader.assign_apart(INPUTS, command=SHOW))
    assert (end.outcome, end.error) == ("succeeded", "")
    assert json.loads(bytes(end.result)) == INPUTS
    assert leader.asked == [(1, 0), (1, 2), (1, 4)]
    await nothing_left(folder)


async def test_agents_say_that_they_fetch(leader: Any, start_agent: Any) -> None:
    start_agent()
    await leader.until(lambda: leader.polls)
    assert leader.polls[0].fetches


async def test_a_function_reads_its_inputs_as_it_looks_at_them(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (tmp_path / "lookers.py").write_text(
        "from raftflow import current\n"
        "kept = []\n"
        "def look(first, *, rows):\n"
        "    inputs = current().inputs\n"
        "    kept.append(inputs)\n"
        "    return [first, rows, len(inputs), list(inputs), inputs['e'], 'z' in inputs, inputs.get('z')]\n"
        "def late():\n"
        "    return kept[0]['a']\n"
        "def wrong():\n"
        "    return current().inputs['z']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start_agent(resources={"cpu": 1})
    args, kwargs = [{"$result": "c"}], {"rows": {"deep": [{"$result": "a"}]}}
    end = await leader.end_of(await leader.assign_apart(INPUTS, python="lookers:look", args=args, kwargs=kwargs))
    assert end.error == ""
    assert json.loads(bytes(end.result)) == [None, {"deep": [INPUTS["a"]]}, 5, list(INPUTS), [[]], False, None]
    end = await leader.run(python="lookers:late")
    assert "can be read while its function runs" in end.error
    end = await leader.end_of(await leader.assign_apart(INPUTS, python="lookers:wrong"))
    assert "KeyError: 'z'" in end.error
    end = await leader.end_of(await leader.assign_apart(INPUTS, python="lookers:look", args=[{"$result": "nobody"}]))
    assert "refer to the result of 'nobody'" in end.error
    await nothing_left(folder)


async def test_other_attempts_start_and_end_meanwhile(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 2})
    leader.hold_inputs = asyncio.Event()
    fence = await leader.assign_apart(INPUTS, command=SHOW)
    await leader.until(lambda: (fence, 2) in leader.asked)
    for _ in range(3):
        assert (await leader.run(command=TRUE)).outcome == "succeeded"
    assert any(fence in poll.running for poll in leader.polls)
    leader.hold_inputs.set()
    assert json.loads(bytes((await leader.end_of(fence)).result)) == INPUTS


async def test_a_cancelled_attempt_stops_fetching_at_once(leader: Any, start_agent: Any, folder: Path) -> None:
    start_agent()
    leader.hold_inputs = asyncio.Event()
    fence = await leader.assign_apart(INPUTS, command=["sh", "-c", f"touch {folder}/ran"])
    await leader.until(lambda: (fence, 2) in leader.asked)
    leader.stop = [fence]
    await leader.notify()
    end = await leader.end_of(fence, 5.0)
    assert (end.outcome, end.error) == ("cancelled", "cancelled by the coordinator")
    await nothing_left(folder)


async def test_a_deadline_counts_while_inputs_are_fetched(leader: Any, start_agent: Any, folder: Path) -> None:
    start_agent()
    leader.hold_inputs = asyncio.Event()
    end = await leader.end_of(await leader.assign_apart(INPUTS, command=SHOW, timeout_ms=100))
    assert end.outcome == "timeout"
    await nothing_left(folder)


async def test_nothing_starts_when_the_lease_ends_while_inputs_are_fetched(
    leader: Any, start_agent: Any, folder: Path, tmp_path: Path
) -> None:
    leader.lease_ms = 1_000
    start_agent()
    leader.hold_inputs = asyncio.Event()
    fence = await leader.assign_apart(INPUTS, command=["touch", str(tmp_path / "ran")])
    await leader.until(lambda: (fence, 2) in leader.asked)
    leader.no_leader = True
    await nothing_left(folder)
    leader.hold_inputs.set()
    leader.no_leader = False
    end = await leader.end_of(fence)
    assert end.outcome == "abandoned"
    assert "ran" not in os.listdir(tmp_path)


async def test_inputs_that_are_too_large_for_the_agent_fail_the_attempt(leader: Any, start_agent: Any) -> None:
    start_agent(inputs_bytes_max=20_000)
    end = await leader.end_of(await leader.assign_apart(INPUTS, command=SHOW))
    assert end.outcome == "failed"
    assert re.search(
        r"the results of the 5 tasks that it needs have \d+ bytes, and this agent takes 20000", end.error
    )
    assert leader.asked == []


async def test_a_refusal_is_not_asked_again(leader: Any, start_agent: Any) -> None:
    start_agent()
    leader.inputs_status = 400
    end = await leader.end_of(await leader.assign_apart(INPUTS, command=SHOW))
    assert (end.outcome, len(leader.asked)) == ("failed", 1)
    assert "no replica gives out its inputs: " in end.error
    assert "400 as-told" in end.error


async def test_an_attempt_that_is_over_elsewhere_is_given_up(leader: Any, start_agent: Any) -> None:
    start_agent()
    leader.inputs_status = 409
    end = await leader.end_of(await leader.assign_apart(INPUTS, command=SHOW))
    assert (end.outcome, len(leader.asked)) == ("abandoned", 1)


@pytest.mark.parametrize("status", [429, 503])
async def test_replicas_that_are_behind_or_busy_are_asked_again(leader: Any, start_agent: Any, status: int) -> None:
    start_agent()
    leader.inputs_status = status
    fence = await leader.assign_apart(INPUTS, command=SHOW)
    await leader.until(lambda: len(leader.asked) >= 3)
    leader.inputs_status = 0
    assert json.loads(bytes((await leader.end_of(fence)).result)) == INPUTS


async def test_a_place_that_cannot_be_written_is_no_fault_of_the_task(
    leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(agent_inputs.InputFile, "_write", full)
    start_agent()
    end = await leader.end_of(await leader.assign_apart(INPUTS, command=SHOW))
    assert end.outcome == "agent_fault"
    assert "its inputs cannot be written: [Errno 28] No space left on device" in end.error


# --- the fetcher by itself


class Replicas:
    """Replicas that answer as the test says: a piece, or an exception."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def replicas(self) -> list[str]:
        return list(self.answers)

    async def inputs(self, replica: str, _agent: str, _fence: int, first: int, _timeout_s: float) -> InputsPiece:
        self.asked.append(f"{replica}{first}")
        answers = self.answers[replica]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        inputs, following = answer
        return InputsPiece(inputs={need: msgspec.Raw(b"1") for need in inputs}, next=following)


def attempt(fence: int = 3, count: int = 3) -> Any:
    return SimpleNamespace(fence=fence, inputs_apart=InputsApart(count=count, size=count))


@pytest.fixture
def make(tmp_path: Path) -> Any:
    work = WorkDirectory(tmp_path / "work")
    place = InputFolder(work)
    yield place.make
    place.close()
    work.close()


def fetcher(replicas: Replicas, make: Any, **more: Any) -> InputsFetcher:
    return InputsFetcher(replicas, make, agent="a1", bytes_max=100, **more)


BEHIND = ReplicaUnavailableError("behind")
AWAY = ReplicaUnavailableError("silent", away=True)
ALL, ONE, TWO = ("abc", None), ("a", 1), ("bc", None)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ({"n1": [ALL], "n2": [ALL], "lead": [ALL]}, "n20"),
        ({"n1": [ALL], "n2": [BEHIND], "lead": [ALL]}, "n20 n10"),
        ({"n1": [BEHIND], "n2": [BEHIND], "lead": [ALL]}, "n20 n10 lead0"),
        ({"n1": [BEHIND, TWO], "n2": [BEHIND], "lead": [ONE]}, "n20 n10 lead0 n21 n11"),
        ({"n1": [AWAY], "n2": [AWAY], "lead": [ONE, TWO]}, "n20 n10 lead0 lead1"),
        ({"n1": [ONE, TWO], "n2": [BEHIND], "lead": [ALL]}, "n20 n10 n11"),
        (
            {"n1": [InputsRefusedError("no")], "n2": [InputsRefusedError("no")], "lead": [ONE, TWO]},
            "n20 n10 lead0 lead1",
        ),
        ({"lead": [BEHIND, ALL]}, "lead0 lead0"),
    ],
)
async def test_followers_are_asked_before_the_leader(make: Any, answers: dict[str, Any], asked: str) -> None:
    replicas = Replicas(**answers)
    inputs = await fetcher(replicas, make).fetch(attempt())
    assert replicas.asked == asked.split()
    assert text_of(inputs) == '{"a":1,"b":1,"c":1}'
    assert dict(inputs.places) == {"a": (5, 1), "b": (11, 1), "c": (17, 1)}
    inputs.remove()
    inputs.remove()


async def test_a_silent_replica_costs_one_attempt_its_time_and_not_all(make: Any) -> None:
    replicas = Replicas(n1=[ALL], n2=[AWAY, ALL], lead=[ALL])
    one = fetcher(replicas, make)
    for fence in (3, 5, 7):
        (await one.fetch(attempt(fence))).remove()
    assert replicas.asked == ["n20", "n10", "n10", "n10"]


@pytest.mark.parametrize(
    ("answers", "own", "why"),
    [
        ([AttemptOverError("it is over")], False, "it is over"),
        ([InputsRefusedError("400")], False, "no replica gives out its inputs: 400"),
        ([BEHIND], True, "no replica gave out its inputs for 0 s: behind"),
        ([("ab", None)], True, "2 of 3 inputs with 2 bytes came from input 0 on"),
        ([("abcd", None)], True, "4 of 3 inputs"),
        ([("ab", 1)], True, "2 of 3 inputs"),
        ([("", 0), ("abc", None)], True, "0 of 3 inputs"),
    ],
)
async def test_what_cannot_be_had(make: Any, tmp_path: Path, answers: list[Any], own: bool, why: str) -> None:  # noqa: FBT001
    with pytest.raises(InputsError, match=re.escape(why)) as caught:
        await fetcher(Replicas(lead=answers), make, patience_s=0).fetch(attempt())
    assert caught.value.own is own
    await nothing_left(tmp_path / "work" / "inputs")


async def test_no_more_than_a_few_attempts_fetch_at_a_time(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_inputs, "FETCHES_MAX", 2)
    gate, inside = asyncio.Event(), 0

    class Slow(Replicas):
        async def inputs(self, *args: Any) -> InputsPiece:
            nonlocal inside
            inside += 1
            await gate.wait()
            return await super().inputs(*args)

    one = fetcher(Slow(lead=[ALL]), make)
    fetching = [asyncio.ensure_future(one.fetch(attempt(fence))) for fence in range(5)]
    await asyncio.sleep(0.05)
    assert inside == 2
    fetching[4].cancel()
    gate.set()
    done = await asyncio.gather(*fetching, return_exceptions=True)
    assert isinstance(done[4], asyncio.CancelledError)
    for inputs in done[:4]:
        inputs.remove()


async def test_no_files_of_a_former_agent_are_left(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "7.json").write_text("{}")
    work = WorkDirectory(tmp_path)
    place = InputFolder(work)
    assert list((tmp_path / "inputs").iterdir()) == []
    file = place.make(7)
    await file.finish()
    assert text_of(file) == "{}"
    file.remove()
    place.close()
    work.close()


@pytest.mark.parametrize("what", ["gone", "fifo", "link", "file"])
async def test_what_a_task_did_to_the_folder_is_mended(make: Any, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "work" / "inputs"
    folder.rmdir()
    if what == "fifo":
        os.mkfifo(folder)
    elif what == "link":
        folder.symlink_to(tmp_path)
    elif what == "file":
        folder.write_text("")
    file = make(3)
    await file.add({"a": msgspec.Raw(b"1")})
    await file.finish()
    assert text_of(file) == '{"a":1}'
    assert folder.is_dir()
    assert not folder.is_symlink()
    file.remove()


async def test_the_lease_is_looked_at_before_an_attempt_starts_with_its_inputs() -> None:
    """An agent that stood still finds inputs that came meanwhile, and a lease that is over: nothing starts."""
    started: list[int] = []
    removed: list[int] = []
    ends: list[Any] = []
    executor: Any = SimpleNamespace(start=lambda *args: started.append(1), signal=lambda *args: None)

    async def fetch(_assignment: Any) -> Any:
        return SimpleNamespace(remove=lambda: removed.append(1))

    fetcher: Any = SimpleNamespace(at_once=lambda _assignment: None, fetch=fetch)

    attempts = AttemptRunner(
        {CommandLine: executor},
        before_end=lambda: attempts.stop_all("abandoned", "the lease is over"),
        on_end=ends.append,
        fetcher=fetcher,
    )
    given = {"fence": 1, "workflow_id": "w", "workflow_name": "w", "task_id": "t", "attempt": 1, "resources": {}}
    attempts.start(Assignment(**given, program=CommandLine(("true",)), inputs_apart=InputsApart(count=1, size=1)))
    await attempts.wait_idle()
    assert [(end.outcome, end.error) for end in ends] == [("abandoned", "the lease is over")]
    assert (started, removed) == ([], [1])
