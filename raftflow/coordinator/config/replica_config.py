"""The configuration of one replica. Each setting is declared here, once, with its type, default, bounds and help.

The sections are the tables of the configuration file. `loading` reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from raftflow.coordinator.audit import audit_file
from raftflow.coordinator.config.addresses import Address
from raftflow.domain.limits import RESULTS_BYTES_MAX, TASKS_PER_WORKFLOW_MAX, WORKFLOWS_MAX
from raftflow.settings import DeclaredSetting, declared_settings, setting

_DAY_MS = 24 * 3600 * 1000
_MIB = 1024 * 1024


class MemberConfig(msgspec.Struct, frozen=True):
    """One replica of the cluster."""

    name: str
    peer: Address
    """Where the other replicas reach it."""
    url: str
    """Where clients and agents reach it, without a trailing slash."""


class ClusterSection(msgspec.Struct, frozen=True, kw_only=True):
    """What all replicas of a cluster have in common, beside the list of members."""

    id: Annotated[
        str,
        setting(
            "Every replica has the same id. It never changes: a replica refuses the data directory of another "
            "cluster."
        ),
    ]
    secret_file: Annotated[
        Path | None,
        setting(
            "At least 16 random bytes that all replicas share and nobody else knows, in one line, mode 0600. While "
            "one secret replaces another, the file has two lines: the first is used, both are accepted. It is read "
            "again when it changes.",
            default="required, unless `RAFTFLOW_CLUSTER_SECRET` is set",
        ),
    ] = None
    secret: Annotated[
        str | None,
        setting("The secret itself, in place of `secret_file`.", in_file=False),
    ] = None


class ReplicaSection(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica has for itself."""

    name: Annotated[str, setting("Which of the members this replica is.")]
    data_dir: Annotated[
        Path,
        setting(
            "Journal, snapshots and audit of this replica. Use a local disk with a few GB of free space.",
        ),
    ]
    bind: Annotated[
        Address | None,
        setting("Where this replica listens for clients and agents.", default="host and port of its `url`"),
    ] = None
    peer_bind: Annotated[
        Address | None, setting("Where this replica listens for the other replicas.", default="its `peer`")
    ] = None
    token_file: Annotated[
        Path | None,
        setting(
            "Agents run commands. So a replica that other machines can reach asks for this token on every call "
            "(mode 0600). Clients and agents send the token that RAFTFLOW_TOKEN contains. While one token replaces "
            "another, the file has two lines, and both are accepted. It is read again when it changes.",
            variable="RAFTFLOW_TOKEN_FILE",
        ),
    ] = None
    token: Annotated[
        str | None,
        setting("The token itself, in place of `token_file`.", variable="RAFTFLOW_TOKEN", in_file=False),
    ] = None
    insecure: Annotated[
        bool,
        setting("Serve other machines without a token: who reaches this replica can run commands on every agent."),
    ] = False
    hosts: Annotated[
        tuple[str, ...],
        setting(
            "With a token, clients may use any host name for this replica. Without a token, they may use the "
            "addresses above and the names in this list, for example the name of a proxy."
        ),
    ] = ()
    log_store: Annotated[
        str,
        setting(
            "Where agents keep output as well (their log_store). This replica reads it from there when an agent is "
            "gone.",
            kind="log store",
        ),
    ] = ""
    join: Annotated[
        bool, setting("This replica starts on an empty disk and joins a cluster. Later starts ignore this line.")
    ] = False


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates. A port without them speaks plain TCP."""

    api_cert: Annotated[
        Path | None, setting("Certificate of the API. With it, write https:// in every `url` of the members.")
    ] = None
    api_key: Annotated[Path | None, setting("Private key of `api_cert`, mode 0600.")] = None
    api_ca: Annotated[
        Path | None,
        setting("Authority that signed the replicas' API certificates. Replicas pass requests on to each other."),
    ] = None
    api_client_ca: Annotated[
        Path | None,
        setting(
            "Authority of the certificates that agents and clients may show instead of a token. The role and "
            "the name in a certificate of `raftflow cert` count. With it the API speaks TLS 1.3 alone."
        ),
    ] = None
    peer_cert: Annotated[Path | None, setting("Certificate for the links between replicas.")] = None
    peer_key: Annotated[Path | None, setting("Private key of `peer_cert`, mode 0600.")] = None
    peer_ca: Annotated[Path | None, setting("Authority that signed the peer certificates of all replicas.")] = None
    crl: Annotated[
        Path | None,
        setting("List of revoked certificates, signed by `api_client_ca` or `peer_ca`: crl.pem of `raftflow cert`."),
    ] = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in milliseconds."""

    election_min_ms: Annotated[
        int,
        setting(
            "A follower that hears nothing from the leader asks for votes after a random time between "
            "election_min_ms and election_max_ms.",
            20,
            60_000,
        ),
    ] = 300
    election_max_ms: Annotated[int, setting("See `election_min_ms`; it must be greater.", 30, 120_000)] = 600
    heartbeat_ms: Annotated[
        int, setting("How often the leader is heard. `election_min_ms` is more than three times as long.", 5, 10_000)
    ] = 49
    lease_ms: Annotated[
        int,
        setting(
            "An agent that is silent for this time is lost, and its attempts run elsewhere. A shorter time finds "
            "dead agents sooner. A longer time tolerates longer pauses of an agent's machine or network.",
            300,
            _DAY_MS,
        ),
    ] = 10_000
    poll_wait_ms: Annotated[
        int,
        setting(
            "How long an idle poll of an agent is held; at most half of `lease_ms`.",
            10,
            60_000,
            default="3000, or a third of `lease_ms` if that is less",
        ),
    ] = 3_000
    submit_timeout_ms: Annotated[
        int, setting("A write that was not applied after this time is answered with `outcome-unknown`.", 100, 120_000)
    ] = 5_000
    read_timeout_ms: Annotated[
        int, setting("How long a read waits until a majority of the replicas has confirmed it.", 100, 120_000)
    ] = 2_000
    shutdown_ms: Annotated[int, setting("Longest time of a graceful stop.", 100, 600_000)] = 10_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one replica."""

    body_bytes: Annotated[int, setting("Largest body of a request.", 1024, 16 * _MIB)] = 16 * _MIB
    poll_bytes: Annotated[int, setting("Largest body of an agent's poll.", 256 * 1024, 16 * _MIB)] = _MIB
    submissions_in_flight: Annotated[
        int, setting("Commands of clients that may wait for the log at one time.", 1, 1_000_000)
    ] = 10_000
    held_polls: Annotated[int, setting("Idle polls of agents that are held at one time.", 1, 1_000_000)] = 40_000
    connections: Annotated[int, setting("Open connections to the API.", 10, 1_000_000)] = 50_000
    retention_ms: Annotated[
        int,
        setting(
            "How long finished workflows are kept, if there are not too many; a duration of at least 1s, such as "
            "12h.",
            key="retention",
            kind="duration",
            default='"7d"',
        ),
    ] = 7 * _DAY_MS
    kept_workflows: Annotated[
        int,
        setting(
            "Finished workflows that are kept. The oldest are forgotten first; the audit still has them.",
            1_000,
            WORKFLOWS_MAX // 2,
        ),
    ] = 50_000
    kept_tasks: Annotated[
        int,
        setting(
            "Tasks of finished workflows that are kept; each takes about 1 KiB of memory.",
            TASKS_PER_WORKFLOW_MAX,
            100_000_000,
        ),
    ] = 250_000
    kept_result_bytes: Annotated[
        int, setting("Results of the tasks of finished workflows that are kept.", _MIB, RESULTS_BYTES_MAX)
    ] = 2 * 1024 * _MIB
    snapshot_entries: Annotated[
        int, setting("A snapshot is made after so many entries of the log.", 100, 100_000_000)
    ] = 20_000
    snapshot_bytes: Annotated[
        int, setting("A snapshot is made after so many bytes of the log.", _MIB, 64 * 1024 * _MIB)
    ] = 64 * _MIB
    audit_bytes: Annotated[
        int,
        setting("Size of the audit file; the oldest part beyond it is dropped.", _MIB, 1024 * 1024 * _MIB),
    ] = audit_file.BYTES_MAX


class SavedSnapshots(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshots of the cluster that this replica saves by itself. One replica with a disk elsewhere is enough."""

    every_ms: Annotated[
        int,
        setting(
            "How often this replica saves a snapshot of the cluster, as `raftflow snapshot save --stale` does; a "
            "duration of at least 1s, such as 1h.",
            key="every",
            kind="duration",
            default="never",
        ),
    ] = 0
    keep: Annotated[int, setting("So many of the newest snapshots that this replica saved are kept.", 1, 100_000)] = (
        24
    )
    directory: Annotated[
        Path | None,
        setting(
            "Where they are saved; required with `every`. Use another disk than that of `data_dir`, or a mounted "
            "file system: a snapshot is for the day on which the disks are lost.",
            key="dir",
            default="none",
        ),
    ] = None


SECTIONS: Final[dict[str, dict[str, DeclaredSetting]]] = {
    "cluster": declared_settings(ClusterSection, "cluster"),
    "replica": declared_settings(ReplicaSection, "replica"),
    "tls": declared_settings(Tls, "tls"),
    "timing": declared_settings(Timing, "timing"),
    "limits": declared_settings(Limits, "limits"),
    "snapshot": declared_settings(SavedSnapshots, "snapshot"),
}
"""Every setting of a replica, by section and key. Only the list of members is not among them."""


class CoordinatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one replica needs to know. `SECTIONS` explains each setting."""

    cluster_id: str
    secret: bytes
    members: tuple[MemberConfig, ...]
    name: str
    data_dir: Path
    bind: Address
    peer_bind: Address
    token: str | None = None
    other_secrets: tuple[bytes, ...] = ()
    """That are accepted beside `secret`, while one replaces the other."""
    other_tokens: tuple[str, ...] = ()
    """That are accepted beside `token`."""
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    log_store: str = ""
    join: bool = False
    bootstrap: bool = False
    """`--bootstrap`: the operator says that the members which cannot be reached never had data."""
    tls: Tls = Tls()
    timing: Timing = Timing()
    limits: Limits = Limits()
    snapshot: SavedSnapshots = SavedSnapshots()
    file: Path | None = None
    """The configuration file."""
    private_files: tuple[tuple[str, Path], ...] = ()
    """Setting and path of each file with a key, token or secret."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """All secrets that are accepted; the first is used."""
        return self.secret, *self.other_secrets

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens of the configuration that are accepted; the first is used. Empty if none is needed."""
        return () if self.token is None else (self.token, *self.other_tokens)

    def private_file(self, name: str) -> Path | None:
        """Return the file that a setting such as `cluster.secret_file` names, None if it is not given."""
        return dict(self.private_files).get(name)

    @property
    def member(self) -> MemberConfig:
        """This replica's entry in the member list."""
        return next(member for member in self.members if member.name == self.name)

    def url_of(self, name: str | None) -> str | None:
        """Return where clients reach a member, or None if there is no such member."""
        return next((member.url for member in self.members if member.name == name), None)

    def __repr__(self) -> str:
        """Show neither the secret nor the token."""
        return (
            f"CoordinatorConfig(cluster_id={self.cluster_id!r}, name={self.name!r}, data_dir={str(self.data_dir)!r})"
        )
