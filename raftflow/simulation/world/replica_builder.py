"""Builds the real `Replica` of a simulated machine, on simulated links, disk and clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from raftflow.coordinator.clock import IdSource
from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.peer_directory import PeerDirectory
from raftflow.coordinator.config.replica_config import CoordinatorConfig, MemberConfig
from raftflow.coordinator.history import AppliedHistory
from raftflow.coordinator.leader.leases import longest_fallback_s
from raftflow.coordinator.replica import Replica
from raftflow.machine.rules.step_limits import StepLimits
from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.members.births import IntroducedPeers
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.raft.rules import Rule
from raftflow.simulation.world.code import SimBundlePeers
from raftflow.simulation.world.network import SimLinks
from raftflow.simulation.world.observed_machine import ObservedMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.audit.audit_file import AuditFile
    from raftflow.coordinator.config.replica_config import Limits, Timing
    from raftflow.replication.log import ReplicatedLog, Role, StateMachine
    from raftflow.replication.members.membership import MembershipVersion
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.host import SimHost
    from raftflow.simulation.world.loop import Process
    from raftflow.simulation.world.network import Network
    from raftflow.simulation.world.observer import ClusterObserver
    from raftflow.simulation.world.trace import Trace

DATA_DIR: Final = Path("/data")
STEP_LIMITS: Final = StepLimits(inline_max=4, piece_max=3)
"""So small that most commands of a run go on the agenda."""


class ReplicaEnvironment(NamedTuple):
    """What all replicas of a simulated cluster have in common."""

    network: Network
    calls: Calls
    trace: Trace
    observer: ClusterObserver
    settings: dict[str, Any]
    """Settings of `LogConfig` that a run wants otherwise."""
    timing: Timing
    limits: Limits
    disabled_rules: frozenset[Rule]
    getrandbits: Callable[[int], int]
    role_changed: Callable[[SimHost, Role, int], None]


def build_replica(env: ReplicaEnvironment, host: SimHost, process: Process) -> None:
    """Give a machine a replica and links. Call it in the context of the process."""
    introducer = Introducer(host.disk, DATA_DIR, level=host.level, new_nonce=host.new_nonce)
    links = host.links = SimLinks(env.network, process, introducer, host.level)
    introduced_peers = IntroducedPeers(introducer, host.level)
    config = CoordinatorConfig(
        cluster_id="simulation",
        secret=b"s" * 32,
        members=tuple(_member(name) for name in host.file),
        name=host.name,
        data_dir=DATA_DIR,
        bind=Address(host.name, 2),
        peer_bind=Address(host.name, 1),
        timing=env.timing,
        limits=env.limits,
    )
    log_config = LogConfig(
        name=host.name,
        members=host.file,
        cluster_id="simulation",
        data_dir=DATA_DIR,
        addresses={name: (f"{name}:1", f"sim://{name}") for name in host.file},
        join=host.join,
        election_min_s=0.3 * host.patience,
        election_max_s=0.6 * host.patience,
        fallback_max_s=longest_fallback_s(config.timing.lease_ms),
        **env.settings,
    )

    directory = PeerDirectory(config, links.set_peers)

    def follow(membership: MembershipVersion) -> None:
        links.membership = membership
        introducer.update(membership)
        directory.follow(membership)

    def make_log(machine: StateMachine, audit: AuditFile) -> ReplicatedLog:
        observed = ObservedMachine(machine, host, env.observer, env.trace)
        return PySyncObjLog(
            log_config,
            observed,
            links,
            host.disk,
            before_compaction=audit.compact,
            disabled_rules=env.disabled_rules if host.pre_votes else env.disabled_rules | {Rule.PRE_VOTE},
            on_members=follow,
            introduced_peers=introduced_peers,
        )

    ids = IdSource(host.clock, env.getrandbits)
    host.replica = Replica(
        config,
        make_log,
        host.disk,
        clock=host.clock,
        ids=ids,
        level=host.level,
        step_limits=STEP_LIMITS,
        peer_levels=links.levels,
    )
    host.replica.bundles.peers = SimBundlePeers(env.calls, process)
    introducer.history = AppliedHistory(host.replica.machine, host.replica.audit)
    host.replica.log.on_role_change(lambda role, term: env.role_changed(host, role, term))


def _member(name: str) -> MemberConfig:
    return MemberConfig(name=name, peer=Address(name, 1), url=f"sim://{name}")
