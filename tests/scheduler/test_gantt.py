"""Charts: every task has its box, nothing overlaps, names are escaped, large plans stay bounded."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.scheduler.plan.gantt import HEIGHT_MAX, draw, to_svg
from raftflow.scheduler.plan.plan import PlanAgent, PlanningProblem
from raftflow.scheduler.policies import make_plan


def chart(count: int, *, cpu: int = 2000, name: str = "wf", agents: int = 1, expected_ms: int = 1000):
    tasks = tuple(
        TaskSpec(id=f"task_{n:04d}", program=CommandLine(("true",)), expected_ms=expected_ms) for n in range(count)
    )
    fleet = [PlanAgent(name=f"agent-with-quite-a-long-name-{n}", capacity={"cpu": cpu}) for n in range(agents)]
    problem = PlanningProblem(WorkflowSpec(name=name, tasks=tasks), fleet)
    return draw(problem, make_plan(problem, "spread"))


def test_boxes_do_not_overlap():
    drawing = chart(9)
    boxes = [box for box in drawing.boxes if box.title]
    assert [box.title for box in boxes][:2] == ["task_0000: 0 to 1 s", "task_0001: 0 to 1 s"]
    assert len(boxes) == 9
    for one in boxes:
        for other in boxes:
            apart = one.x + one.width <= other.x or other.x + other.width <= one.x
            assert one is other or apart or one.y + one.height <= other.y or other.y + other.height <= one.y
    assert sum(box.edge is not None for box in boxes) == 1


def test_svg_is_xml_with_everything_in_it():
    drawing = chart(3, name="a<b>&c")
    tree = ET.fromstring(to_svg(drawing))
    space = {"s": "http://www.w3.org/2000/svg"}
    assert len(tree.findall("s:rect", space)) == 1 + len(drawing.boxes)
    texts = [text.text for text in tree.findall("s:text", space)]
    assert "a<b>&c: spread, 2 s" in texts
    assert "0 s" in texts and "task_0000" in texts


def test_large_plans_stay_bounded():
    drawing = chart(3000, cpu=100_000, agents=20)
    assert drawing.height <= HEIGHT_MAX
    narrow = chart(600, cpu=1000, expected_ms=1)
    assert len([box for box in narrow.boxes if box.title]) == 600
    assert all(label.text.startswith("agent-with") for label in narrow.labels if "…" in label.text)
