"""Two of three disks are gone: the cluster continues from the survivor, or from a snapshot, as the page says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.client import Client
from raftflow.client.errors import ClientError
from raftflow.local.cluster import LocalCluster

pytestmark = pytest.mark.slow

RAFTFLOW = str(Path(sys.executable).with_name("raftflow"))
STORE = """
fence=$RAFTFLOW_FENCE
exec 9>"$1.lock"; flock 9
last=$(cat "$1" 2>/dev/null || echo 0)
[ "$fence" -ge "$last" ] || { echo "fence $fence after $last" >> "$1.refused"; exit 3; }
echo "$fence" > "$1"; echo "$fence" >> "$1.all"
"""
"""A store outside that checks fences, as the page about fencing says."""


def run(*arguments: object, code: int = 0) -> str:
    done = subprocess.run([RAFTFLOW, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, f"$ raftflow {arguments}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def chain(script: Path, store: Path, length: int) -> dict[str, object]:
    """Return a document of tasks that write to the store, one after the other."""
    tasks = [
        {
            "id": f"t{number}",
            "command": ["sh", str(script), str(store)],
            "needs": [f"t{number - 1}"] if number else [],
            "resources": {"cpu": 0.1},
        }
        for number in range(length)
    ]
    tasks.append({"id": "long", "command": ["sleep", "300"], "resources": {"cpu": 0.1}})
    return {"name": "chain", "tasks": tasks}


@pytest.fixture
def restored(tmp_path: Path) -> object:
    """Return a function that finds the new cluster; it is taken down at the end."""
    place = tmp_path / "new"

    def load() -> LocalCluster:
        return LocalCluster.load(place)

    yield load
    if (place / "cluster.json").exists():
        load().down()


@pytest.mark.parametrize("way", ["survivor", "snapshot"])
def test_two_of_three_disks_are_lost_under_load(
    tmp_path: Path, make_cluster: Callable[..., LocalCluster], restored: Callable[[], LocalCluster], way: str
) -> None:
    old = make_cluster(agents=2, lease_ms=2_000)
    script, saved = tmp_path / "write.sh", tmp_path / "saved"
    stores = [tmp_path / f"store{number}" for number in range(3)]
    script.write_text(STORE)
    with old.client() as client:
        known = [client.submit(chain(script, store, 15)).id for store in stores]
        _wait(stores[-1].exists, "a task wrote")
        if way == "snapshot":
            run("snapshot", "save", saved, "--data-dir", old.directory)
        survivor = next(name for name in old.replica_names if name != old.wait_leader())
        _submit_until_applied(old, survivor, client, known, way)
    for name in old.replica_names:
        old.kill(name)
    for name in old.replica_names:
        if name != survivor or way == "snapshot":
            shutil.rmtree(old.directory / name)

    began_s = time.monotonic()
    commands = 0
    if way == "survivor":
        # While a quorum could come back the command refuses.
        told = run("recover", "--config", old.config_file(survivor), "--to", saved, code=4)
        assert "they may come back" in told and "everything that was acknowledged up to entry" in told
        run("recover", "--config", old.config_file(survivor), "--to", saved, "--i-know-the-others-are-gone")
        commands += 1
    run("snapshot", "verify", saved)
    run("cluster", "up", "--data-dir", tmp_path / "new", "--agents", 2, "--restore", saved)
    commands += 2
    new = restored()
    with new.client() as client:
        _finish_all(client, known)
        assert time.monotonic() - began_s < 60 and commands <= 5
        assert client.ledger_verify(new.url_of("n1")).ok and client.audit_verify(new.url_of("n1")).ok
        for store in stores:
            fences = [int(line) for line in store.with_name(f"{store.name}.all").read_text().split()]
            assert fences == sorted(set(fences)), "an effect came twice, or with an older fence"
        history = [client.task(workflow, "long").history for workflow in known[: len(stores)]]
        assert any(attempt.outcome == "fenced" for attempts in history for attempt in attempts)
        for attempts in history:
            fences = [attempt.fence for attempt in attempts]
            assert fences == sorted(set(fences))
    new.wait_equal()


def _submit_until_applied(old: LocalCluster, survivor: str, client: Client, known: list[str], way: str) -> None:
    """Go on submitting, and return when the survivor has applied all that it is asked for later."""
    if way == "snapshot":
        client.submit({"name": "later", "tasks": [{"id": "t", "command": ["true"]}]})
        return
    last = client.submit({"name": "last", "tasks": [{"id": "t", "command": ["sleep", "1"]}]}).id
    known.append(last)
    with Client([old.url_of(survivor)], environ={}) as asked:
        _wait(lambda: asked.cluster_status() and _has(old, survivor, last), "the survivor has the last one")


def _has(old: LocalCluster, survivor: str, workflow: str) -> bool:
    leader, mine = old.status_of(old.wait_leader()), old.status_of(survivor)
    return leader is not None and mine is not None and mine.applied_index >= leader.commit_index and bool(workflow)


def _finish_all(client: Client, known: list[str]) -> None:
    """Wait until everything but the long tasks has ended well, then cancel these."""
    for workflow in known:
        _wait(lambda workflow=workflow: _has_succeeded(client, workflow), f"{workflow} finishes")
        try:
            client.cancel(workflow)
        except ClientError:
            assert client.workflow(workflow).state == "succeeded"


def _has_succeeded(client: Client, workflow: str) -> bool:
    states = [task.state for task in client.tasks(workflow) if task.id != "long"]
    assert "failed" not in states
    return set(states) == {"succeeded"}


def _wait(condition: Callable[[], object], what: str, timeout_s: float = 50.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)


def test_agents_and_replicas_of_the_old_cluster_are_refused(
    tmp_path: Path, make_cluster: Callable[..., LocalCluster], restored: Callable[[], LocalCluster]
) -> None:
    """The new cluster takes the old one's addresses, so that old agents and an old replica meet it."""
    old = make_cluster(agents=1, lease_ms=3_000)
    saved, restored_mark = tmp_path / "saved", tmp_path / "restored"
    with old.client() as client:
        wait = f"until [ -e {restored_mark} ]; do sleep 0.1; done"
        workflow = client.submit({"name": "w", "tasks": [{"id": "t", "command": ["sh", "-c", wait]}]}).id
        _wait(lambda: client.task(workflow, "t").state == "running", "it runs")
        first = client.task(workflow, "t").history[-1].fence
        run("snapshot", "save", saved, "--data-dir", old.directory)
    for name in old.replica_names:
        old.kill(name)
    old_id, new_id = old._file.content.cluster_id, ""
    for name in old.replica_names:
        shutil.move(old.directory / name, tmp_path / f"old-{name}")
        file = old.config_file(name)
        refused = run("coordinator", "restore", "--config", file, "--from", saved, code=1)
        new_id = new_id or refused[refused.index('id = "') :].split('"')[1]
        file.write_text(file.read_text().replace(old_id, new_id))
        run("coordinator", "restore", "--config", file, "--from", saved)
    for name in ("n1", "n2"):
        old.start_replica(name)
    shutil.move(old.directory / "n3", tmp_path / "new-n3")
    shutil.move(tmp_path / "old-n3", old.directory / "n3")
    text = old.config_file("n3").read_text()
    old.config_file("n3").write_text(text.replace(new_id, old_id))
    old.start_replica("n3")
    _wait(lambda: old.leader() in {"n1", "n2"}, "the new cluster has a leader")
    restored_mark.touch()
    with old.client() as client:
        _wait(lambda: client.workflow(workflow).state == "succeeded", "it ends")
        attempts = client.task(workflow, "t").history
        assert [(attempt.fence, attempt.outcome) for attempt in attempts[:1]] == [(first, "fenced")]
        assert attempts[-1].outcome == "succeeded" and attempts[-1].fence > first + 10**9
        assert old.leader() in {"n1", "n2"}
        _wait(lambda: "cluster" in old.log_file("n3").read_text(), "the old replica says why it is alone")


def test_an_effect_that_was_under_way_is_not_called_again_by_the_new_cluster(
    tmp_path: Path,
    make_cluster: Callable[..., LocalCluster],
    restored: Callable[[], LocalCluster],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old cluster goes on after the copy and pays. Nobody can tell that to the new one but a person."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "sdk"))
    old = make_cluster(agents=1)
    paid, gate, saved = tmp_path / "paid", tmp_path / "gate", tmp_path / "saved"
    task = {"id": "t", "python": "effect_jobs:blind_at", "args": [str(paid), str(gate)], "retries": 3}
    with old.client() as client:
        workflow = client.submit({"name": "w", "tasks": [task]}).id
        _wait(paid.exists, "the effect is called")
        run("snapshot", "save", saved, "--data-dir", old.directory)
        gate.touch()
        assert client.wait(workflow, timeout_s=60).state == "succeeded"
    old.down()
    told = run("cluster", "up", "--data-dir", tmp_path / "new", "--agents", 1, "--restore", saved)
    with restored().client() as client:
        _wait(lambda: [each.state for each in client.effects()] == ["uncertain"], told)
        assert len(paid.read_text().splitlines()) == 1
        (effect,) = client.effects()
        client.resolve_effect(effect.id, "done", result="paid once")
        assert client.wait(workflow, timeout_s=60).state == "succeeded"
        assert client.results(workflow)["t"] == "paid once"
    assert len(paid.read_text().splitlines()) == 1
