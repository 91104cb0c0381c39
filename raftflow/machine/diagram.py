"""The picture of a task's life, drawn from the table that `apply` goes by."""

from __future__ import annotations

from raftflow.domain.tasks.states import FINAL, TRANSITIONS, TaskEvent, TaskState

START = "<!-- transitions: made by raftflow.machine.diagram -->"
END = "<!-- end of transitions -->"


def mermaid() -> str:
    """Return the transition table as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += ["    [*] --> waiting: submitted, with needs", "    [*] --> ready: submitted"]
    edges: dict[tuple[TaskState, TaskState], list[TaskEvent]] = {}
    for (before, event), after in TRANSITIONS.items():
        edges.setdefault((before, after), []).append(event)
    for (before, after), events in edges.items():
        words = " / ".join(event.name.lower() for event in events)
        lines.append(f"    {before.name.lower()} --> {after.name.lower()}: {words}")
    lines += [f"    {state.name.lower()} --> [*]" for state in TaskState if state in FINAL]
    return "\n".join([*lines, "```"])


def redrawn(document: str) -> str:
    """Return `document` with the picture between the marks drawn anew. Raises `ValueError` if a mark is missing."""
    before, found, rest = document.partition(START)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        raise ValueError(f"the document lacks the marks {START!r} and {END!r}")
    return f"{before}{START}\n\n{mermaid()}\n\n{END}{after}"
