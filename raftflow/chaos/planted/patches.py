"""Patches of the product that only planted bugs need; the others are those of the simulation's planted faults."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import msgspec

from raftflow.agent.exchange.core import ExchangeCore
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.machine.commands import attempts, restoration
from raftflow.machine.rules import ledger
from raftflow.machine.tables.tasks import ORDER_STOP
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.raft.library import Raft
from raftflow.replication.raft.library_types import RaftTiming
from raftflow.replication.raft.reads import ReadRounds
from raftflow.simulation.mutation.patches import replication as in_replication

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.replication.raft.rules import Rule
    from raftflow.simulation.mutation.patches.common import Patch

_NEVER_NS: Final = 2**62
_LIBRARY_FALLBACK_S: Final = 30.0


@contextlib.contextmanager
def leases_unchecked() -> Iterator[None]:
    """Let attempts run on without a lease, in the agent and in its launcher."""
    extend = LauncherClient.lease
    with (
        patch.object(ExchangeCore, "is_lease_over", lambda _self, _now_ns: False),
        patch.object(ExchangeCore, "_check_lease", lambda _self: None),
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


@contextlib.contextmanager
def rules_off(rules: frozenset[Rule]) -> Iterator[None]:
    """Let replicas run without some of the rules that repair what the library gets wrong."""
    init = PySyncObjLog.__init__

    def unguarded(self: PySyncObjLog, *args: Any, **named: Any) -> None:
        init(self, *args, **{**named, "disabled_rules": rules})

    with patch.object(PySyncObjLog, "__init__", unguarded):
        yield


def restored_fences() -> Patch:
    """Let the fences of a restored cluster continue from those of its snapshot."""
    return patch.object(restoration, "first_number", lambda last, _at_ms: last)


@contextlib.contextmanager
def reads_without_quorum() -> Iterator[None]:
    """Let a leader answer reads alone, and go on as the leader for as long as the library does by itself."""
    init = Raft.__init__

    def persistent(self: Raft, *args: Any, timing: RaftTiming, **named: Any) -> None:
        init(self, *args, timing=msgspec.structs.replace(timing, fallback_s=_LIBRARY_FALLBACK_S), **named)

    with (
        patch.object(Raft, "__init__", persistent),
        patch.object(ReadRounds, "begin", in_replication.read_alone),
    ):
        yield
