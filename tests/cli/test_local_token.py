"""The directory of a local cluster with a token is all that a command or a shell needs."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from raftflow.cli.terminal.options import resolve
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions


def test_data_dir_brings_the_clusters_own_token(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "c", ClusterOptions(with_token=True))
    elsewhere = {"RAFTFLOW_TOKEN": "of-another-cluster", "RAFTFLOW_PEERS": "http://elsewhere:1"}
    assert cluster.token
    assert resolve({"local_dir": tmp_path / "c"}, elsewhere) == {"peers": cluster.urls, "token": cluster.token}
    flags = {"local_dir": tmp_path / "c", "token": "given"}
    assert resolve(flags, elsewhere) == {"peers": cluster.urls, "token": "given"}


def test_a_cluster_without_a_token_is_sent_none(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "c", ClusterOptions())
    assert resolve({"local_dir": tmp_path / "c"}, {"RAFTFLOW_TOKEN": "x" * 20})["token"] is None
    script = f'RAFTFLOW_TOKEN=old; . {cluster.client_file}; echo "$RAFTFLOW_PEERS ${{RAFTFLOW_TOKEN-none}}"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [",".join(cluster.urls), "none"]


def test_a_shell_learns_peers_and_token_from_a_private_file(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "a b", ClusterOptions(with_token=True))
    assert stat.S_IMODE(cluster.client_file.stat().st_mode) == 0o600
    script = '. "$0"; echo "$RAFTFLOW_PEERS $RAFTFLOW_TOKEN"'
    argv = ["sh", "-c", script, str(cluster.client_file)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert shown.split() == [",".join(cluster.urls), cluster.token]
