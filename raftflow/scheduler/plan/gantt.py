"""Gantt charts: rectangles and texts, written as SVG here and painted by `raftflow.planning.png`."""

from __future__ import annotations

from html import escape

import msgspec

from raftflow.scheduler.plan.plan import MILLI, Plan, PlanningProblem, Slot

WIDTH = 1_200
LABEL_WIDTH = 150
HEAD = 40
GAP = 6
HEIGHT_MAX = 16_000
LANE_MAX, LANE_MIN = 18, 2
_LETTER = 7
"""Pixels that one letter takes, about."""

_PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#86bcb6", "#d37295",
)  # fmt: skip
_INK, _FAINT, _CRITICAL = "#222222", "#dddddd", "#c00000"
_STEPS = (1, 2, 5)


class ChartBox(msgspec.Struct, frozen=True):
    """A rectangle, in pixels from the upper left."""

    x: int
    y: int
    width: int
    height: int
    fill: str
    edge: str | None = None
    title: str = ""
    """What a viewer may show under the pointer."""


class ChartLabel(msgspec.Struct, frozen=True):
    """A line of text, its left end on the base line."""

    x: int
    y: int
    text: str
    colour: str = _INK


class Chart(msgspec.Struct, frozen=True):
    """Boxes and labels, in the order of painting."""

    width: int
    height: int
    boxes: tuple[ChartBox, ...]
    labels: tuple[ChartLabel, ...]


def draw(problem: PlanningProblem, plan: Plan) -> Chart:
    """Draw a plan: a band for each agent that has work, tasks side by side in it; the critical path has red edges."""
    lanes = _lanes(plan)
    agents = sorted({slot.agent for slot in plan.slots})
    count = sum(len({lanes[slot.task] for slot in plan.slots if slot.agent == agent}) for agent in agents)
    lane = max(LANE_MIN, min(LANE_MAX, (HEIGHT_MAX - HEAD - GAP * len(agents)) // count))
    colours = _colours(problem)
    critical = set(problem.critical_path())
    per_px = max(1, -(-plan.makespan_ms // (WIDTH - LABEL_WIDTH - GAP)))
    boxes: list[ChartBox] = []
    labels = [ChartLabel(GAP, 16, f"{problem.name}: {plan.policy}, {plan.makespan_ms / MILLI:g} s")]
    y = HEAD
    for agent in agents:
        mine = [slot for slot in plan.slots if slot.agent == agent]
        height = lane * len({lanes[slot.task] for slot in mine})
        boxes.append(ChartBox(LABEL_WIDTH, y, WIDTH - LABEL_WIDTH - GAP, height, "#f6f6f6"))
        labels.append(
            ChartLabel(GAP, y + max(10, height // 2 + 4), _cut(problem.agents[agent].name, LABEL_WIDTH - GAP))
        )
        for slot in mine:
            box = ChartBox(
                LABEL_WIDTH + slot.start_ms // per_px,
                y + lane * lanes[slot.task],
                max(1, slot.end_ms // per_px - slot.start_ms // per_px),
                max(1, lane - 1),
                colours[slot.task],
                _CRITICAL if slot.task in critical else None,
                f"{problem.ids[slot.task]}: {slot.start_ms / MILLI:g} to {slot.end_ms / MILLI:g} s",
            )
            boxes.append(box)
            if box.height >= 12 and box.width >= 3 * _LETTER:
                labels.append(ChartLabel(box.x + 2, box.y + box.height - 4, _cut(problem.ids[slot.task], box.width)))
        y += height + GAP
    grid, ticks = _axis(plan.makespan_ms, per_px, y)
    return Chart(WIDTH, y, (*grid, *boxes), (*ticks, *labels))


def to_svg(drawing: Chart) -> str:
    """Write a drawing as SVG."""
    size = f'width="{drawing.width}" height="{drawing.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect {size} fill="#ffffff"/>',
    ]
    for box in drawing.boxes:
        edge = f' stroke="{box.edge}"' if box.edge else ""
        shape = f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" fill="{box.fill}"{edge}'
        lines.append(f"{shape}><title>{escape(box.title)}</title></rect>" if box.title else f"{shape}/>")
    lines += [f'<text x="{t.x}" y="{t.y}" fill="{t.colour}">{escape(t.text)}</text>' for t in drawing.labels]
    return "\n".join([*lines, "</svg>", ""])


def _lanes(plan: Plan) -> dict[int, int]:
    """Return for each task the first lane of its agent that is free when it starts."""
    lanes: dict[int, int] = {}
    free_from: dict[int, list[int]] = {}
    for slot in sorted(plan.slots, key=_by_start):
        ends = free_from.setdefault(slot.agent, [])
        lane = next((number for number, end_ms in enumerate(ends) if end_ms <= slot.start_ms), len(ends))
        ends[lane : lane + 1] = [slot.end_ms]
        lanes[slot.task] = lane
    return lanes


def _by_start(slot: Slot) -> tuple[int, int]:
    return slot.start_ms, slot.task


def _colours(problem: PlanningProblem) -> list[str]:
    """Give tasks of one kind, by the letters that their ids begin with, one colour."""
    kinds: dict[str, int] = {}
    colours = []
    for task_id in problem.ids:
        kind = task_id.rstrip("0123456789").rstrip("_-.")
        colours.append(_PALETTE[kinds.setdefault(kind, len(kinds)) % len(_PALETTE)])
    return colours


def _axis(makespan_ms: int, per_px: int, bottom: int) -> tuple[list[ChartBox], list[ChartLabel]]:
    """Return the grid and its labels: steps of 1, 2 or 5 times a power of ten, 80 pixels or more each."""
    step_ms = next(step * 10**power for power in range(20) for step in _STEPS if step * 10**power >= 80 * per_px)
    grid, ticks = [], []
    for at_ms in range(0, makespan_ms + 1, step_ms):
        x = LABEL_WIDTH + at_ms // per_px
        grid.append(ChartBox(x, HEAD - 8, 1, bottom - HEAD + 8, _FAINT))
        ticks.append(ChartLabel(x, HEAD - 12, f"{at_ms / MILLI:g} s"))
    return grid, ticks


def _cut(text: str, width: int) -> str:
    """Cut a text to about a width in pixels."""
    letters = max(1, width // _LETTER)
    return text if len(text) <= letters else text[: max(1, letters - 1)] + "…"
