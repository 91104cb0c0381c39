"""Faults of a document with the line that each is on."""

from __future__ import annotations

from raftflow.domain.contract.views import FieldProblem


class LocatedProblem(FieldProblem, frozen=True):
    """A fault, and the line of the document on which it is, None where that is not known."""

    line: int | None = None
