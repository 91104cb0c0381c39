"""Programs as attempts, run by a whole agent against a leader made for tests."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


async def test_exit_code_and_end_of_stderr(leader: Any, start_agent: Any) -> None:
    start_agent()
    end = await leader.run(command=["sh", "-c", "head -c 9000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 3"])
    assert (end.outcome, end.exit_code) == ("failed", 3)
    assert end.error.startswith("exit code 3: xxx")
    assert end.error.endswith("the end")
    assert len(end.error) < 2_200


async def test_environment_inputs_and_result(
    leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAFTFLOW_TOKEN", "secret")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("CLOUD_PASSWORD", "of the agent")
    start_agent()
    code = (
        "import os, json; e = os.environ; json.dump({'env': dict(e), 'cwd': os.getcwd(), "
        "'stdin': os.read(0, 1).hex(), 'inputs': json.load(open(e['RAFTFLOW_INPUTS'])), "
        "'sid': os.getsid(0) == os.getpid()},"
        " open(e['RAFTFLOW_RESULT'], 'w'))"
    )
    end = await leader.run(
        command=python(code),
        task_id="t",
        attempt=4,
        env={"MINE": "1", "RAFTFLOW_FENCE": "forged"},
        cwd=str(tmp_path),
        inputs={"before": {"rows": [1, 2]}},
    )
    assert end.outcome == "succeeded", end.error
    result = json.loads(bytes(end.result))
    env = result["env"]
    names = ("RAFTFLOW_WORKFLOW", "RAFTFLOW_TASK", "RAFTFLOW_ATTEMPT", "RAFTFLOW_FENCE")
    assert [env[name] for name in names] == ["wf-1", "t", "4", str(end.fence)]
    assert (env["MINE"], env["LC_TIME"]) == ("1", "C")
    assert not {"RAFTFLOW_TOKEN", "CLOUD_PASSWORD"} & set(env)
    assert result["cwd"] == str(tmp_path)
    assert result["inputs"] == {"before": {"rows": [1, 2]}}
    assert result["stdin"] == ""
    assert result["sid"]
    assert not os.access(env["RAFTFLOW_RESULT"], os.F_OK)


async def test_a_task_without_needs_has_empty_inputs(leader: Any, start_agent: Any) -> None:
    start_agent()
    end = await leader.run(command=["sh", "-c", 'cat "$RAFTFLOW_INPUTS" > "$RAFTFLOW_RESULT"'])
    assert (end.outcome, bytes(end.result)) == ("succeeded", b"{}")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo '{broken' > $RAFTFLOW_RESULT", "not valid JSON"),
        ("head -c 2000 /dev/zero | tr '\\0' 1 > $RAFTFLOW_RESULT", "2000 bytes, the limit is 1000"),
        ("mkdir $RAFTFLOW_RESULT", "cannot be read"),
    ],
)
async def test_a_bad_result_fails_the_attempt(leader: Any, start_agent: Any, script: str, words: str) -> None:
    leader.result_bytes_max = 1000
    start_agent()
    end = await leader.run(command=["sh", "-c", script])
    assert (end.outcome, end.exit_code, bytes(end.result)) == ("failed", 0, b"null")
    assert words in end.error


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], "names the program"),
        ([""], "no such program"),
        (["/no/such/program"], "No such file"),
        (["no-such-program"], "no such program on PATH"),
        (["/etc/passwd"], "Permission denied"),
    ],
)
async def test_a_program_that_cannot_start(leader: Any, start_agent: Any, command: list[str], words: str) -> None:
    start_agent()
    end = await leader.run(command=command)
    assert (end.outcome, end.exit_code) == ("failed", None)
    assert words in end.error
    assert not command or command[0] in end.error


async def test_a_missing_working_directory(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent()
    end = await leader.run(command=["/bin/true"], cwd=str(tmp_path / "none"))
    assert end.outcome == "failed"
    assert str(tmp_path / "none") in end.error


async def test_an_environment_too_large_for_the_launcher(leader: Any, start_agent: Any) -> None:
    start_agent()
    end = await leader.run(command=["/bin/true"], env={"BIG": "x" * 3_000_000})
    assert end.outcome == "failed"
    assert "cannot start" in end.error
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"


async def test_killed_by_a_signal(leader: Any, start_agent: Any) -> None:
    start_agent()
    end = await leader.run(command=["sh", "-c", "kill -SEGV $$"])
    assert (end.outcome, end.exit_code, end.error) == ("failed", -11, "killed by SIGSEGV")


async def test_output_beyond_the_limit_is_dropped_and_hurts_nobody(leader: Any, start_agent: Any) -> None:
    start_agent(output_bytes_max=10_000)
    code = "import os\nfor _ in range(400): os.write(1, b'o' * 10_000)\nos.write(2, b'few')"
    (fence,) = await leader.assign({"command": python(code)})
    end = await leader.end_of(fence)
    assert (end.outcome, end.error) == ("succeeded", "")
    out = await leader.log_of(fence, "stdout")
    assert (out.data, out.size, out.truncated, out.complete) == (b"o" * 5_000, 4_000_000, True, True)
    rest = await leader.log_of(fence, "stdout", 5_000)
    assert (rest.data, rest.offset) == (b"o" * 5_000, 3_995_000)
    err = await leader.log_of(fence, "stderr")
    assert (err.data, err.size, err.truncated, err.complete) == (b"few", 3, False, True)


async def test_timeout(leader: Any, start_agent: Any) -> None:
    start_agent()
    end = await leader.run(command=["sleep", "60"], timeout_ms=150)
    assert (end.outcome, end.exit_code) == ("timeout", -15)
    assert "150 ms" in end.error
    assert 150 <= end.duration_ms < 10_000


async def test_stop_sends_sigterm_and_lets_the_program_end(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent()
    ready, done = tmp_path / "ready", tmp_path / "done"
    os.mkfifo(ready)
    script = f"trap 'echo orderly > {done}; exit 7' TERM; echo up > {ready}; while :; do sleep 0.05; done"
    (fence,) = await leader.assign({"command": ["sh", "-c", script]})
    await asyncio.to_thread(ready.read_text)
    leader.stop.append(fence)
    await leader.notify()
    end = await leader.end_of(fence)
    assert (end.outcome, end.exit_code) == ("cancelled", 7)
    assert done.read_text() == "orderly\n"


async def test_stop_kills_after_the_grace_the_whole_group(
    leader: Any, start_agent: Any, tmp_path: Path, gone: Any
) -> None:
    start_agent()
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    script = f"trap '' TERM; sleep 300 & echo $! > {ready}; wait; wait; sleep 300"
    (fence,) = await leader.assign({"command": ["sh", "-c", script], "grace_ms": 200})
    grandchild = int(await asyncio.to_thread(ready.read_text))
    leader.stop.append(fence)
    await leader.notify()
    end = await leader.end_of(fence)
    assert (end.outcome, end.exit_code) == ("cancelled", -9)
    assert end.duration_ms >= 200
    await gone(grandchild)


@pytest.mark.parametrize("detach", ["", "setsid "], ids=["same group", "own session"])
async def test_descendants_end_with_their_attempt(
    leader: Any, start_agent: Any, tmp_path: Path, gone: Any, detach: str
) -> None:
    """Also those that hold the output open and those that have left the process group."""
    start_agent()
    other = tmp_path / "other"
    os.mkfifo(other)
    script = f"{detach}sh -c 'echo $$ > {tmp_path / 'pid'}; exec sleep 300' & "
    script += f"while [ ! -s {tmp_path / 'pid'} ]; do sleep 0.01; done"
    end = await leader.run(command=["sh", "-c", script])
    assert end.outcome == "succeeded"
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_daemon_of_an_attempt_that_runs_is_left_alone(
    leader: Any, start_agent: Any, tmp_path: Path, gone: Any
) -> None:
    """The end of one attempt kills its own leftovers only."""
    start_agent()
    pid, go = tmp_path / "pid", tmp_path / "go"
    os.mkfifo(go)
    script = f"(setsid sh -c 'echo $$ > {pid}; exec sleep 300' &) ; while [ ! -s {pid} ]; do sleep 0.01; done; "
    script += f"echo > {go}; cat {go}"
    (fence,) = await leader.assign({"command": ["sh", "-c", script]})
    await asyncio.to_thread(go.read_text)
    daemon = int(pid.read_text())
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    os.kill(daemon, 0)
    await asyncio.to_thread(go.write_text, "")
    assert (await leader.end_of(fence)).outcome == "succeeded"
    await gone(daemon)
