"""What must hold of a cluster after its trouble: equal replicas, and audits with everything that was acknowledged."""

from __future__ import annotations

from raftflow.local.cluster import LocalCluster
from raftflow.local.load import Acknowledged, AuditedWork


def assert_nothing_lost(cluster: LocalCluster, acknowledged: Acknowledged) -> None:
    """Check that all replicas are equal and whole, and that their audits have everything that was acknowledged."""
    statuses = cluster.wait_equal()
    assert set(statuses) == set(cluster.replica_names)
    assert len({status.digest for status in statuses.values()}) == 1
    audited = AuditedWork()
    with cluster.client() as client:
        for name in cluster.replica_names:
            url = cluster.url_of(name)
            audited.read(client, url)
            assert client.audit_verify(url).problems == []
            assert client.ledger_verify(url).problems == []
    assert audited.missing(acknowledged) == []
