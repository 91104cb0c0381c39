"""The kinds of faults: how often each comes, and by which effects a run shows that it happened.

Every seed draws which kinds it has (swarm testing). A test asserts that every effect is seen over a set of seeds.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class FaultKind(NamedTuple):
    """A kind of fault."""

    weight: int
    """Its usual share among the faults of a run; 0 if only a family of seeds asks for it (`plan.py`)."""
    effects: tuple[str, ...]
    """What the trace counts when it took effect: each of them must be seen."""


FAULT_KINDS: Final[dict[str, FaultKind]] = {
    "power loss": FaultKind(10, ("power loss",)),
    "kill": FaultKind(6, ("kill",)),
    "crash at disk operation": FaultKind(8, ("crash at a disk operation",)),
    "power loss of all": FaultKind(4, ("power loss of all",)),
    "partition": FaultKind(8, ("link partitioned",)),
    "one-way partition": FaultKind(6, ("link partitioned one way",)),
    "isolate": FaultKind(5, ("replica isolated",)),
    "drop connection": FaultKind(6, ("connection lost",)),
    "slow link": FaultKind(6, ("slow link",)),
    "slow disk": FaultKind(4, ("slow disk",)),
    "pause": FaultKind(10, ("process paused",)),
    "clock jump": FaultKind(8, ("clock jump",)),
    "failing disk": FaultKind(
        4,
        (
            "failing sync",
            "failing write",
            "failing create",
            "failing rename",
            "failing sync_dir",
        ),
    ),
    "full disk": FaultKind(4, ("full disk",)),
    "bit flip": FaultKind(4, ("bit flipped",)),
    "misplaced write": FaultKind(3, ("write lost", "write misdirected")),
    "refused restore": FaultKind(2, ("snapshot refused",)),
    "burst": FaultKind(16, ("burst of entries",)),
    "isolated leader": FaultKind(6, ("leader isolated with a tail",)),
    "slow majority": FaultKind(6, ("slow majority",)),
    "crash after vote": FaultKind(4, ("power loss after a vote",)),
    "paused leader": FaultKind(4, ("leader isolated and paused",)),
    "lagging follower": FaultKind(5, ("follower left behind",)),
    "snapshot": FaultKind(8, ("snapshot requested",)),
    "transfer leadership": FaultKind(5, ("leadership transferred",)),
    "agent fault": FaultKind(8, ("agent killed", "agent paused", "agent stopped", "agent isolated")),
    "silent leader": FaultKind(4, ("leader silent",)),
    "isolate all agents": FaultKind(3, ("all agents isolated",)),
    "add member": FaultKind(9, ("member added", "change of members refused")),
    "remove member": FaultKind(9, ("member removed",)),
    "replace member": FaultKind(6, ("replica lost with its disk",)),
    "upgrade": FaultKind(8, ("replica upgraded",)),
    "change at isolated leader": FaultKind(4, ("change at an isolated leader",)),
    "absent member": FaultKind(3, ("absent member added",)),
    "damaged voter": FaultKind(3, ("voter damaged",)),
    "lose agent at work": FaultKind(0, ("agent lost at work", "lost agent forgotten")),
    "clock past deadlines": FaultKind(0, ("clock past deadlines",)),
    "older disk copy": FaultKind(0, ("voter on an older disk copy", "older disk copy put back")),
    "replace all others": FaultKind(0, ("all other voters replaced",)),
    "half cut": FaultKind(0, ("half cut",)),
    "flapping link": FaultKind(0, ("flapping link",)),
    "busy machine": FaultKind(0, ("busy machine",)),
    "wipe disks": FaultKind(0, ("disk wiped", "emptied replica stopped")),
}
MACHINE_EFFECTS: Final = ("machine unable", "machine black hole")
"""Effects of the faults of agents' machines (`machine_faults.py`)."""
END_EFFECTS: Final = ("journals corrupted at once",)
"""Effects of what happens when a run has come to rest (`corruption.py`)."""
EXPOSURE: Final = "acknowledged entry exposed"
"""The effect of `commit_exposure.py`, which runs only while rules are switched off."""
EFFECTS: Final = frozenset(
    [*MACHINE_EFFECTS, *END_EFFECTS, *(effect for kind in FAULT_KINDS.values() for effect in kind.effects)]
)
"""Every effect that runs with all rules show."""
