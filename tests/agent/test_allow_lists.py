"""Which programs an agent starts, and that it refuses the others before it fetches or starts anything."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.agent.allow_list import AllowLists, Patterns
from raftflow.domain.contract.views import Assignment


@pytest.mark.parametrize(
    ("pattern", "matches", "not_matched"),
    [
        ("**", ["", "a", "os:system", "/bin/sh"], []),
        ("jobs:*", ["jobs:add", "jobs:_x"], ["jobs:os.system", "jobs.sub:add", "my_jobs:add", "jobs", "jobs:a:b"]),
        ("jobs.*:*", ["jobs.sub:add"], ["jobs:add", "jobs.a.b:add", "jobs.sub:os.system"]),
        ("jobs.**", ["jobs.sub:add", "jobs.a.b:os.system"], ["jobs:add", "jobsX:add"]),
        ("jobs:add", ["jobs:add"], ["jobs:adder", "xjobs:add"]),
        (
            "example.org/team/*:1",
            ["example.org/team/train:1"],
            ["example.org/team/a/b:1", "exampleXorg/team/train:1"],
        ),
        ("a[b]c", ["a[b]c"], ["abc"]),
        ("a\n*", ["a\nb"], ["a"]),
    ],
)
def test_patterns(pattern: str, matches: list[str], not_matched: list[str]) -> None:
    patterns = Patterns((pattern,))
    assert [each for each in matches if not patterns.match(each)] == []
    assert [each for each in not_matched if patterns.match(each)] == []


def assignment(program: dict[str, Any], **known: Any) -> Assignment:
    base = {"fence": 1, "workflow_id": "w", "workflow_name": "w", "task_id": "t", "attempt": 1, "resources": {}}
    return msgspec.convert({**base, "program": program, **known}, Assignment)


def command(*argv: str, **known: Any) -> Assignment:
    return assignment({"type": "command", "argv": argv}, **known)


def call(function: str, **known: Any) -> Assignment:
    return assignment({"type": "python", "function": function}, **known)


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("train", "other"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("patterns", "argv", "known", "why"),
    [
        (["train"], ["train"], {}, ""),
        (["train"], ["train"], {"cwd": "/tmp", "env": {"MINE": "1"}}, ""),
        (["train"], ["other"], {}, "BIN/other is not on its list"),
        (["train"], ["sh"], {}, "sh is not in an absolute folder of the agent's PATH"),
        (["train"], ["./train"], {"cwd": "/tmp"}, "/tmp/train is not on its list"),
        (["train"], ["/tmp/train"], {}, "/tmp/train is not on its list"),
        (["train"], ["train"], {"env": {"PATH": "/tmp"}}, "the task sets PATH"),
        (["train"], ["train"], {"env": {"LD_PRELOAD": "/tmp/x.so"}}, "the task sets LD_PRELOAD"),
        (["train"], ["train"], {"env": {"PYTHONSTARTUP": "x"}}, "the task sets PYTHONSTARTUP"),
        (["BIN/*"], ["train"], {}, ""),
        (["BIN/*"], ["./train"], {"cwd": "BIN"}, ""),
        (["BIN/*"], ["BIN/../bin/train"], {}, "BIN/../bin/train has .. in it"),
        (["BIN/*"], ["bin/train"], {"cwd": "BIN/.."}, "BIN/../bin/train has .. in it"),
        (["BIN/*"], ["BIN//./train"], {}, ""),
        (["BIN/*"], ["BIN/sub/train"], {}, "BIN/sub/train is not on its list"),
        (["BIN/**"], ["BIN/sub/train"], {}, ""),
        ([], ["train"], {}, "BIN/train is not on its list"),
        (["**"], ["/anything"], {"env": {"PATH": "/tmp"}}, ""),
    ],
)
def test_commands(bin_folder: Path, patterns: list[str], argv: list[str], known: dict[str, Any], why: str) -> None:
    place = str(bin_folder)
    if "cwd" in known:
        known = {**known, "cwd": known["cwd"].replace("BIN", place)}
    lists = AllowLists(commands=[each.replace("BIN", place) for each in patterns], search_path=place)
    refused = lists.refusal(command(*(each.replace("BIN", place) for each in argv), **known))
    assert bool(refused) == bool(why)
    assert why.replace("BIN", place) in refused
    assert not refused or refused.endswith("(allow_commands)")


def test_a_relative_folder_of_path_finds_no_program_that_is_on_the_list(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bin_folder.parent)
    assert "absolute folder" in AllowLists(commands=["train"], search_path="bin").refusal(command("train"))


def test_a_relative_program_of_a_task_with_a_folder_of_its_own_is_never_on_the_list() -> None:
    lists = AllowLists(commands=["/**"], start_folder="")
    assert "would be in a folder of the attempt's own" in lists.refusal(command("./train"))
    assert lists.refusal(command("./train", cwd="/opt")) == ""


@pytest.mark.parametrize(
    ("patterns", "function", "known", "why"),
    [
        (["jobs:*"], "jobs:add", {}, ""),
        (["jobs:*"], "jobs:add", {"env": {"MINE": "1"}}, ""),
        (["jobs:*"], "os:system", {}, "os:system is not on its list"),
        (["jobs:*"], "jobs:os.system", {}, "jobs:os.system is not on its list"),
        (["jobs:*"], "jobs:add", {"code": "0" * 64}, "brings a code bundle"),
        (["jobs:*"], "jobs:add", {"cwd": "/tmp"}, "has a cwd"),
        (["jobs:*"], "jobs:add", {"env": {"PYTHONPATH": "/tmp"}}, "sets PYTHONPATH"),
        ([], "jobs:add", {}, "not on its list"),
        (["**"], "os:system", {"cwd": "/tmp", "env": {"PYTHONPATH": "/tmp"}}, ""),
    ],
)
def test_callables(patterns: list[str], function: str, known: dict[str, Any], why: str) -> None:
    refused = AllowLists(callables=patterns).refusal(call(function, **known))
    assert bool(refused) == bool(why)
    assert why in refused


def test_images() -> None:
    lists = AllowLists(images=["example.org/**"])
    assert lists.refusal(assignment({"type": "container", "image": "example.org/a/b:1"})) == ""
    refused = lists.refusal(assignment({"type": "container", "image": "evil.example/a"}))
    assert refused == "this agent does not start it: the image evil.example/a is not on its list (allow_images)"


async def test_what_is_not_allowed_fails_with_the_reason_and_is_not_started(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    start_agent(resources={"cpu": 1}, allow_commands=["true"], allow_callables=["operator:*"])
    made = tmp_path / "made"
    end = await leader.run(command=["/bin/touch", str(made)])
    assert (end.outcome, end.error) == (
        "failed",
        "this agent does not start it: /bin/touch is not on its list (allow_commands)",
    )
    end = await leader.run(python="os:system", args=[f"touch {made}"])
    assert (end.outcome, end.error) == (
        "failed",
        "this agent does not call it: os:system is not on its list (allow_callables)",
    )
    assert not made.exists()
    assert (await leader.run(command=["true"])).outcome == "succeeded"
    end = await leader.run(python="operator:add", args=[1, 2])
    assert (end.outcome, bytes(end.result)) == ("succeeded", b"3")
    assert not leader.polls[-1].trouble
