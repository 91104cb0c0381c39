"""Files that raftflow makes are their owner's alone under any umask; data that was open is closed at the start."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftflow.local.cluster import LocalCluster

SCRIPT = Path(sysconfig.get_path("scripts"), "raftflow")
SNAPSHOTS = '[snapshot]\nevery = "1s"\nkeep = 1\ndir = "{}"\n'


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> list[str]:
    """Files and folders that others can reach and use. What is in a closed folder is closed."""
    if directory.stat().st_mode & 0o077 == 0:
        return []
    found = [str(directory)]
    for path in directory.iterdir():
        if path.is_dir():
            found += open_to_others(path)
        elif path.lstat().st_mode & 0o077:
            found.append(str(path))
    return found


def open_files(directory: Path) -> list[str]:
    """Every file and folder with a right for others, also in closed folders.

    Not what tasks make in folders of theirs, and the code that containers of other users read there.
    """
    return [
        f"{stat.S_IMODE(path.lstat().st_mode):04o} {path.relative_to(directory)}"
        for path in sorted(directory.rglob("*"))
        if path.lstat().st_mode & 0o077 and not path.is_symlink() and not {"exchange", "code"} & set(path.parts)
    ]


@pytest.mark.usefixtures("no_umask")
def test_nothing_that_a_cluster_or_a_command_writes_is_open_to_others(
    make_cluster: Callable[..., LocalCluster], tmp_path: Path, eventually: Callable[..., object]
) -> None:
    place = tmp_path / "made"
    place.mkdir(mode=0o700)
    saved = place / "by" / "itself"
    project = tmp_path / "project"
    project.mkdir()
    (project / "mine.py").write_text("def shout(text):\n    print(text)\n    return text * 50_000\n")
    cluster = make_cluster(nodes=1, agents=1, with_token=True, replica_toml=SNAPSHOTS.format(saved))
    cluster.wait_leader()
    cluster.wait_agents()
    tasks = [
        {"id": "python", "python": "mine:shout", "args": ["x"]},
        {"id": "large", "command": ["sh", "-c", "wc -c < $RAFTFLOW_INPUTS > $RAFTFLOW_RESULT"], "needs": ["python"]},
    ]
    environment = {**os.environ, "RAFTFLOW_PEERS": ",".join(cluster.urls), "RAFTFLOW_TOKEN": cluster.token or ""}

    def command_line(*arguments: str) -> None:
        subprocess.run([sys.executable, str(SCRIPT), *arguments], env=environment, check=True, capture_output=True)

    with cluster.client() as client:
        run = client.submit({"name": "one", "tasks": tasks, "code": client.send_bundle(project).digest})
        client.wait(run.id, timeout_s=60)
        assert client.workflow(run.id).state == "succeeded"
        eventually(lambda: list(saved.glob("*.bundles/*")), what="a snapshot with the code bundle beside it")
        command_line("snapshot", "save", str(place / "one.snapshot"))
        command_line("audit", "export", str(place / "audit"))
        command_line("cert", "init", "--dir", str(place / "a" / "authority"))
        command_line("config", "init", "--dir", str(place / "b" / "config"), "--hosts", "10.0.0.1,10.0.0.2,10.0.0.3")
        cluster.plan_replica()
    found = [line for folder in (cluster.directory, place) for line in open_files(folder)]
    assert found == []
    assert open_to_others(cluster.directory) == []


def test_a_data_directory_that_was_open_is_closed_at_the_start(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(nodes=1, agents=1)
    cluster.wait_leader()
    cluster.wait_agents()
    cluster.down()
    data, work, log = cluster.directory / "n1", cluster.directory / "a1", cluster.log_file("n1")
    for path in (data, data / "journal", *(data / "journal").iterdir(), work, log):
        path.chmod(path.stat().st_mode | 0o055)
    before = log.read_text()
    cluster.start()
    cluster.wait_leader()
    cluster.wait_agents()
    assert open_files(cluster.directory) == []
    told = log.read_text().removeprefix(before)
    assert told.count(f"other users had rights to {data}, which holds all documents and results: taken away now") == 1
    assert f"others may enter the work directory {work}: taken away now" in cluster.log_file("a1").read_text()
