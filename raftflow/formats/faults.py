"""Faults of a document: collected with their paths, bounded, raised as one error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from raftflow.domain.contract.views import FieldProblem

PROBLEMS_MAX = 100
"""Faults that one answer lists; a last line says how many more there are."""


def shown(value: object) -> str:
    """Return a value for a message: short, quoted, encodable."""
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


class DocumentError(ValueError):
    """An invalid workflow document. `problems` lists the faults, at most `PROBLEMS_MAX` and a line for the rest.

    `limit` is set if the only faults are passed limits: it is the first of those limits.
    """

    def __init__(self, problems: list[FieldProblem], limit: int | None = None) -> None:
        """Keep the faults; the text of the error shows the first of them."""
        self.problems = problems
        self.limit = limit
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{first.path}: {first.message}{more}" if first.path else f"{first.message}{more}")


class DocumentFaults:
    """Collects faults up to a bound, and counts the rest."""

    def __init__(self) -> None:
        """Begin without faults."""
        self.problems: list[FieldProblem] = []
        self.count = 0
        self.limits: list[int] = []

    def add(self, path: str, message: str, limit: int | None = None) -> None:
        """Note a fault; `limit` is the published limit that it passes, if it passes one."""
        self.count += 1
        if limit is not None:
            self.limits.append(limit)
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(FieldProblem(path, message))

    def unknown_key(self, prefix: str, key: object, known: Iterable[str]) -> None:
        """Note an unknown key, with the known key that is most like it."""
        if len(self.problems) >= PROBLEMS_MAX:
            self.count += 1
            return
        if not isinstance(key, str):
            self.add(prefix.rstrip("."), f"a key is {shown(key)}, not a string")
            return
        name = key[:80].encode("utf-8", "replace").decode()
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}"
        self.add(f"{prefix}{name}", f"unknown key {name!r}{hint}")

    def raise_any(self) -> None:
        """Raise `DocumentError` if there is any fault."""
        if not self.count:
            return
        problems = list(self.problems)
        if self.count > len(problems):
            problems.append(FieldProblem("", f"and {self.count - len(problems)} more faults"))
        only_limits = len(self.limits) == self.count
        raise DocumentError(problems, self.limits[0] if only_limits else None)
