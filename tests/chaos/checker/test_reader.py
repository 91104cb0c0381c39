"""Histories that are cut off, garbled, or say what the format does not allow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recorded_histories import History, ended, shown

from raftflow.chaos.checker.main import PASSED, UNDECIDED, UNREADABLE, VIOLATED, main

HEADER = '{"type":"header","version":1,"t":0}\n'
END = '{"type":"end","t":99}\n'
INVOKE = '{"type":"invoke","op":"1","f":"get","t":1,"value":{"key":"k"}}\n'

UNREADABLES = {
    "empty": "",
    "no header": END,
    "other version": '{"type":"header","version":2,"t":0}\n' + END,
    "not a history": "hello\n",
    "binary": "\x00\x01\n",
    "not an object": HEADER + "[]\n" + END,
    "garbled in the middle": HEADER + '{"type":"inv\n' + END,
    "time is missing": HEADER + '{"type":"x"}\n' + END,
    "time is a boolean": HEADER + '{"type":"x","t":true}\n' + END,
    "time is not finite": HEADER + '{"type":"x","t":NaN}\n' + END,
    "time is huge": HEADER + '{"type":"x","t":1e999}\n' + END,
    "number of too many digits": HEADER + '{"type":"x","t":' + "9" * 5000 + "}\n" + END,
    "deep nesting": HEADER + '{"type":"x","t":1,"v":' + "[" * 100_000 + "]" * 100_000 + "}\n" + END,
    "type is a number": HEADER + '{"type":1,"t":1}\n' + END,
    "completion without invocation": HEADER + '{"type":"ok","op":"1","t":1,"value":{}}\n' + END,
    "two completions": HEADER + INVOKE + '{"type":"fail","op":"1","t":2}\n' * 2 + END,
    "invoked twice": HEADER + INVOKE * 2 + END,
    "unknown operation": HEADER + INVOKE.replace("get", "drop") + END,
    "operation without a key": HEADER
    + INVOKE.replace('"key":"k"', "")
    + '{"type":"ok","op":"1","t":2,"value":{}}\n'
    + END,
    "value is a list": HEADER + INVOKE.replace('{"key":"k"}', "[]") + END,
    "read without found": HEADER
    + '{"type":"invoke","op":"1","f":"read","t":1,"value":{"workflow":"W"}}\n'
    + '{"type":"ok","op":"1","t":2,"value":{}}\n'
    + END,
    "fence is a string": HEADER
    + '{"type":"attempt","event":"start","workflow":"W","task":"a","fence":"1","t":1}\n'
    + END,
    "effect without accepted": HEADER + '{"type":"effect","workflow":"W","task":"a","fence":1,"t":1}\n' + END,
    "fault without an id": HEADER + '{"type":"fault","event":"begin","kind":"x","t":1}\n' + END,
    "bound is a string": HEADER.replace('"t":0', '"t":0,"bounds":{"recovery_s":"1"}') + END,
    "two final states": HEADER + '{"type":"final","t":1,"workflows":{}}\n' * 2 + END,
}


@pytest.mark.parametrize("name", UNREADABLES)
def test_unreadable_history_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(UNREADABLES[name], encoding="utf-8")
    assert main([str(path), "-o", "json"]) == UNREADABLE
    printed = capsys.readouterr()
    assert not printed.out
    assert str(path) in printed.err
    assert "Traceback" not in printed.err


def test_missing_file_and_directory_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == UNREADABLE
    assert main([str(tmp_path)]) == UNREADABLE
    assert capsys.readouterr().err.count("cannot read") == 2


def passing() -> History:
    """A small history that passes."""
    return History().submit(1, 1.1).ran(2, 3).one_final(a=ended((1, 10, "succeeded")))


def test_every_cut_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = passing().write(tmp_path / "whole").read_bytes()
    assert main([str(tmp_path / "whole")]) == PASSED
    for length in [*range(0, len(whole) - 2, 7), len(whole) - 2]:
        path = tmp_path / "cut"
        path.write_bytes(whole[:length])
        assert main([str(path)]) == UNREADABLE, whole[:length][-80:]
    capsys.readouterr()


def test_violation_before_a_cut_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History().submit(1, 1.1).read(4, 5, state=None)
    assert main([str(history.write(tmp_path / "cut")), "-o", "json"]) == VIOLATED
    report = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in report["violations"]] == ["not-linearizable"]
    assert not report["complete"]


def test_history_without_a_final_state_is_undecided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History().submit(1, 1.1).line("end", 5)
    assert main([str(history.write(tmp_path / "history"))]) == UNDECIDED
    assert "no final state" in capsys.readouterr().out


def test_search_over_budget_is_undecided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History("etcd")
    for number in range(5):
        history.operation("write", (1, 2), {"key": "k", "value": number})
    history.operation("get", (3, 4), {"key": "k"}, "ok", {"key": "k", "value": 100}).line("end", 5)
    path = str(history.write(tmp_path / "history"))
    assert main([path, "--budget-per-object", "20"]) == UNDECIDED
    assert "undecided: key 'k'" in capsys.readouterr().out
    assert main([path]) == VIOLATED


def test_lines_may_be_a_little_out_of_order(tmp_path: Path) -> None:
    lines = passing().write(tmp_path / "history").read_text().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    lines[3], lines[5] = lines[5], lines[3]
    path = tmp_path / "swapped"
    path.write_text("".join(lines))
    assert main([str(path)]) == PASSED


def test_report_is_text_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History().submit(1, 1.1, outcome="unknown").submit(1, None, request="r2").submit(2, 2.1, request="r3")
    history.read(4, 5, tasks={"a": shown("failed")}).read(6, 7, state=None).fault(8, 9).final()
    path = str(history.write(tmp_path / "history"))
    assert main([path, "-o", "json"]) == VIOLATED
    report = json.loads(capsys.readouterr().out)
    assert report["operations"] == 5
    assert report["unknown"] == 2
    assert report["acknowledged"] == 1
    assert report["faults"] == {"kill-leader": 1}
    assert {each["kind"] for each in report["violations"]} == {"not-linearizable", "lost"}
    assert all(isinstance(each["text"], str) and each["at"] >= 0 for each in report["violations"])
    assert main([path]) == VIOLATED
    assert "2 violations" in capsys.readouterr().out
