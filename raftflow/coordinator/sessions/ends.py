"""Ends of attempts as the log carries them, made from what agents report."""

from __future__ import annotations

from collections.abc import Iterable

from raftflow.domain.commands import AttemptEnd, ReportAttempts
from raftflow.domain.contract.views import PollRequest, ReportedEnd, ReportVerdict
from raftflow.domain.replies import EndVerdict
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.values.results import result_problem

_WITH_RESULT = frozenset({AttemptOutcome.SUCCEEDED, AttemptOutcome.PARKED})


def report(name: str, request: PollRequest, missing: tuple[int, ...], *, at_ms: int) -> ReportAttempts:
    """Make the command that takes a poll's ends and missing attempts."""
    ends = tuple(map(attempt_end, request.ends))
    return ReportAttempts(
        at_ms=at_ms, actor=f"agent:{name}", agent=name, incarnation=request.incarnation, ends=ends, missing=missing
    )


def attempt_end(end: ReportedEnd) -> AttemptEnd:
    """Turn a reported end into what `ReportAttempts` carries.

    A result that cannot be kept makes the attempt a failed one that says so: refusing the report would only make
    the agent send it again.
    """
    outcome, error, result = _checked(end, AttemptOutcome(end.outcome))
    return AttemptEnd(
        end.fence,
        end.workflow_id,
        end.task_id,
        outcome,
        end.exit_code,
        error,
        result,
        end.duration_ms,
        end.cpu_ms,
        end.peak_mib,
    )


def _checked(end: ReportedEnd, outcome: AttemptOutcome) -> tuple[AttemptOutcome, str, bytes]:
    result = bytes(end.result)
    if result == b"null" or outcome not in _WITH_RESULT:
        result = b""
    problem = result_problem(result)
    if problem is not None:
        return AttemptOutcome.FAILED, problem, b""
    return outcome, end.error, result


def verdicts_of(verdicts: Iterable[EndVerdict]) -> list[ReportVerdict]:
    """Turn the machine's verdicts into what agents are told."""
    return [
        ReportVerdict(fence=item.fence, verdict=item.verdict, current_attempt=item.current_attempt)
        for item in verdicts
    ]
