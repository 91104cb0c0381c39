"""Linearizable reads of clients, and what a state machine answers to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raftflow.machine.read import queries

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine


class Read(NamedTuple):
    """A linearizable read that a client got an answer to."""

    at: int
    query: tuple[str, ...]
    content: bytes


_OF_ONE = ("workflow", "tasks")
"""Reads of one workflow."""
_encode = msgspec.json.Encoder().encode


def is_torn(machine: Machine, query: tuple[str, ...]) -> bool:
    """Tell whether an answer from this state would show a part of what a command does."""
    workflow = machine.tables.workflows.get(query[1]) if query[0] in _OF_ONE else None
    return workflow is not None and workflow.jobs > 0


def answer(machine: Machine, query: tuple[str, ...]) -> bytes:
    """Answer a client's question from a machine, as the API does."""
    if query[0] == "workflow":
        return _encode(queries.workflow_view(machine, query[1]))
    if query[0] == "tasks":
        return _encode(queries.task_page(machine, query[1], 100, None))
    if query[0] == "agents":
        return _encode(queries.agent_list(machine))
    return _encode(queries.workflow_page(machine, None, 20, None))
