"""`task logs` against a replica of canned answers that serves bytes as a real one does."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from raftflow.api.logs import task_log
from raftflow.domain.contract import LogPiece

Run = Callable[..., Result]
PIECE = 1_000
VIEW = {"id": "t", "state": "succeeded", "attempt": 1, "agent": "a"}


class Output:
    """The output of an attempt: bytes, with a gap perhaps."""

    def __init__(self, data: bytes, gap: tuple[int, int] = (0, 0), *, complete: bool = True) -> None:
        self.data, self.gap, self.complete = data, gap, complete
        self.asked: list[int] = []

    def answer(self, query: dict[str, str], attempt: int) -> dict[str, Any]:
        at = int(query["offset"])
        self.asked.append(at)
        start, count = self.gap
        end = start if count and at < start else len(self.data)
        found = max(at, start + count) if count and at >= start else at
        piece = LogPiece(
            request="r",
            data=self.data[found : min(found + PIECE, end)],
            offset=found,
            size=len(self.data),
            truncated=count > 0,
            complete=self.complete,
        )
        log = task_log(piece, at, PIECE, attempt=attempt, agent="a", stream=query["stream"])  # type: ignore[arg-type]
        answer = {name: getattr(log, name) for name in log.__struct_fields__}
        return {**answer, "data": None if log.data is None else base64.b64encode(log.data).decode()}


@pytest.fixture
def logs(run: Run, fake: Any) -> Callable[..., bytes]:
    def logs(output: Output | Callable[[dict[str, str]], Any], *options: str) -> bytes:
        answer = (lambda query: output.answer(query, 1)) if isinstance(output, Output) else output
        fake.routes["GET", "/v1/workflows/w/tasks/t/logs"] = answer
        fake.routes.setdefault(("GET", "/v1/workflows/w/tasks/t"), VIEW)
        result = run("task", "logs", "w", "t", *options)
        assert result.exit_code == 0, result.output
        return result.stdout_bytes

    return logs


def history(*outcomes: str | None, state: str = "running") -> dict[str, Any]:
    attempts = [
        {"attempt": number, "fence": number, "agent": "a", "outcome": outcome}
        for number, outcome in enumerate(outcomes, 1)
    ]
    return {**VIEW, "state": state, "attempt": len(outcomes), "history": attempts}


@pytest.mark.parametrize("options", [(), ("-f",)])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        ("x" + "工作流稳定性" * 3_000).encode(),
        bytes(range(256)) * 40,
        b"\xe4\xb8",
        b"long" * 5_000,
        b"a\xf0\x9f\x98\n" * 700,
    ],
)
def test_every_byte_is_printed(logs: Any, fake: Any, data: bytes, options: tuple[str, ...]) -> None:
    fake.routes["GET", "/v1/workflows/w/tasks/t"] = history("succeeded", state="succeeded")
    assert logs(Output(data), *options) == data


def test_a_gap_is_told_where_it_is(logs: Any) -> None:
    data = b"first\n" * 500 + b"gone" * 1_000 + b"\nlast\n"
    out = logs(Output(data, (3_000, 4_000)))
    head, mark, tail = out[:3_000], out[3_000:-6].decode(), out[-6:]
    assert (head, tail) == (b"first\n" * 500, b"\nlast\n")
    assert mark.startswith("[raftflow: 4000 bytes are not kept here")
    assert mark.endswith("\n")
    out = logs(Output(b"x" * 3_000, (1_500, 1_500)))
    assert out.startswith(b"x" * 1_500 + b"\n[raftflow: 1500 bytes are not kept here")


def test_an_unfinished_character_is_left_for_later_while_the_attempt_runs(logs: Any) -> None:
    assert logs(Output("中".encode() + b"\xe4\xb8", complete=False)) == "中".encode()


LINES = b"".join(b"line %d\n" % number for number in range(2_000))


@pytest.mark.parametrize(
    ("data", "count", "wanted"),
    [
        (LINES, 1, b"line 1999\n"),
        (LINES, 300, LINES[LINES.index(b"line 1700\n") :]),
        (LINES, 2_000, LINES),
        (LINES, 99_999, LINES),
        (LINES, 0, b""),
        (b"", 3, b""),
        (b"one line without an end", 1, b"one line without an end"),
        (b"a\nb", 1, b"b"),
        (b"a\n\n", 1, b"\n"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"a\n" + b"x" * 70_000, 1, b"x" * 70_000),
    ],
)
def test_tail(logs: Any, data: bytes, count: int, wanted: bytes) -> None:
    assert logs(Output(data), "--tail", str(count)) == wanted
    assert logs(Output(data), "--tail", str(count), "--attempt", "1", "-f") == wanted


def test_the_tail_of_much_output_does_not_read_all_of_it(logs: Any) -> None:
    output = Output(LINES * 50)
    assert logs(output, "--tail", "2") == b"line 1998\nline 1999\n"
    assert len(output.asked) < 80


def test_a_tail_over_a_gap_says_so(logs: Any) -> None:
    data = b"head\n" + b"gone" * 100 + b"end\n"
    assert logs(Output(data, (5, 400)), "--tail", "1") == b"end\n"
    out = logs(Output(data, (5, 400)), "--tail", "2")
    assert out.startswith(b"[raftflow: 400 bytes")
    assert out.endswith(b"\nend\n")
    assert logs(Output(data, (5, 400)), "--tail", "3") == b"head\n" + out


def test_a_follower_goes_on_with_the_next_attempt(run: Run, fake: Any) -> None:
    outputs = {1: Output(b"one"), 2: Output(b"two\n"), 3: Output(b"three\n")}
    fake.routes["GET", "/v1/workflows/w/tasks/t/logs"] = lambda query: outputs[int(query["attempt"])].answer(
        query, int(query["attempt"])
    )
    fake.routes["GET", "/v1/workflows/w/tasks/t"] = [
        {**VIEW, "state": "ready", "history": []},
        history(None),
        history("failed", state="waiting"),
        history("failed", "superseded", None),
        history("failed", "superseded", "succeeded", state="succeeded"),
    ]
    result = run("task", "logs", "w", "t", "-f")
    assert result.stdout == "one\nthree\n", result.stderr
    assert result.stderr.splitlines() == [
        "raftflow: the task is ready; waiting for its first attempt",
        "raftflow: the task is waiting; waiting for its next attempt",
        "raftflow: attempt 1 has ended; attempt 3 follows",
    ]


def test_a_follower_whose_agent_is_gone_says_so_and_goes_on(run: Run, fake: Any, make_problem: Any) -> None:
    gone = (409, make_problem("conflict", 409, detail="the agent is gone"))
    second = Output(b"again\n")
    fake.routes["GET", "/v1/workflows/w/tasks/t/logs"] = lambda query: (
        gone if query["attempt"] == "1" else second.answer(query, 2)
    )
    fake.routes["GET", "/v1/workflows/w/tasks/t"] = [
        history(None),
        history("lost", state="ready"),
        history("lost", "succeeded", state="succeeded"),
    ]
    result = run("task", "logs", "w", "t", "-f")
    assert (result.stdout, result.exit_code) == ("again\n", 0)
    assert "the rest of attempt 1 cannot be read" in result.stderr
