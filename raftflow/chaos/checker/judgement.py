"""Judges a history: every line goes to the checks that it concerns, then everything is judged as a whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from raftflow.chaos.checker.attempt_checks import AttemptChecks
from raftflow.chaos.checker.attempts import AttemptLog
from raftflow.chaos.checker.final_state import FinalChecks
from raftflow.chaos.checker.findings import Findings
from raftflow.chaos.checker.history.bounds import FaultWindows, read_bounds
from raftflow.chaos.checker.history.operations import COMPLETIONS, Operations
from raftflow.chaos.checker.history.reader import (
    CutHistoryError,
    UnreadableHistoryError,
    fail,
    integer,
    read_history,
    table,
)
from raftflow.chaos.checker.recovery import RecoveryChecks
from raftflow.chaos.checker.registers import REGISTER_VERBS, RegisterChecks
from raftflow.chaos.checker.search.searches import Searches
from raftflow.chaos.checker.steps import KnownResultChecks
from raftflow.chaos.checker.workflows import WORKFLOW_VERBS, WorkflowChecks

if TYPE_CHECKING:
    from pathlib import Path

    from raftflow.chaos.checker.history.reader import HistoryLine

BUDGET: Final = 20_000_000
"""Steps of models that all searches together may try: about a minute."""

BUDGET_PER_OBJECT: Final = 1_000_000


class Judgement:
    """One history on the way through all checks."""

    def __init__(self, header: HistoryLine, budget: int, budget_per_object: int) -> None:
        self.header = header
        self.findings = Findings()
        self.operations = Operations()
        self.faults = FaultWindows()
        bounds = read_bounds(header)
        self.attempts = AttemptLog(self.findings, is_collector_local=header.get("collector") == "local")
        self.recovery = RecoveryChecks(self.findings, bounds, self.faults)
        self.workflows = WorkflowChecks(self.findings, self.attempts)
        self._registers = RegisterChecks()
        self._final = FinalChecks(self.findings, self.workflows, self.attempts)
        self.steps = KnownResultChecks(self.findings, bounds, self.attempts, self.workflows.workflows)
        self._attempt_checks = AttemptChecks(self.findings, bounds, self.faults, self.workflows.workflows)
        self.searches = Searches(self.findings, budget, budget_per_object)
        self.lines = 1
        self.ignored = 0
        self.cut: str | None = None

    def line(self, line: HistoryLine) -> None:
        """Take the next line."""
        self.lines += 1
        at = line["t"]
        kind = line["type"]
        if kind == "invoke":
            self._invoke(line, at)
        elif kind in COMPLETIONS:
            self._complete(line, at)
        elif kind == "attempt":
            self._exists(line)
            self.attempts.attempt(line, at)
        elif kind == "effect":
            self._exists(line)
            self.attempts.effect(line, at)
        elif kind == "step":
            self._exists(line)
            self.steps.step(line, at)
        elif kind == "child":
            self._exists(line)
            self.steps.child(line, at)
        elif kind == "fault":
            self.faults.note(line, at)
            self.recovery.faulted()
        elif kind == "recovered":
            self.recovery.recovered(line, at)
        elif kind == "restored":
            self.workflows.restore(integer(line, "index"), at)
            self.attempts.restore(at)
            self.steps.restore()
        elif kind == "final":
            self._final.note(line, at)
        elif kind != "end":
            self.ignored += 1

    def _exists(self, line: HistoryLine) -> None:
        workflow = line.get("workflow")
        if not isinstance(workflow, str):
            fail("'workflow' must be a string")
        self.workflows.workflow(workflow).exists = True

    def _invoke(self, line: HistoryLine, at: float) -> None:
        operation = self.operations.invoke(line)
        self.recovery.invoked(operation.verb, at)
        if operation.verb in WORKFLOW_VERBS:
            self.workflows.invoke(operation)
        elif operation.verb not in REGISTER_VERBS:
            fail(f"{operation.verb!r} is not an operation that the checker knows")

    def _complete(self, line: HistoryLine, at: float) -> None:
        operation = self.operations.complete(line)
        outcome = line["type"]
        self.recovery.completed(operation.verb, at, acknowledged=outcome == "ok")
        checks = self.workflows if operation.verb in WORKFLOW_VERBS else self._registers
        checks.complete(operation, outcome, at, table(line, "value") if outcome == "ok" else {})

    def finish(self) -> None:
        """The history is over: judge it as a whole."""
        for operation in self.operations.abandoned():
            checks = self.workflows if operation.verb in WORKFLOW_VERBS else self._registers
            checks.complete(operation, "unknown", math.inf, {})
        self.workflows.attribute()
        if self.cut is None:
            self._final.check()
        self._attempt_checks.check(self.attempts)
        self.steps.check()
        self._registers.finish(self.searches)
        self.workflows.judge_calls(self.searches)

    def report(self) -> dict[str, Any]:
        """Return everything that was found, ready for JSON."""
        findings = self.findings
        return {
            "violations": [found._asdict() for found in sorted(findings.listed, key=lambda each: each.at)],
            "violations_by_kind": dict(sorted(findings.counts.items())),
            "undecided": findings.undecided,
            "undecided_count": findings.undecided_count,
            "operations": self.operations.count,
            "unknown": self.operations.unknown,
            "failed": self.operations.failed,
            "acknowledged": sum(each.acknowledged for each in self.workflows.requests.values()),
            "workflows": len(self.workflows.workflows),
            "attempts": self.attempts.count,
            "effects": self.attempts.effects,
            "steps": self.steps.known,
            "children": self.steps.gathered,
            "faults": dict(sorted(self.faults.counts.items())),
            "recovery_s": {
                kind: {"median": sorted(seconds)[len(seconds) // 2], "max": max(seconds)}
                for kind, seconds in sorted(self.recovery.seconds.items())
            },
            "searched": self.searches.objects,
            "explored": self.searches.explored,
            "lines": self.lines,
            "ignored_lines": self.ignored,
            "complete": self.cut is None,
            "cut": self.cut,
        }


def judge(path: Path, budget: int = BUDGET, budget_per_object: int = BUDGET_PER_OBJECT) -> Judgement:
    """Judge the history in a file.

    Raises:
        UnreadableHistoryError: it cannot be judged.
    """
    lines = read_history(path)
    judgement = Judgement(next(lines), budget, budget_per_object)
    try:
        for line in lines:
            try:
                judgement.line(line)
            except UnreadableHistoryError as error:
                raise UnreadableHistoryError(f"the {line['type']!r} line at {line['t']:.6f}: {error}") from None
    except CutHistoryError as error:
        judgement.cut = str(error)
    judgement.finish()
    return judgement
