"""A run in which the cluster is lost and restored from a snapshot while clients go on."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.chaos.background_loop import BackgroundLoop
from raftflow.chaos.ending import write_final
from raftflow.chaos.history import FORMAT, HistoryWriter
from raftflow.chaos.making import MARKER
from raftflow.chaos.testbed import LEASE_MS, Testbed, collector_path
from raftflow.chaos.undo import EndCluster, UndoList
from raftflow.chaos.verdict import CheckerAnswer, check
from raftflow.chaos.workload.clients import Workload, WorkloadSettings
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions, LocalClusterError
from raftflow.recovery.cluster_snapshot import ClusterSnapshotWriter, SnapshotLabel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RECOVERY_S: Final = 60.0
_WRITES: Final = 60
"""So many writes are acknowledged before the snapshot, after it, and by the restored cluster."""
_WAIT_S: Final = 60.0
_STOPS_S: Final = 60.0


def run_restored(directory: Path, seed: int, say: Callable[[str], None]) -> CheckerAnswer:
    """Run a cluster, lose it, restore it, and check the history.

    Raises:
        LocalClusterError: a cluster does not start, or acknowledges nothing.
        CheckerFailedError: the checker gave no verdict.
    """
    directory.mkdir(parents=True, exist_ok=True)
    settings = WorkloadSettings(seed, f"chaos-{secrets.token_hex(3)}", str(collector_path()))
    path = directory / "history.jsonl"
    with (directory / "watchdog.log").open("ab") as log, HistoryWriter(path) as history:
        history.write(
            "header",
            version=FORMAT,
            seed=seed,
            replicas=3,
            agents=2,
            system="raftflow",
            collector="local",
            bounds={"recovery_s": RECOVERY_S, "overlap": "backups"},
            workload=msgspec.to_builtins(settings),
        )
        undo = UndoList(log)
        try:
            RestoredRun(directory, history, undo, settings, say).run()
        finally:
            undo.close()
    return check(path)


class RestoredRun:
    """Two clusters, one after the other, and the clients of both."""

    def __init__(
        self,
        directory: Path,
        history: HistoryWriter,
        undo: UndoList,
        settings: WorkloadSettings,
        say: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._history = history
        self._undo = undo
        self._settings = settings
        self._say = say
        self._bed: Testbed | None = None

    def run(self) -> None:
        """Run both. Raises `LocalClusterError`."""
        loop = BackgroundLoop()
        try:
            self._start("first", None)
            workload = loop.call(self._workload())
            running = loop.begin(workload.run())
            try:
                self._restore_under_load()
            finally:
                loop.soon(workload.stop)
            running.result(_STOPS_S)
            assert self._bed is not None  # noqa: S101 - it was started
            write_final(self._bed, self._settings.run)
        finally:
            loop.close()
            if self._bed is not None:
                self._bed.close()

    def _restore_under_load(self) -> None:
        self._wait_writes()
        file = self._directory / "cluster.snapshot"
        index = self._save(file)
        self._say(f"saved a snapshot at index {index}")
        self._wait_writes()
        assert self._bed is not None  # noqa: S101 - it was started
        about: dict[str, Any] = {"id": "f1", "kind": "lose-cluster", "targets": self._bed.cluster.replica_names}
        self._history.write("fault", event="begin", **about)
        self._bed.cluster.down()
        self._bed.close()
        self._history.write("fault", event="effect", **about)
        self._history.write("restored", index=index)
        self._start("second", file)
        self._history.write("fault", event="end", **about)
        self._say("restored the cluster")
        self._wait_writes()

    def _start(self, name: str, restore: Path | None) -> None:
        options = ClusterOptions(nodes=3, agents=2, agent_cpus=3.0, prefetch=4, lease_ms=LEASE_MS, restore=restore)
        cluster = LocalCluster.create(self._directory / name, options)
        self._undo.add(EndCluster(str(cluster.directory)))
        (cluster.directory / MARKER).write_text(json.dumps({"made_for": "chaos"}) + "\n", encoding="utf-8")
        bed = Testbed(cluster, self._history, self._undo, None)
        try:
            bed.start()
        except BaseException:
            bed.close()
            raise
        self._bed = bed

    def _urls(self) -> Sequence[str]:
        assert self._bed is not None  # noqa: S101 - it was started
        return self._bed.cluster.urls

    async def _workload(self) -> Workload:
        return Workload(self._history, self._urls, None, self._settings)

    def _wait_writes(self) -> None:
        """Wait until some more writes are acknowledged."""
        for _ in range(_WRITES):
            if self._history.wait_acknowledged(self._history.now_s(), _WAIT_S) is None:
                raise LocalClusterError(f"the cluster acknowledged nothing within {_WAIT_S:g} s")

    def _save(self, file: Path) -> int:
        """Save a snapshot; returns its index."""
        assert self._bed is not None  # noqa: S101 - it was started
        with self._bed.cluster.client() as client:
            taken = client.take_snapshot()
            with ClusterSnapshotWriter(file, SnapshotLabel.of(taken)) as writer:
                offset = 0
                while offset < taken.size:
                    piece = client.read_snapshot(taken, offset)
                    writer.write(piece)
                    offset += len(piece)
                writer.finish()
        return int(taken.index)
