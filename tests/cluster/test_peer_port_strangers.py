"""Strangers on the peer port get nothing and break nothing."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import pytest

from raftflow.local.cluster import LocalCluster


@pytest.mark.slow
def test_a_thousand_random_frames_on_every_peer_port_leave_the_cluster_serving(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    cluster = make_cluster(agents=1)
    leader = cluster.wait_leader()
    term = cluster.status_of(leader).term
    random_source = random.Random(7)
    for number in range(1_000):
        name = cluster.replica_names[number % 3]
        with socket.create_connection(cluster.peer_of(name), timeout=5) as connection:
            size = random_source.choice((1, 4, 64, 200, 2_000))
            body = random_source.randbytes(size)
            framed = len(body).to_bytes(4, "big") + body if number % 2 else body
            try:
                connection.sendall(framed)
            except (BrokenPipeError, ConnectionResetError):
                continue  # refused already: as good
    with cluster.client() as client:
        created = client.submit({"name": "after", "tasks": [{"id": "t", "command": ["true"]}]})
        assert client.wait(created.id, timeout_s=20).state == "succeeded"
    statuses = cluster.wait_equal()
    assert len(statuses) == 3
    assert statuses[leader].term == term, "the noise cost the leader its term"


@pytest.mark.slow
def test_a_connection_without_the_secret_gets_no_data(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    address = cluster.peer_of("n1")
    with socket.create_connection(address, timeout=5) as connection:
        connection.settimeout(10)
        connection.sendall(b"\x80\x04K\x01." * 100)
        received = b""
        try:
            while piece := connection.recv(4096):
                received += piece
        except ConnectionResetError:
            pass
    # At most the fixed-size greeting with a nonce comes back before the door closes.
    assert len(received) <= 512
    assert b"n2" not in received.replace(b"n1", b"")
    assert cluster.wait_ready()
