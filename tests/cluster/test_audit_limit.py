"""The audit file has a limit on real processes: what is left is verified on every replica, and they agree."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from raftflow.cli.main import root
from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TASKS = [{"id": f"t{number:04d}", "command": ["true"], "resources": {"gpu": 1}} for number in range(4_000)]
"""A record tells of each of them, so that a segment of 8 MiB is soon full."""
SUBMISSIONS_MAX = 200


def test_the_oldest_part_goes_and_the_rest_is_verified(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0, replica_toml="[limits]\naudit_bytes = 1048576\nsnapshot_entries = 100\n")
    with cluster.client() as client:
        urls = [cluster.url_of(name) for name in cluster.replica_names]
        number = 0
        while any(client.audit_verify(url).anchor_index == 0 for url in urls):
            assert number < SUBMISSIONS_MAX, "nothing is dropped"
            for _ in range(10):
                number += 1
                made = client.submit({"name": f"w{number}", "tasks": TASKS})
                client.cancel(made.id)
        cluster.wait_equal()
        for url in urls:
            check = client.audit_verify(url)
            assert check.problems == []
            assert check.first_index == check.anchor_index + 1 > 10
            assert client.audit(url, 0, 10).records[0].index == check.first_index
        # After a restart too.
        for name in cluster.replica_names:
            cluster.stop(name)
        for name in cluster.replica_names:
            cluster.start_replica(name)
        cluster.wait_ready()
        cluster.wait_equal()
        assert all(client.audit_verify(url).problems == [] for url in urls)
    told = CliRunner().invoke(root, ["audit", "verify", "--peers", ",".join(urls), "-o", "json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["ok"]
