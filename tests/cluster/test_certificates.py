"""Mutual TLS on real processes: replicas, an agent and clients with certificates alone, and a new authority."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from raftflow.authority.folder import AuthorityFolder
from raftflow.certified_names import CertifiedName
from raftflow.client.client import Client
from raftflow.client.errors import ClientError
from raftflow.local.replica_files import free_ports
from raftflow.provision.files import write_private

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMES = ("n1", "n2", "n3")
WAIT_S = 60.0
"""Only a cluster that does not work needs so long."""


class CertifiedCluster:
    """Three replicas and an agent that have certificates and no token. Each machine has copies of its own files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = AuthorityFolder(directory / "ca")
        self.authority.create()
        for name in NAMES:
            self.authority.issue(CertifiedName("replica", name), ("127.0.0.1",))
        self.authority.issue(CertifiedName("agent", "a1"))
        self.authority.issue(CertifiedName("submit", "alice"))
        self.authority.issue(CertifiedName("operate", "olga"))
        ports = free_ports(6)
        self.urls = [f"https://127.0.0.1:{port}" for port in ports[:3]]
        self.peers = [f"127.0.0.1:{port}" for port in ports[3:]]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        write_private(directory / "secret", "s" * 40 + "\n")
        for name in (*NAMES, "a1", "alice", "olga"):
            self.hand_out(name)

    def place(self, name: str) -> Path:
        return self.directory / f"machine-{name}"

    def hand_out(self, name: str) -> None:
        """Copy the files of one machine there, each as a whole."""
        place = self.place(name)
        place.mkdir(mode=0o700, exist_ok=True)
        for file in (f"{name}.key", f"{name}.pem", "ca.pem", "crl.pem"):
            new = place / f".{file}"
            shutil.copy2(self.authority.path / file, new)
            new.replace(place / file)

    def start(self) -> None:
        members = "".join(
            f'[[cluster.members]]\nname = "{name}"\npeer = "{peer}"\nurl = "{url}"\n'
            for name, peer, url in zip(NAMES, self.peers, self.urls, strict=True)
        )
        for name in NAMES:
            place = self.place(name)
            (place / "replica.toml").write_text(
                f'[cluster]\nid = "tls"\nsecret_file = "{self.directory / "secret"}"\n{members}'
                f'[replica]\nname = "{name}"\ndata_dir = "{place / "data"}"\n'
                f'[tls]\napi_cert = "{name}.pem"\napi_key = "{name}.key"\napi_ca = "ca.pem"\n'
                f'api_client_ca = "ca.pem"\n'
                f'peer_cert = "{name}.pem"\npeer_key = "{name}.key"\npeer_ca = "ca.pem"\ncrl = "crl.pem"\n'
            )
            self._run(name, "coordinator", "run", "--config", str(place / "replica.toml"))
        place = self.place("a1")
        (place / "agent.toml").write_text(
            f'[agent]\npeers = {self.urls}\nname = "a1"\nwork_dir = "{place / "work"}"\n'
            'cacert = "ca.pem"\nclient_cert = "a1.pem"\nclient_key = "a1.key"\n'.replace("'", '"')
        )
        self._run("a1", "agent", "run", "--config", str(place / "agent.toml"))

    def _run(self, name: str, *arguments: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAFTFLOW_")}
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "raftflow", *arguments], stdout=log, stderr=log, env=environment,
                cwd=self.place(name), start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def client(self, name: str) -> Client:
        place = self.place(name)
        return Client(
            self.urls,
            cacert=str(place / "ca.pem"),
            client_cert=str(place / f"{name}.pem"),
            client_key=str(place / f"{name}.key"),
            timeout_s=30.0,
        )

    def words(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[CertifiedCluster]:
    made = CertifiedCluster(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def wait_for(cluster: CertifiedCluster, who: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with cluster.client(who) as client:
                if client.agents():
                    return
        except ClientError:
            pass
        assert time.monotonic() < deadline, [cluster.words(name) for name in (*NAMES, "a1")]
        time.sleep(0.1)


class Load:
    """Submits one workflow after the other and waits for each, until it is stopped."""

    def __init__(self, cluster: CertifiedCluster) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            # A new client each time, so a new connection: with the files that are there now.
            with self._cluster.client("alice") as client:
                try:
                    made = client.submit({"name": "w", "tasks": [{"id": "t", "command": ["true"]}]})
                    state = client.wait(made.id, timeout_s=60).state
                except ClientError as error:
                    self.failed.append(str(error))
                else:
                    self.failed += [] if state == "succeeded" else [state]
                self.done += 1

    def wait_for_more(self, count: int = 5) -> None:
        target, deadline = self.done + count, time.monotonic() + WAIT_S
        while self.done < target:
            assert time.monotonic() < deadline, self.failed
            time.sleep(0.05)


def reread(cluster: CertifiedCluster, name: str) -> None:
    """Hand the files of one machine out, and wait until its process has read them."""
    cluster.hand_out(name)
    if name not in cluster.processes:
        return
    before = cluster.words(name).count("read again")
    cluster.processes[name].send_signal(signal.SIGHUP)
    deadline = time.monotonic() + WAIT_S
    while cluster.words(name).count("read again") == before:
        assert time.monotonic() < deadline, cluster.words(name)
        time.sleep(0.05)


def test_a_new_authority_under_load_refuses_no_call(cluster: CertifiedCluster) -> None:
    wait_for(cluster, "olga")
    with cluster.client("olga") as operator, Load(cluster) as load:
        load.wait_for_more()
        term = operator.status(cluster.urls[0]).term
        cluster.authority.rotate()
        cluster.authority.renew()
        for name in ("n2", "alice", "a1", "n1", "n3", "olga"):
            reread(cluster, name)
            load.wait_for_more()
        cluster.authority.finish()
        for name in ("alice", "n3", "a1", "n1", "n2", "olga"):
            reread(cluster, name)
            load.wait_for_more()
    assert load.failed == []
    with cluster.client("olga") as operator:
        assert operator.status(cluster.urls[0]).term == term
        (agent,) = operator.agents()
        assert (agent.name, agent.state) == ("a1", "up")
    assert "incarnation 2" not in cluster.words("a1"), "the agent was lost"


def test_a_revoked_agent_and_a_revoked_client_are_out(cluster: CertifiedCluster) -> None:
    wait_for(cluster, "olga")
    with Load(cluster) as load:
        load.wait_for_more()
    assert load.failed == []
    cluster.authority.revoke("alice")
    cluster.authority.revoke("a1")
    for name in NAMES:
        reread(cluster, name)
    with cluster.client("alice") as client, pytest.raises(ClientError, match="valid token"):
        client.agents()
    with cluster.client("olga") as operator:
        deadline = time.monotonic() + WAIT_S
        while any(agent.state == "up" for agent in operator.agents()):
            assert time.monotonic() < deadline, "the agent is still there"
            time.sleep(0.1)
