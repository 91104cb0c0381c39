"""The planted bugs: each is a patch of the product in its own process, and faults that bring it to light.

Nothing in raftflow knows of them. `python -m raftflow.chaos.planted` starts a replica or an agent with one of them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raftflow.chaos.planted import patches
from raftflow.machine import apply as machine_apply
from raftflow.replication.members.births import Births
from raftflow.replication.raft.rules import Rule
from raftflow.simulation.mutation.patches import machine as in_machine
from raftflow.simulation.mutation.patches.common import attribute
from raftflow.simulation.plan import GUARD_RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raftflow.simulation.mutation.patches.common import Patch


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """A bug, and how it comes to light."""

    name: str
    about: str
    plant: Callable[[], Patch]
    """Returns a context manager that puts it into the process."""
    faults: tuple[str, ...]
    """Kinds of faults that bring it to light; other kinds only take time."""
    kinds: tuple[str, ...]
    """Kinds of violations that it can cause; the first is the usual one."""
    restores: bool = False
    """The run loses the cluster and restores it from a snapshot; no other fault is needed."""
    hold_s: tuple[float, float] | None = None
    """How long the faults must stay, if not as usual."""
    long_share: float | None = None
    """How many of all tasks must take seconds, if not as usual."""


_SYNC_RULES: Final = frozenset({Rule.SYNC_ACKS, Rule.SYNC_VOTES, Rule.SYNC_LEADER})


@contextlib.contextmanager
def _stale_attempts() -> Iterator[None]:
    with in_machine.accept_stale(), in_machine.accept_superseded():
        yield


BUGS: Final[tuple[PlantedBug, ...]] = (
    PlantedBug(
        name="stale-attempt-accepted",
        about="a late end of an old attempt ends the present attempt",
        plant=_stale_attempts,
        faults=("cut-agent-from-leader", "silence-agent", "flap-agent"),
        kinds=("accepted-end", "two-ends", "effect"),
        hold_s=(3.0, 5.0),
        long_share=0.4,
    ),
    PlantedBug(
        name="lost-reply-sent-as-new",
        about="a request that is sent again is carried out again",
        plant=attribute(machine_apply, "_apply_once", in_machine.apply_again),
        faults=("kill-leader", "pause-leader"),
        kinds=("duplicate",),
    ),
    PlantedBug(
        name="lease-not-checked",
        about="an agent and its launcher let attempts run though no leader has confirmed the lease",
        plant=patches.leases_unchecked,
        faults=("cut-agent-from-leader", "silence-agent"),
        kinds=("overlap", "effect"),
        hold_s=(5.0, 7.0),
        long_share=0.6,
    ),
    PlantedBug(
        name="ledger-leak-on-cancel",
        about="what a cancelled attempt held stays allocated",
        plant=patches.leak_on_cancel,
        faults=("kill-follower",),
        kinds=("replicas", "unfinished", "recovery"),
    ),
    PlantedBug(
        name="read-from-isolated-leader",
        about="a leader answers reads without asking whether it still leads",
        plant=patches.reads_without_quorum,
        faults=("split-off-leader", "isolate-leader"),
        kinds=("not-linearizable", "went-back"),
    ),
    PlantedBug(
        name="restore-reuses-fences",
        about="a cluster that is restored from a snapshot gives out the fences again that were given after it",
        plant=patches.restored_fences,
        faults=(),
        kinds=("fence", "effect"),
        restores=True,
    ),
    PlantedBug(
        name="guard-off",
        about="the library's own Raft, without the rules of the guard",
        plant=lambda: patches.rules_off(GUARD_RULES),
        faults=("kill-outdated-leader", "outdate-leader"),
        kinds=("replicas", "lost", "not-linearizable", "went-back", "recovery", "unfinished"),
    ),
    PlantedBug(
        name="sync-gate-off",
        about="votes and acknowledgements are sent before they are on disk",
        plant=lambda: patches.rules_off(_SYNC_RULES),
        faults=("power-loss-in-sync",),
        kinds=("lost", "not-linearizable", "went-back", "replicas", "recovery"),
    ),
    PlantedBug(
        name="birth-of-empty-cluster",
        about="replicas with empty directories found a cluster although not all members are known to be empty",
        plant=attribute(Births, "_is_ordered", lambda _self: True),
        faults=("wipe-majority-apart", "wipe-majority"),
        kinds=("lost", "not-linearizable", "went-back", "phantom", "fence", "duplicate"),
    ),
)
