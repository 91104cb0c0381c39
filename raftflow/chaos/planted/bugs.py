"""The planted bugs: each is a patch of the product in its own process, and faults that bring it to light.

Nothing in raftflow knows of them. `python -m raftflow.chaos.planted` starts a replica or an agent with one of them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raftflow.chaos.planted import patches
from raftflow.machine import apply as machine_apply
from raftflow.replication.raft.reads import ReadRounds
from raftflow.simulation.mutation.patches import machine as in_machine
from raftflow.simulation.mutation.patches import replication as in_replication
from raftflow.simulation.mutation.patches.common import attribute

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
    hold_s: tuple[float, float] | None = None
    """How long the faults must stay, if not as usual."""


@contextlib.contextmanager
def _stale_attempts() -> Iterator[None]:
    with in_machine.accept_stale(), in_machine.accept_superseded():
        yield


@contextlib.contextmanager
def _empty_births() -> Iterator[None]:
    with in_replication.believe_the_emptied(), patches.births_without_all():
        yield


BUGS: Final[tuple[PlantedBug, ...]] = (
    PlantedBug(
        name="guard-off",
        about="the rules T1 to T7 of the guard around PySyncObj are switched off",
        plant=patches.guard_off,
        faults=("split-off-leader", "isolate-leader", "kill-in-installation"),
        kinds=("replicas", "not-linearizable", "lost"),
        # The others must get so far that the old leader needs a snapshot, while it holds entries of its own.
        hold_s=(10.0, 14.0),
    ),
    PlantedBug(
        name="stale-attempt-accepted",
        about="a late end of an old attempt ends the present attempt",
        plant=_stale_attempts,
        faults=("cut-agent-from-leader", "silence-agent", "flap-agent"),
        kinds=("accepted-end", "two-ends", "effect"),
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
        kinds=("overlap",),
    ),
    PlantedBug(
        name="ledger-leak-on-cancel",
        about="what a cancelled attempt held stays allocated",
        plant=patches.leak_on_cancel,
        faults=("kill-follower",),
        kinds=("replicas", "unfinished"),
    ),
    PlantedBug(
        name="read-from-isolated-leader",
        about="a leader answers reads without asking whether it still leads",
        plant=attribute(ReadRounds, "begin", in_replication.read_alone),
        faults=("split-off-leader", "pause-leader"),
        kinds=("not-linearizable", "went-back"),
    ),
    PlantedBug(
        name="birth-of-an-empty-cluster",
        about="replicas with empty disks elect each other though others had data",
        plant=_empty_births,
        faults=("wipe-majority",),
        kinds=("not-linearizable", "lost"),
    ),
)
