"""Agents files: the published example, counts, and every fault named with its path."""

from __future__ import annotations

import pytest

from raftflow.domain.limits import AGENTS_MAX
from raftflow.formats.agents import FILE_BYTES_MAX, AgentEntry, load_agents, parse_rate_per_hour, read_agents
from raftflow.formats.faults import DocumentError
from raftflow.formats.files import FormatError

EXAMPLE = """
[[agents]]
name = "a1"
count = 1
speed = 1.5
cost_rate = 3.0
fail_rate = "0.02/h"
resources = { cpu = 3, memory = "8GiB" }
labels = { zone = "a" }
[[agents]]
name = "b"
count = 10
resources = { gpu = 1 }
"""


def test_example(tmp_path):
    path = tmp_path / "agents.toml"
    path.write_text(EXAMPLE)
    first, *others = load_agents(path)
    assert first == AgentEntry(
        name="a1",
        capacity={"cpu": 3000, "memory": 8192},
        labels={"zone": "a"},
        speed_milli=1500,
        cost_rate_milli=3000,
        fails_per_hour=0.02,
    )
    assert [each.name for each in others] == [f"b-{number:02d}" for number in range(1, 11)]
    assert others[0].capacity == {"gpu": 1000}
    assert (others[0].speed_milli, others[0].cost_rate_milli, others[0].fails_per_hour) == (1000, 1000, None)


def faults(document) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        read_agents(document)
    return [problem.path for problem in caught.value.problems]


GOOD = {"name": "a", "resources": {"cpu": 1}}


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        ({}, ["agents"]),
        ({"agents": [], "x": 1}, ["x", "agents"]),
        ({"agents": [3]}, ["agents[0]"]),
        ({"agents": [{**GOOD, "name": "bad name"}]}, ["agents[0].name"]),
        ({"agents": [{**GOOD, "name": 3}]}, ["agents[0].name"]),
        ({"agents": [{**GOOD, "cost": 3}]}, ["agents[0].cost"]),
        ({"agents": [{**GOOD, "count": 0}]}, ["agents[0].count"]),
        ({"agents": [{**GOOD, "count": True}]}, ["agents[0].count"]),
        ({"agents": [GOOD, {**GOOD, "name": "b", "count": AGENTS_MAX}]}, ["agents[1].count"]),
        ({"agents": [{**GOOD, "speed": 0}]}, ["agents[0].speed"]),
        ({"agents": [{**GOOD, "speed": "fast"}]}, ["agents[0].speed"]),
        ({"agents": [{**GOOD, "cost_rate": -1}]}, ["agents[0].cost_rate"]),
        ({"agents": [{**GOOD, "cost_rate": float("nan")}]}, ["agents[0].cost_rate"]),
        ({"agents": [{**GOOD, "fail_rate": "often"}]}, ["agents[0].fail_rate"]),
        ({"agents": [{**GOOD, "resources": {"cpu": "x"}}]}, ["agents[0].resources.cpu"]),
        ({"agents": [{**GOOD, "resources": {"c u": 1}}]}, ["agents[0].resources"]),
        ({"agents": [{"name": "a"}]}, ["agents[0].resources"]),
        ({"agents": [{**GOOD, "labels": {"zone": 1}}]}, ["agents[0].labels"]),
        ({"agents": [{**GOOD, "labels": {"zo ne": "1"}}]}, ["agents[0].labels"]),
        ({"agents": [GOOD, GOOD]}, ["agents"]),
    ],
)
def test_faults_are_named(document, paths):
    assert faults(document) == paths


def test_files_that_are_none(tmp_path):
    path = tmp_path / "agents.toml"
    path.write_text("agents = [")
    with pytest.raises(FormatError, match="not TOML"):
        load_agents(path)
    with path.open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(FormatError, match="larger than"):
        load_agents(path)


def test_rates():
    assert parse_rate_per_hour("0.02/h") == parse_rate_per_hour(0.02) == parse_rate_per_hour(" 0.02 ") == 0.02
    assert parse_rate_per_hour("48/d") == pytest.approx(2)
    assert parse_rate_per_hour("1/min") == pytest.approx(60)
    for wrong in ("1/y", "x/h", "-1/h", True, None, "nan"):
        with pytest.raises(ValueError, match="is not a rate"):
            parse_rate_per_hour(wrong)
