"""The harness that kills processes while tasks do steps and spawn children: it runs, and finds what is wrong."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.cluster import kill_scripts


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    return kill_scripts.load("step_kills")


def test_processes_are_killed_while_tasks_do_steps_and_spawn_children() -> None:
    told = kill_scripts.run("step_kills", "--small", "--kills", "2", "--seed", "3")
    assert sum(told["kills"].values()) == 2
    assert told["children"] >= 16


LINES = ["ran a 7", "ran a 8", "knows a 8-a", "ran b 9", "knows b 9-b", "knows a 8-a"]
WRONG = {
    "ran again": ([*LINES, "ran a 12"], ["8-a", "9-b"], "a ran again in attempt 12, and 8-a was known"),
    "another result": ([*LINES, "knows b 13-b"], ["8-a", "9-b"], "b was 9-b, and is 13-b"),
    "wrong result": (LINES, ["7-a", "9-b"], "the result is not what was known"),
    "lost": (LINES, ["8-a"], "the result is not what was known"),
}


@pytest.mark.parametrize("case", WRONG)
def test_lines_that_must_not_be_there_are_found(harness: ModuleType, tmp_path: Path, case: str) -> None:
    lines, result, told = WRONG[case]
    path = tmp_path / "walk-0"
    path.write_text("\n".join(LINES))
    assert list(harness.faults_of(path, ["8-a", "9-b"], 2)) == []
    path.write_text("\n".join(lines))
    (fault,) = harness.faults_of(path, result, 2)
    assert told in fault


def test_doubled_lost_and_failed_children_are_found(harness: ModuleType, tmp_path: Path) -> None:
    work = harness.Work(walks=0, steps=0, parents=1, width=1, depth=0)
    values = ["1-0", "2-grow-0:fan-0", "3-grow-0:race-2", "1-1", "4-grow-0:nested:leaf-0", "5-grow-0:nested:leaf-1"]
    (tmp_path / "w1-grow-0").write_text("\n".join(f"knows {each.partition('-')[2]} {each}" for each in values))

    def faults(**states: str) -> list[str]:
        names = ["grow-0", *sorted(work.children_of("grow-0"))]
        tasks = dict.fromkeys(names, "succeeded") | {"grow-0:race-1": "cancelled"} | states
        listed = [SimpleNamespace(id=name, state=state, result=values) for name, state in tasks.items() if state]
        client: Any = SimpleNamespace(tasks=lambda _workflow: listed)
        return list(harness.faults_in(client, "wf", work, tmp_path, "w1"))

    assert faults() == []
    assert "['grow-0:fan-1']" in faults(**{"grow-0:fan-1": "succeeded"})[0]
    assert "['grow-0:nested:leaf-1']" in faults(**{"grow-0:nested:leaf-1": ""})[0]
    assert faults(**{"grow-0:nested": "failed"}) == ["w1: grow-0:nested is failed"]
