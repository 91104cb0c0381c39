"""Three members of etcd on loopback: started, killed, paused and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from raftflow.chaos.etcd.client import EtcdClient, EtcdUnreachableError

MEMBERS: Final = 3
_READY_S: Final = 30.0
_POLL_S: Final = 0.05


class EtcdMissingError(Exception):
    """This machine has no etcd. Says what to install."""


class EtcdFailedError(Exception):
    """A member does not start, or the members elect nobody."""


class EtcdMembers:
    """The processes of a cluster, and where clients reach them."""

    def __init__(self, directory: Path) -> None:
        """Choose ports. Raises `EtcdMissingError`."""
        binary, setpriv = shutil.which("etcd"), shutil.which("setpriv")
        if binary is None or setpriv is None:
            raise EtcdMissingError("there is no etcd or no setpriv: install Debian's etcd-server and util-linux")
        # The kernel ends the members if this process is killed, also paused ones.
        self._command = (setpriv, "--pdeathsig", "KILL", binary)
        self._directory = directory
        ports = _free_ports(2 * MEMBERS)
        self.names = [f"m{number}" for number in range(MEMBERS)]
        self.ports = dict(zip(self.names, ports[:MEMBERS], strict=True))
        self._peers = {
            name: f"http://127.0.0.1:{port}" for name, port in zip(self.names, ports[MEMBERS:], strict=True)
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a member unless it runs."""
        if name in self._processes:
            return
        client = f"http://127.0.0.1:{self.ports[name]}"
        everybody = ",".join(f"{each}={url}" for each, url in self._peers.items())
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [
                    *(*self._command, "--name", name, "--data-dir", str(self._directory / name)),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", self._peers[name], "--initial-advertise-peer-urls", self._peers[name]),
                    *("--initial-cluster", everybody, "--initial-cluster-state", "new", "--log-level", "error"),
                    *("--heartbeat-interval", "50", "--election-timeout", "500"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_all(self) -> None:
        """Start all members and wait until they have a leader. Raises `EtcdFailedError`."""
        for name in self.names:
            self.start(name)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every member knows the leader. Raises `EtcdFailedError`."""
        deadline_s = time.monotonic() + _READY_S
        while not all(self.leader_as_seen_by(name) for name in self.names):
            for name, process in self._processes.items():
                if process.poll() is not None:
                    told = (self._directory / f"{name}.log").read_text(errors="replace")[-500:]
                    raise EtcdFailedError(f"member {name} has ended: {told}")
            if time.monotonic() > deadline_s:
                raise EtcdFailedError(f"the members have no leader after {_READY_S:g} s")
            time.sleep(_POLL_S)

    def leader_as_seen_by(self, name: str) -> str:
        """Return the id of the leader as one member knows it; an empty string if it knows none or does not answer."""
        with contextlib.closing(EtcdClient(self.ports[name], 1.0)) as client:
            try:
                status = client.call("/v3/maintenance/status", {})
            except EtcdUnreachableError:
                return ""
        leader = str(status.get("leader", "0"))
        return "" if leader == "0" else leader

    def leader(self) -> str | None:
        """Return the name of the member that leads, None if that is not known."""
        for name in self.names:
            with (
                contextlib.closing(EtcdClient(self.ports[name], 1.0)) as client,
                contextlib.suppress(EtcdUnreachableError),
            ):
                status = client.call("/v3/maintenance/status", {})
                if status.get("leader") == status.get("header", {}).get("member_id"):
                    return name
        return None

    def kill(self, name: str) -> None:
        """Kill a member and wait until it is gone."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def pause(self, name: str) -> None:
        """Stop a member, and wait until the kernel has stopped all of it."""
        process = self._processes[name]
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self, name: str) -> None:
        """Let a member go on."""
        self._processes[name].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End all members."""
        for name in list(self._processes):
            self.kill(name)


def _free_ports(count: int) -> list[int]:
    """Return loopback ports that are free now."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]
