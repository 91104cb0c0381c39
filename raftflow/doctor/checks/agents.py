"""Checks of the agents: lost, silent, unfit, quarantined, drained for long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from raftflow.doctor.facts import ClusterFacts
from raftflow.doctor.findings import CheckResult, Severity, Thresholds, judged
from raftflow.doctor.units import duration
from raftflow.domain.contract.views import AgentView

DRAINED_LONG_S: Final = 3_600.0
"""An agent that is drained for longer may have been forgotten."""
CLOCK_SKEW_S: Final = Thresholds(warning=5, problem=900)
"""Stores such as S3 refuse requests of a clock that is a quarter of an hour off."""
NAMED_MAX: Final = 50
"""Agents with a finding of their own; the rest are counted."""

_STATES: Final = {
    "lost": (
        Severity.WARNING,
        "It was silent for its lease. Its tasks run elsewhere.",
        "start it, or remove it from the list: `raftflow agent forget {name}`",
        "agent-lost",
    ),
    "suspect": (
        Severity.WARNING,
        "It has been silent for a part of its lease. It gets no new work.",
        "look at its machine; it is lost if it stays silent",
        "agent-lost",
    ),
    "unfit": (
        Severity.PROBLEM,
        "It can run nothing: {trouble}",
        "correct the cause on its machine; it tries again by itself. See `raftflow agent show {name}`",
        "agent-lost",
    ),
    "quarantine": (
        Severity.WARNING,
        "It was lost again and again, or every task fails there. It gets no work until {until}.",
        "look at its log; `raftflow agent resume {name}` ends the quarantine at once",
        "agent-lost",
    ),
}
"""By state: severity, meaning, advice, page."""


def check_agents(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check every agent, and whether there is one that works."""
    agents = gathered.agents
    if agents is None:
        yield CheckResult(
            code="agents",
            severity=Severity.WARNING,
            subject="cluster",
            measured="not known: no replica told them",
            meaning="The agents are not checked.",
            advice="look again when the cluster has a leader",
            page="majority-lost",
        )
        return
    yield _counts(agents)
    yield from _versions(agents, {status.version for _, status in gathered.statuses()})
    drained_s = _drained_for(gathered)
    findings = [finding for agent in agents for finding in _of_agent(agent, drained_s.get(agent.name, 0.0))]
    yield from findings[:NAMED_MAX]
    if len(findings) > NAMED_MAX:
        yield CheckResult(
            code="agents-more",
            severity=Severity.WARNING,
            subject="cluster",
            measured=f"{len(findings) - NAMED_MAX} more findings about agents",
            meaning="Only the first are shown.",
            advice="see all with `raftflow agent list`",
            page="agent-lost",
        )


def _counts(agents: list[AgentView]) -> CheckResult:
    states = Counter(agent.state for agent in agents)
    measured = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    works = any(agent.up for agent in agents)
    idle = not works and bool(agents)
    return CheckResult(
        code="agents",
        severity=Severity.PROBLEM if idle else Severity.OK,
        subject="cluster",
        measured=measured,
        meaning="No agent takes work: nothing runs." if idle else "",
        advice="start an agent: `raftflow agent run`" if idle else "",
        page="agent-lost" if idle else "",
        value=sum(agent.up for agent in agents),
        unit="agents",
    )


def _versions(agents: list[AgentView], known: set[str]) -> Iterator[CheckResult]:
    """Compare the versions of agents with those of the replicas."""
    versions = Counter(agent.version for agent in agents if agent.up and agent.version)
    others = {version: count for version, count in versions.items() if version not in known}
    if versions and known:
        yield judged(
            code="agent-versions",
            severity=Severity.WARNING if others else Severity.OK,
            subject="cluster",
            measured=", ".join(f"{count} agents run {version}" for version, count in sorted(versions.items())),
            meaning="Agents run another version than every replica.",
            advice="drain, upgrade and start them, some at a time: `raftflow agent drain NAME`",
            page="upgrade-stopped",
            value=sum(others.values()),
            unit="agents",
        )


def _drained_for(gathered: ClusterFacts) -> dict[str, float]:
    """Return for how long agents are drained at least, as the replica counts that has counted longest."""
    longest: dict[str, float] = {}
    for _, host in gathered.hosts():
        for agent in host.drained_agents:
            longest[agent.name] = max(agent.for_s, longest.get(agent.name, 0.0))
    return longest


def _of_agent(agent: AgentView, drained_s: float) -> Iterator[CheckResult]:
    known = _STATES.get(agent.state)
    if known is not None:
        severity, meaning, advice, page = known
        yield CheckResult(
            code="agent-state",
            severity=severity,
            subject=agent.name,
            measured=_measured(agent),
            meaning=meaning.format(trouble=agent.trouble or "it does not say why", until=agent.quarantine_until),
            advice=advice.format(name=agent.name),
            page=page,
        )
    skew_s = agent.clock_skew_s
    if skew_s is not None and agent.state not in {"lost", "left"} and abs(skew_s) >= CLOCK_SKEW_S.warning:
        yield CheckResult(
            code="agent-clock",
            severity=CLOCK_SKEW_S.judge(abs(skew_s)),
            subject=agent.name,
            measured=f"{skew_s:+.1f} s against the leader, when it registered",
            meaning="Its clock is wrong, or the leader's is. Times in the output of tasks differ, and stores and "
            "certificates may refuse it.",
            advice="set the clock of its machine by NTP (`timedatectl`)",
            page="wrong-clock",
            value=skew_s,
            unit="s",
        )
    if agent.drained and drained_s >= DRAINED_LONG_S:
        yield CheckResult(
            code="agent-drained",
            severity=Severity.WARNING,
            subject=agent.name,
            measured=f"drained for {duration(drained_s)} or longer",
            meaning="An operator drained it. It gets no work until it is resumed.",
            advice=f"`raftflow agent resume {agent.name}`, or stop it",
            page="agent-lost",
            value=drained_s,
            unit="s",
        )


def _measured(agent: AgentView) -> str:
    seen = "" if agent.last_seen_s is None else f", last heard {duration(agent.last_seen_s)} ago"
    return f"{agent.state}{seen}"
