"""What the commands print and send."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raftflow.formats.schema import workflow_schema_file
from tests.cli.answers import AGENT, TASK, VIEW

Run = Callable[..., Result]


def test_help_comes_at_once_and_names_every_noun(run: Run) -> None:
    nouns = [
        "demo",
        "cluster",
        "config",
        "cert",
        "member",
        "coordinator",
        "agent",
        "workflow",
        "task",
        "cache",
        "bundle",
        "effect",
        "signal",
        "approval",
        "limit",
        "token",
        "ledger",
        "events",
        "audit",
        "snapshot",
        "recover",
        "simulate",
        "chaos",
        "schema",
        "bench",
        "completion",
        "help",
    ]
    shown = run("--help").stdout
    assert [line.split()[0] for line in shown.split("Commands:")[1].splitlines() if re.match(r"  \w", line)] == nouns
    for noun in nouns:
        assert run(noun, "--help").exit_code == 0
    # What makes a start slow is what it imports: that is the same on a busy machine.
    code = "import sys; bare = len(sys.modules); sys.argv = ['raftflow', '--help']\n"
    code += "from raftflow.cli.main import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "heavy = {'aiohttp', 'asyncio', 'rich', 'yaml', 'msgspec', 'pysyncobj'}\n"
    code += "print(sorted(heavy & set(sys.modules)), len(sys.modules) - bare, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy, _, count = done.stderr.strip().rpartition(" ")
    assert heavy == "[]"
    assert int(count) < 100, "help must not wait for heavy imports"


def test_submit_prints_the_id(run: Run, fake: Any, flow: str) -> None:
    fake.routes["POST", "/v1/workflows"] = (201, {"id": "wf-1", "warnings": ["no agent has a gpu"]})
    result = run("workflow", "submit", flow)
    assert (result.stdout, result.stderr) == ("wf-1\n", "warning: no agent has a gpu\n")
    assert json.loads(run("workflow", "submit", flow, "-o", "json", "--detach").stdout)["id"] == "wf-1"


def test_submit_sends_what_flags_say(run: Run, fake: Any, flow: str) -> None:
    fake.routes["POST", "/v1/workflows"] = (201, {"id": "wf-1"})
    run("workflow", "submit", flow, "--name", "other", "--priority", "9", "--idempotency-key", "k1", "--token", "tok")
    ((_, _, _, headers, body),) = fake.requests
    assert body == {"name": "other", "priority": 9, "tasks": [{"id": "a", "command": ["true"]}]}
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("k1", "Bearer tok")


def test_submit_reads_standard_input_and_recorded_workflows(run: Run, fake: Any) -> None:
    from raftflow import formats

    fake.routes["POST", "/v1/workflows"] = (201, {"id": "wf-1"})
    assert (
        run("workflow", "submit", "-", "--format", "yaml", stdin="name: w\ntasks: [{id: a, command: [x]}]").exit_code
        == 0
    )
    recorded = str(Path(formats.__file__).parent / "examples" / "recorded.wfformat.json")
    assert run("workflow", "submit", recorded, "--time-scale", "0.5", "--burner", "command").exit_code == 0
    first, second = (request[4] for request in fake.requests)
    assert first == {"name": "w", "tasks": [{"id": "a", "command": ["x"]}]}
    assert second["tasks"][3]["command"][:5] == ["python3", "-m", "raftflow.burn", "--cpu-seconds", "0.5"]


def test_submit_and_wait_prints_what_show_prints(run: Run, fake: Any, flow: str) -> None:
    fake.routes["POST", "/v1/workflows"] = (201, {"id": "wf-1"})
    fake.routes["GET", "/v1/workflows/wf-1"] = VIEW
    waited = json.loads(run("workflow", "submit", flow, "--wait", "-o", "json").stdout)
    assert waited == json.loads(run("workflow", "show", "wf-1", "-o", "json").stdout) == VIEW


def test_validate(run: Run, flow: str, tmp_path: Path) -> None:
    assert run("workflow", "validate", flow).stdout.splitlines() == [
        "w: 1 tasks, 0 needs, no faults",
        "levels         1, at most 1 tasks in one",
        "critical path  1 s: a",
    ]
    assert json.loads(run("workflow", "validate", flow, "-o", "json").stdout)["ok"] is True
    graph = tmp_path / "graph.json"
    tasks = [{"id": f"t{n}", "command": ["true"], "needs": [f"t{m}" for m in range(n)]} for n in range(4)]
    graph.write_text(json.dumps({"name": "g", "tasks": tasks}))
    told = json.loads(run("workflow", "validate", str(graph), "-o", "json").stdout)
    assert told == {
        "ok": True,
        "name": "g",
        "tasks": 4,
        "needs": 6,
        "redundant_needs": 3,
        "levels": 4,
        "widest_level": 1,
        "critical_path": ["t0", "t1", "t2", "t3"],
        "critical_path_s": 4,
        "problems": [],
    }
    assert "3 needs follow from others" in run("workflow", "validate", str(graph)).stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: w\ntasks:\n- {id: a, retires: 3}\n")
    result = run("workflow", "validate", str(bad))
    assert result.exit_code == 1
    assert "tasks[0].retires: unknown key 'retires'; did you mean 'retries'?" in result.stdout
    problems = json.loads(run("workflow", "validate", str(bad), "-o", "json").stdout)["problems"]
    assert [(problem["path"], problem["line"]) for problem in problems] == [
        ("tasks[0].retires", 3),
        ("tasks[0].command", 3),
    ]


MANY = {
    "toml": """name = "no spaces"
priority = 101
[[tasks]]
id = "a"
needs = ["b", "nobody"]
command = ["true"]
[[tasks]]
id = "b"
needs = ["a"]
command = []
timeout = "soon"
""",
    "yaml": """name: no spaces
priority: 101
tasks:
- id: a
  needs: [b, nobody]
  command: ["true"]
- id: b
  needs: [a]
  command: []
  timeout: soon
""",
    "json": """{"name": "no spaces",
"priority": 101,
"tasks": [
{"id": "a",
"needs": ["b", "nobody"], "command": ["true"]},
{"id": "b", "needs": ["a"],
"command": [],
"timeout": "soon"}]}
""",
}
PLACES = {
    "toml": {"name": 1, "priority": 2, "tasks[1].command": 10, "tasks[1].timeout": 11, "tasks[0].needs[1]": 5},
    "yaml": {"name": 1, "priority": 2, "tasks[1].command": 9, "tasks[1].timeout": 10, "tasks[0].needs[1]": 5},
    "json": {"name": 1, "priority": 2, "tasks[1].command": 7, "tasks[1].timeout": 8, "tasks[0].needs[1]": 5},
}


@pytest.mark.parametrize("form", MANY)
def test_validate_tells_all_faults_at_once_with_their_lines(run: Run, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"many.{form}"
    file.write_text(MANY[form])
    result = run("workflow", "validate", str(file))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    for path, line in PLACES[form].items():
        assert any(told.startswith(f"{file}:{line}: {path}: ") for told in lines), (path, lines)
    assert lines[-1] == f"{file}:5: tasks[0].needs: tasks need each other in a circle: a -> b -> a"
    assert len(lines) == 6
    by_pipe = run("workflow", "validate", "-", stdin=MANY[form], env={})
    assert by_pipe.stdout == result.stdout.replace(str(file), "standard input")


def test_submit_recognises_what_comes_in(run: Run, fake: Any) -> None:
    fake.routes["POST", "/v1/workflows"] = (201, {"id": "wf-1"})
    texts = (
        '{"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}',
        'name = "w"\n[[tasks]]\nid = "a"\ncommand = ["true"]\n',
        "# mine\nname: w\ntasks:\n- {id: a, command: ['true']}\n",
    )
    for text in texts:
        assert run("workflow", "submit", "-", stdin=text).stdout == "wf-1\n"
    document = {"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}
    assert [request[4] for request in fake.requests] == [document] * 3
    assert run("workflow", "submit", "-", stdin='{"name": "w",}').exit_code == 2
    foreign = run("workflow", "submit", "-", stdin="services:\n  a:\n    image: x\n")
    assert foreign.exit_code == 2
    assert "docker compose" in foreign.stderr
    assert run("workflow", "validate", "-", stdin="services:\n  a:\n    image: x\n").exit_code == 1


LISTINGS = [
    (("workflow", "list"), "/v1/workflows", "workflows", VIEW),
    (("task", "list", "wf-1"), "/v1/workflows/wf-1/tasks", "tasks", TASK),
    (("agent", "list"), "/v1/agents", "agents", AGENT),
]


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing[2])
def test_listings_in_three_forms(run: Run, fake: Any, listing: tuple[Any, ...]) -> None:
    arguments, path, key, item = listing
    fake.routes["GET", path] = {key: [item, item]}
    as_json = json.loads(run(*arguments, "-o", "json").stdout)
    lines = [json.loads(line) for line in run(*arguments, "-o", "jsonl").stdout.splitlines()]
    assert as_json == lines
    assert len(lines) == 2
    assert item.items() <= lines[0].items()
    table = run(*arguments).stdout.splitlines()
    assert len(table) == 3
    assert table[0].split()[0] in ("ID", "NAME")
    assert table[1].split()[0] == item["id"]


def test_task_show_lists_the_attempts(run: Run, fake: Any) -> None:
    attempt = {"attempt": 1, "fence": 7, "agent": "a9", "outcome": "lost", "error": "gone\x1b[31m"}
    fake.routes["GET", "/v1/workflows/wf-1/tasks/t"] = {**TASK, "history": [attempt]}
    shown = run("task", "show", "wf-1", "t").stdout
    assert re.search(r"^1 +7 +a9 +lost", shown, re.MULTILINE)
    assert "\x1b" not in shown, "an agent's words must not steer the terminal"
    assert json.loads(run("task", "show", "wf-1", "t", "-o", "json").stdout)["history"][0]["fence"] == 7


def test_explain(run: Run, fake: Any) -> None:
    answer = {"id": "t", "state": "waiting", "reason": "needs what has not ended", "waits_for": ["a", "b"]}
    fake.routes["GET", "/v1/workflows/w/tasks/t/explain"] = answer
    assert run("task", "explain", "w", "t").stdout == "t is waiting: needs what has not ended\nwaits for: a, b\n"
    assert json.loads(run("task", "explain", "w", "t", "-o", "json").stdout).items() >= answer.items()


def test_explain_says_who_else_could_have_run_it(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/workflows/w/tasks/t/explain"] = {
        "id": "t", "state": "running", "reason": "attempt 1 runs on a1", "agent": "a1", "index": 7, "candidates": [
            {"agent": "a1", "where": "run", "score": [0, 0, 3], "why": "has room now"},
            {"agent": "a2", "where": "no", "score": [], "why": "it offers 0 gpu in all, 1 is wanted"},
        ],
    }  # fmt: skip
    assert run("task", "explain", "w", "t").stdout.splitlines() == [
        "t is running: attempt 1 runs on a1",
        "placed on a1 by record 7 of the audit (`raftflow audit list --from 7`)",
        "",
        "agents at that decision, the best first:",
        "AGENT  TAKES IT  WHY",
        "a1     now       has room now",
        "a2     no        it offers 0 gpu in all, 1 is wanted",
    ]


def test_explain_says_what_to_do(run: Run, fake: Any) -> None:
    """For everything that a task can wait for; the commands that are named exist."""
    from typing import get_args

    from raftflow.domain.contract.views import WaitingKind

    for waiting in get_args(WaitingKind):
        fake.routes["GET", "/v1/workflows/w/tasks/t/explain"] = {
            "id": "t", "state": "ready", "reason": "at 2026-01-01T00:00:00Z\x1b[31m", "waiting": waiting,
        }  # fmt: skip
        shown = run("task", "explain", "w", "t").stdout
        assert shown.startswith("t is ready: at 2026-01-01T00:00:00Z (2026-01-01)\\x1b[31m\n")
        assert ("what to do: " in shown) == bool(waiting)
        for command in re.findall(r"`raftflow (\w+ \w+)", shown):
            assert run(*command.split(), "--help").exit_code == 0
    fake.routes["GET", "/v1/workflows/w/tasks/t/explain"] = {"id": "t", "state": "failed", "reason": "exit code 1"}
    assert "raftflow task logs w t --stderr" in run("task", "explain", "w", "t").stdout


def test_controls(run: Run, fake: Any) -> None:
    for action in ("cancel", "pause", "resume", "retry"):
        fake.routes["POST", f"/v1/workflows/wf-1/{action}"] = VIEW
        assert run("workflow", action, "wf-1").stdout == "wf-1 succeeded\n"
    fake.routes["POST", "/v1/workflows/wf-1/priority"] = VIEW
    assert run("workflow", "priority", "wf-1", "90").stdout == "wf-1 succeeded\n"
    assert fake.requests[-1][4] == {"priority": 90}
    assert run("workflow", "priority", "wf-1", "101").exit_code == 2
    for action in ("drain", "resume"):
        fake.routes["POST", f"/v1/agents/a1/{action}"] = AGENT
        assert run("agent", action, "a1").stdout == "a1 up\n"
    assert run("agent", "drain", "a1", "--deadline", "10m").stdout == "a1 up\n"
    assert fake.requests[-1][4] == {"deadline_s": 600}
    fake.routes["GET", "/v1/agents/a1"] = AGENT
    assert json.loads(run("agent", "show", "a1", "-o", "json").stdout)["incarnation"] == 3


def test_watch_prints_a_line_for_every_change(run: Run, fake: Any) -> None:
    running = {**VIEW, "state": "running", "finished_at": None, "tasks": {"total": 2, "succeeded": 1, "running": 1}}
    fake.routes["GET", "/v1/workflows/wf-1"] = [running, running, VIEW]
    assert run("workflow", "watch", "wf-1").stdout.splitlines() == [
        "w: running, 1/2 succeeded, 1 running",
        "w: succeeded, 2/2 succeeded",
    ]
    fake.routes["GET", "/v1/workflows/wf-1"] = [running, VIEW]
    states = [
        json.loads(line)["state"] for line in run("workflow", "watch", "wf-1", "-o", "jsonl").stdout.splitlines()
    ]
    assert states == ["running", "succeeded"]


def test_the_schema_is_printed_without_a_cluster(run: Run) -> None:
    result = run("schema", "workflow")
    assert result.exit_code == 0
    assert json.loads(result.output) == workflow_schema_file()


def test_an_empty_idempotency_key_is_wrong_usage(run: Run, fake: Any, tmp_path: Path) -> None:
    file = tmp_path / "w.toml"
    file.write_text('name = "w"\n[[tasks]]\nid = "t"\ncommand = ["true"]\n')
    result = run("workflow", "submit", str(file), "--idempotency-key", "")
    assert result.exit_code == 2
    assert "idempotency key" in result.stderr
    assert fake.requests == []


def test_the_next_command_asks_first_who_answered(run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    fake.routes["GET", "/v1/agents"] = {"agents": []}
    # Nobody listens on port 1; its errors come at once, and are no part of this test.
    peers = f"http://127.0.0.1:1,{fake.url}"
    assert run("agent", "list", "--peers", peers, "--token", "secret-token", env={}).exit_code == 0
    file = Path(os.environ["XDG_CACHE_HOME"]) / "raftflow" / "leaders.json"
    assert list(json.loads(file.read_text()).values()) == [fake.url]
    assert "secret-token" not in file.read_text()
    file.write_text("{")
    assert run("agent", "list", "--peers", peers, env={}).exit_code == 0
