"""The drawn parts of the page of the machine: the life of a task, and the list of tables."""

from __future__ import annotations

from raftflow.domain.tasks.states import FINAL, TRANSITIONS, TaskEvent, TaskState
from raftflow.machine.schema.declaration import Limit, Reason
from raftflow.machine.schema.registry import COUNTERS, TABLES

START = "<!-- {}: made by raftflow.machine.diagram -->"
END = "<!-- end of {} -->"


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


def tables() -> str:
    """Return the declared tables as a table of the page."""
    lines = ["| table | what it holds | in a snapshot | bound |", "| --- | --- | --- | --- |"]
    for table in TABLES:
        saved = f"derived: {table.saved}" if isinstance(table.saved, Reason) else "yes"
        bound = f"`{table.limit.name}`" if isinstance(table.limit, Limit) else str(table.limit)
        lines.append(f"| `{table.name}` | {table.about} | {saved} | {bound} |")
    names = ", ".join(f"`{counter.name}`" for counter in COUNTERS)
    return "\n".join([*lines, "", f"Counters, in the header of a snapshot: {names}."])


def redrawn(document: str) -> str:
    """Return `document` with its drawn parts drawn again. Raises `ValueError` if a mark is missing."""
    for name, draw in (("transitions", mermaid), ("tables", tables)):
        start, end = START.format(name), END.format(name)
        before, found, rest = document.partition(start)
        _, found_end, after = rest.partition(end)
        if not found or not found_end:
            raise ValueError(f"the document lacks the marks {start!r} and {end!r}")
        document = f"{before}{start}\n\n{draw()}\n\n{end}{after}"
    return document
