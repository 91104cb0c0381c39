"""Putting a real replica together: the configured log, on the network and on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.coordinator.replica import Replica
from raftflow.coordinator.settings import ConfigError
from raftflow.replication import tls
from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.links import StreamLinks

if TYPE_CHECKING:
    from raftflow.coordinator.audit import AuditFile
    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.config import CoordinatorConfig
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import ReplicatedLog, StateMachine


def build_replica(config: CoordinatorConfig, fs: FileSystem, *, clock: WallClock | None = None) -> Replica:
    """Return a replica that is ready to start. Raises `ConfigError`."""
    log_config = _log_config(config)
    links = _links(config)

    def make_log(machine: StateMachine, audit: AuditFile) -> ReplicatedLog:
        return PySyncObjLog(log_config, machine, links, fs, before_compaction=audit.sync)

    return Replica(config, make_log, fs, clock=clock)


def _log_config(config: CoordinatorConfig) -> LogConfig:
    timing = config.timing
    try:
        return LogConfig(
            name=config.name,
            members=tuple(member.name for member in config.members),
            cluster_id=config.cluster_id,
            data_dir=config.data_dir,
            election_min_s=timing.election_min_ms / 1000,
            election_max_s=timing.election_max_ms / 1000,
            heartbeat_s=timing.heartbeat_ms / 1000,
            snapshot_entries=config.limits.snapshot_entries,
            snapshot_bytes=config.limits.snapshot_bytes,
        )
    except ValueError as error:
        raise ConfigError(f"the log cannot work with this configuration: {error}") from error


def _links(config: CoordinatorConfig) -> StreamLinks:
    files = config.tls
    server = client = None
    if files.peer_cert is not None and files.peer_key is not None and files.peer_ca is not None:
        try:
            server = tls.server_context(files.peer_cert, files.peer_key, files.peer_ca)
            client = tls.client_context(files.peer_ca, files.peer_cert, files.peer_key)
        except tls.TLSConfigError as error:
            raise ConfigError(f"[tls] peer_cert, peer_key, peer_ca: {error}") from error
    return StreamLinks(
        name=config.name,
        cluster_id=config.cluster_id,
        bind=(config.peer_bind.host, config.peer_bind.port),
        peers={
            member.name: (member.peer.host, member.peer.port)
            for member in config.members
            if member.name != config.name
        },
        secret=config.secret,
        tls_server=server,
        tls_client=client,
    )
