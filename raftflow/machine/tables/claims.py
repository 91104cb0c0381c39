"""Rows of claims: equal tasks of which one runs."""

from __future__ import annotations


class Claim:
    """Equal tasks, by workflow number and position: one that runs, or may run, and those that wait for it."""

    __slots__ = ("line", "owner")

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self.owner = owner
        """None only while a workflow is being stopped, or while a snapshot is read."""
        self.line: dict[tuple[int, int], None] = {}
