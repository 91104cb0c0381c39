"""Builds a real replica: the configured log, on the network and on disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from raftflow.certificates import CertificateReloader
from raftflow.coordinator.config.loading import secrets_in
from raftflow.coordinator.config.peer_directory import PeerDirectory
from raftflow.coordinator.config.values import ConfigError
from raftflow.coordinator.history import AppliedHistory
from raftflow.coordinator.leader.leases import longest_fallback_s
from raftflow.coordinator.replica import Replica
from raftflow.domain.features import LEVEL, LEVEL_FIRST, NEXT_LEVEL, play_next_version
from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.members.births import IntroducedPeers
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.net import tls
from raftflow.replication.net.links import StreamLinks
from raftflow.replication.net.peer_certificates import PeerCertificates
from raftflow.revoked_certificates import RevokedCertificates

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.audit.audit_file import AuditFile
    from raftflow.coordinator.clock import MachineClock
    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import ReplicatedLog, StateMachine
    from raftflow.replication.members.membership import MembershipVersion

LEVEL_VARIABLE: Final = "RAFTFLOW_TEST_FEATURE_LEVEL"
"""For tests of upgrades: this process is a version of that level, in a cluster whose newest version is on
`NEXT_LEVEL` (`features.play_next_version`)."""


def build_replica(
    config: CoordinatorConfig,
    fs: FileSystem,
    *,
    clock: MachineClock | None = None,
    certificates: CertificateReloader | None = None,
) -> Replica:
    """Return a replica that is ready to start. Raises `ConfigError`.

    `certificates` looks after those of its links.
    """
    log_config = _log_config(config)
    level = _level()

    def shut_out(why: str) -> None:
        replica.shut_out(why)

    introducer = Introducer(fs, config.data_dir, level=level)
    links = _links(config, introducer, shut_out, CertificateReloader() if certificates is None else certificates)
    introduced_peers = IntroducedPeers(introducer, level)

    def make_log(machine: StateMachine, audit: AuditFile) -> ReplicatedLog:
        directory = PeerDirectory(config, links.set_peers)

        def follow(version: MembershipVersion) -> None:
            introducer.update(version)
            directory.follow(version)

        return PySyncObjLog(
            log_config,
            machine,
            links,
            fs,
            before_compaction=audit.compact,
            on_members=follow,
            introduced_peers=introduced_peers,
        )

    replica = Replica(config, make_log, fs, clock=clock, level=level, peer_levels=links.levels)
    if certificates is not None and (file := config.private_file("cluster.secret_file")) is not None:

        def use_secrets() -> None:
            replica.secrets = secrets_in(file)
            links.use_secrets(replica.secrets)

        certificates.add((file,), use_secrets)
    introducer.history = AppliedHistory(replica.machine, replica.audit)
    return replica


def _level() -> int:
    """Return the highest feature level of this process: the program's, unless a test lets it play another version."""
    played = os.environ.get(LEVEL_VARIABLE, "")
    if not played:
        return LEVEL
    if not played.isdecimal() or not LEVEL_FIRST <= int(played) <= NEXT_LEVEL:
        raise ConfigError(f"{LEVEL_VARIABLE} is for tests and between {LEVEL_FIRST} and {NEXT_LEVEL}, not {played!r}")
    play_next_version()
    return int(played)


def _log_config(config: CoordinatorConfig) -> LogConfig:
    timing = config.timing
    try:
        return LogConfig(
            name=config.name,
            members=tuple(member.name for member in config.members),
            cluster_id=config.cluster_id,
            data_dir=config.data_dir,
            addresses={member.name: (str(member.peer), member.url) for member in config.members},
            join=config.join,
            bootstrap=config.bootstrap,
            election_min_s=timing.election_min_ms / 1000,
            election_max_s=timing.election_max_ms / 1000,
            heartbeat_s=timing.heartbeat_ms / 1000,
            fallback_max_s=longest_fallback_s(timing.lease_ms),
            snapshot_entries=config.limits.snapshot_entries,
            snapshot_bytes=config.limits.snapshot_bytes,
        )
    except ValueError as error:
        raise ConfigError(f"the log cannot work with this configuration: {error}") from error


def _links(
    config: CoordinatorConfig,
    introducer: Introducer,
    on_shut_out: Callable[[str], None],
    certificates: CertificateReloader,
) -> StreamLinks:
    files = config.tls
    server = client = paths = revoked = None
    if files.peer_cert is not None and files.peer_key is not None and files.peer_ca is not None:
        paths = files.peer_cert, files.peer_key, files.peer_ca
        try:
            server, client = tls.contexts(*paths)
        except tls.TLSConfigError as error:
            raise ConfigError(f"[tls] peer_cert, peer_key, peer_ca: {error}") from error
        try:
            revoked = RevokedCertificates(files.crl, (files.peer_ca, files.api_client_ca))
        except ValueError as error:
            raise ConfigError(f"tls.crl: {error}") from error
    links = StreamLinks(
        name=config.name,
        cluster_id=config.cluster_id,
        bind=(config.peer_bind.host, config.peer_bind.port),
        peers={
            member.name: (member.peer.host, member.peer.port)
            for member in config.members
            if member.name != config.name
        },
        secret=config.secret,
        other_secrets=config.other_secrets,
        tls_server=server,
        tls_client=client,
        introducer=introducer,
        on_shut_out=on_shut_out,
        certificates=PeerCertificates(revoked),
    )
    if paths is not None:
        certificates.add(paths, lambda: links.use_tls(*tls.contexts(*paths)))
    if revoked is not None and revoked.paths:

        def read_again() -> None:
            revoked.load()
            links.check_certificates()

        certificates.add(revoked.paths, read_again)
    return links
