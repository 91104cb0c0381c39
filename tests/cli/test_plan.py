"""`raftflow workflow plan`: the reference case as users see it, and where agents come from."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from raftflow.scheduler.policies import POLICIES

WORKFLOW = """
name = "reference"
[[tasks]]
id = "C"
command = ["true"]
expected = "3s"
[[tasks]]
id = "A"
needs = ["C"]
command = ["true"]
expected = "2s"
[[tasks]]
id = "B"
needs = ["C"]
command = ["true"]
resources = { cpu = 2 }
expected = "3s"
"""
AGENTS = """
[[agents]]
name = "a1"
cost_rate = 3
resources = { cpu = 3 }
[[agents]]
name = "a2"
cost_rate = 4
resources = { cpu = 4 }
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "wf.toml").write_text(WORKFLOW)
    (tmp_path / "agents.toml").write_text(AGENTS)
    (tmp_path / "given.toml").write_text('A = "a1"\nB = "a1"\nC = "a2"\n')
    return tmp_path


@pytest.fixture
def plan(run, files):
    def invoke(*arguments, agents="agents.toml"):
        chosen = ["--agents", str(files / agents)] if agents else []
        return run("workflow", "plan", str(files / "wf.toml"), *chosen, *arguments)

    return invoke


def test_json_has_the_published_shape(plan):
    result = plan("-o", "json", "--policy", "least-cost")
    assert result.exit_code == 0
    told = json.loads(result.output)
    assert (told["policy"], told["makespan_s"], told["cost"], told["gap"]) == ("least-cost", 6.0, 24.0, 0.0)
    assert told["lower_bounds"]["critical_path_s"] == 6.0
    assert told["lower_bounds"]["work_s"] == 1.572
    shown = [{key: task[key] for key in ("id", "agent", "start_s", "end_s")} for task in told["tasks"]]
    assert shown == [
        {"id": "C", "agent": "a1", "start_s": 0.0, "end_s": 3.0},
        {"id": "A", "agent": "a1", "start_s": 3.0, "end_s": 5.0},
        {"id": "B", "agent": "a1", "start_s": 3.0, "end_s": 6.0},
    ]


def test_given_plan_is_shown_beside_the_best_with_reasons(plan, files):
    result = plan("--given", str(files / "given.toml"), "--exact", "cost")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert "cost           27" in lines and "cost           24" in lines
    assert lines.count("makespan       6 s, 0.0% above the lower bound") == 2
    assert "policy         exact, proven to be the best" in lines
    assert "C     a2     0        3      12    starts at once; cost 12, 3 s (on a1: cost 9, 3 s)" in lines
    assert lines[-1] == "  C: on a2, cost 12, end 3 s in the given plan, on a1, cost 9, end 3 s in the exact plan"
    told = json.loads(plan("--given", str(files / "given.toml"), "--policy", "least-cost", "-o", "json").output)
    assert (told["cost"], told["given"]["cost"]) == (24.0, 27.0)
    assert len(told["differences"]) == 1


def test_a_printed_plan_can_be_given_back(plan, files):
    (files / "back.json").write_text(plan("--policy", "spread", "-o", "json").output)
    told = json.loads(plan("--given", str(files / "back.json"), "-o", "json").output)
    assert told["given"]["cost"] == 27.0


def test_compare_has_every_policy(plan, files):
    plans = json.loads(plan("--compare", "-o", "json").output)["plans"]
    assert [each["policy"] for each in plans] == list(POLICIES)
    table = plan("--compare", "--given", str(files / "given.toml")).output.splitlines()
    assert [line.split()[0] for line in table] == ["POLICY", "given", *POLICIES, "lower"]
    assert len(plan("--compare", "-o", "jsonl").output.splitlines()) == len(POLICIES)


def test_chart_as_svg_and_png(plan, files):
    assert plan("--gantt", str(files / "x.svg")).exit_code == 0
    assert "C: 0 to 3 s" in ET.tostring(ET.parse(files / "x.svg").getroot(), encoding="unicode")
    assert plan("--gantt", str(files / "x.png")).exit_code == 0
    assert (files / "x.png").read_bytes().startswith(b"\x89PNG")


def test_agents_of_the_cluster(plan, fake):
    def agent(name: str, state: str = "up"):
        return {
            "id": name,
            "name": name,
            "state": state,
            "incarnation": 1,
            "resources": {"cpu": 2.0, "memory": 512},
            "allocated": {},
        }

    fake.routes["GET", "/v1/agents"] = {"agents": [agent("b"), agent("a"), agent("gone", "lost")]}
    told = json.loads(plan("-o", "json", agents=None).output)
    assert [each["name"] for each in told["agents"]] == ["a", "b"]
    fake.routes["GET", "/v1/agents"] = {"agents": [agent("gone", "lost")]}
    result = plan(agents=None)
    assert result.exit_code == 1
    assert "no agent that is up" in result.stderr


def test_times_that_the_cluster_has_learnt(run, fake, files):
    """They stand in for those that are not given."""
    kind = {"kind": "true", "count": 3, "mean_s": 7.5, "deviation_s": 1.0, "learnt_at": "2026-01-01T00:00:00Z"}
    agent = {"id": "a", "name": "a", "state": "up", "incarnation": 1, "resources": {"cpu": 1}, "allocated": {}}
    fake.routes["GET", "/v1/agents"] = {"agents": [agent]}
    (files / "wf.toml").write_text(
        'name = "w"\n[[tasks]]\nid = "A"\ncommand = ["true"]\n[[tasks]]\nid = "B"\ncommand = ["other"]\n'
        '[[tasks]]\nid = "C"\ncommand = ["/bin/true"]\nexpected = "2s"\n'
    )

    def lengths() -> dict[str, float]:
        told = json.loads(run("workflow", "plan", str(files / "wf.toml"), "-o", "json").output)
        return {task["id"]: task["end_s"] - task["start_s"] for task in told["tasks"]}

    assert lengths() == {"A": 1, "B": 1, "C": 2}, "a replica that knows no kinds"
    fake.routes["GET", "/v1/kinds"] = {"kinds": [kind]}
    assert lengths() == {"A": 7.5, "B": 1, "C": 2}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--compare", "--policy", "spread"), 2, "give one of"),
        (("--gantt", "x.pdf"), 2, ".svg or .png"),
        (("--gantt", "x.svg", "--compare"), 2, "draws one plan"),
        (("--given", "missing.toml"), 2, "missing.toml"),
    ],
)
def test_wrong_usage(plan, arguments, code, message):
    result = plan(*arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_what_cannot_be_planned_fails(plan, files):
    (files / "agents.toml").write_text('[[agents]]\nname = "small"\nresources = { cpu = 1 }\n')
    result = plan()
    assert result.exit_code == 1
    assert "task B fits on none of the agents" in result.stderr
    (files / "bad.toml").write_text("A = 3\n")
    assert "table of task to agent" in plan("--given", str(files / "bad.toml")).stderr or result.exit_code == 1
