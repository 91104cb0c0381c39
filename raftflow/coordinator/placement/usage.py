"""What running attempts use, as their agents last reported. The leader remembers it; it is not in the log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

import msgspec

from raftflow.domain.contract.views import AttemptUsage

USAGES_MAX = 1_000_000
"""Attempts whose usage is remembered. Usage of further attempts is ignored until others end."""

_NONE: Mapping[int, UsageSample] = MappingProxyType({})


class UsageSample(msgspec.Struct, frozen=True, gc=False):
    """What one attempt used when its agent last reported it. Times are seconds on the leader's event loop."""

    fence: int
    cpu_ms: int
    memory_mib: int
    peak_mib: int
    progress: float | None
    """0 to 1, None if the task does not report progress."""
    at_s: float
    """When the report came."""
    cpu_per_mille: int | None = None
    """CPUs in use since the report before, in thousandths; None in the first report."""
    progress_at_s: float | None = None
    """When progress last grew: an attempt without progress may be stuck."""
    fetching: bool = False
    """The attempt has not started: its agent still fetches its code bundle, or its inputs."""


class UsageStore:
    """Usage by agent and fence. An attempt is forgotten when its agent no longer runs it or is gone."""

    def __init__(self) -> None:
        self._agents: dict[str, dict[int, UsageSample]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of attempts whose usage is known."""
        return self._count

    def note_usage(self, agent: str, running: Collection[int], told: Iterable[AttemptUsage], now_s: float) -> None:
        """Note the usage that a poll reports.

        `running` are the fences of all attempts that the agent runs. Usage of other attempts is ignored, and what was
        known of them is forgotten.
        """
        known = self._agents.get(agent)
        if known:
            held = set(running)
            for fence in [fence for fence in known if fence not in held]:
                del known[fence]
                self._count -= 1
        for usage in told:
            if known is None:
                known = self._agents[agent] = {}
            if usage.fence not in running:
                continue
            before = known.get(usage.fence)
            if before is None:
                if self._count >= USAGES_MAX:
                    continue
                self._count += 1
            known[usage.fence] = _sample(usage, before, now_s)
        if known is not None and not known:
            del self._agents[agent]

    def forget(self, agent: str) -> None:
        """Forget an agent that is gone or begins a new incarnation."""
        self._count -= len(self._agents.pop(agent, {}))

    def clear(self) -> None:
        """Forget everything: another replica leads."""
        self._agents.clear()
        self._count = 0

    def get(self, agent: str, fence: int) -> UsageSample | None:
        """Return the usage of an attempt, None if it is unknown."""
        return self._agents.get(agent, _NONE).get(fence)

    def of_agent(self, agent: str) -> Mapping[int, UsageSample]:
        """Return the usage of an agent's attempts by fence. Not a copy."""
        return self._agents.get(agent, _NONE)


def _sample(usage: AttemptUsage, before: UsageSample | None, now_s: float) -> UsageSample:
    cpu_per_mille: int | None = None
    progress_at_s = None if usage.progress is None else now_s
    if before is not None:
        if now_s > before.at_s:
            cpu_per_mille = max(int((usage.cpu_ms - before.cpu_ms) / (now_s - before.at_s)), 0)
        if before.progress is not None and usage.progress is not None and usage.progress <= before.progress:
            progress_at_s = before.progress_at_s
    return UsageSample(
        usage.fence,
        usage.cpu_ms,
        usage.memory_mib,
        usage.peak_mib,
        usage.progress,
        now_s,
        cpu_per_mille,
        progress_at_s,
        usage.fetching,
    )
