"""Every operation of the HTTP API, declared once, in the module of its noun.

The server's routes (`api.routes`), the OpenAPI document (`api.openapi`), the calls of the client (`client.aio`) and
of agents (`agent.exchange`), and the page `raftflow/api/OPERATIONS.md` are made from these declarations. Tests check
that each operation has a handler, a caller and a line on that page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from raftflow.domain.contract.operation import Operation
from raftflow.domain.contract.operations import (
    agents,
    audit,
    budgets,
    bundles,
    cache,
    descriptions,
    effects,
    events,
    ledger,
    members,
    rates,
    replicas,
    snapshots,
    tasks,
    tokens,
    waits,
    workflows,
)

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "NOUNS",
    "OPERATIONS",
    "agents",
    "audit",
    "budgets",
    "bundles",
    "cache",
    "descriptions",
    "effects",
    "events",
    "ledger",
    "members",
    "rates",
    "replicas",
    "snapshots",
    "tasks",
    "tokens",
    "waits",
    "workflows",
]

NOUNS: Final[tuple[ModuleType, ...]] = (
    workflows,
    tasks,
    agents,
    replicas,
    ledger,
    audit,
    events,
    snapshots,
    members,
    cache,
    bundles,
    budgets,
    rates,
    effects,
    waits,
    tokens,
    descriptions,
)
"""The modules, in the order of the API's description."""

OPERATIONS: Final[tuple[Operation[Any], ...]] = tuple(
    declared for noun in NOUNS for declared in vars(noun).values() if isinstance(declared, Operation)
)
"""All operations. A declaration in one of the modules is enough."""
