"""A cluster is born once: wiped majorities found no second one, and a first start is as easy as it was."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.client.client import Client
from raftflow.client.errors import ClientError
from raftflow.local import processes
from raftflow.local.cluster import LocalCluster
from raftflow.local.replica_files import reason_of_end

pytestmark = pytest.mark.slow

WITHIN_S = 10.0
WORKFLOW = {"name": "kept", "tasks": [{"id": "t", "command": ["true"]}]}
NEW_FIELDS = {
    "name": "new",
    "tasks": [{"id": "t", "command": ["true"], "kind": "k", "cache": True, "memory_max": "1GiB"}],
}


def raftflow(*arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raftflow", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def exit_code(cluster: LocalCluster, name: str, timeout_s: float = WITHIN_S) -> int | None:
    record = cluster._place(name).process
    assert record is not None
    assert processes.wait_end(record, timeout_s), f"{name} goes on: {cluster.log_file(name).read_text()[-600:]}"
    return processes.exit_code(record)


def stop_all(cluster: LocalCluster) -> None:
    for name in cluster.replica_names:
        cluster.stop(name)


def wipe_and_start(cluster: LocalCluster, wiped: tuple[str, ...], *, late: bool) -> None:
    """Start all again, the wiped ones on empty directories; the others first, or when the wiped ones run."""
    kept = [name for name in cluster.replica_names if name not in wiped]
    stop_all(cluster)
    for name in wiped:
        shutil.move(cluster.directory / name, cluster.directory / f"{name}.kept")
    for name in [*wiped, *kept] if late else [*kept, *wiped]:
        cluster.start_replica(name)


def put_back(cluster: LocalCluster, wiped: tuple[str, ...]) -> None:
    stop_all(cluster)
    for name in wiped:
        shutil.rmtree(cluster.directory / name)
        shutil.move(cluster.directory / f"{name}.kept", cluster.directory / name)
    for name in cluster.replica_names:
        cluster.start_replica(name)
    cluster.wait_ready()


def no_second_birth(cluster: LocalCluster, wiped: tuple[str, ...], *, late: bool) -> None:
    """Nobody leads, the wiped ones end with 1 and say why, clients end with 3; the old disks bring all back."""
    began = time.monotonic()
    wipe_and_start(cluster, wiped, late=late)
    for name in wiped:
        assert exit_code(cluster, name) == 1, name
        words = cluster.log_file(name).read_text()
        assert "was emptied" in words and "join = true" in words
    asked = raftflow("workflow", "list", "--peers", ",".join(cluster.urls), "--request-timeout", "1s")
    assert asked.returncode == 3, asked.stderr
    assert cluster.leader() is None
    assert time.monotonic() - began < WITHIN_S
    put_back(cluster, wiped)


@pytest.mark.timeout(180)
def test_a_wiped_majority_of_three_founds_no_second_cluster(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    with cluster.client() as client:
        kept = client.submit(WORKFLOW)
        for number, wiped in enumerate(itertools.combinations(cluster.replica_names, 2)):
            no_second_birth(cluster, wiped, late=number % 2 == 0)
            assert client.workflow(kept.id).id == kept.id
        # All of them: nothing is left that could be lost, and a new cluster is born.
        wipe_and_start(cluster, tuple(cluster.replica_names), late=False)
        cluster.wait_ready()
        assert client.submit(NEW_FIELDS).id != kept.id


@pytest.mark.timeout(240)
def test_a_wiped_majority_of_five_founds_no_second_cluster(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(nodes=5, agents=0)
    with cluster.client() as client:
        kept = client.submit(WORKFLOW)
        for wiped in (("n1", "n2", "n5"), ("n2", "n3", "n4", "n5")):
            no_second_birth(cluster, wiped, late=len(wiped) == 4)
            assert client.workflow(kept.id).id == kept.id


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_wiped_majority_of_five_founds_no_second_cluster(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(nodes=5, agents=0)
    majorities = [wiped for count in (3, 4) for wiped in itertools.combinations(cluster.replica_names, count)]
    with cluster.client() as client:
        kept = client.submit(WORKFLOW)
        for wiped, late in itertools.product(majorities, (True, False)):
            no_second_birth(cluster, wiped, late=late)
            assert client.workflow(kept.id).id == kept.id


def run_once(cluster: LocalCluster, name: str, *flags: str, timeout_s: float = 20.0) -> tuple[int, str]:
    """Run a replica until it ends by itself."""
    ended = raftflow("coordinator", "run", "--config", str(cluster.config_file(name)), *flags, timeout_s=timeout_s)
    return ended.returncode, ended.stderr


@pytest.mark.timeout(120)
def test_an_order_begins_a_cluster_of_two_and_the_third_comes_later(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., object]
) -> None:
    cluster = make_cluster(start=False, agents=0)
    first, second, third = cluster.replica_names
    cluster.start_replica(first)
    cluster.start_replica(second)

    def waits() -> bool:
        return all("n3 cannot be reached" in cluster.log_file(name).read_text() for name in (first, second))

    eventually(waits, timeout_s=WITHIN_S, what="that both say for whom they wait")
    assert "--bootstrap" in cluster.log_file(first).read_text()
    asked = raftflow("workflow", "list", "--peers", ",".join(cluster.urls), "--request-timeout", "1s")
    assert asked.returncode == 3, asked.stderr
    assert (status := cluster.status_of(first)) is not None and not status.ready and status.term == 0

    # Twice, and on two replicas: the second start with an order is as good as the first.
    cluster.stop(first)
    cluster.stop(second)
    ordered = start_ordered(cluster, first)
    time.sleep(0.5)
    ordered.kill()
    ordered.wait()
    ordered = [start_ordered(cluster, first), start_ordered(cluster, second)]
    try:
        eventually(lambda: asks(cluster, first), timeout_s=WITHIN_S, what="that it answers")
        with cluster.client() as client:
            made = client.submit(NEW_FIELDS)  # at once, though the third is away
            cluster.start_replica(third)
            eventually(lambda: (s := cluster.status_of(third)) is not None and s.ready, timeout_s=WITHIN_S)
            assert client.workflow(made.id).id == made.id
    finally:
        for process in ordered:
            process.terminate()
        for process in ordered:
            process.wait(20)
    code, words = run_once(cluster, first, "--bootstrap")
    assert code == 2 and "holds data" in words
    cluster.start_replica(first)
    cluster.start_replica(second)
    cluster.wait_ready()

    # On an emptied disk, beside a living cluster: an order does not help.
    cluster.stop(third)
    shutil.rmtree(cluster.directory / third)
    code, words = run_once(cluster, third, "--bootstrap")
    assert code == 1 and "was emptied" in words
    cluster.wait_leader()


def start_ordered(cluster: LocalCluster, name: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "raftflow", "coordinator", "run", "--config", str(cluster.config_file(name))]
    with cluster.log_file(name).open("ab") as output:
        return subprocess.Popen([*argv, "--bootstrap"], stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def asks(cluster: LocalCluster, name: str) -> bool:
    try:
        with Client([cluster.url_of(name)], timeout_s=2.0) as client:
            return client.status(cluster.url_of(name)).leader is not None
    except ClientError:
        return False


@pytest.mark.timeout(120)
def test_an_order_is_refused_where_a_member_has_data(make_cluster: Callable[..., LocalCluster]) -> None:
    """A listed replica that never ran is ordered to bootstrap beside two that were born by order."""
    cluster = make_cluster(start=False, agents=0)
    first, second, third = cluster.replica_names
    cluster.start_replica(second)
    ordered = start_ordered(cluster, first)
    try:
        with cluster.client() as client:
            client.submit(WORKFLOW)
            code, words = run_once(cluster, third, "--bootstrap")
            assert code == 2 and "was born already" in words
            cluster.start_replica(third)  # as it says: without
            client.submit(WORKFLOW)
    finally:
        ordered.terminate()
        ordered.wait(20)


def test_member_lists_that_differ_are_reported_and_a_corrected_file_is_enough(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., object]
) -> None:
    cluster = make_cluster(start=False, agents=0)
    file = cluster.config_file("n2")
    right = file.read_text()
    file.write_text(right.replace('name = "n3"', 'name = "n33"'))
    for name in cluster.replica_names:
        cluster.start_replica(name)
    eventually(lambda: "lists other members" in cluster.log_file("n1").read_text(), timeout_s=WITHIN_S)
    assert cluster.leader() is None
    cluster.stop("n2")
    file.write_text(right)
    cluster.start_replica("n2")
    cluster.wait_ready()


def test_a_directory_emptied_before_the_birth_does_no_harm(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(start=False, agents=0)
    cluster.start_replica("n1")
    cluster.start_replica("n2")
    cluster._wait(lambda: links_up(cluster.log_file("n1")), WITHIN_S, "n1 and n2 do not meet")
    cluster.stop("n2")
    shutil.rmtree(cluster.directory / "n2")
    cluster.start_replica("n2")
    cluster.start_replica("n3")
    cluster.wait_ready()


def links_up(log: Path) -> bool:
    return "link to n2 is up" in log.read_text()


def test_cluster_up_says_which_replica_was_emptied(make_cluster: Callable[..., LocalCluster]) -> None:
    """One wiped replica of three does not keep the others from serving; a wiped majority does."""
    cluster = make_cluster(agents=0)
    directory = str(cluster.directory)
    for wiped in (("n3",), ("n2",)):
        stop_all(cluster)
        for name in wiped:
            shutil.rmtree(cluster.directory / name)
        ended = raftflow("cluster", "up", "--data-dir", directory, timeout_s=40.0)
        assert ended.returncode == 1
        assert "was emptied" in ended.stderr and f"{wiped[0]}: " in ended.stderr
    assert cluster.leader() is None


def test_the_reason_of_a_stop_is_reported_although_lines_follow_it() -> None:
    """What a stop closes may complain, and a start may end before there is a log."""
    assert reason_of_end("09:00 INFO up\n09:01 CRITICAL it stops: why\n09:01 ERROR connection closed\n") == (
        "09:01 CRITICAL it stops: why"
    )
    assert reason_of_end("an old CRITICAL line\n" + "09:01 INFO up\n" * 5 + "Error: no such file\n") == (
        "Error: no such file"
    )
    assert reason_of_end("\n") == "no output"
