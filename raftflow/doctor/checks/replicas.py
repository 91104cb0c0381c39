"""Checks of the replicas: who answers, who leads, versions, lag, elections, histories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raftflow.doctor.facts import ClusterFacts, ReplicaFacts
from raftflow.doctor.findings import CheckResult, Severity, Thresholds, judged
from raftflow.doctor.units import duration
from raftflow.domain.contract.views import ReplicaStatus

CLUSTER: Final = "cluster"
LAG_ENTRIES: Final = Thresholds(warning=1_000, problem=20_000)
"""A follower that is further behind needs a snapshot."""
TERMS: Final = Thresholds(warning=6, problem=30)
"""In an hour."""


def check_replicas(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check who answers, and whether a majority does."""
    for each in gathered.replicas:
        yield _contact(each, gathered)
        if each.answers and each.host is None:
            yield _no_host(each)
    yield _quorum(gathered)
    yield _leader(gathered)


def _contact(facts: ReplicaFacts, gathered: ClusterFacts) -> CheckResult:
    status = facts.status
    if status is None:
        return _silent(facts, gathered)
    measured = f"{status.role} in term {status.term}, up for {duration(status.uptime_s)}"
    if status.ready:
        return CheckResult(code="replica", severity=Severity.OK, subject=facts.name, measured=measured)
    repairing = facts.host is not None and facts.host.repairing
    return CheckResult(
        code="replica",
        severity=Severity.WARNING,
        subject=facts.name,
        measured=f"{measured}, not ready",
        meaning="It repairs itself from the others, and does not vote until that is done."
        if repairing
        else "It does not serve: it hears no leader, or has not caught up.",
        advice="look again in a minute; its log says what it waits for",
        page="flipped-bits" if repairing else "majority-lost",
    )


def _silent(facts: ReplicaFacts, gathered: ClusterFacts) -> CheckResult:
    connected = any(
        peer.connected for _, status in gathered.statuses() for peer in status.peers if peer.name == facts.name
    )
    if facts.refused:
        return CheckResult(
            code="replica",
            severity=Severity.PROBLEM,
            subject=facts.name,
            measured=facts.failure,
            meaning="It refuses this client, so nothing else is known of it.",
            advice="give the cluster's token: `--token-file FILE`, or RAFTFLOW_TOKEN",
        )
    if "certificate" in facts.failure:
        meaning = "Its certificate is not accepted."
        advice = "compare its certificate with the authority of --cacert"
        page = "certificate-expired"
    elif facts.failure.endswith("no answer in time"):
        meaning = "Its process hangs, its machine is off, or the network between here and there is cut."
        if connected:
            meaning += " Other replicas are connected to it."
        advice = "look at the process on its machine; if it hangs, kill and start it"
        page = "replica-down"
    elif facts.failure.startswith(("not a replica", "refused")):
        meaning = "Something else answers at this address, or a version that this one does not understand."
        advice = "compare the address with `raftflow member list`"
        page = "replica-down"
    else:
        meaning = "It is down, or the network to it is cut."
        advice = "start it: `raftflow coordinator run --config FILE`; its log says why it stopped"
        page = "replica-down"
    return CheckResult(
        code="replica",
        severity=Severity.PROBLEM,
        subject=facts.name,
        measured=facts.failure or "no answer in time",
        meaning=meaning,
        advice=advice,
        page=page,
    )


def _no_host(facts: ReplicaFacts) -> CheckResult:
    if facts.too_old:
        return CheckResult(
            code="host-facts",
            severity=Severity.WARNING,
            subject=facts.name,
            measured="it does not know GET /v1/host",
            meaning="It runs an older version: its disk, files, clock and process are not checked.",
            advice="finish the upgrade: stop it, install the new version, start it",
            page="upgrade-stopped",
        )
    return CheckResult(
        code="host-facts",
        severity=Severity.WARNING,
        subject=facts.name,
        measured=facts.host_failure or "no answer in time",
        meaning="It told how it is, and nothing of its machine: its disk, files, clock and process are not checked.",
        advice="look again; if it stays like this, read its log",
        page="starved-machine",
    )


def _quorum(gathered: ClusterFacts) -> CheckResult:
    voters = gathered.voters
    there = [each.name for each in voters if each.answers]
    missing = [each.name for each in voters if not each.answers]
    majority = len(voters) // 2 + 1
    spare = len(there) - majority
    measured = f"{len(there)} of {len(voters)} voters answer, a majority is {majority}"
    if not missing:
        return CheckResult(
            code="quorum", severity=Severity.OK, subject=CLUSTER, measured=measured, value=len(there), unit="voters"
        )
    named = ", ".join(missing)
    if spare < 0:
        return CheckResult(
            code="quorum",
            severity=Severity.PROBLEM,
            subject=CLUSTER,
            measured=f"{measured}; missing: {named}",
            meaning="Without a majority the cluster accepts and starts nothing.",
            advice="start the missing replicas; if their disks are lost for ever: `raftflow recover --help`",
            page="majority-lost",
            value=len(there),
            unit="voters",
        )
    meaning = (
        "One more loss ends the majority, and the cluster stops."
        if not spare
        else f"The cluster survives the loss of {spare} more."
    )
    return CheckResult(
        code="quorum",
        severity=Severity.WARNING,
        subject=CLUSTER,
        measured=f"{measured}; missing: {named}",
        meaning=meaning,
        advice="start it; if its disk is lost, add a new replica under a new name with `raftflow member add`, then "
        "remove it",
        page="replica-down",
        value=len(there),
        unit="voters",
    )


def _leader(gathered: ClusterFacts) -> CheckResult:
    leader = gathered.leader
    if leader is not None and leader.status is not None:
        term = leader.status.term
        leading = [name for name, status in gathered.statuses() if (status.role, status.term) == ("leader", term)]
        if len(leading) > 1:
            return CheckResult(
                code="leader",
                severity=Severity.PROBLEM,
                subject=CLUSTER,
                measured=f"{', '.join(leading)} all lead in term {term}",
                meaning="A term has one leader at most: these are not of one cluster, or a bug was found.",
                advice="stop the cluster and keep all data directories; compare with `raftflow audit verify`",
                page="flipped-bits",
            )
        measured = f"{leader.name}, term {leader.status.term}"
        return CheckResult(code="leader", severity=Severity.OK, subject=CLUSTER, measured=measured)
    followed = {status.leader for _, status in gathered.statuses() if status.leader is not None and status.ready}
    if followed:
        return CheckResult(
            code="leader",
            severity=Severity.PROBLEM,
            subject=CLUSTER,
            measured=f"the replicas follow {', '.join(sorted(followed))}, which does not answer here",
            meaning="Its machine hangs, or the network between here and there is cut.",
            advice="look at its machine; if it hangs, kill the process: the others elect a leader",
            page="leader-lost",
        )
    return CheckResult(
        code="leader",
        severity=Severity.PROBLEM,
        subject=CLUSTER,
        measured="none",
        meaning="The cluster accepts and starts nothing until a majority has elected a leader.",
        advice="look again in some seconds; then see which replicas do not answer",
        page="majority-lost",
    )


def check_links(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check that replicas which answer here are connected to each other, in at least one of both rounds."""
    there = {each.name for each in gathered.replicas if each.answers}
    for each in gathered.replicas:
        if each.status is None or each.status_before is None:
            continue
        cut = _unconnected(each.status) & _unconnected(each.status_before) & there
        yield judged(
            code="links",
            severity=Severity.PROBLEM if cut else Severity.OK,
            subject=each.name,
            measured=f"no link to {', '.join(sorted(cut))}" if cut else f"links to {len(each.status.peers)} replicas",
            meaning="Both answer here, not each other: the network between them is cut, or one refuses the other.",
            advice="their logs say why (`link with ...`); each must reach the other at its peer port",
            page="network-cut",
            value=len(cut),
            unit="links",
        )


def _unconnected(status: ReplicaStatus) -> set[str]:
    return {peer.name for peer in status.peers if not peer.connected}


def check_identity(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check that all replicas belong to one cluster."""
    clusters: dict[str, list[str]] = {}
    for name, status in gathered.statuses():
        clusters.setdefault(status.cluster, []).append(name)
    if clusters:
        yield judged(
            code="cluster-id",
            severity=Severity.PROBLEM if len(clusters) > 1 else Severity.OK,
            subject=CLUSTER,
            measured="; ".join(f"{', '.join(names)} of {cluster}" for cluster, names in clusters.items()),
            meaning="The addresses lead to different clusters. After a restore the old one must not run any more.",
            advice="correct the list of peers; stop the replicas of the cluster that was replaced",
            page="majority-disks-lost",
        )


def check_versions(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Compare versions and feature levels."""
    statuses = list(gathered.statuses())
    if not statuses:
        return
    versions = {name: status.version for name, status in statuses}
    measured = ", ".join(f"{name} {version}" for name, version in versions.items())
    if len(set(versions.values())) > 1:
        yield CheckResult(
            code="versions",
            severity=Severity.WARNING,
            subject=CLUSTER,
            measured=measured,
            meaning="A rolling upgrade is not finished. What the new version adds is off until all replicas have it.",
            advice="upgrade the others, one at a time, the leader last",
            page="upgrade-stopped",
        )
    else:
        yield CheckResult(code="versions", severity=Severity.OK, subject=CLUSTER, measured=measured)
    level = max(status.feature_level for _, status in statuses)
    least = min(status.feature_level_max for _, status in statuses)
    behind = level < least and len(statuses) == len(gathered.replicas)
    yield CheckResult(
        code="feature-level",
        severity=Severity.WARNING if behind else Severity.OK,
        subject=CLUSTER,
        measured=f"level {level}, all replicas that answer understand level {least}",
        meaning="The level has not risen although every replica understands a higher one." if behind else "",
        advice="the leader raises it when all members are connected: look again in a minute" if behind else "",
        page="upgrade-stopped" if behind else "",
        value=level,
        unit="level",
    )


def check_lag(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check how far replicas are behind, in both rounds."""
    for each in gathered.replicas:
        if each.status is None or each.status_before is None:
            continue
        lag = min(_unapplied(each.status_before), _unapplied(each.status))
        leader = gathered.leader
        if leader is not None and leader.status is not None and leader is not each:
            told = [peer.lag for peer in leader.status.peers if peer.name == each.name and peer.lag is not None]
            before = leader.status_before
            told_before = [] if before is None else [peer.lag for peer in before.peers if peer.name == each.name]
            lag = max(lag, min([*told, *(entries for entries in told_before if entries is not None)], default=0))
        severity = LAG_ENTRIES.judge(lag)
        yield judged(
            code="lag",
            severity=severity,
            subject=each.name,
            measured=f"{lag} entries behind",
            meaning="Its disk, its CPU or its network is too slow, or it has just come back.",
            advice="look again in a minute; if the number grows, look at its disk and its CPU",
            page="slow-disk",
            value=lag,
            unit="entries",
        )


def _unapplied(status: ReplicaStatus) -> int:
    return max(0, status.commit_index - status.applied_index)


def check_elections(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check how often leaders were elected."""
    counts = [(host.terms.terms, host.terms.window_s, name) for name, host in gathered.hosts()]
    if not counts:
        return
    terms, window_s, name = max(counts)
    severity = TERMS.judge(terms)
    yield judged(
        code="elections",
        severity=severity,
        subject=CLUSTER,
        measured=f"{terms} terms in {duration(window_s)}, as {name} counts",
        meaning="Replicas lose contact with their leader again and again. Nothing is accepted meanwhile.",
        advice="see the findings about CPU, disks and clocks, and the network between the replicas",
        page="network-cut",
        value=terms,
        unit="terms",
    )


def check_histories(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Compare the digests of replicas that have applied the same entries."""
    digests: dict[int, dict[str, list[str]]] = {}
    for each in gathered.replicas:
        for status in (each.status_before, each.status):
            if status is not None and status.digest_index:
                names = digests.setdefault(status.digest_index, {}).setdefault(status.digest, [])
                if each.name not in names:
                    names.append(each.name)
    different = {index: found for index, found in digests.items() if len(found) > 1}
    if not different:
        same = max((len(names) for found in digests.values() for names in found.values()), default=0)
        yield CheckResult(
            code="histories",
            severity=Severity.OK,
            subject=CLUSTER,
            measured=f"{same} replicas were compared at one index, no digests differ",
        )
        return
    index = min(different)
    told = "; ".join(f"{digest[:16]} on {', '.join(names)}" for digest, names in different[index].items())
    yield CheckResult(
        code="histories",
        severity=Severity.PROBLEM,
        subject=CLUSTER,
        measured=f"at index {index}: {told}",
        meaning="Replicas with the same entries have different states.",
        advice="keep every data directory; `raftflow audit verify` names the first difference",
        page="flipped-bits",
    )
