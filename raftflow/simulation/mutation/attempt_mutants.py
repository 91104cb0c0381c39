"""Mutants of what running attempts ask for: steps, effects, waits, children, and the code that they run with."""

from __future__ import annotations

from typing import Final

from raftflow.coordinator.bundles.replication import BundleReplication
from raftflow.machine.schema.effects.declaration import EFFECTS
from raftflow.machine.schema.steps import STEPS
from raftflow.machine.schema.uploads import BUNDLES
from raftflow.machine.schema.waits.signals import SIGNALS
from raftflow.machine.schema.waits.waits import WAITS
from raftflow.simulation.mutation.mutant import Mutant
from raftflow.simulation.mutation.patches import bundles as in_bundles
from raftflow.simulation.mutation.patches import children as in_children
from raftflow.simulation.mutation.patches import effects as in_effects
from raftflow.simulation.mutation.patches import machine as in_machine
from raftflow.simulation.mutation.patches import spending as in_spending
from raftflow.simulation.mutation.patches import steps as in_steps
from raftflow.simulation.mutation.patches import waits as in_waits
from raftflow.simulation.mutation.patches.common import attribute

ATTEMPT_MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        name="steps begun unpaid",
        about="an agent begins steps although a budget of the workflow is used up",
        plant=in_spending.begin_steps_unpaid,
        seeds_max=60,
    ),
    Mutant(
        name="spending goes on",
        about="an attempt without steps spends although it was told that a budget is used up",
        plant=in_spending.spend_on,
        seeds_max=60,
    ),
    Mutant(
        name="failures under one key",
        about="what failed steps have spent is counted under a key that all attempts of a task share",
        plant=in_spending.count_failures_under_one_key,
        seeds_max=60,
    ),
    Mutant(
        name="spending counted twice",
        about="a record counts twice against the budgets of its workflow",
        plant=in_spending.count_spending_twice,
    ),
    Mutant(
        name="placed without taking",
        about="a task that is placed takes nothing of its rate limits",
        plant=in_spending.place_without_taking,
    ),
    Mutant(
        name="full when set again",
        about="a rate limit that is removed and set again begins with a full bucket",
        plant=in_spending.forget_removed_buckets,
        seeds_max=60,
    ),
    Mutant(
        name="bucket refilled by looks",
        about="a rate limit gets a unit whenever somebody looks at it",
        plant=in_spending.refill_by_the_call,
    ),
    Mutant(
        name="steps of the dead",
        about="an attempt that was given up records steps",
        plant=in_steps.record_for_the_dead,
    ),
    Mutant(
        name="steps not found",
        about="an attempt is not told that earlier ones have recorded steps",
        plant=in_steps.forget_steps_of_earlier_attempts,
    ),
    Mutant(
        name="steps answered early",
        about="a step is answered before its record is committed",
        plant=in_steps.answer_before_the_commit,
    ),
    Mutant(
        name="records counted twice",
        about="an attempt believes that it knows of a record that it has never seen",
        plant=in_steps.count_records_ahead_twice,
        seeds_max=200,
    ),
    Mutant(
        name="answers mixed",
        about="the calls of a request get each other's answers",
        plant=in_steps.mix_answers,
    ),
    Mutant(
        name="steps run unasked",
        about="an attempt runs steps without asking although there are records that it has not found",
        plant=in_steps.run_unasked_beside_records,
    ),
    Mutant(
        name="steps not saved",
        about="a snapshot holds no records of steps",
        plant=in_machine.snapshot_without(STEPS),
    ),
    Mutant(
        name="intent after the call",
        about="an attempt is told to call before the intent of its effect is committed",
        plant=in_effects.call_before_the_intent,
    ),
    Mutant(
        name="outcomes of the dead",
        about="an attempt that was given up tells the outcome of an effect",
        plant=in_effects.end_for_the_dead,
    ),
    Mutant(
        name="open effects called",
        about="an attempt that finds an intent without an outcome is told to call",
        plant=in_effects.call_open_effects_again,
    ),
    Mutant(
        name="intents held twice",
        about="an attempt takes over the intent of an effect from another one that is live",
        plant=in_effects.let_two_hold_an_intent,
        seeds_max=80,
    ),
    Mutant(
        name="uncertain effects called",
        about="an attempt is told to call although a person has to decide",
        plant=in_effects.call_uncertain_effects_again,
    ),
    Mutant(
        name="second decisions",
        about="an effect that was resolved is resolved again",
        plant=in_effects.let_every_decision_count,
    ),
    Mutant(
        name="effects not saved",
        about="a snapshot holds no effects",
        plant=in_machine.snapshot_without(EFFECTS),
    ),
    Mutant(
        name="signals delivered twice",
        about="a signal that a wait receives is also kept for the next one",
        plant=in_waits.keep_what_is_delivered,
    ),
    Mutant(
        name="signal keys ignored",
        about="a signal that is sent again under its key counts again",
        plant=in_waits.forget_keys_of_signals,
    ),
    Mutant(
        name="time-outs beside signals",
        about="a wait with a timeout that receives a signal times out as well",
        plant=in_waits.leave_timed_waits_open,
    ),
    Mutant(
        name="time-outs early",
        about="a wait times out when half of its time is over",
        plant=in_waits.time_out_early,
    ),
    Mutant(
        name="second approvals",
        about="the decision of an approval that has ended counts",
        plant=in_waits.accept_every_decision,
    ),
    Mutant(
        name="answers wake nobody",
        about="a task that is parked for a wait stays parked when it has its answer",
        plant=in_waits.wake_nobody,
    ),
    Mutant(
        name="taken signals kept",
        about="a task of a document takes a signal from the mailbox, and leaves it there",
        plant=in_waits.leave_taken_signals,
    ),
    Mutant(
        name="kept signals overlooked",
        about="a task of a document waits although a signal is in the mailbox",
        plant=in_waits.overlook_kept_signals,
    ),
    Mutant(
        name="waits not saved",
        about="a snapshot holds no waits",
        plant=in_machine.snapshot_without(WAITS),
    ),
    Mutant(
        name="signals not saved",
        about="a snapshot holds no signals that are kept",
        plant=in_machine.snapshot_without(SIGNALS),
    ),
    Mutant(
        name="bundle on one disk",
        about="a code bundle is registered when the leader alone has it",
        plant=attribute(BundleReplication, "_copy_to_majority", in_bundles.copy_to_itself),
    ),
    Mutant(
        name="bundle not synced",
        about="replicas say that they keep a code bundle before it is on the disk",
        plant=in_bundles.write_without_sync,
    ),
    Mutant(
        name="copies not kept",
        about="followers acknowledge copies of code bundles, and forget them",
        plant=attribute(BundleReplication, "keep", in_bundles.acknowledge_copies_only),
    ),
    Mutant(
        name="bundle not fetched",
        about="a replica that lacks a code bundle does not fetch it",
        plant=attribute(BundleReplication, "_fetch_missing", in_bundles.fetch_nothing),
    ),
    Mutant(
        name="bundle forgotten in use",
        about="code bundles are forgotten although workflows refer to them",
        plant=in_bundles.forget_bundles_in_use,
    ),
    Mutant(
        name="bundles not spread",
        about="the members change although too few of the voters have a code bundle",
        plant=attribute(BundleReplication, "spread", in_bundles.spread_nothing),
        family="repairs",
        seeds_max=80,
    ),
    Mutant(
        name="bundles not saved",
        about="a snapshot holds no code bundles",
        plant=in_machine.snapshot_without(BUNDLES),
    ),
    Mutant(
        name="doubled children",
        about="a child that a later attempt spawns again is not found by its key",
        plant=in_children.forget_keys,
    ),
    Mutant(
        name="woken early",
        about="a parked task goes on when the first of its children has ended",
        plant=in_children.wake_with_the_first,
    ),
    Mutant(
        name="failed child forgotten",
        about="a parked task is not woken by a child that failed",
        plant=in_children.forget_failed_children,
    ),
)
