"""What the doctor reports: findings, each with what was measured, what it means and what to do."""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class Severity(enum.StrEnum):
    """How bad a finding is, from the best to the worst."""

    OK = "ok"
    WARNING = "warning"
    """It works, and a person should look at it."""
    PROBLEM = "problem"
    """Something does not work, or will soon stop."""


class CheckResult(msgspec.Struct, kw_only=True, frozen=True):
    """One result of one check."""

    code: str
    """Stable word for programs, such as `disk-space`. It names the check, and does not depend on the severity."""
    severity: Severity
    subject: str
    """A replica, an agent, or `cluster`."""
    measured: str
    """With its unit."""
    meaning: str = ""
    """Empty if all is well."""
    advice: str = ""
    """What to do: a command, or a step. Empty if all is well."""
    page: str = ""
    """The page of the failure mode: `raftflow help PAGE` prints it. Empty if the finding belongs to none."""
    value: float | None = None
    """The number in `measured`, for programs."""
    unit: str = ""

    @property
    def is_ok(self) -> bool:
        """True if nothing has to be done."""
        return self.severity is Severity.OK


def judged(
    *,
    code: str,
    severity: Severity,
    subject: str,
    measured: str,
    meaning: str,
    advice: str,
    page: str = "",
    value: float | None = None,
    unit: str = "",
) -> CheckResult:
    """Return a finding. Meaning, advice and page are for the case that something is wrong, and left out otherwise."""
    if severity is Severity.OK:
        meaning = advice = page = ""
    return CheckResult(
        code=code,
        severity=severity,
        subject=subject,
        measured=measured,
        meaning=meaning,
        advice=advice,
        page=page,
        value=value,
        unit=unit,
    )


class Thresholds(msgspec.Struct, kw_only=True, frozen=True):
    """Above these a measure is a warning, and a problem."""

    warning: float
    problem: float

    def judge(self, value: float) -> Severity:
        """Return the severity of a measure that should be small."""
        if value >= self.problem:
            return Severity.PROBLEM
        return Severity.WARNING if value >= self.warning else Severity.OK


class Diagnosis(msgspec.Struct, kw_only=True):
    """All findings about a cluster, the worst first."""

    ok: bool
    """No finding needs a person."""
    leader: str | None
    reached: list[str]
    """Replicas that answered."""
    findings: list[CheckResult]


_WORST_FIRST: Final = (Severity.PROBLEM, Severity.WARNING, Severity.OK)


def worst_first(findings: list[CheckResult]) -> list[CheckResult]:
    """Return findings in the order in which they are shown."""
    return sorted(findings, key=lambda each: _WORST_FIRST.index(each.severity))
