"""The plan of a seed: the size of the cluster, its load, its kinds of faults and their rate."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.coordinator.config.replica_config import Limits
from raftflow.domain.features import LEVEL_FIRST, NEXT_LEVEL
from raftflow.replication.raft.rules import NO_RULES, Rule
from raftflow.simulation.nemesis.kinds import FAULT_KINDS
from raftflow.simulation.nemesis.machine_faults import SICK_SHARE

if TYPE_CHECKING:
    from collections.abc import Iterable

FAMILIES: Final = ("all", "log", "members", "snapshots", "reads", "votes", "all", "leases", "repairs")
"""By the seed's remainder."""
CHANGES: Final = ("add member", "remove member", "replace member", "change at isolated leader", "absent member")
CHANGING_SHARE: Final = 0.6
"""Share of the seeds of other families in which members change."""
SILENCES_SHARE: Final = 0.4
"""Share of the runs of the family `leases` in which machines fall silent, and little else happens."""
MIXED_SHARE: Final = 0.25
"""Share of seeds that begin with older versions."""
WIPING_SHARE: Final = 0.4
"""Share of the seeds of the family `all` in which disks are wiped."""
COPIES_SHARE: Final = 0.5
"""Share of the seeds of the family `repairs` in which an older copy of a disk is put back."""
ROUGH_SHARE: Final = 0.3
"""Share of seeds in which replicas crash while the cluster is born."""
RETIRING_SHARE: Final = 0.25
"""Share of seeds in which finished workflows are forgotten soon."""
RETENTION_MS: Final = 2_000
MEMBER_RULES: Final = frozenset(rule for rule in Rule if rule.value.startswith("M"))
ELECTION_RULES: Final = frozenset(rule for rule in Rule if rule.value.startswith("E"))
DISTURBED_SHARE: Final = {"all": 0.4, "votes": 0.6, "leases": 0.2, "members": 0.2}
"""By family: share of the seeds in which links flap or break in half, and machines are busy."""
DISTURBANCES: Final = ("half cut", "flapping link", "busy machine")
GUARD_RULES: Final = frozenset(rule for rule in Rule if rule.value.startswith("T"))


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run."""

    replicas: int | None = None
    """3, 5 or 7; drawn by the seed if None."""
    seconds: float | None = None
    """How long faults go on, in simulated seconds; drawn if None."""
    disabled_rules: frozenset[Rule] = NO_RULES
    """Rules of the guard and the gate that are switched off: for tests only."""


UNEVEN_SHARE: Final = 0.3
"""Share of the seeds in which replicas are configured with different timeouts."""


class SeedPlan(msgspec.Struct, kw_only=True):
    """What a seed means."""

    family: str
    replicas: int
    seconds: float
    weights: dict[str, int]
    every_s: float
    loss_throttle: float
    slow: float
    lose_answers: float
    late_calls: float
    clients: int
    agents: int
    pause_s: float
    settings: dict[str, Any]
    patience: tuple[float, ...] = ()
    """How many times as long as usual the configured election timeouts of each founder are."""
    levels: tuple[int, ...] = ()
    """Feature levels of the founders' versions, where they are older."""
    steady: bool = False
    """Frames that leave together arrive together."""
    rough_birth: bool = False
    """The founders come one by one, and some crash meanwhile."""
    sick: bool = False
    """Machines of agents fail."""
    retention_ms: int = Limits().retention_ms
    """How long finished workflows are kept."""
    long_programs: bool = False
    """Many programs run longer than a lease."""


def seeds_of(family: str, seeds: Iterable[int]) -> list[int]:
    """Return those seeds that belong to a family."""
    return [seed for seed in seeds if FAMILIES[seed % len(FAMILIES)] == family]


def make_plan(seed: int, options: RunOptions) -> SeedPlan:
    """Draw the plan of a run. One seed in two belongs to a family that tests one part deeply; the others test all."""
    rng = random.Random(f"plan {seed}")  # noqa: S311 - a simulation
    share = rng.choice((0.3, 0.6, 1.0))
    plan = SeedPlan(
        family=FAMILIES[seed % len(FAMILIES)],
        replicas=rng.choice((3, 3, 3, 3, 3, 5, 5, 7)),
        seconds=rng.uniform(5.0, 12.0),
        weights={name: kind.weight for name, kind in FAULT_KINDS.items() if kind.weight and rng.random() < share},
        every_s=rng.choice((0.08, 0.2, 0.5)),
        loss_throttle=rng.choice((0.03, 0.1, 0.3)),
        slow=rng.choice((0.0, 0.0, 0.0, 0.1, 0.3)),
        lose_answers=rng.choice((0.0, 0.02, 0.1)),
        late_calls=rng.choice((0.0, 0.01, 0.05)),
        clients=rng.choice((1, 2, 3)),
        agents=rng.choice((1, 2, 3)),
        pause_s=rng.choice((0.01, 0.04, 0.1)),
        settings={
            "segment_bytes": rng.choice((4096, 16384, 65536)),
            "snapshot_entries": rng.choice((20, 60, 200, 10**6)),
            "window_bytes": rng.choice((500, 20_000, 10**7)),
            "append_bytes_max": rng.choice((300, 5000, 10**6)),
            "snapshot_stall_s": 0.5,
            "snapshot_retry_s": 1.0,
            "snapshot_chunks_in_flight": rng.choice((1, 8)),
        },
    )
    # A rule of the log is hunted without changes of the members, which would only thin out what it needs.
    deep = not options.disabled_rules <= MEMBER_RULES
    if deep and plan.family == "members":
        plan.family = "log"
    _go_deep(plan, rng)
    wipes = random.Random(f"wipes {seed}")  # noqa: S311 - of its own, so that other draws stay as they are
    if not deep and (plan.family == "repairs" or (plan.family == "all" and wipes.random() < WIPING_SHARE)):
        plan.weights["wipe disks"] = sum(plan.weights.values()) // 6 + 1
    silences = "silent leader" in plan.weights and plan.family == "leases"
    if not deep and plan.family in {"all", "leases"} and not silences:
        plan.sick = random.Random(f"sick {seed}").random() < SICK_SHARE[plan.family]  # noqa: S311 - of its own, as above
    if not deep or options.disabled_rules <= ELECTION_RULES:
        _disturb_elections(plan, seed)
    uneven = random.Random(f"patience {seed}")  # noqa: S311 - of its own, as above
    if not deep and uneven.random() < UNEVEN_SHARE:
        plan.patience = tuple(uneven.choice((1.0, 1.5)) for _ in range(7))
    if random.Random(f"retention {seed}").random() < RETIRING_SHARE:  # noqa: S311 - of its own, as above
        plan.retention_ms = RETENTION_MS
    plan.rough_birth = not deep and wipes.random() < ROUGH_SHARE
    if deep:
        plan.weights = {kind: weight for kind, weight in plan.weights.items() if kind not in CHANGES}
    elif plan.family not in {"all", "members", "repairs"} and rng.random() < CHANGING_SHARE:
        plan.weights |= dict.fromkeys(CHANGES, sum(plan.weights.values()) // 12 + 1)
    if rng.random() < MIXED_SHARE:
        plan.weights["upgrade"] = sum(plan.weights.values()) // 6 + 1
        plan.levels = tuple(rng.randint(LEVEL_FIRST, NEXT_LEVEL) for _ in range(7))
    else:
        plan.weights.pop("upgrade", None)
    plan.replicas = options.replicas or plan.replicas
    plan.seconds = options.seconds or plan.seconds
    return plan


def _disturb_elections(plan: SeedPlan, seed: int) -> None:
    """Add the faults that must not cost a term, to some seeds."""
    rng = random.Random(f"elections {seed}")  # noqa: S311 - of its own, so that other draws stay as they are
    if rng.random() < DISTURBED_SHARE.get(plan.family, 0.0):
        share = sum(plan.weights.values()) // 8 + 1
        plan.weights |= {kind: share for kind in DISTURBANCES if rng.random() < 0.7}


def _go_deep(plan: SeedPlan, rng: random.Random) -> None:
    """Adapt a plan to its family."""
    settings = plan.settings
    if plan.family == "log":
        plan.replicas, plan.clients, plan.agents, plan.pause_s = rng.choice((3, 5, 5)), 1, 1, 0.1
        plan.weights = {
            "isolated leader": 10,
            "slow majority": 4,
            "burst": 10,
            "transfer leadership": 3,
            "slow link": 2,
            "kill": 1,
        }
        plan.every_s, plan.loss_throttle, plan.slow, plan.steady = 0.4, 0.1, 0.0, rng.random() < 0.6
        settings |= {"append_bytes_max": 300, "window_bytes": 10**7, "snapshot_entries": rng.choice((100, 10**6))}
    elif plan.family == "snapshots":
        plan.replicas, plan.clients, plan.agents, plan.pause_s = rng.choice((3, 3, 5)), 1, 1, 0.1
        plan.weights = {
            "power loss": 10,
            "kill": 5,
            "burst": 15,
            "snapshot": 10,
            "power loss of all": 4,
            "refused restore": 6,
            "failing disk": 6,
            "full disk": 6,
            "isolate": 4,
            "isolated leader": 16,
            "lagging follower": 25,
            "crash at disk operation": 5,
            "drop connection": 3,
            "slow link": 3,
        }
        plan.every_s, plan.loss_throttle, plan.steady = 0.25, 0.3, rng.random() < 0.5
        settings |= {"snapshot_entries": rng.choice((20, 10**6)), "segment_bytes": 4096}
    elif plan.family == "reads":
        plan.replicas, plan.clients, plan.agents, plan.pause_s = 3, 2, 1, 0.05
        plan.weights = {"paused leader": 10, "pause": 3, "burst": 10, "isolate": 2}
        plan.every_s, plan.loss_throttle, plan.slow = 0.5, 0.05, 0.0
    elif plan.family == "votes":
        plan.replicas, plan.clients, plan.agents, plan.pause_s = rng.choice((3, 5)), 1, 1, 0.1
        plan.weights = {"crash after vote": 10, "slow disk": 3, "burst": 3}
        plan.every_s, plan.loss_throttle, plan.slow = 0.5, 0.1, 0.3
    elif plan.family == "members":
        plan.replicas, plan.clients, plan.agents, plan.pause_s = rng.choice((3, 3, 4, 5)), 1, 1, 0.1
        plan.weights = {
            "add member": 10,
            "remove member": 10,
            "replace member": 8,
            "change at isolated leader": 6,
            "absent member": 4,
            "power loss": 6,
            "kill": 4,
            "crash at disk operation": 5,
            "transfer leadership": 4,
            "isolate": 4,
            "isolated leader": 3,
            "lagging follower": 4,
            "snapshot": 5,
            "burst": 8,
            "drop connection": 3,
            "power loss of all": 1,
        }
        plan.every_s, plan.loss_throttle = rng.choice((0.15, 0.3)), 0.15
        settings |= {"snapshot_entries": rng.choice((20, 60, 10**6))}
    elif plan.family == "repairs":
        plan.replicas, plan.clients, plan.agents, plan.pause_s = 3, 1, 1, 0.1
        plan.weights = {
            "damaged voter": 10,
            "misplaced write": 5,
            "burst": 6,
            "replace member": 4,
            "add member": 4,
            "kill": 1,
        }
        plan.weights["replace all others"] = 4
        if random.Random(f"copies {settings}").random() < COPIES_SHARE:  # noqa: S311 - other draws stay as they are
            plan.weights |= {"older disk copy": 20, "damaged voter": 0, "misplaced write": 0}
        plan.every_s, plan.loss_throttle, plan.slow = 0.4, 0.2, 0.0
        settings |= {"segment_bytes": 4096, "snapshot_entries": 10**6}
    elif plan.family == "leases":
        # A single agent brings back what it finished while it was lost: no other one has taken the task.
        plan.replicas, plan.clients, plan.agents, plan.pause_s = 3, 2, rng.choice((1, 5, 5)), 0.05
        plan.weights = {
            "agent fault": 6,
            "lose agent at work": 10,
            "isolate all agents": 3,
            "clock jump": 6,
            "clock past deadlines": 3,
            "transfer leadership": 2,
            "pause": 1,
        }
        plan.every_s, plan.late_calls, plan.long_programs = 0.3, rng.choice((0.02, 0.2)), True
        if rng.random() < SILENCES_SHARE:
            # Nothing else goes wrong, so that what takes too long can be told from what is in the way.
            plan.weights = {"silent leader": 4, "isolate all agents": 3, "agent fault": 3}
            plan.agents = rng.choice((1, 5))
            plan.every_s, plan.late_calls, plan.lose_answers, plan.slow = 1.5, 0.0, 0.0, 0.0
