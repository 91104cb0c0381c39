"""Patches of the product that only planted bugs need; the others are those of the simulation's planted faults."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from raftflow.agent.exchange.core import ExchangeCore
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.machine.commands import attempts
from raftflow.machine.rules import ledger
from raftflow.machine.tables.tasks import ORDER_STOP
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.members.births import Births
from raftflow.replication.raft.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.simulation.mutation.patches.common import Patch

GUARD_RULES: Final = frozenset(rule for rule in Rule if rule.value.startswith("T"))
_NEVER_NS: Final = 2**62


def guard_off() -> Patch:
    """Switch off the rules of the guard."""
    init = PySyncObjLog.__init__

    def unguarded(self: PySyncObjLog, *args: Any, **named: Any) -> None:
        init(self, *args, **{**named, "disabled_rules": GUARD_RULES})

    return patch.object(PySyncObjLog, "__init__", unguarded)


@contextlib.contextmanager
def leases_unchecked() -> Iterator[None]:
    """Let attempts run on without a lease, in the agent and in its launcher."""
    extend = LauncherClient.lease
    with (
        patch.object(ExchangeCore, "is_lease_over", lambda _self, _now_ns: False),
        patch.object(LauncherClient, "lease", lambda self, _until_ns: extend(self, _NEVER_NS)),
    ):
        yield


@contextlib.contextmanager
def leak_on_cancel() -> Iterator[None]:
    """Keep allocated what an attempt held that was told to stop."""
    end, release = attempts.end_attempt, ledger.release
    stopping = False

    def noted(step: Any, agent: Any, workflow: Any, task: Any, told: Any, **named: Any) -> None:
        nonlocal stopping
        stopping = task.last is not None and task.last.order == ORDER_STOP
        try:
            end(step, agent, workflow, task, told, **named)
        finally:
            stopping = False

    def leaky(agent: Any, shape: Any) -> None:
        if not stopping:
            release(agent, shape)

    with patch.object(attempts, "end_attempt", noted), patch.object(ledger, "release", leaky):
        yield


def births_without_all() -> Patch:
    """Let a majority of empty replicas found a cluster."""
    return patch.object(Births, "_is_ordered", lambda _self: True)
