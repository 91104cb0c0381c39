"""The judgement of the doctor: what is found in what was gathered."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.doctor.examine import examine
from raftflow.doctor.facts import ClusterFacts
from raftflow.doctor.findings import CheckResult, Severity
from raftflow.domain.contract.cluster import (
    CertificateFacts,
    DiskFacts,
    DrainedAgent,
    EndingToken,
    FileMode,
    LoopLag,
    PressureStall,
    SavedSnapshotFacts,
    SyncTimes,
    TermCount,
)
from raftflow.domain.contract.views import PeerView
from tests.doctor.healthy import (
    GIB,
    NAMES,
    NOW_MS,
    agent,
    change,
    cluster,
    host,
    replica,
    samples,
    silent,
    status,
)

DAY_MS = 24 * 3600 * 1000


def bad(gathered: ClusterFacts) -> list[tuple[str, str, str]]:
    """Return severity, subject and code of the findings that need a hand."""
    found = examine(gathered).findings
    return [(each.severity.value, each.subject, each.code) for each in found if not each.is_ok]


def only(gathered: ClusterFacts) -> CheckResult:
    """Return the one finding that needs a hand. It says what it means and what to do."""
    (finding,) = [each for each in examine(gathered).findings if not each.is_ok]
    assert finding.measured and finding.meaning and finding.advice
    return finding


def test_a_healthy_cluster_has_no_finding() -> None:
    found = examine(cluster())
    assert (found.ok, found.leader, found.reached) == (True, "n1", list(NAMES))
    assert [each for each in found.findings if not each.is_ok] == []
    assert {"clock-skew", "disk-space", "descriptors", "file-mode", "quorum"} <= {
        each.code for each in found.findings
    }


def test_the_worst_finding_comes_first() -> None:
    gathered = cluster(silent("n3"), agents=[agent(), agent("a2", "lost")])
    assert bad(gathered) == [
        ("problem", "n3", "replica"),
        ("warning", "cluster", "quorum"),
        ("warning", "a2", "agent-state"),
    ]
    assert not examine(gathered).ok


CHANGES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "disk nearly full": (
        {"disk": DiskFacts(path="/d", free_bytes=100 << 20, size_bytes=GIB)},
        "problem",
        "disk-space",
        "100.0 MiB free of 1.0 GiB (10 %) at /d",
    ),
    "disk low": (
        {"disk": DiskFacts(path="/d", free_bytes=GIB, size_bytes=10 * GIB)},
        "warning",
        "disk-space",
        "1.0 GiB free of 10.0 GiB (10 %) at /d",
    ),
    "no inodes": (
        {"disk": DiskFacts(path="/d", free_bytes=9 * GIB, size_bytes=10 * GIB, free_files=3, files_max=100)},
        "problem",
        "disk-space",
        "9.0 GiB free of 10.0 GiB (90 %) at /d, 3 files can still be made",
    ),
    "read-only disk": (
        {"disk": DiskFacts(path="/d", free_bytes=9 * GIB, size_bytes=10 * GIB, read_only=True)},
        "problem",
        "disk-read-only",
        "/d is read-only",
    ),
    "slow syncs": (
        {"syncs": SyncTimes(window_s=300, count=50, mean_ms=45.25, p99_ms=500)},
        "warning",
        "disk-sync",
        "50 syncs in 5 min: 45.2 ms in the mean, 99 of 100 within 500 ms",
    ),
    "very slow syncs": (
        {"syncs": SyncTimes(window_s=300, count=50, mean_ms=900, p99_ms=5000)},
        "problem",
        "disk-sync",
        "50 syncs in 5 min: 900.0 ms in the mean, 99 of 100 within 5000 ms",
    ),
    "few descriptors left": (
        {"open_fds": 970, "max_fds": 1_024},
        "warning",
        "descriptors",
        "970 open, the limit is 1024",
    ),
    "descriptors used up": (
        {"open_fds": 1_020, "max_fds": 1_024},
        "problem",
        "descriptors",
        "1020 open, the limit is 1024",
    ),
    "low limit of descriptors": ({"max_fds": 300}, "warning", "descriptors", "30 open, the limit is 300"),
    "late loop": ({"loop": LoopLag(window_s=60, max_ms=180)}, "warning", "loop-lag", "180 ms at most in 60 s"),
    "very late loop": ({"loop": LoopLag(window_s=60, max_ms=700)}, "problem", "loop-lag", "700 ms at most in 60 s"),
    "starved for CPU": (
        {"pressure": PressureStall(cpu_some=88.5), "loop": LoopLag(window_s=60, max_ms=50)},
        "warning",
        "cpu-pressure",
        "threads waited for a CPU for 88.5 % of the last minute; load 0.1 on 2 CPUs",
    ),
    "starved for memory": (
        {"pressure": PressureStall(memory_full=60)},
        "problem",
        "memory-pressure",
        "everything waited for memory for 60 % of the last minute; load 0.1 on 2 CPUs",
    ),
    "damaged files": (
        {"damaged_files": ["journal/00.damaged-1"]},
        "warning",
        "damaged-files",
        "set aside: journal/00.damaged-1",
    ),
    "secret that others can read": (
        {"files": [FileMode(setting="cluster.secret_file", path="/s", mode="0644", exposed="readable")]},
        "problem",
        "file-mode",
        "cluster.secret_file /s has mode 0644",
    ),
    "file that is gone": (
        {"files": [FileMode(setting="tls.api_key", path="/k", mode="", error="it cannot be read: no")]},
        "warning",
        "file-mode",
        "tls.api_key /k: it cannot be read: no",
    ),
    "no snapshot": (
        {"snapshots": SavedSnapshotFacts(every_s=3600, keep=3, directory="/s")},
        "problem",
        "snapshots",
        "none; one is saved every 60 min in /s",
    ),
    "old snapshot": (
        {
            "snapshots": SavedSnapshotFacts(
                every_s=3600, keep=3, directory="/s", count=3, newest_ms=NOW_MS - 3 * 3_600_000
            )
        },
        "warning",
        "snapshots",
        "the newest of 3 is 3.0 h old; one is saved every 60 min in /s",
    ),
    "folder of snapshots that is gone": (
        {"snapshots": SavedSnapshotFacts(every_s=3600, keep=3, directory="/s", error="it cannot be read: no")},
        "problem",
        "snapshots",
        "/s: it cannot be read: no",
    ),
    "disk that does not answer": (
        {"disk": None, "unread": "its file systems did not answer within 1 s"},
        "problem",
        "disk-space",
        "its file systems did not answer within 1 s",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_fact_of_a_machine_gives_its_finding(case: str) -> None:
    facts, severity, code, measured = CHANGES[case]
    finding = only(change("n2", **facts))
    assert (finding.severity, finding.subject, finding.code) == (severity, "n2", code)
    assert finding.measured == measured


def test_one_slow_sync_among_few_says_little() -> None:
    assert bad(change("n2", syncs=SyncTimes(window_s=300, count=30, mean_ms=7, p99_ms=500))) == []
    assert only(change("n2", syncs=SyncTimes(window_s=300, count=300, mean_ms=7, p99_ms=500))).code == "disk-sync"
    assert bad(change("n2", syncs=SyncTimes(window_s=300, count=300, mean_ms=7, p99_ms=100))) == []


def test_a_busy_machine_whose_replica_is_never_late_is_fine() -> None:
    assert bad(change("n2", pressure=PressureStall(cpu_some=95.0))) == []


def test_elections_are_counted_by_the_replica_that_saw_most() -> None:
    finding = only(change("n3", terms=TermCount(window_s=1_800, terms=40)))
    assert (finding.severity, finding.code, finding.value) == ("problem", "elections", 40)
    assert finding.measured == "40 terms in 30 min, as n3 counts"


@pytest.mark.parametrize(
    ("days", "severity", "measured"),
    [
        (90, None, "is valid for 90 more days, until 2026-12-20T14:13:20Z"),
        (20, "warning", "is valid for 20 more days, until 2026-10-11T14:13:20Z"),
        (0.5, "problem", "is valid for 12 more hours, until 2026-09-22T02:13:20Z"),
        (-1, "problem", "has expired, on 2026-09-20T14:13:20Z"),
    ],
)
def test_a_certificate_that_expires(days: float, severity: str | None, measured: str) -> None:
    certificate = CertificateFacts(setting="tls.peer_cert", path="/c", not_after_ms=NOW_MS + round(days * DAY_MS))
    found = [
        each for each in examine(change("n2", certificates=[certificate])).findings if each.code == "certificate"
    ]
    assert [(each.severity, each.measured) for each in found] == [(severity or "ok", f"tls.peer_cert /c {measured}")]


def test_a_certificate_of_later_and_one_that_is_broken() -> None:
    later = CertificateFacts(
        setting="tls.peer_ca", path="/c", not_before_ms=NOW_MS + DAY_MS, not_after_ms=NOW_MS + 99 * DAY_MS
    )
    assert only(change("n2", certificates=[later])).measured.startswith("tls.peer_ca /c is valid only from 2026-")
    broken = CertificateFacts(setting="tls.peer_ca", path="/c", error="it has no certificate in PEM form")
    assert only(change("n2", certificates=[broken])).measured == "tls.peer_ca /c: it has no certificate in PEM form"


@pytest.mark.parametrize(
    ("names", "fits"),
    [(["n2"], True), (["N2"], True), (["other", "10.0.0.1"], False), ([], False), (["*.n2"], False)],
)
@pytest.mark.parametrize("setting", ["tls.api_cert", "tls.peer_cert"])
def test_a_certificate_must_have_the_name_of_the_address(names: list[str], fits: bool, setting: str) -> None:  # noqa: FBT001
    certificate = CertificateFacts(setting=setting, path="/c", names=names, not_after_ms=NOW_MS + 99 * DAY_MS)
    assert [code for _, _, code in bad(change("n2", certificates=[certificate]))] == (
        [] if fits else ["certificate-names"]
    )


def test_a_star_stands_for_one_label() -> None:
    certificate = CertificateFacts(
        setting="tls.api_cert", path="/c", names=["*.example"], not_after_ms=NOW_MS + 99 * DAY_MS
    )
    facts = host("n2", certificates=[certificate])
    assert bad(cluster(replica("n2", host=facts, url="https://n2.example:1"))) == []
    assert bad(cluster(replica("n2", host=facts, url="https://a.n2.example:1"))) != []


def test_a_wrong_clock_is_found_against_the_others() -> None:
    finding = only(cluster(replica("n3", samples=samples(skew_ms=4_500))))
    assert (finding.severity, finding.subject, finding.code) == ("warning", "n3", "clock-skew")
    assert (finding.value, finding.unit) == (4.5, "s")
    assert only(cluster(replica("n1", samples=samples(skew_ms=-3_600_000)))).severity is Severity.PROBLEM


def test_a_slow_exchange_makes_the_clocks_unsure() -> None:
    """A clock that may be right is not called wrong."""
    slow = [
        msgspec.structs.replace(sample, received_s=sample.sent_s + 3.0, here_ms=sample.here_ms + 1_500)
        for sample in samples()
    ]
    assert bad(cluster(replica("n3", samples=slow))) == []


def test_a_clock_that_runs_too_fast_is_found() -> None:
    finding = only(cluster(replica("n3", samples=samples(rate=1.2))))
    assert (finding.severity, finding.subject, finding.code, finding.value) == ("problem", "n3", "clock-rate", 1.2)


def test_cluster_time_that_is_ahead_of_the_leaders_clock() -> None:
    finding = only(change("n1", cluster_time_ms=NOW_MS + 600_000))
    assert (finding.severity, finding.code, finding.value) == ("warning", "cluster-time", 600.0)


def test_a_replica_that_is_down_costs_the_spare() -> None:
    found = {each.code: each for each in examine(cluster(silent("n3"))).findings if not each.is_ok}
    assert found.keys() == {"replica", "quorum"}
    assert (found["quorum"].severity, found["quorum"].value) == ("warning", 2)
    assert found["replica"].meaning == "It is down, or the network to it is cut."


def test_a_replica_that_hangs_is_seen_by_the_others() -> None:
    hangs = silent("n3", failure="unreachable: no answer in time")
    (finding, _) = [each for each in examine(cluster(hangs)).findings if not each.is_ok]
    assert "hangs" in finding.meaning and "Other replicas are connected to it." in finding.meaning


def test_no_quorum_and_no_leader() -> None:
    alone = replica("n1", status=status("n1", role="candidate", leader=None, ready=False))
    gathered = cluster(alone, silent("n2"), silent("n3"), agents=[agent()])
    assert bad(gathered) == [
        ("problem", "n2", "replica"),
        ("problem", "n3", "replica"),
        ("problem", "cluster", "quorum"),
        ("problem", "cluster", "leader"),
        ("warning", "n1", "replica"),
    ]
    assert examine(gathered).leader is None


def test_a_leader_that_only_the_others_reach() -> None:
    codes = {each.code: each for each in examine(cluster(silent("n1"))).findings if not each.is_ok}
    assert codes["leader"].measured == "the replicas follow n1, which does not answer here"


def test_a_link_that_is_cut_between_replicas_that_both_answer() -> None:
    def n2(*, connected: bool) -> Any:
        return status("n2", peers=[PeerView(name="n1", connected=True), PeerView(name="n3", connected=connected)])

    cut = replica("n2", status=n2(connected=False), status_before=n2(connected=False))
    finding = only(cluster(cut))
    assert (finding.severity, finding.subject, finding.code, finding.measured) == (
        "problem",
        "n2",
        "links",
        "no link to n3",
    )
    assert bad(cluster(replica("n2", status=n2(connected=False)))) == [], "it was there in one round"
    assert ("problem", "n2", "links") not in bad(cluster(cut, silent("n3"))), "one that is down has no links"


def test_two_leaders_of_one_term() -> None:
    finding = only(cluster(replica("n3", status=status("n3", role="leader"))))
    assert (finding.severity, finding.measured) == ("problem", "n1, n3 all lead in term 3")
    assert bad(cluster(replica("n3", status=status("n3", role="leader", term=2)))) == [], "one that was cut off"


def test_replicas_of_two_clusters() -> None:
    finding = only(cluster(replica("n3", status=status("n3", cluster="c-20261130"))))
    assert (finding.severity, finding.code) == ("problem", "cluster-id")
    assert finding.measured == "n1, n2 of c; n3 of c-20261130"


def test_a_replica_that_refuses_the_token() -> None:
    gathered = cluster(*(silent(name, "refused: 401 A valid token is needed", refused=True) for name in NAMES))
    found = examine(gathered)
    assert not found.reached
    assert [each.advice for each in found.findings if each.code == "replica"] == [
        "give the cluster's token: `--token-file FILE`, or RAFTFLOW_TOKEN"
    ] * 3


def test_a_replica_of_an_older_version() -> None:
    old = replica("n3", status=status("n3", version="0.0.9"), host=None, too_old=True, samples=[])
    assert bad(cluster(old)) == [("warning", "n3", "host-facts"), ("warning", "cluster", "versions")]


def test_a_feature_level_that_does_not_rise() -> None:
    ready = [replica(name, status=status(name, feature_level=1, feature_level_max=2)) for name in NAMES]
    assert only(cluster(*ready)).code == "feature-level"
    assert bad(cluster(*ready[:2])) == []


def test_a_follower_that_stays_behind() -> None:
    def leader(*lags: int) -> Any:
        peers = [PeerView(name=name, connected=True, lag=lag) for name, lag in zip(("n2", "n3"), lags, strict=True)]
        return status("n1", peers=peers)

    behind = replica("n1", status=leader(0, 5_000), status_before=leader(0, 9_000))
    finding = only(cluster(behind))
    assert (finding.severity, finding.subject, finding.code, finding.value) == ("warning", "n3", "lag", 5_000)
    caught_up = replica("n1", status=leader(0, 4), status_before=leader(0, 9_000))
    assert bad(cluster(caught_up)) == []
    slow = status("n2", applied_index=100, commit_index=50_000)
    assert only(cluster(replica("n2", status=slow, status_before=slow))).severity is Severity.PROBLEM


def test_replicas_with_different_histories() -> None:
    finding = only(cluster(replica("n3", status=status("n3", digest="cd" * 32))))
    assert (finding.severity, finding.code) == ("problem", "histories")
    assert finding.measured.startswith("at index 700: ")


def test_a_replica_under_repair() -> None:
    repairing = replica("n3", status=status("n3", ready=False), host=host("n3", repairing=True))
    assert (
        only(cluster(repairing)).meaning == "It repairs itself from the others, and does not vote until that is done."
    )


@pytest.mark.parametrize("state", ["lost", "suspect", "unfit", "quarantine"])
def test_an_agent_in_a_bad_state(state: str) -> None:
    away = agent("a2", state, trouble="its disk is full", quarantine_until="2026-09-21T14:14:00Z", last_seen_s=4.0)
    finding = only(cluster(agents=[agent(), away]))
    assert (finding.subject, finding.code, finding.measured) == ("a2", "agent-state", f"{state}, last heard 4 s ago")


def test_an_agent_that_is_drained_for_long() -> None:
    drained = [agent(), agent("a2", "draining", drained=True)]
    told = [
        host(name, drained_agents=[DrainedAgent(name="a2", for_s=for_s)])
        for name, for_s in (("n1", 60), ("n2", 7_300))
    ]
    assert bad(cluster(agents=drained)) == []
    finding = only(cluster(replica("n1", host=told[0]), replica("n2", host=told[1]), agents=drained))
    assert (finding.subject, finding.code, finding.measured) == ("a2", "agent-drained", "drained for 2.0 h or longer")


@pytest.mark.parametrize(("skew_s", "severity"), [(-7.25, "warning"), (3_600.0, "problem")])
def test_an_agent_with_a_wrong_clock(skew_s: float, severity: str) -> None:
    assert bad(cluster(agents=[agent(clock_skew_s=-0.4)])) == []
    finding = only(cluster(agents=[agent(clock_skew_s=skew_s)]))
    assert (finding.severity, finding.code, finding.value) == (severity, "agent-clock", skew_s)


def test_agents_of_another_version() -> None:
    same, other = agent(version="0.1.0"), agent("a2", version="0.0.9")
    assert bad(cluster(agents=[same])) == []
    finding = only(cluster(agents=[same, other, agent("a3", "left", version="0.0.1")]))
    assert (finding.code, finding.measured) == ("agent-versions", "1 agents run 0.0.9, 1 agents run 0.1.0")
    assert finding.value == 1


def test_a_cluster_whose_agents_are_all_away() -> None:
    assert ("problem", "cluster", "agents") in bad(cluster(agents=[agent(state="draining")]))
    assert bad(cluster(agents=[])) == []
    assert bad(msgspec.structs.replace(cluster(), agents=None)) == [("warning", "cluster", "agents")]


def test_the_list_of_agents_is_bounded() -> None:
    found = bad(cluster(agents=[agent(), *(agent(f"x{number}", "lost") for number in range(500))]))
    assert len(found) == 51 and found[-1] == ("warning", "cluster", "agents-more")


def test_nothing_answers() -> None:
    found = examine(cluster(*(silent(name) for name in NAMES), members=[]))
    assert (found.ok, found.reached, found.leader) == (False, [], None)


@pytest.mark.parametrize(
    ("left_days", "lifetime_days", "measured"),
    [
        (6, 90, "is valid for 6.0 days more"),
        (0.2, 1, "is valid for 4.8 h more"),
        (-1, 90, "has expired"),
        (8, 90, None),
        (0.5, 1, None),
    ],
)
def test_a_token_that_ends_soon(left_days: float, lifetime_days: float, measured: str | None) -> None:
    day_ms = 24 * 3600 * 1000
    now_ms = host("n1").time_ms
    token = EndingToken(
        name="ci", expires_ms=now_ms + round(left_days * day_ms), lifetime_ms=round(lifetime_days * day_ms)
    )
    facts = cluster(*(replica(name, host=host(name, ending_tokens=[token])) for name in ("n1", "n2")))
    if measured is None:
        assert bad(facts) == []
        return
    finding = only(facts)
    assert (finding.severity, finding.code, finding.subject) == ("warning", "token", "ci")
    assert measured in finding.measured and "token rotate ci" in finding.advice
