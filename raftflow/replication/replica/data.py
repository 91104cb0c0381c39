"""What a replica has on its disk when it starts: opened together, looked after while it runs, closed together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members import membership
from raftflow.replication.members.birth_file import BirthFile
from raftflow.replication.members.identity import DataDir
from raftflow.replication.members.membership import MemberInfo, Membership
from raftflow.replication.messages import envelope
from raftflow.replication.repair.repair import MEMBERS_MIN, StorageOpener

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.files import FileSystem

_log = logging.getLogger(__name__)


class ReplicaData:
    """The data directory of one replica, open: journal, snapshots, birth record, list of members of the first start.

    Blocking. Raises `LogFailedError` with advice. Close it, or it stays locked.
    """

    def __init__(self, config: LogConfig, fs: FileSystem, clock: Callable[[], float]) -> None:
        self._config = config
        self._dir: DataDir | None = DataDir.open(fs, config.data_dir, config.cluster_id, config.name)
        try:
            self._open(self._dir, fs, clock)
        except Exception:
            self.close()
            raise

    def _open(self, directory: DataDir, fs: FileSystem, clock: Callable[[], float]) -> None:
        config = self._config
        self.disk_id = directory.disk_id
        opener = StorageOpener(
            fs,
            directory,
            check_command=envelope.check,
            segment_bytes=config.segment_bytes,
            clock=clock,
            members=MEMBERS_MIN if config.join else len(config.members),
        )
        self.journal, self.store, self.newest_snapshot, self.repair = opener.open()
        self.birth_file = BirthFile(fs, directory.path, ordered_now=config.bootstrap)
        self.birth_record = self.birth_file.open(directory.disk_id, has_data=self.has_data())
        is_new = not self.has_data() and self.birth_record.stage is None
        self.first_members = membership.load_first(fs, directory.path, _configured_members(config), replace=is_new)

    def has_data(self) -> bool:
        """Return True if this replica has promised anything, as far as its disk shows."""
        journal = self.journal
        return (
            journal.getCurrentTerm() > 0
            or journal.getVotedForNodeId() is not None
            or len(journal) > 1
            or self.newest_snapshot is not None
            or self.repair is not None
        )

    @property
    def is_present(self) -> bool:
        """False once the data directory was closed, moved, removed or replaced."""
        return self._dir is not None and self._dir.is_there()

    def check_present(self) -> None:
        """Raise `LogFailedError` if the directory or the journal was moved, removed or replaced since it was opened.

        Open files would take writes that no later start finds.
        """
        directory = self._dir
        if directory is None or (directory.is_there() and self.journal.is_there()):
            return
        raise LogFailedError(
            f"{directory.path} was moved, removed or replaced while replica {self._config.name} ran. This replica "
            f"stops, since a later start would not find what it writes. If the directory was moved, put it back and "
            f"start again: nothing is lost then. If it was deleted, remove the replica from the cluster and let it "
            f"join again under a new name."
        )

    def close(self) -> None:
        """Close the journal and release the directory. Safe to call twice."""
        directory, self._dir = self._dir, None
        if directory is None:
            return
        try:
            if hasattr(self, "journal"):
                self.journal.close()
        except (LogFailedError, OSError) as error:
            _log.warning("closing the journal: %s", error)
        finally:
            directory.close()


def _configured_members(config: LogConfig) -> Membership:
    """Return the list with which a replica starts for the first time."""
    if config.join:
        return Membership()
    no_address = ("", "")
    return Membership(
        tuple(MemberInfo(name, *config.addresses.get(name, no_address)) for name in sorted(config.members))
    )
