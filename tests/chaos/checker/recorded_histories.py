"""Builds small histories, one line after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def task(name: str = "a", needs: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """A task as it is submitted."""
    return {"id": name, "needs": list(needs), "backup": False, **more}


def shown(state: str, attempt: int = 1, fence: int = 10, **more: Any) -> dict[str, Any]:
    """A task as a read shows it."""
    return {"state": state, "attempt": attempt, "fence": fence, **more}


def ended(*attempts: tuple[int, int, str], state: str = "succeeded", **more: Any) -> dict[str, Any]:
    """A task of the final state, with its attempts: number, fence, how it ended."""
    history = [{"attempt": number, "fence": fence, "state": end} for number, fence, end in attempts]
    return {"state": state, "attempt": attempts[-1][0] if attempts else 0, "attempts": history, **more}


class History:
    """The lines of a history."""

    def __init__(self, system: str = "raftflow", **bounds: Any) -> None:
        bounds = {"recovery_s": 10.0, "overlap": "never", **bounds}
        self.lines: list[dict[str, Any]] = [
            {"type": "header", "version": 1, "t": 0.0, "seed": 1, "replicas": 3, "agents": 2, "system": system}
            | {"bounds": bounds, "workload": {}}
        ]
        self._op = 0

    def line(self, type_: str, t: float, **values: Any) -> History:
        """Add any line."""
        self.lines.append({"type": type_, "t": t, **values})
        return self

    def operation(
        self, f: str, at: tuple[float, float | None], asked: Any, outcome: str = "ok", answer: Any = None
    ) -> History:
        """Add an operation; without a second time it never completes."""
        self._op += 1
        invoked, completed = at
        self.line("invoke", invoked, op=str(self._op), process="client-1", f=f, value=asked)
        if completed is not None:
            self.line(outcome, completed, op=str(self._op), value=answer)
        return self

    def submit(
        self, *at: float | None, request: str = "r1", workflow: str = "W1", tasks: Any = None, outcome: str = "ok"
    ) -> History:
        """Submit a workflow whose name is that of the request."""
        asked = {"request": request, "workflow_name": f"name-{request}", "tasks": tasks or [task()]}
        return self.operation("submit", (at[0], at[1]), asked, outcome, {"workflow": workflow, "index": 5})  # type: ignore[arg-type]

    def control(
        self, verb: str, *at: float | None, workflow: str = "W1", outcome: str = "ok", **more: Any
    ) -> History:
        """Cancel, pause, resume or retry."""
        return self.operation(verb, (at[0], at[1]), {"workflow": workflow, **more}, outcome, {"index": 6})  # type: ignore[arg-type]

    def read(
        self, *at: float, state: str | None = "running", workflow: str = "W1", tasks: Any = None, **more: Any
    ) -> History:
        """Read a workflow; with None it is not found, with an empty state only its tasks are shown."""
        answer = {"found": False} if state is None else {"found": True, "tasks": tasks or {}, **more}
        if state:
            answer["state"] = state
        return self.operation("read", (at[0], at[1]), {"workflow": workflow}, "ok", answer)

    def started(self, t: float, attempt: int = 1, fence: int = 10, name: str = "a", **more: Any) -> History:
        """An attempt starts."""
        return self._told("attempt", t, (name, attempt, fence), **{"agent": "a1", "event": "start", **more})

    def stopped(self, t: float, attempt: int = 1, fence: int = 10, name: str = "a", **more: Any) -> History:
        """An attempt comes to its end."""
        return self._told("attempt", t, (name, attempt, fence), **{"agent": "a1", "event": "end", **more})

    def ran(
        self, start: float, end: float, attempt: int = 1, fence: int = 10, name: str = "a", **more: Any
    ) -> History:
        """An attempt starts and comes to its end."""
        return self.started(start, attempt, fence, name, **more).stopped(end, attempt, fence, name, **more)

    def effect(self, t: float, attempt: int = 1, fence: int = 10, name: str = "a", **more: Any) -> History:
        """An attempt has an effect outside."""
        return self._told("effect", t, (name, attempt, fence), **{"accepted": True, **more})

    def step(self, t: float, event: str, attempt: int = 1, fence: int = 10, name: str = "a", **more: Any) -> History:
        """A durable step runs, or its result is known."""
        return self._told("step", t, (name, attempt, fence), **{"event": event, "step": "s0", **more})

    def child(self, t: float, attempt: int = 2, fence: int = 12, name: str = "a", **more: Any) -> History:
        """A parent is given the result of a child."""
        return self._told("child", t, (name, attempt, fence), **{"child": "a:c", "value": 7, **more})

    def fault(self, began: float, ended: float | None, kind: str = "kill-leader", *targets: str) -> History:
        """A fault takes effect, and ends."""
        values = {"id": f"f{began}", "kind": kind, "targets": list(targets), "detail": {}}
        self.line("fault", began, event="begin", **values).line("fault", began, event="effect", **values)
        if ended is not None:
            self.line("fault", ended, event="end", **values)
        return self

    def final(self, t: float = 90.0, workflows: Any = None, **more: Any) -> History:
        """The final state, and the end."""
        found = {"audit_verified": True, "digests_equal": True, **more}
        return self.line("final", t, workflows=workflows or {}, **found).line("end", t + 1)

    def one_final(self, state: str = "succeeded", name: str = "name-r1", **tasks: Any) -> History:
        """The final state of W1 alone."""
        return self.final(workflows={"W1": {"state": state, "name": name, "tasks": tasks}})

    def _told(self, kind: str, t: float, attempt: tuple[str, int, int], **more: Any) -> History:
        name, number, fence = attempt
        return self.line(kind, t, **{"workflow": "W1", "task": name, "attempt": number, "fence": fence, **more})

    def write(self, path: Path) -> Path:
        """Write the lines into a file, in the order of their times."""
        lines = sorted(self.lines, key=lambda line: line["t"])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path
