"""Tokens are rotated while a client submits at full speed and agents work, and revoked while answers are held."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raftflow.client import Client, ClientError, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.domain.contract.views import AuditLine
    from raftflow.local.cluster import LocalCluster

SLOW_ELECTIONS = {"election_min_ms": 1_500, "election_max_ms": 3_000, "heartbeat_ms": 100}
WORK = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}
LONG = {"name": "long", "tasks": [{"id": "t", "command": ["sleep", "60"]}]}
ROTATIONS = 3
CALLS = 60
"""That are answered after each change, before the next one."""


def put_secret(path: Path, *lines: str) -> None:
    """Write a private file in one step, as a careful administrator does."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("".join(line + "\n" for line in lines))
    new.rename(path)


class Load:
    """A client that submits as fast as it can, from several threads."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answered = 0
        self.failed: list[str] = []
        self.last = ""
        self._over = threading.Event()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.last = self.client.submit(WORK).id
                self.answered += 1
            except ClientError as error:
                self.failed.append(str(error))

    def wait_calls(self, count: int) -> None:
        """Wait until so many more calls were answered."""
        goal, until_s = self.answered + count, time.monotonic() + 60
        while self.answered < goal and not self.failed:
            assert time.monotonic() < until_s, f"{self.answered} calls were answered, not {goal}"
            time.sleep(0.02)

    @contextmanager
    def running(self) -> Iterator[Load]:
        threads = [threading.Thread(target=self._run) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


def is_let_in(url: str, token: str) -> bool:
    with Client([url], token=token, environ={}, timeout_s=5) as client:
        try:
            client.identity()
        except Refused as refused:
            if refused.problem.status != 401:
                raise
            return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_tokens_are_rotated_under_load_and_a_revoked_one_ends(
    make_cluster: Callable[..., LocalCluster],
    audit: Callable[[LocalCluster], list[AuditLine]],
    tmp_path: Path,
    eventually: Callable[..., Any],
) -> None:
    cluster = make_cluster(agents=0, with_token=True, timing=SLOW_ELECTIONS)
    leader = cluster.wait_leader()
    before = cluster.status_of(leader)
    assert before is not None
    files = {name: tmp_path / f"{name}.token" for name in ("program", "a8", "a9")}
    with cluster.client() as admin:
        put_secret(files["program"], admin.create_token("program", "submit").token)
        for agent in ("a8", "a9"):
            put_secret(files[agent], admin.create_token(agent, "agent", agents=agent).token)
            cluster.add_agent(agent, ["--token-file", str(files[agent])])
        cluster.wait_agents()
        load = Load(Client(cluster.urls, token_file=files["program"], environ={}))
        with load.client, load.running():
            load.wait_calls(CALLS)
            for number in range(ROTATIONS):
                for name, file in files.items():
                    old = file.read_text().strip()
                    is_last = number == ROTATIONS - 1
                    new = admin.rotate_token(name, overlap_s=3.0 if is_last else 600.0).token
                    if name == "program":
                        assert is_let_in(cluster.url_of(leader), old), "the old secret is valid for a time"
                    put_secret(file, new)
                    load.wait_calls(CALLS)
            eventually(lambda: not any(is_let_in(url, old) for url in cluster.urls), what="the end of the old secret")
            load.wait_calls(CALLS)
            assert admin.wait(load.last, timeout_s=60).state == "succeeded"
        assert load.failed == []
        records = audit(cluster)
        assert sum(record.command == "agent.register" for record in records) == 2
        assert not any(record.command == "agent.remove" for record in records)
        after = cluster.status_of(leader)
        assert after is not None
        assert (after.role, after.term) == ("leader", before.term)

        secret = files["program"].read_text().strip()
        with Client(cluster.urls, token=secret, environ={}, timeout_s=30) as holder:
            workflow = admin.submit(LONG).id
            ends: list[float] = []

            def hold() -> None:
                with pytest.raises(ClientError, match=r"401|unauthorized|valid token"):
                    holder.wait(workflow, timeout_s=30)
                ends.append(time.monotonic())

            held = [threading.Thread(target=hold) for _ in range(3)]
            for thread in held:
                thread.start()
            time.sleep(0.5)  # the answers are held by now; a later question is refused as well
            admin.revoke_token("program")
            began_s = time.monotonic()
            eventually(lambda: not any(is_let_in(url, secret) for url in cluster.urls), what="the revocation")
            refused_s = time.monotonic() - began_s
            for thread in held:
                thread.join(timeout=30)
        assert len(ends) == 3
        assert refused_s < 5.0, "a second, and what a loaded machine adds"
        assert max(ends) - began_s < 5.0
        admin.cancel(workflow)


def statuses(cluster: LocalCluster) -> list[tuple[str, int]]:
    return [(name, status.term) for name, status in cluster.statuses().items() if status is not None]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_secret_and_the_token_of_the_configuration_are_replaced_under_load(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    cluster = make_cluster(agents=1, with_token=True, timing=SLOW_ELECTIONS)
    cluster.wait_leader()
    before = statuses(cluster)
    files = {name: cluster.directory / name for name in ("secret", "token")}
    old = {name: file.read_text().strip() for name, file in files.items()}
    new = {name: secrets.token_hex(32) for name in files}
    clients = tmp_path / "token"
    put_secret(clients, old["token"])
    known = dict.fromkeys(cluster.replica_names, 0)

    def read_again(name: str) -> None:
        """Have a replica read its files, and wait until it has."""
        cluster.signal(name, signal.SIGHUP)

        def has_read() -> bool:
            lines = cluster.log_file(name).read_text().splitlines()
            return len([line for line in lines if "read again: " in line]) >= known[name] + len(files)

        eventually(has_read, what=f"that {name} reads its files")
        known[name] += len(files)

    load = Load(Client(cluster.urls, token_file=clients, environ={}))
    with load.client, load.running():
        load.wait_calls(CALLS)
        for step in ("both", "new first", "only new"):
            for name, file in files.items():
                lines = {"both": (old, new), "new first": (new, old), "only new": (new,)}[step]
                put_secret(file, *(each[name] for each in lines))
            for name in cluster.replica_names:
                read_again(name)
                load.wait_calls(CALLS)
            if step == "new first":
                put_secret(clients, new["token"])
                load.wait_calls(4 * CALLS)
        load.wait_calls(CALLS)
    assert load.failed == []
    assert statuses(cluster) == before, "no election"
    eventually(lambda: not any(is_let_in(url, old["token"]) for url in cluster.urls), what="the end of the old token")
    assert all(is_let_in(url, new["token"]) for url in cluster.urls)
    for name in cluster.replica_names:
        log = cluster.log_file(name).read_text()
        assert "ERROR" not in log
        assert "wrong_secret" not in log
    victim = next(name for name in cluster.replica_names if name != cluster.wait_leader())
    cluster.kill(victim)
    cluster.start_replica(victim)
    eventually(lambda: len(statuses(cluster)) == len(before), what="that a replica starts with the new files")
