"""`task logs` against a replica of canned answers that serves bytes as a real one does."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import Result

from raftflow.api.routes.logs import task_log
from raftflow.cli.cluster_commands import task_logs as logs_module
from raftflow.domain.contract.views import LogPiece, TaskLog

Run = Callable[..., Result]
PIECE = 1_000
SINCE_MS = 1_700_000_000_000
"""A byte came every millisecond from then on."""
VIEW = {"id": "t", "state": "succeeded", "attempt": 1, "agent": "a"}


class Output:
    """The output of an attempt: bytes, with a gap perhaps."""

    def __init__(self, data: bytes, gap: tuple[int, int] = (0, 0), *, complete: bool = True) -> None:
        self.data, self.gap, self.complete = data, gap, complete
        self.asked: list[int] = []

    def answer(self, query: dict[str, str], attempt: int) -> dict[str, Any]:
        at = int(query["offset"])
        self.asked.append(at)
        if "since_ms" in query:
            start = min(int(query["since_ms"]) - SINCE_MS, len(self.data))
            piece = LogPiece(request="r", data=b"", size=len(self.data), truncated=False, complete=True)
            return self.encoded(task_log(piece, start, PIECE, attempt=attempt, agent="a", stream="stdout"))
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
        return self.encoded(log)

    def encoded(self, log: TaskLog) -> dict[str, Any]:
        answer = {name: getattr(log, name) for name in log.__struct_fields__}
        return {**answer, "data": None if log.data is None else base64.b64encode(log.data).decode()}


@pytest.fixture
def logs(run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    monkeypatch.setattr(logs_module, "_STEP_BYTES", 3_000)

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
        ("x" + "工作流稳定性" * 300).encode(),
        bytes(range(256)) * 20,
        b"\xe4\xb8",
        b"long" * 1_000,
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


LINES = b"".join(b"line %d\n" % number for number in range(600))


@pytest.mark.parametrize(
    ("data", "count", "wanted"),
    [
        (LINES, 1, b"line 599\n"),
        (LINES, 300, LINES[LINES.index(b"line 300\n") :]),
        (LINES, 600, LINES),
        (LINES, 99_999, LINES),
        (LINES, 0, b""),
        (b"", 3, b""),
        (b"one line without an end", 1, b"one line without an end"),
        (b"a\nb", 1, b"b"),
        (b"a\n\n", 1, b"\n"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"a\n" + b"x" * 9_000, 1, b"x" * 9_000),
    ],
)
def test_tail(logs: Any, data: bytes, count: int, wanted: bytes) -> None:
    assert logs(Output(data), "--tail", str(count)) == wanted
    assert logs(Output(data), "--tail", str(count), "--attempt", "1", "-f") == wanted


def test_the_tail_of_much_output_does_not_read_all_of_it(logs: Any) -> None:
    output = Output(LINES * 20)
    assert logs(output, "--tail", "2") == b"line 598\nline 599\n"
    assert len(output.asked) < 10


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


def test_since_begins_with_a_whole_line(logs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def since(at: int, *options: str, data: bytes = LINES) -> bytes:
        time = datetime.fromtimestamp((SINCE_MS + at) / 1000, UTC).isoformat()
        return logs(Output(data), "--since", time, *options)

    at = LINES.index(b"line 400\n")
    assert since(0) == LINES
    for byte in (at, at + 3, at + 8):
        assert since(byte) == LINES[at:]
    assert since(at, "--tail", "2") == b"line 598\nline 599\n"
    assert since(at, "--tail", "599") == LINES[at:]
    assert since(at, "-f", "--attempt", "1") == LINES[at:]
    assert since(len(LINES) + 5) == b""
    assert since(4_500, data=b"x" * 5_000) == b"x" * 500, "a line without a beginning"
    monkeypatch.setattr("time.time", lambda: (SINCE_MS + at) / 1000 + 600)
    assert logs(Output(LINES), "--since", "10m") == LINES[at:]
    assert logs(Output(LINES), "--since", "2999-01-01T00:00:00Z") == b"", "a time to come"


def test_since_what_is_no_time(run: Run) -> None:
    result = run("task", "logs", "w", "t", "--since", "yesterday")
    assert result.exit_code == 2
    assert "yesterday" in result.stderr
