"""Configuration files of the replicas of a local cluster, their ports, and the ends of their logs."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftflow.local.cluster_file import ClusterFile, ClusterOptions, ReplicaPlace

_PORT_FIRST, _PORT_COUNT = 20_000, 12_000
_TAIL_LINES = 5


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody uses now.

    They lie below the range from which the kernel takes the ports of outgoing connections, so that none of those
    sits on a replica's port while it is down.
    """
    sockets: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            port = _PORT_FIRST + secrets.randbelow(_PORT_COUNT)
            listener = socket.socket()
            sockets.append(listener)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    finally:
        for listener in sockets:
            listener.close()
    return ports


def reason_of_end(log: str) -> str:
    """Return why the process behind this log stopped: a critical line among the last few, otherwise the last line."""
    tail = log.strip().splitlines()[-_TAIL_LINES:]
    if not tail:
        return "no output"
    return next((line for line in reversed(tail) if " CRITICAL " in line), tail[-1])


def replica_toml(content: ClusterFile, replica: ReplicaPlace, options: ClusterOptions) -> str:
    """Return the configuration file of a replica."""
    timing = {"lease_ms": options.lease_ms, **options.timing}
    lines = [replica_head(content, replica), "[timing]", *(f"{key} = {value}" for key, value in timing.items())]
    return "\n".join([*lines, "", options.replica_toml]) + "\n"


def replica_head(content: ClusterFile, replica: ReplicaPlace, *, join: bool = False) -> str:
    """Return the part of the file that says which cluster and which replica this is."""
    lines = ["[cluster]", f'id = "{content.cluster_id}"', 'secret_file = "secret"', ""]
    for member in content.replicas:
        lines += [
            "[[cluster.members]]",
            f'name = "{member.name}"',
            f'peer = "{member.peer}"',
            f'url = "{member.url}"',
            "",
        ]
    lines += ["[replica]", f'name = "{replica.name}"', f'data_dir = "{replica.name}"']
    for key, port in (("bind", replica.bind), ("peer_bind", replica.peer_bind)):
        lines += [f'{key} = "127.0.0.1:{port}"'] if port else []
    lines += ['token_file = "token"'] if content.with_token else []
    return "\n".join([*lines, *(["join = true"] if join else []), ""])
