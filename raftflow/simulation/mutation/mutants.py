"""Mutants: planted faults. The simulation must detect every one of them.

Each mutant is a small patch of the code under test, or a rule that is switched off, for the time of a run. None of
this is reachable from anywhere but `raftflow simulate mutants` and the tests.
"""

from __future__ import annotations

import contextlib
from typing import Final

from raftflow.agent.exchange.core import ExchangeCore
from raftflow.coordinator.clock import ClusterClock
from raftflow.coordinator.leader.leader_loop import LeaderLoop
from raftflow.coordinator.uploads.workflow_uploads import WorkflowUploads
from raftflow.machine import apply as machine_apply
from raftflow.machine.commands import agents as machine_agents
from raftflow.machine.commands import attempts as machine_attempts
from raftflow.machine.schema.agenda import AGENDA
from raftflow.machine.schema.identities.tokens import TOKENS
from raftflow.machine.schema.requests import REQUESTS
from raftflow.machine.schema.uploads import UPLOADS
from raftflow.machine.schema.workflows import RESULT_BYTES
from raftflow.machine.tables.workflows import Workflow
from raftflow.replication.elections import timeouts as election_timeouts
from raftflow.replication.elections.pre_votes import PreVotes
from raftflow.replication.elections.timeouts import ElectionTimeouts
from raftflow.replication.members import introductions
from raftflow.replication.members.births import Births
from raftflow.replication.raft.reads import ReadRounds
from raftflow.replication.raft.rules import Rule
from raftflow.replication.storage.journal import Journal
from raftflow.replication.storage.snapshot_file import SnapshotFileWriter
from raftflow.simulation.mutation.attempt_mutants import ATTEMPT_MUTANTS
from raftflow.simulation.mutation.mutant import SEEDS_MAX, Mutant
from raftflow.simulation.mutation.patches import agenda as in_agenda
from raftflow.simulation.mutation.patches import agent as in_agent
from raftflow.simulation.mutation.patches import backups as in_backups
from raftflow.simulation.mutation.patches import elections as in_elections
from raftflow.simulation.mutation.patches import leader as in_leader
from raftflow.simulation.mutation.patches import machine as in_machine
from raftflow.simulation.mutation.patches import replication as in_replication
from raftflow.simulation.mutation.patches.common import attribute
from raftflow.simulation.plan import MEMBER_RULES

_RULES: Final[dict[Rule, str]] = {
    Rule.TERM_STAMP: "acknowledgements of another term count",
    Rule.NO_TRUNCATION: "an append that comes again cuts off the entries after it",
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
    Rule.OUTSIDERS_PASSIVE: "a replica that is not a voter by its own log stands for election",
    Rule.LEARN_FIRST: "a newcomer counts at once, whether or not it runs",
    Rule.PRE_VOTE: "a replica raises the term without asking whether it could win",
    Rule.PRE_VOTE_SILENCE: "a replica says that it would vote though it hears a leader",
    Rule.PRE_VOTE_LOG: "a replica says that it would vote for one with an older log",
}

_RULE_FAMILIES: Final = {
    Rule.TERM_STAMP: "log",
    Rule.RESUME_HINT: "log",
    Rule.NO_FORWARDING: "reads",
    Rule.COMMIT_VERIFIED: "reads",
    Rule.LOAD_CHECKED: "snapshots",
    Rule.SNAPSHOT_NEEDED: "snapshots",
    Rule.SYNC_VOTES: "votes",
    **dict.fromkeys(MEMBER_RULES, "members"),
}

_RULE_SEEDS: Final = {
    # Needs a follower that has the whole log and is cut off from the leader alone, in a cluster that is well.
    Rule.PRE_VOTE_SILENCE: 120,
}

_RULE_FAULTS: Final = {
    # The engine looks for itself as well; with the rule off alone nothing would happen.
    Rule.LOAD_CHECKED: in_replication.swallow_failed_load,
    Rule.NO_FORWARDING: in_replication.submit_anywhere,
}

MUTANTS: Final[tuple[Mutant, ...]] = (
    *(
        Mutant(
            name=f"{rule.value} off",
            about=about,
            rule=rule,
            family=_RULE_FAMILIES.get(rule),
            seeds_max=_RULE_SEEDS.get(rule, SEEDS_MAX),
            plant=_RULE_FAULTS.get(rule, contextlib.nullcontext),
        )
        for rule, about in _RULES.items()
    ),
    Mutant(
        name="timeouts without bounds",
        about="election timeouts become as long as the delays ask for",
        plant=attribute(election_timeouts, "STRETCH_MAX", 1e6),
    ),
    Mutant(
        name="half the silence",
        about="a replica votes for another leader when it has heard none for half of its least timeout",
        plant=attribute(ElectionTimeouts, "silence_s", in_elections.HALF_SILENCE),
    ),
    Mutant(
        name="leases forgotten",
        about="a leader without a majority leads on for as long as its other timeouts are",
        plant=attribute(ElectionTimeouts, "fallback_s", in_elections.UNBOUNDED_FALLBACK),
    ),
    Mutant(
        name="own silence alone",
        about="a replica with short timeouts votes while a leader with long ones may still lead",
        plant=attribute(PreVotes, "_required_silence_s", in_elections.own_silence),
        family="repairs",
    ),
    Mutant(
        name="no sync",
        about="the journal is never synced",
        plant=in_replication.never_sync,
    ),
    Mutant(
        name="votes not durable",
        about="the vote is not written",
        plant=in_replication.forget_votes,
        family="votes",
    ),
    Mutant(
        name="failed sync ignored",
        about="a sync that fails counts as done",
        plant=in_replication.ignore_failed_sync,
        family="snapshots",
    ),
    Mutant(
        name="hole cut off",
        about="a journal is cut at a write that the disk lost, though later records are there",
        plant=in_replication.cut_at_holes,
        family="repairs",
    ),
    Mutant(
        name="snapshot not synced",
        about="a snapshot gets its name before its bytes are on disk",
        plant=attribute(SnapshotFileWriter, "finish", in_replication.finish_unsynced),
    ),
    Mutant(
        name="votes during repair",
        about="a replica that takes its log from the others again votes meanwhile",
        plant=in_replication.vote_always,
        family="repairs",
    ),
    Mutant(
        name="old copy votes at once",
        about="a replica whose disk was put back from an older copy votes as though it remembered",
        plant=in_replication.vote_from_old_copies,
        family="repairs",
    ),
    Mutant(
        name="strangers refused",
        about="who returns after all that it knew were replaced takes none of the members in",
        plant=attribute(introductions, "is_welcome", lambda *_: False),
        family="repairs",
    ),
    Mutant(
        name="birth without all",
        about="fresh replicas elect each other though not everybody is known to be fresh",
        plant=attribute(Births, "_is_ordered", lambda _self: True),
        family="repairs",
    ),
    Mutant(
        name="emptied ones believed",
        about="a replica is taken in with whatever disk it comes",
        plant=in_replication.believe_the_emptied,
        family="repairs",
    ),
    Mutant(
        name="log trimmed early",
        about="the log is trimmed before the snapshot is durable",
        plant=in_replication.trim_early,
    ),
    Mutant(
        name="log not aligned",
        about="the log is not cut to the snapshot at the start, so the library clears it",
        plant=attribute(Journal, "align", lambda _self, _previous, _last: None),
        family="snapshots",
    ),
    Mutant(
        name="requests not in snapshot",
        about="remembered replies are left out of snapshots",
        plant=in_machine.snapshot_without(REQUESTS),
    ),
    Mutant(
        name="chain not in snapshot",
        about="the audit chain begins again",
        plant=in_machine.restore_without(in_machine.forget_chain),
    ),
    Mutant(
        name="fence not in snapshot",
        about="fences begin again",
        plant=in_machine.restore_without(in_machine.forget_fence),
    ),
    Mutant(
        name="timers not in snapshot",
        about="timers are lost",
        plant=in_machine.restore_without(in_machine.forget_timers),
    ),
    Mutant(
        name="uploads not in snapshot",
        about="workflows that come in pieces are left out of snapshots",
        plant=in_machine.snapshot_without(UPLOADS),
        family="snapshots",
    ),
    Mutant(
        name="retired and still counted",
        about="the results of a retired workflow count for ever",
        plant=in_machine.retire_without(RESULT_BYTES),
    ),
    Mutant(
        name="uploads not dropped",
        about="a new leader leaves the uploads of others as they are",
        plant=attribute(WorkflowUploads, "drop_abandoned", lambda _self: None),
    ),
    Mutant(
        name="request ids ignored",
        about="a retried write is carried out again",
        plant=attribute(machine_apply, "_apply_once", in_machine.apply_again),
    ),
    Mutant(
        name="stale end accepted",
        about="the end of an old attempt ends the present one",
        plant=in_machine.accept_stale,
    ),
    Mutant(
        name="old incarnation accepted",
        about="reports of lost agents count",
        plant=in_machine.any_incarnation,
        family="leases",
    ),
    Mutant(
        name="failures beside a backup forgotten",
        about="an attempt that fails while its task has another one costs nothing",
        plant=in_backups.forget_failures,
        family="leases",
    ),
    Mutant(
        name="backups not allowed",
        about="a task that allows no backup attempt gets one",
        plant=in_backups.back_up_anything,
        family="leases",
    ),
    Mutant(
        name="backups of backups",
        about="the attempt that is left of two gets another backup",
        plant=in_backups.back_up_again,
        family="leases",
    ),
    Mutant(
        name="backups beyond the limit",
        about="a backup attempt does not count for max_parallel",
        plant=in_backups.uncounted_backups,
        family="leases",
    ),
    Mutant(name="duplicate end counted", about="a repeated end is accepted again", plant=in_machine.count_duplicates),
    Mutant(name="double release", about="the ledger gives a demand back twice", plant=in_machine.release_twice),
    Mutant(
        name="queue overtaken",
        about="a small attempt overtakes the head of the queue",
        plant=in_machine.promote_any,
    ),
    Mutant(name="dice in apply", about="applying depends on more than the entry", plant=in_machine.roll_dice),
    Mutant(
        name="leases on wall clock",
        about="a clock that jumps makes agents lost",
        plant=in_leader.leases_on_wall_clock,
        family="leases",
    ),
    Mutant(
        name="clock jumps with the wall",
        about="cluster time is the leader's wall clock",
        plant=attribute(ClusterClock, "now_ms", in_leader.wall_time),
        family="leases",
    ),
    Mutant(
        name="superseded offer accepted",
        about="a returning agent's result counts for whatever attempt was the last",
        plant=in_machine.accept_superseded,
        family="leases",
        seeds_max=80,
    ),
    Mutant(
        name="inputs though behind",
        about="a replica that does not know an attempt yet gives out the inputs of another one",
        plant=in_machine.answer_though_behind,
    ),
    Mutant(
        name="first piece for all",
        about="an agent starts an attempt with the first piece of its inputs",
        plant=in_agent.take_first_piece_for_all,
    ),
    Mutant(
        name="unnoticed pauses",
        about="a leader that was paused answers polls before a majority has confirmed it",
        plant=in_leader.unnoticed_pauses,
        family="reads",
        seeds_max=150,
    ),
    Mutant(
        name="short patience",
        about="the leader gives agents up before their lease ends",
        plant=in_leader.impatient_leases,
        family="leases",
    ),
    Mutant(
        name="no fresh leases",
        about="a new leader holds silence before its time against agents",
        plant=in_leader.stale_leases,
        family="leases",
    ),
    Mutant(
        name="silent leaders waited for",
        about="an agent waits for a silent leader's answer to its end before it asks another replica",
        plant=in_agent.watch_nobody,
        family="leases",
    ),
    Mutant(
        name="mass losses counted",
        about="a fleet that was cut off twice comes back into quarantine",
        plant=in_machine.count_mass_losses,
        family="leases",
    ),
    Mutant(
        name="quarantine of the last",
        about="quarantines hold though nobody is up",
        plant=in_machine.keep_quarantines,
        family="leases",
        seeds_max=80,
    ),
    Mutant(
        name="reads without quorum",
        about="a leader answers reads without asking whether it still leads",
        plant=attribute(ReadRounds, "begin", in_replication.read_alone),
        family="reads",
    ),
    Mutant(
        name="drain forgotten",
        about="an agent that was drained comes back without its drain",
        plant=attribute(machine_agents, "_go_on_draining", lambda _step, _agent: None),
        family="leases",
    ),
    Mutant(
        name="agent fault charged",
        about="what an agent could not do costs the task a retry",
        plant=attribute(machine_attempts, "_count_agent_fault", machine_attempts._count_failure),  # noqa: SLF001
        family="all",
    ),
    Mutant(
        name="black holes kept",
        about="an agent on which everything fails goes on though the tasks succeed elsewhere",
        plant=attribute(machine_attempts, "contradict", lambda *_: None),
        family="leases",
        seeds_max=80,
    ),
    Mutant(
        name="name taken",
        about="any agent takes the name of one that is present",
        plant=attribute(machine_agents, "_takes_its_place", lambda _known, _command: True),
        seeds_max=80,
    ),
    Mutant(
        name="agents ignore their lease",
        about="agents go on although no leader heard them",
        plant=in_agent.agents_without_lease,
        family="leases",
    ),
    Mutant(
        name="refused poll repeated",
        about="an agent sends a refused poll again as it is",
        plant=attribute(ExchangeCore, "_on_refused", in_agent.refused_again),
    ),
    Mutant(
        name="cursor forgotten",
        about="a restored replica does the pieces of a large command again",
        plant=in_machine.restore_without(in_agenda.forget_cursors),
    ),
    Mutant(
        name="agenda not saved",
        about="a snapshot holds no jobs",
        plant=in_machine.snapshot_without(AGENDA),
    ),
    Mutant(
        name="placed while stopped",
        about="tasks start while the stop of their workflow is pending",
        plant=attribute(Workflow, "hold", in_agenda.hold_if_paused),
    ),
    Mutant(
        name="finished early",
        about="a workflow finishes while a job of it is pending",
        plant=in_agenda.finish_early,
    ),
    Mutant(
        name="last job left",
        about="nobody carries the last job of the agenda out",
        plant=attribute(LeaderLoop, "_continue_agenda", in_agenda.leave_last_job),
    ),
    Mutant(
        name="revoked secrets",
        about="the secret of a token that was revoked is still valid",
        plant=in_machine.keep_revoked_secrets,
    ),
    Mutant(
        name="old secrets",
        about="a secret is still valid after its token was rotated and its time has ended",
        plant=in_machine.keep_old_secrets,
    ),
    Mutant(
        name="tokens not saved",
        about="a snapshot holds no tokens",
        plant=in_machine.snapshot_without(TOKENS),
    ),
    *ATTEMPT_MUTANTS,
)
