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

from raftflow.cli.terminal.options import resolve
from raftflow.formats.schema import workflow_schema_file

Run = Callable[..., Result]
VIEW = {
    "id": "wf-1",
    "name": "w",
    "state": "succeeded",
    "tasks": {
        **dict.fromkeys(("failed", "running", "ready", "waiting", "cancelled", "cached"), 0),
        "total": 2,
        "succeeded": 2,
    },
    "submitted_at": "2026-01-01T00:00:00Z",
    "finished_at": "2026-01-01T00:00:09Z",
    "priority": 50,
    "warnings": [],
    "levels": 2,
    "critical_path": ["s", "t"],
    "critical_path_s": 3.5,
}
TASK = {
    "id": "t",
    "state": "succeeded",
    "attempt": 2,
    "agent": "a1",
    "started_at": "2026-01-01T00:00:00Z",
    "finished_at": "2026-01-01T00:00:01Z",
    "result": {"x": [1]},
    "detail": "",
    "needs": ["s"],
    "history": [],
}
AGENT = {
    "id": "a1",
    "name": "a1",
    "state": "up",
    "incarnation": 3,
    "resources": {"cpu": 4.0, "memory": 8192.0},
    "allocated": {"cpu": 1.5, "memory": 0.0},
    "pid": 12,
}


def status(name: str = "n1", role: str = "leader", applied: int = 7) -> dict[str, Any]:
    indexes = ("last_index", "durable_index", "commit_index", "applied_index", "snapshot_index", "digest_index")
    words = {"cluster": "c", "leader": "n1", "leader_url": None, "digest": "ab" * 32, "version": "0"}
    more = {"term": 3, "ready": True, "pid": 99, "uptime_s": 1.0, "peers": []}
    return {"name": name, "role": role, **dict.fromkeys(indexes, applied), **words, **more}


@pytest.fixture
def flow(tmp_path: Path) -> str:
    file = tmp_path / "flow.json"
    file.write_text('{"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}')
    return str(file)


def test_help_comes_at_once_and_names_every_noun(run: Run) -> None:
    nouns = [
        "demo",
        "cluster",
        "config",
        "member",
        "coordinator",
        "agent",
        "workflow",
        "task",
        "cache",
        "ledger",
        "audit",
        "simulate",
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


def test_cluster_status(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "/v1/agents"] = {"agents": [AGENT]}
    found = json.loads(run("cluster", "status", "-o", "json").stdout)
    assert (found["leader"], found["term"], found["index"]) == ("n1", 3, 7)
    (replica,) = found["replicas"]
    expected = {"name": "n1", "url": fake.url, "pid": 99, "role": "leader", "applied": 7, "digest": "ab" * 32}
    assert expected.items() <= replica.items()
    assert found["agents"] == [{"name": "a1", "pid": 12, "state": "up"}]
    assert run("cluster", "status").stdout.startswith("leader n1, term 3, index 7\n")


def test_cluster_status_without_a_leader_is_printed_and_fails(run: Run, fake: Any, make_problem: Any) -> None:
    fake.routes["GET", "/v1/status"] = {**status(role="candidate"), "leader": None, "ready": False}
    fake.routes["GET", "/v1/agents"] = (503, make_problem("no-leader", 503))
    result = run("cluster", "status", "-o", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["leader"] is None


def test_members(run: Run, fake: Any) -> None:
    line = {"name": "n1", "peer": "127.0.0.1:7101", "url": "http://127.0.0.1:7001", "leader": True, "connected": True}
    listed = {"replica": "n1", "leader": "n1", "term": 3, "members": [line]}
    fake.routes["GET", "/v1/members"] = listed
    fake.routes["POST", "/v1/members/transfer"] = listed
    assert json.loads(run("member", "list", "-o", "json").stdout)["members"][0]["name"] == "n1"
    assert run("member", "list").stdout.splitlines()[1].split() == [
        "n1",
        "127.0.0.1:7101",
        "http://127.0.0.1:7001",
        "yes",
        "yes",
        "yes",
        "-",
    ]
    fake.routes["POST", "/v1/members"] = listed
    fake.routes["POST", "/v1/members/n1/remove"] = listed
    new = {"name": "n4", "peer": "10.0.0.4:7101", "url": "http://10.0.0.4:7001"}
    run("member", "add", "n4", "--peer", new["peer"], "--url", new["url"])
    assert fake.requests[-1][4] == new
    run("member", "remove", "n1")
    run("member", "transfer", "n1")
    assert fake.requests[-1][4] == {"to": "n1"}
    run("member", "transfer")
    assert fake.requests[-1][4] == {}


def test_ledger(run: Run, fake: Any) -> None:
    line = {"name": "a1", "capacity": {"cpu": 4.0}, "allocated": {"cpu": 1.5}}
    fake.routes["GET", "/v1/ledger"] = {"index": 9, "agents": [line]}
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "/v1/ledger/verify"] = {"ok": True, "index": 9, "problems": [], "replica": "n1"}
    assert json.loads(run("ledger", "show", "-o", "json").stdout) == {"index": 9, "agents": [line]}
    assert [json.loads(text) for text in run("ledger", "show", "-o", "jsonl").stdout.splitlines()] == [line]
    assert run("ledger", "show").stdout.splitlines()[2].split() == ["a1", "cpu", "1.5", "4"]
    run("ledger", "show", "--stale")
    assert fake.requests[-1][2] == {"stale": "1"}
    found = json.loads(run("ledger", "verify", "-o", "json").stdout)
    assert {"ok": True, "index": 9, "problems": []}.items() <= found.items()
    assert run("ledger", "verify").exit_code == 0


def record(index: int, chain: str = "c") -> dict[str, Any]:
    words = {"at": "2026-01-01T00:00:00Z", "actor": "client:api", "command": "workflow.submit", "subject": "wf-1"}
    more = {"request_id": "r", "outcome": "ok", "detail": "", "transitions": []}
    return {"index": index, "position": 0, "term": 1, **words, **more, "chain": chain}


def test_audit_list_follows_pages(run: Run, fake: Any) -> None:
    def page(query: dict[str, str]) -> dict[str, Any]:
        first = int(query["from"])
        indexes = range(first, min(first + 2, 6))
        return {
            "records": [record(i) for i in indexes],
            "next": first + 2 if first + 2 < 6 else None,
            "replica": "n1",
        }

    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "/v1/agents"] = {"agents": []}
    fake.routes["GET", "/v1/audit"] = page
    assert [r["index"] for r in json.loads(run("audit", "list", "--all", "-o", "json").stdout)] == [0, 1, 2, 3, 4, 5]
    limited = run("audit", "list", "--from", "1", "--limit", "2", "--replica", "n1")
    assert len(limited.stdout.splitlines()) == 3
    assert limited.stderr == "more: --from 3\n"
    assert len(run("audit", "list", "-o", "jsonl", "--replica", fake.url, "--limit", "3").stdout.splitlines()) == 4


AHEAD = {"last_index": 8, "chain": "c8"}


@pytest.mark.parametrize(
    "replica_two",
    [
        (AHEAD, [record(5, "c5")], 0, "2 replicas agree up to index 5"),
        (AHEAD, [record(5, "cX")], 1, "chains differ at index 5: n1 c5, n2 cX"),
        (AHEAD, [record(6, "c6")], 1, "chains differ at index 5: n1 c5, n2 no record"),
        ({**AHEAD, "gaps": [[2, 6]]}, [], 0, "2 replicas agree up to index 5"),
        ({"last_index": 5, "chain": "c5"}, [], 0, "2 replicas agree up to index 5"),
        ({"last_index": 5, "chain": "cX"}, [], 1, "chains differ"),
        ({**AHEAD, "ok": False, "problems": ["record 3 is broken"]}, [record(5, "c5")], 1, "n2: record 3 is broken"),
    ],
)
def test_audit_verify_compares_at_the_last_common_index(run: Run, fake: Any, replica_two: Any) -> None:
    """The one fake stands for two replicas that are asked in turn; n1 ends at index 5."""
    ahead, records, code, said = replica_two
    base = {"ok": True, "records": 5, "first_index": 1, "gaps": [], "problems": []}
    behind = {**base, "replica": "n1", "last_index": 5, "chain": "c5"}
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "//localhost/v1/status"] = status("n2", "follower")
    fake.routes["GET", "/v1/audit/verify"] = [behind, {**base, "replica": "n2", **ahead}]
    fake.routes["GET", "/v1/audit"] = {"records": records, "next": None, "replica": "n2"}
    result = run("audit", "verify", "--peers", f"{fake.url},{fake.url.replace('127.0.0.1', 'localhost')}")
    assert result.exit_code == code, result.output
    assert said in result.stdout


@pytest.mark.parametrize(
    ("records", "code", "said"),
    [
        ([record(3, "c3")], 0, "2 replicas agree up to index 5"),
        ([record(3, "cX")], 1, "chains differ at index 3, before n2's gap from 4 to 5: n1 cX, n2 c3"),
        ([record(4, "c4")], 1, "chains differ at index 3, before n2's gap from 4 to 5: n1 no record, n2 c3"),
    ],
)
def test_audit_verify_compares_before_every_gap(run: Run, fake: Any, records: Any, code: int, said: str) -> None:
    base = {"ok": True, "records": 5, "first_index": 1, "problems": [], "last_index": 5, "chain": "c5"}
    whole = {**base, "replica": "n1", "gaps": [[1, 2]]}
    gap = {**base, "replica": "n2", "gaps": [[4, 5]], "before_gaps": [[3, "c3"]]}
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "//localhost/v1/status"] = status("n2", "follower")
    fake.routes["GET", "/v1/audit/verify"] = [whole, gap]
    fake.routes["GET", "/v1/audit"] = {"records": records, "next": None, "replica": "n1"}
    result = run("audit", "verify", "--peers", f"{fake.url},{fake.url.replace('127.0.0.1', 'localhost')}")
    assert result.exit_code == code, result.output
    assert said in result.stdout


def test_the_schema_is_printed_without_a_cluster(run: Run) -> None:
    result = run("schema", "workflow")
    assert result.exit_code == 0
    assert json.loads(result.output) == workflow_schema_file()


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text('[client]\npeers = ["http://file:1"]\ntoken = "file"\ncacert = "ca.pem"\n[agent]\nname = "x"\n')
    file.chmod(0o600)
    env = {"RAFTFLOW_CONFIG": str(file)}
    assert resolve({}, env) == {"peers": ["http://file:1"], "token": "file", "cacert": str(tmp_path / "ca.pem")}
    env |= {"RAFTFLOW_PEERS": "http://env:1, http://env:2", "RAFTFLOW_TOKEN": "env"}
    assert resolve({}, env)["peers"] == ["http://env:1", "http://env:2"]
    settings = resolve({"peers": "http://flag:1", "token": None}, env)
    assert (settings["peers"], settings["token"]) == (["http://flag:1"], "env")


@pytest.mark.parametrize("text", ["[client]\npeer = 1", "[client]\ntoken = 1", "client = 1", "x", None])
def test_a_wrong_file_is_wrong_usage(run: Run, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "client.toml"
    if text is not None:
        file.write_text(text)
    result = run("workflow", "list", env={"RAFTFLOW_CONFIG": str(file)})
    assert result.exit_code == 2
    assert str(file) in result.stderr


def test_connection_flags_may_stand_anywhere(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/agents"] = {"agents": []}
    assert run("--peers", fake.url, "agent", "list", env={}).exit_code == 0
    assert run("agent", "list", "--peers", fake.url, env={}).exit_code == 0


def test_agent_run_passes_its_flags_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import raftflow.agent.main

    seen = []
    monkeypatch.setattr(raftflow.agent.main, "run", lambda config: seen.append(config) or 0)
    flags = ("--name", "a7", "--cpus", "2", "--memory", "1GiB", "--resource", "gpu=1", "--label", "zone=a")
    more = ("--prefetch", "3", "--work-dir", str(tmp_path), "--peers", "http://h:1,http://h:2", "--token", "t")
    assert run("agent", "run", *flags, *more).exit_code == 0
    (config,) = seen
    assert (config.name, config.peers, config.token) == ("a7", ("http://h:1", "http://h:2"), "t")
    assert config.capacity() == {"cpu": 2000, "memory": 1024, "gpu": 1000}
    assert (config.labels, config.prefetch, config.work_dir) == ({"zone": "a"}, 3, str(tmp_path))


def test_coordinator_run_passes_its_flags_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import raftflow.api.server

    seen = []
    monkeypatch.setattr(raftflow.api.server, "run", lambda config: seen.append(config) or 5)
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("s" * 40)
    file = tmp_path / "n.toml"
    member = '[[cluster.members]]\nname = "n1"\npeer = "127.0.0.1:7101"\nurl = "http://127.0.0.1:7001"\n'
    file.write_text(f'[cluster]\nid = "c"\nsecret_file = "secret"\n{member}[replica]\nname = "nX"\ndata_dir = "d"\n')
    flags = (
        "--name",
        "n1",
        "--data-dir",
        str(tmp_path / "e"),
        "--set",
        "timing.lease_ms=4321",
        "--bind",
        "0.0.0.0:7001",
    )
    result = run("coordinator", "run", "--config", str(file), *flags, "--insecure")
    assert result.exit_code == 5, result.output
    (config,) = seen
    assert (config.name, config.data_dir, config.insecure) == ("n1", tmp_path / "e", True)
    assert config.timing.lease_ms == 4321
    # Open to the network, without a token, and without saying so: refused.
    refused = run("coordinator", "run", "--config", str(file), *flags)
    assert refused.exit_code == 2
    assert "--insecure" in refused.stderr


def test_demo_and_bench_pass_their_flags_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import raftflow.bench.main
    import raftflow.demo.main

    monkeypatch.setattr(
        raftflow.demo.main, "run_demo", lambda **given: int(given == {"data_dir": tmp_path, "keep": True})
    )
    assert run("demo", "--data-dir", str(tmp_path), "--keep").exit_code == 1
    result = {"name": "failover", "runs": [1.0, 2.0], "median": {"seconds": 1.5}}
    monkeypatch.setattr(raftflow.bench.main, "run", lambda name, **given: {**result, "given": given["runs"]})
    assert json.loads(run("bench", "failover", "--runs", "2", "-o", "json").stdout) == {**result, "given": 2}
    assert run("bench", "failover").stdout.splitlines()[2].split() == ["seconds", "1.5"]


CACHED = {
    "key": "fit-1",
    "size": 7,
    "workflow_id": "wf-1",
    "task_id": "a",
    "made_at": "2026-01-01T00:00:00Z",
    "used_at": "2026-01-01T00:00:01Z",
    "hits": 3,
}


def test_cached_results_are_listed_page_by_page(run: Run, fake: Any) -> None:
    pages = {None: ([CACHED], "fit-1"), "fit-1": ([{**CACHED, "key": "fit-2"}], None)}

    def answer(query: dict[str, str]) -> Any:
        assert query["prefix"] == "fit"
        entries, following = pages[query.get("cursor")]
        return {"entries": entries, "total": 2, "bytes": 600, "next": following}

    fake.routes["GET", "/v1/cache"] = answer
    shown = run("cache", "list", "--prefix", "fit")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["KEY", "fit-1", "fit-2"]
    assert json.loads(run("cache", "list", "--prefix", "fit", "-o", "json", "--limit", "1").stdout) == [CACHED]


def test_the_cache_is_cleared_by_key_by_prefix_or_whole(run: Run, fake: Any) -> None:
    fake.routes["DELETE", "/v1/cache"] = {"cleared": 1}
    assert run("cache", "clear", "--key", "fit-1").stdout == "1 cached result forgotten\n"
    assert json.loads(run("cache", "clear", "--prefix", "fit", "-o", "json").stdout) == {"cleared": 1}
    assert run("cache", "clear", "--all").exit_code == 0
    assert [query for _, _, query, _, _ in fake.requests] == [{"key": "fit-1"}, {"prefix": "fit"}, {}]
    assert all("Idempotency-Key" in headers for _, _, _, headers, _ in fake.requests)
    for arguments in ((), ("--all", "--key", "x")):
        assert run("cache", "clear", *arguments).exit_code == 2


def test_kinds_are_listed(run: Run, fake: Any) -> None:
    kind = {"kind": "fit.py", "count": 3, "mean_s": 1.5, "deviation_s": 0.5, "learnt_at": "2026-01-01T00:00:00Z"}
    fake.routes["GET", "/v1/kinds"] = {"kinds": [kind]}
    shown = run("task", "kinds").stdout.splitlines()
    assert shown[1].split() == ["fit.py", "3", "1.5", "0.5", "-", "-", "2026-01-01"]


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
