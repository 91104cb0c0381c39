"""Planted faults: the simulation must find every one of them, or it proves little.

Each mutant is a small patch of the code under test, or a rule that is switched off, for the time of a run. None of
this is reachable from anywhere but `raftflow simulate mutants` and the tests.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.agent.exchange.exchange import Exchange
from raftflow.coordinator.clock import ClusterClock
from raftflow.coordinator.uploads.workflow_uploads import WorkflowUploads
from raftflow.helpers import spawn_context
from raftflow.machine import apply as machine_apply
from raftflow.machine.commands import agents as machine_agents
from raftflow.machine.commands import attempts as machine_attempts
from raftflow.machine.tables.requests import RequestTable
from raftflow.replication.members import introductions
from raftflow.replication.members.births import Births
from raftflow.replication.raft.reads import ReadRounds
from raftflow.replication.raft.rules import NO_RULES, Rule
from raftflow.replication.storage.journal import Journal
from raftflow.replication.storage.snapshot_file import SnapshotFileWriter
from raftflow.simulation.mutation import patches
from raftflow.simulation.plan import FAMILIES, MEMBER_RULES, RunOptions
from raftflow.simulation.run import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator


SEEDS_MAX: Final = 40
"""Seeds within which a mutant must be found, unless it says otherwise."""


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A planted fault."""

    name: str
    about: str
    plant: Any = contextlib.nullcontext
    """Called before a run; a context manager that puts the fault in and takes it out."""
    rule: Rule | None = None
    """A rule that is switched off."""
    family: str | None = None
    """Only seeds of this family of scenarios are run; all of them are part of the normal seeds."""
    seeds_max: int = SEEDS_MAX


class MutantResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how a mutant was found."""

    mutant: str
    found: bool
    seed: int | None
    kind: str
    detail: str
    tried: int
    """Seeds that were run."""
    seeds_max: int


_RULES: Final[dict[Rule, str]] = {
    Rule.TERM_STAMP: "acknowledgements of another term count",
    Rule.NO_TRUNCATION: "an append that comes again cuts off what stands behind it",
    Rule.RESUME_HINT: "the hint where to resume may oscillate",
    Rule.COMMIT_VERIFIED: "a heartbeat commits entries that were never compared",
    Rule.LOAD_CHECKED: "a snapshot that failed to load is acknowledged",
    Rule.NO_FORWARDING: "commands are forwarded between replicas",
    Rule.SNAPSHOT_NEEDED: "a snapshot that the log covers is loaded",
    Rule.SYNC_ACKS: "a follower acknowledges before its disk has the entries",
    Rule.SYNC_VOTES: "a vote leaves before the disk has it",
    Rule.SYNC_LEADER: "the leader counts itself before its disk has the entries",
    Rule.ONE_CHANGE: "a change of the members begins before the one before is settled",
    Rule.LOGGED_MEMBERS: "a logged change counts only when it is applied",
    Rule.SNAPSHOT_MEMBERS: "a snapshot holds the list of the moment, changes that are not committed included",
    Rule.MEMBERS_COUNT: "removed replicas are heard, and not told",
    Rule.OUTSIDERS_PASSIVE: "who is not a voter by its own log stands for election",
    Rule.LEARN_FIRST: "a newcomer counts at once, whether or not it runs",
}

_RULE_FAMILIES: Final = {
    Rule.TERM_STAMP: "log",
    Rule.RESUME_HINT: "log",
    Rule.NO_FORWARDING: "reads",
    Rule.COMMIT_VERIFIED: "snapshots",
    Rule.LOAD_CHECKED: "snapshots",
    Rule.SNAPSHOT_NEEDED: "snapshots",
    Rule.SYNC_VOTES: "votes",
    **dict.fromkeys(MEMBER_RULES, "members"),
}

_RULE_PLANTS: Final = {
    # The engine looks for itself as well; with the rule off alone nothing would happen.
    Rule.LOAD_CHECKED: patches.swallow_failed_load,
    Rule.NO_FORWARDING: patches.submit_anywhere,
}

MUTANTS: Final[tuple[Mutant, ...]] = (
    *(
        Mutant(
            name=f"{rule.value} off",
            about=about,
            rule=rule,
            family=_RULE_FAMILIES.get(rule),
            plant=_RULE_PLANTS.get(rule, contextlib.nullcontext),
        )
        for rule, about in _RULES.items()
    ),
    Mutant(
        name="no sync",
        about="the journal is never synced",
        plant=patches.never_sync,
    ),
    Mutant(name="votes not durable", about="the vote is not written", plant=patches.forget_votes, family="votes"),
    Mutant(
        name="failed sync ignored",
        about="a sync that fails counts as done",
        plant=patches.ignore_failed_sync,
        family="snapshots",
    ),
    Mutant(
        name="snapshot not synced",
        about="a snapshot gets its name before its bytes are on disk",
        plant=patches.attribute(SnapshotFileWriter, "finish", patches.finish_unsynced),
    ),
    Mutant(
        name="votes during repair",
        about="a replica that takes its log from the others again votes meanwhile",
        plant=patches.vote_always,
        family="repairs",
    ),
    Mutant(
        name="old copy votes at once",
        about="a replica whose disk was put back from an older copy votes as though it remembered",
        plant=patches.vote_from_old_copies,
        family="repairs",
    ),
    Mutant(
        name="strangers refused",
        about="who returns after all that it knew were replaced takes none of the members in",
        plant=patches.attribute(introductions, "is_welcome", lambda *_: False),
        family="repairs",
    ),
    Mutant(
        name="birth without all",
        about="fresh replicas elect each other though not everybody is known to be fresh",
        plant=patches.attribute(Births, "_is_ordered", lambda _self: True),
        family="repairs",
    ),
    Mutant(
        name="emptied ones believed",
        about="a replica is taken in with whatever disk it comes",
        plant=patches.believe_the_emptied,
        family="repairs",
    ),
    Mutant(
        name="log trimmed early", about="the log is trimmed before the snapshot is durable", plant=patches.trim_early
    ),
    Mutant(
        name="log not aligned",
        about="the log is not cut to the snapshot at the start, so the library clears it",
        plant=patches.attribute(Journal, "align", lambda _self, _previous, _last: None),
        family="snapshots",
    ),
    Mutant(
        name="requests not in snapshot",
        about="remembered replies are left out of snapshots",
        plant=patches.attribute(RequestTable, "__iter__", patches.no_requests),
    ),
    Mutant(
        name="chain not in snapshot",
        about="the audit chain begins again",
        plant=patches.restore_without(patches.forget_chain),
    ),
    Mutant(
        name="fence not in snapshot", about="fences begin again", plant=patches.restore_without(patches.forget_fence)
    ),
    Mutant(
        name="timers not in snapshot", about="timers are lost", plant=patches.restore_without(patches.forget_timers)
    ),
    Mutant(
        name="uploads not in snapshot",
        about="workflows that come in pieces are left out of snapshots",
        plant=patches.restore_without(patches.forget_uploads),
        family="snapshots",
    ),
    Mutant(
        name="uploads not dropped",
        about="a new leader leaves the uploads of others as they are",
        plant=patches.attribute(WorkflowUploads, "look", lambda _self: None),
    ),
    Mutant(
        name="request ids ignored",
        about="a retried write is carried out again",
        plant=patches.attribute(machine_apply, "_apply_once", patches.apply_again),
    ),
    Mutant(
        name="stale end accepted", about="the end of an old attempt ends the present one", plant=patches.accept_stale
    ),
    Mutant(
        name="old incarnation accepted",
        about="reports of lost agents count",
        plant=patches.any_incarnation,
        family="leases",
    ),
    Mutant(
        name="failures beside a backup forgotten",
        about="an attempt that fails while its task has another one costs nothing",
        plant=patches.forget_failures,
        family="leases",
    ),
    Mutant(
        name="backups not allowed",
        about="a task that allows no backup attempt gets one",
        plant=patches.back_up_anything,
        family="leases",
    ),
    Mutant(
        name="backups of backups",
        about="the attempt that is left of two gets another backup",
        plant=patches.back_up_again,
        family="leases",
    ),
    Mutant(
        name="backups beyond the limit",
        about="a backup attempt does not count for max_parallel",
        plant=patches.uncounted_backups,
        family="leases",
    ),
    Mutant(name="duplicate end counted", about="a repeated end is accepted again", plant=patches.count_duplicates),
    Mutant(name="double release", about="the ledger gives a demand back twice", plant=patches.release_twice),
    Mutant(
        name="queue overtaken", about="a small attempt overtakes the head of the queue", plant=patches.promote_any
    ),
    Mutant(name="dice in apply", about="applying depends on more than the entry", plant=patches.roll_dice),
    Mutant(
        name="leases on wall clock",
        about="a clock that jumps makes agents lost",
        plant=patches.leases_on_wall_clock,
        family="leases",
    ),
    Mutant(
        name="clock jumps with the wall",
        about="cluster time is the leader's wall clock",
        plant=patches.attribute(ClusterClock, "now_ms", patches.wall_time),
        family="leases",
    ),
    Mutant(
        name="superseded offer accepted",
        about="a returning agent's result counts for whatever attempt was the last",
        plant=patches.accept_superseded,
        family="leases",
        seeds_max=80,
    ),
    Mutant(
        name="inputs though behind",
        about="a replica that does not know an attempt yet gives out the inputs of another one",
        plant=patches.answer_though_behind,
    ),
    Mutant(
        name="first piece for all",
        about="an agent starts an attempt with the first piece of its inputs",
        plant=patches.take_first_piece_for_all,
    ),
    Mutant(
        name="short patience",
        about="the leader gives agents up before their lease ends",
        plant=patches.impatient_leases,
        family="leases",
    ),
    Mutant(
        name="no fresh leases",
        about="a new leader holds silence before its time against agents",
        plant=patches.stale_leases,
        family="leases",
    ),
    Mutant(
        name="silent leaders waited for",
        about="an agent waits for a silent leader's answer to its end before it asks another replica",
        plant=patches.watch_nobody,
        family="leases",
    ),
    Mutant(
        name="mass losses counted",
        about="a fleet that was cut off twice comes back into quarantine",
        plant=patches.count_mass_losses,
        family="leases",
    ),
    Mutant(
        name="quarantine of the last",
        about="quarantines hold though nobody is up",
        plant=patches.keep_quarantines,
        family="leases",
        seeds_max=80,
    ),
    Mutant(
        name="reads without quorum",
        about="a leader answers reads without asking whether it still leads",
        plant=patches.attribute(ReadRounds, "begin", patches.read_alone),
        family="reads",
    ),
    Mutant(
        name="drain forgotten",
        about="an agent that was drained comes back without its drain",
        plant=patches.attribute(machine_agents, "_go_on_draining", lambda _step, _agent: None),
        family="leases",
    ),
    Mutant(
        name="agent fault charged",
        about="what an agent could not do costs the task a retry",
        plant=patches.attribute(machine_attempts, "_count_agent_fault", machine_attempts._count_failure),  # noqa: SLF001
        family="all",
    ),
    Mutant(
        name="black holes kept",
        about="an agent on which everything fails goes on though the tasks succeed elsewhere",
        plant=patches.attribute(machine_attempts, "contradict", lambda *_: None),
        family="leases",
        seeds_max=80,
    ),
    Mutant(
        name="name taken",
        about="any agent takes the name of one that is present",
        plant=patches.attribute(machine_agents, "_takes_its_place", lambda _known, _command: True),
        seeds_max=80,
    ),
    Mutant(
        name="agents ignore their lease",
        about="agents go on although no leader heard them",
        plant=patches.agents_without_lease,
        family="leases",
    ),
    Mutant(
        name="refused poll repeated",
        about="an agent sends a refused poll again as it is",
        plant=patches.attribute(Exchange, "_refused", patches.refused_again),
    ),
)


def hunt(mutant: Mutant, first_seed: int = 0) -> MutantResult:
    """Run seeds until the mutant shows, or until its number of seeds is over.

    A seed counts only if the run without the mutant is clean.
    """
    options = RunOptions(disabled_rules=NO_RULES if mutant.rule is None else frozenset({mutant.rule}))
    seeds = (seed for seed in itertools.count(first_seed) if mutant.family in (None, FAMILIES[seed % len(FAMILIES)]))
    for tried, seed in enumerate(itertools.islice(seeds, mutant.seeds_max), 1):
        with mutant.plant():
            report = simulate(seed, options)
        if report.violations and not simulate(seed, RunOptions()).violations:
            found = report.violations[0]
            return MutantResult(
                mutant=mutant.name,
                found=True,
                seed=seed,
                kind=found.kind,
                detail=found.detail,
                tried=tried,
                seeds_max=mutant.seeds_max,
            )
    return MutantResult(
        mutant=mutant.name,
        found=False,
        seed=None,
        kind="",
        detail="",
        tried=mutant.seeds_max,
        seeds_max=mutant.seeds_max,
    )


def hunt_named(name: str) -> MutantResult:
    """Hunt the mutant of that name."""
    return hunt(next(mutant for mutant in MUTANTS if mutant.name == name))


def hunt_all(names: list[str], *, jobs: int = 1) -> Iterator[MutantResult]:
    """Hunt mutants in several processes; the findings come in the order of the names."""
    if jobs <= 1 or len(names) == 1:
        yield from map(hunt_named, names)
        return
    context = spawn_context()
    with context.Pool(jobs) as pool:
        yield from pool.imap(hunt_named, names, chunksize=1)
