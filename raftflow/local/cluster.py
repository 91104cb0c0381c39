"""A local cluster: replicas and agents as separate processes on free loopback ports, under one directory.

DIR/cluster.json      who was started: names, ports, pids
DIR/secret            the replicas' shared secret
DIR/token             what clients and agents must show, if the cluster asks for it
DIR/client.env        peers and token for a shell: `. DIR/client.env`
DIR/n1.toml ...       one coordinator configuration each, as an operator would write it
DIR/n1/ ...           data of each replica
DIR/a1/ ...           work directory of each agent
DIR/logs/             standard output and error of each process
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from raftflow import helpers
from raftflow.client.client import Client
from raftflow.client.errors import ClientError, NotFound, Refused
from raftflow.domain.contract.views import ReplicaStatus
from raftflow.local import processes
from raftflow.local.cluster_file import (
    AgentPlace,
    ClusterFile,
    ClusterFileStore,
    ClusterOptions,
    LocalClusterError,
    ReplicaPlace,
)
from raftflow.local.processes import ProcessRecord
from raftflow.local.replica_files import free_ports, reason_of_end, replica_head, replica_toml
from raftflow.local.restoring import id_for, restore_replicas
from raftflow.private_files import PrivateFileError, make_folders, read_token, write_private
from raftflow.provision.files import CLIENT, client_settings

NODES_MAX = 9
AGENTS_MAX = 64
READY_S = 30.0
_POLL_S = 0.02
_STATUS_TIMEOUT_S = 2.0


T = TypeVar("T")


class LocalCluster:
    """A running (or stopped) local cluster and its directory."""

    def __init__(self, directory: Path, content: ClusterFile) -> None:
        self.directory = directory
        self._file = ClusterFileStore(directory, content)
        self.missing_bundles: list[str] = []
        """Code bundles that were not beside the snapshot of which the cluster was made just now."""

    # --- making and finding

    @classmethod
    def create(cls, directory: Path, options: ClusterOptions) -> LocalCluster:
        """Choose ports and write every file; starts nothing. Raises `LocalClusterError`."""
        if not 1 <= options.nodes <= NODES_MAX or options.nodes % 2 == 0:
            raise LocalClusterError(f"--nodes must be odd and at most {NODES_MAX}: 3 survives one loss, 5 two")
        if not 0 <= options.agents <= AGENTS_MAX:
            raise LocalClusterError(f"--agents must be between 0 and {AGENTS_MAX}")
        directory = directory.absolute()
        if (directory / "cluster.json").exists():
            raise LocalClusterError(
                f"{directory} already holds a cluster: start it again without other options, or remove the directory"
            )
        cluster_id = _new_id(options.restore)
        make_folders(directory)
        (directory / "logs").mkdir(mode=0o700, exist_ok=True)
        ports = free_ports((4 if options.proxied else 2) * options.nodes)
        behind = ports[2 * options.nodes :] or [0] * (2 * options.nodes)
        hosts = options.hosts or (("127.0.0.1", []),) * options.nodes
        replicas = [
            ReplicaPlace(
                name=f"n{number + 1}",
                url=f"http://{host}:{ports[2 * number]}",
                peer=f"{host}:{ports[2 * number + 1]}",
                machine=machine,
                module=options.replica_module,
                bind=behind[2 * number],
                peer_bind=behind[2 * number + 1],
            )
            for number, (host, machine) in enumerate(hosts)
        ]
        resources = ["--cpus", str(options.agent_cpus), "--memory", options.agent_memory]
        agent_machines = options.agent_machines or ([],) * options.agents
        agent_labels = options.agent_labels or ({},) * options.agents
        agents = [
            AgentPlace(
                name=f"a{number + 1}",
                arguments=[
                    *resources,
                    "--prefetch",
                    str(options.prefetch),
                    *(word for label in agent_labels[number].items() for word in ("--label", "=".join(label))),
                ],
                machine=agent_machines[number],
            )
            for number in range(options.agents)
        ]
        content = ClusterFile(
            cluster_id=cluster_id,
            directory=str(directory),
            with_token=options.with_token,
            replicas=replicas,
            agents=agents,
        )
        for name in ("secret", "token") if options.with_token else ("secret",):
            secret = directory / name
            write_private(secret, secrets.token_hex(32) + "\n")
        cluster = cls(directory, content)
        for replica in replicas:
            write_private(cluster.config_file(replica.name), replica_toml(content, replica, options))
        write_private(cluster.client_file, client_settings(cluster.urls, cluster.token))
        if options.restore is not None:
            cluster.missing_bundles = restore_replicas(
                [cluster.config_file(replica.name) for replica in replicas], options.restore
            )
        cluster._file.save()
        return cluster

    @classmethod
    def load(cls, directory: Path) -> LocalCluster:
        """Find the cluster of a directory again. Raises `LocalClusterError`."""
        directory = directory.absolute()
        if not (directory / "cluster.json").exists():
            raise LocalClusterError(
                f"{directory} holds no local cluster: make one with `raftflow cluster up --data-dir {directory}`"
            )
        cluster = cls(directory, ClusterFile(cluster_id="", replicas=[], agents=[]))
        cluster._file.refresh()
        cluster._file.check_place()
        return cluster

    # --- looking

    @property
    def urls(self) -> list[str]:
        """The peers as clients and agents need them."""
        return [replica.url for replica in self._file.content.replicas]

    @property
    def replica_names(self) -> list[str]:
        """Names of the replicas, in order."""
        return [replica.name for replica in self._file.content.replicas]

    @property
    def agent_names(self) -> list[str]:
        """Names of the agents, in order."""
        return [agent.name for agent in self._file.content.agents]

    @property
    def token(self) -> str | None:
        """What clients and agents must show, None if they need not. Raises `LocalClusterError`."""
        if not self._file.content.with_token:
            return None
        try:
            return read_token(self.directory / "token")
        except PrivateFileError as error:
            raise LocalClusterError(str(error)) from error

    @property
    def client_file(self) -> Path:
        """The file that tells a shell where this cluster is, with its token."""
        return self.directory / CLIENT

    def client(self, timeout_s: float = 30.0) -> Client:
        """Return a client of this cluster."""
        return Client(self.urls, token=self.token, timeout_s=timeout_s, environ={})

    def config_file(self, name: str) -> Path:
        """Return the configuration file of a replica."""
        return self.directory / f"{name}.toml"

    def log_file(self, name: str) -> Path:
        """Return the file with the output of a replica or an agent."""
        return self.directory / "logs" / f"{name}.log"

    def peer_of(self, name: str) -> tuple[str, int]:
        """Return the host and port where a replica listens for other replicas."""
        host, _, port = self._replica(name).peer.rpartition(":")
        return host, int(port)

    def ports_behind(self, name: str) -> list[tuple[int, int]]:
        """Return the ports of a replica's addresses, each with the port behind the proxy; empty without a proxy."""
        replica = self._replica(name)
        pairs = ((replica.url, replica.bind), (replica.peer, replica.peer_bind))
        return [(int(address.rpartition(":")[2]), port) for address, port in pairs if port]

    def url_of(self, name: str) -> str:
        """Return a replica's address for clients."""
        return self._replica(name).url

    def pid_of(self, name: str) -> int | None:
        """Return the pid of a replica or an agent that runs, else None."""
        process = self._place(name).process
        return process.pid if process is not None and processes.alive(process) else None

    def process_of(self, name: str) -> ProcessRecord | None:
        """Return the process of a replica or an agent as it was started last, whether it runs or not."""
        return self._place(name).process

    def status_of(self, name: str) -> ReplicaStatus | None:
        """Ask one replica; None if it does not answer."""
        if self.pid_of(name) is None:
            return None
        try:
            with Client([self.url_of(name)], token=self.token, timeout_s=_STATUS_TIMEOUT_S, environ={}) as client:
                return client.status(self.url_of(name))
        except ClientError:
            return None

    def statuses(self) -> dict[str, ReplicaStatus | None]:
        """Ask every replica."""
        return {name: self.status_of(name) for name in self.replica_names}

    def leader(self) -> str | None:
        """Return the leader's name: the ready leader of the highest term among those that answer."""
        best: ReplicaStatus | None = None
        for status in self.statuses().values():
            ahead = status is not None and (best is None or status.term > best.term)
            if status is not None and status.role == "leader" and status.ready and ahead:
                best = status
        return None if best is None else best.name

    # --- starting, stopping, killing

    def start(self) -> None:
        """Start every process that does not run and wait until the cluster is ready."""
        for name in self.replica_names:
            self.start_replica(name)
        self.wait_ready()
        for name in self.agent_names:
            self.start_agent(name)
        self.wait_agents()

    def start_replica(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start one replica unless it runs, with these variables in its environment too."""
        with self._file.changing():
            replica = self._replica(name)
            if replica.process is not None and processes.alive(replica.process):
                return
            run = helpers.command(replica.module, "coordinator", "run", "--config", str(self.config_file(name)))
            argv = [*replica.machine, *run]
            env = {**_clean_environment(), **(environment or {})}
            replica.process = processes.start(argv, log=self.log_file(name), env=env)

    def start_agent(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start one agent unless it runs, with these variables in its environment too."""
        work = self.directory / name
        work.mkdir(mode=0o700, exist_ok=True)
        with self._file.changing():
            agent = self._agent(name)
            if agent.process is not None and processes.alive(agent.process):
                return
            argv = helpers.command("raftflow", "agent", "run", "--peers", ",".join(self.urls), "--name", name)
            argv += ["--work-dir", str(work), *agent.arguments]
            env = _clean_environment() | ({"RAFTFLOW_TOKEN": self.token} if self.token else {})
            argv, env = [*agent.machine, *argv], env | dict(environment or {})
            agent.process = processes.start(argv, log=self.log_file(name), env=env)

    def add_replica(
        self, host: str = "127.0.0.1", machine: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> str:
        """Start a replica on an empty disk and make it a member; returns its name when it counts for majorities.

        Agents and clients that run already know the old replicas only. Raises `LocalClusterError`, `ClientError`.
        """
        name = self.plan_replica(host, machine)
        self.join_replica(name, environment)
        return name

    def plan_replica(self, host: str = "127.0.0.1", machine: Sequence[str] = ()) -> str:
        """Write the files of a replica that is to join, and return its name. Raises `LocalClusterError`."""
        with self._file.changing():
            first = self._file.content.replicas[0]
            number = 1 + max(int(replica.name[1:]) for replica in self._file.content.replicas)
            while self.config_file(f"n{number}").exists():
                number += 1  # a name is never used again
            ports = free_ports(4 if first.bind else 2)
            place = ReplicaPlace(
                name=f"n{number}",
                url=f"http://{host}:{ports[0]}",
                peer=f"{host}:{ports[1]}",
                machine=list(machine),
                module=first.module,
            )
            if first.bind:
                place.bind, place.peer_bind = ports[2:]
            pattern = self.config_file(first.name).read_text(encoding="utf-8")
            self._file.content.replicas.append(place)
            head = replica_head(self._file.content, place, join=True)
            settings = pattern[pattern.index("[timing]") :]
            write_private(self.config_file(place.name), f"{head}\n{settings}")
        return place.name

    def join_replica(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a planned replica and make it a member. Raises `LocalClusterError`, `ClientError`."""
        self.start_replica(name, environment)
        place = self._replica(name)
        with self.client() as client:
            client.add_member(place.name, place.peer, place.url)

    def remove_replica(self, name: str, grace_s: float = 20.0) -> None:
        """Take a replica out of the cluster for ever; its process stops by itself, by force after `grace_s`."""
        with self.client() as client:
            client.remove_member(name)
        process = self._place(name).process
        if process is not None and not processes.wait_end(process, grace_s):
            processes.stop(process, grace_s=grace_s)
        with self._file.changing():
            self._file.content.replicas = [replica for replica in self._file.content.replicas if replica.name != name]

    def add_agent(self, name: str, arguments: list[str]) -> None:
        """Add an agent with its own command-line arguments and start it."""
        with self._file.changing():
            if name in self.agent_names or name in self.replica_names:
                raise LocalClusterError(f"{name!r} is taken")
            self._file.content.agents.append(AgentPlace(name=name, arguments=arguments))
        self.start_agent(name)

    def signal(self, name: str, signum: signal.Signals) -> bool:
        """Send a signal to a replica or an agent. False if it does not run."""
        process = self._place(name).process
        return process is not None and processes.send(process, signum)

    def kill(self, name: str) -> float:
        """SIGKILL a replica or an agent; returns the wall-clock time of the kill in seconds since the epoch.

        Raises `LocalClusterError` if it does not run.
        """
        at = time.time()
        if not self.signal(name, signal.SIGKILL):
            raise LocalClusterError(f"{name} does not run")
        process = self._place(name).process
        if process is not None:
            processes.wait_end(process, 10.0)
        return at

    def stop(self, name: str, grace_s: float = 20.0) -> None:
        """Stop one process gracefully, by force after `grace_s`."""
        process = self._place(name).process
        if process is not None:
            processes.stop(process, grace_s=grace_s)

    def down(self) -> None:
        """Stop agents, then replicas. Ends only what this directory's file names."""
        self._file.refresh()
        for agent in self._file.content.agents:
            self.signal(agent.name, signal.SIGTERM)
        for agent in self._file.content.agents:
            self.stop(agent.name, grace_s=10.0)
        for replica in self._file.content.replicas:
            self.signal(replica.name, signal.SIGTERM)
        for replica in self._file.content.replicas:
            self.stop(replica.name)

    # --- waiting

    def wait_ready(self, timeout_s: float = READY_S) -> str:
        """Wait for a leader and for every running replica to be ready; returns the leader's name."""

        def ready() -> str | None:
            running = [name for name in self.replica_names if self.pid_of(name) is not None]
            if 2 * len(running) <= len(self.replica_names):
                raise LocalClusterError(f"only {len(running)} replicas run: {self.last_words()}")
            statuses = [self.status_of(name) for name in running]
            return self.leader() if all(status is not None and status.ready for status in statuses) else None

        return self._wait(ready, timeout_s, "the replicas are not ready")

    def wait_leader(self, timeout_s: float = READY_S) -> str:
        """Wait for a ready leader; returns its name."""
        return self._wait(self.leader, timeout_s, "there is no leader")

    def wait_agents(self, timeout_s: float = READY_S) -> None:
        """Wait until every agent that runs is up in the task table."""

        def up() -> bool:
            wanted = {name for name in self.agent_names if self.pid_of(name) is not None}
            with self.client(timeout_s=5.0) as client:
                return wanted <= {agent.name for agent in client.agents() if agent.up}

        self._wait(up, timeout_s, "the agents have not registered")

    def wait_equal(self, timeout_s: float = READY_S) -> dict[str, ReplicaStatus]:
        """Wait until all running replicas show the same digest at the same index; returns their statuses."""

        def equal() -> dict[str, ReplicaStatus] | None:
            found = {name: status for name, status in self.statuses().items() if status is not None}
            same = len({status.digest_index for status in found.values()}) == 1
            return found if found and same else None

        return self._wait(equal, timeout_s, "the replicas do not come to rest at one index")

    def _wait(self, condition: Callable[[], T | None], timeout_s: float, complaint: str) -> T:
        """Ask until the answer is true. Raises `LocalClusterError` with the complaint after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        last = ""
        while True:
            try:
                answer = condition()
                if answer:
                    return answer
            except ClientError as error:
                if isinstance(error, Refused) and error.lasting and not isinstance(error, NotFound):
                    raise LocalClusterError(f"{complaint}: {error}") from error
                last = f" ({error})"
            if time.monotonic() >= deadline:
                raise LocalClusterError(f"{complaint} after {timeout_s:g} s{last}: {self.last_words()}")
            time.sleep(_POLL_S)

    # --- inside

    def last_words(self) -> str:
        """Return why each replica that does not run stopped: its last critical line, otherwise its last line.

        What a stop closes may complain after the reason was written.
        """
        lines = [
            f"{name}: {reason_of_end(self.log_file(name).read_text('utf-8', 'replace'))}"
            for name in self.replica_names
            if self.pid_of(name) is None and self.log_file(name).exists()
        ]
        return "; ".join(lines) + f" (logs in {self.directory / 'logs'})"

    def _replica(self, name: str) -> ReplicaPlace:
        for replica in self._file.content.replicas:
            if replica.name == name:
                return replica
        raise LocalClusterError(f"no replica is called {name!r}; there are {', '.join(self.replica_names)}")

    def _agent(self, name: str) -> AgentPlace:
        for agent in self._file.content.agents:
            if agent.name == name:
                return agent
        raise LocalClusterError(f"no agent is called {name!r}; there are {', '.join(self.agent_names)}")

    def _place(self, name: str) -> ReplicaPlace | AgentPlace:
        self._file.refresh()
        return self._replica(name) if name in self.replica_names else self._agent(name)


def _new_id(snapshot: Path | None) -> str:
    """Return the id of a new cluster, or of one that continues another. Raises `LocalClusterError`."""
    return f"local-{secrets.token_hex(4)}" if snapshot is None else id_for(snapshot)


def _clean_environment() -> dict[str, str]:
    """Return our environment without settings that are meant for clients."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAFTFLOW_")}
