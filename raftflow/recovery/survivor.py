"""Recovering from the loss of a majority: one replica's directory becomes a snapshot of the cluster.

The other replicas may have had acknowledged entries that the survivor never got. Nothing on its disk excludes that.
So the command says it first, with everything that is known. What the survivor has is kept in full, also its last
entries that may never have been acknowledged: each of them was submitted by somebody.

The survivor's directory is only read. `restore.py` makes the new cluster of the snapshot.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from raftflow.coordinator.audit.frames import AuditError
from raftflow.coordinator.audit.segments import read_end
from raftflow.domain.features import LEVEL, FeatureLevelError
from raftflow.domain.values.times import iso_utc
from raftflow.machine.machine import Machine
from raftflow.recovery.bundle_files import copy_beside, digests_of
from raftflow.recovery.cluster_snapshot import SnapshotLabel, SnapshotOrigin, save_machine
from raftflow.replication.messages.envelope import NO_OP
from raftflow.replication.storage.snapshot_file import SnapshotInfo
from raftflow.replication.stored_log import StoredLog

if TYPE_CHECKING:
    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.replication.files import FileSystem

CONNECT_S: Final = 2.0


class RecoveryRefusedError(Exception):
    """The cluster is not recovered from this directory. Says why, and what to do."""


class LostReplica(msgspec.Struct, kw_only=True):
    """Another member, and what the survivor knows of it."""

    name: str
    acknowledged: int
    """It had acknowledged the entries up to this one, as far as the survivor heard; 0 if it knows nothing."""
    term: int
    answers: list[str]
    """Its addresses that take connections now."""


class SurvivorReport(msgspec.Struct, kw_only=True):
    """What a survivor has, and what may be missing."""

    replica: str
    cluster: str
    data_dir: str
    last_index: int
    last_term: int
    term: int
    committed: int
    """Entries up to this one were certainly committed."""
    last_at: str
    """Cluster time of the last entry."""
    workflows: int
    unfinished: int
    chain: str
    others: list[LostReplica]
    missing: list[str]
    """What may be missing, in sentences."""


class Survivor:
    """The state that a survivor's disk holds."""

    def __init__(self, config: CoordinatorConfig, fs: FileSystem, *, level_max: int = LEVEL) -> None:
        """Read it. Blocking. Raises `RecoveryRefusedError`, `LogFailedError`, `OSError`."""
        self._config = config
        log = StoredLog(fs, config.data_dir)
        try:
            if log.identity.replica != config.name:
                raise RecoveryRefusedError(
                    f"{config.data_dir} is the directory of replica {log.identity.replica}, not of {config.name}"
                )
            if log.last_index == 0:
                raise RecoveryRefusedError(f"{config.data_dir} holds no data: nothing can be recovered from it")
            self._log = log
            self.missing_bundles: list[str] = []
            """Code bundles that this replica lacks, known after `save`."""
            self.machine = replay(log, _audit_end(fs, config.data_dir / "audit"), level_max)
        finally:
            log.close()

    def report(self, answering: dict[str, list[str]]) -> SurvivorReport:
        """Say what is here and what may be missing. `answering` has the addresses that answer, by member."""
        log, tables = self._log, self.machine.tables
        others = [
            LostReplica(
                name=name,
                acknowledged=log.peers[name].index if name in log.peers else 0,
                term=log.peers[name].term if name in log.peers else 0,
                answers=answering.get(name, []),
            )
            for name in self._others()
        ]
        return SurvivorReport(
            replica=log.identity.replica,
            cluster=log.identity.cluster,
            data_dir=str(log.path),
            last_index=log.last_index,
            last_term=log.last_term,
            term=log.term,
            committed=log.commit_index,
            last_at=iso_utc(self.machine.clock_ms),
            workflows=len(tables.workflows),
            unfinished=sum(not workflow.finished_ms for workflow in tables.workflows.values()),
            chain=self.machine.chain.hex(),
            others=others,
            missing=list(self._missing(others)),
        )

    def _others(self) -> list[str]:
        """Return the other voters, as this replica knows them."""
        listed = self._log.members.voter_names or {member.name for member in self._config.members}
        return sorted(name for name in listed if name != self._config.name)

    def _missing(self, others: list[LostReplica]) -> Iterable[str]:
        log = self._log
        if log.repairing:
            yield (
                "this replica was under repair: it had given up its own log and was taking it from the others again; "
                "another survivor may have more"
            )
        for other in others:
            if other.acknowledged > log.last_index:
                yield (
                    f"{other.name} had acknowledged entry {other.acknowledged}: at least "
                    f"{other.acknowledged - log.last_index} committed entries are missing here"
                )
        yield (
            f"everything that was acknowledged up to entry {log.commit_index} is here; what was acknowledged after "
            f"entry {log.last_index} is missing, if anything was: a replica that was behind cannot know"
        )
        if log.last_index > log.commit_index:
            yield (
                f"entries {log.commit_index + 1} to {log.last_index} are kept, and it is not known whether they were "
                f"acknowledged"
            )

    def addresses(self) -> dict[str, list[str]]:
        """Return the addresses of the other members, by name: of the configuration, else of the log."""
        configured = {member.name: [str(member.peer), member.url] for member in self._config.members}
        found: dict[str, list[str]] = {}
        for name in self._others():
            member = self._log.members.find(name)
            logged = [] if member is None else [member.peer, member.url]
            found[name] = [address for address in configured.get(name, logged) if address]
        return found

    def save(self, path: Path, taken_at_ms: int) -> SnapshotLabel:
        """Write the snapshot file, and the code bundles beside it. Raises `SnapshotFileError`, `OSError`."""
        log = self._log
        # The new cluster's terms begin above every term that this replica was in.
        index, term = max(log.last_index, 2), max(log.term, log.last_term)
        info = SnapshotInfo(
            index=index,
            term=term,
            prev_index=index - 1,
            prev_term=term,
            last_command=NO_OP,
            prev_command=NO_OP,
            members=tuple(sorted(log.members.voter_names)),
        )
        origin = SnapshotOrigin(log.identity.cluster, log.identity.replica, taken_at_ms, recovered=True)
        label = save_machine(path, self.machine, info, origin)
        self.missing_bundles = copy_beside(path, digests_of(self.machine), Path(log.path))
        return label


def replay(log: StoredLog, audit_end: tuple[int, bytes], level_max: int = LEVEL) -> Machine:
    """Return the state after the last entry of a stored log.

    Raises `RecoveryRefusedError` if the log cannot be applied, or if the audit's last record tells another history.
    """
    machine = Machine(level_max=level_max)
    start = 0
    try:
        if log.snapshots:
            machine.restore(log.state_of(log.snapshots[0]))
            start = log.snapshots[0].index
        for entry in log.entries_after(start):
            machine.apply(entry.index, entry.term, entry.payload)
            if entry.index == audit_end[0] and machine.chain != audit_end[1]:
                raise RecoveryRefusedError(
                    f"the audit and the log in {log.path} tell different histories at entry {entry.index}: keep this "
                    f"directory, and recover from another one or from a saved snapshot"
                )
    except FeatureLevelError as error:
        raise RecoveryRefusedError(str(error)) from error
    except ValueError as error:
        raise RecoveryRefusedError(f"the log in {log.path} cannot be applied: {error}") from error
    return machine


def _audit_end(fs: FileSystem, directory: Path) -> tuple[int, bytes]:
    """Return where the audit ends; nowhere if it cannot be read, since the log has everything that is needed."""
    try:
        return read_end(fs, directory)
    except (AuditError, OSError):
        return 0, b""


def answering_addresses(addresses: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return which addresses take a connection, by member."""
    return {
        name: answering for name, places in addresses.items() if (answering := [p for p in places if _answers(p)])
    }


def _answers(address: str) -> bool:
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def check_alone(report: SurvivorReport, *, others_gone: bool) -> None:
    """Refuse to go on while the old cluster could. Raises `RecoveryRefusedError`."""
    answer = [f"{other.name} ({', '.join(other.answers)})" for other in report.others if other.answers]
    if answer:
        raise RecoveryRefusedError(
            f"{' and '.join(answer)} of the old cluster answers: stop it first. If it has its data, start "
            f"{report.replica} again instead: {len(report.others) // 2 + 1} of {len(report.others) + 1} replicas are "
            f"a majority"
        )
    if not others_gone and report.others:
        names = ", ".join(other.name for other in report.others)
        raise RecoveryRefusedError(
            f"{names} do not answer, and they may come back with what they have. Put their directories back and "
            f"start them, if they exist anywhere. If they are lost for ever, give the command again with "
            f"--i-know-the-others-are-gone"
        )
