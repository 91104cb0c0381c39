"""Tasks that spawn children, and park until those have ended."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.domain import limits
from raftflow.domain.events import TaskReady
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.workflow import TaskSpec
from raftflow.machine.machine import Machine
from raftflow.machine.read import children, queries
from raftflow.machine.read.invariants import check
from raftflow.machine.read.running import successes_awaited
from raftflow.machine.rules.step_limits import StepLimits


def start(drive, cpu=4, **each):
    """Run t0 of a workflow, and return its fence."""
    drive.register(cpu=cpu, prefetch=2)
    drive.submit(drive.bag(1, **each))
    (fence,) = drive.place(0)
    return fence


def told(drive, position=0):
    return queries.explain(drive.machine, "wf-1", drive.task(position).id)


# --- spawning


def test_children_are_tasks_of_the_same_workflow(drive):
    fence = start(drive)
    assert drive.spawn(fence, "a", "b", expected_ms=5_000) == (1, 2)
    assert drive.events[:2] == [TaskReady("wf-1", 1), TaskReady("wf-1", 2)]
    assert [task.id for task in drive.machine.state.workflows["wf-1"].tasks] == ["t0", "t0:a", "t0:b"]
    assert drive.states() == "REE" and drive.machine.state.live_tasks == 3
    assert drive.task(1).rank == 5_000 + drive.task(0).rank, "what follows a child is the rest of its parent"
    assert "2 children, t0:a to t0:b" in drive.records[-1].detail
    view = queries.task_view(drive.machine, "wf-1", "t0:a")
    assert (view.parent, view.children) == ("t0", 0)
    assert queries.task_view(drive.machine, "wf-1", "t0").children == 2
    (first,) = drive.place(1)
    drive.finish(first, result=b"1")
    drive.finish(fence)
    assert (drive.states(), drive.state()) == ("SSE", "running"), "a workflow ends with its last child"
    (second,) = drive.place(2)
    drive.finish(second)
    assert (drive.state(), drive.machine.state.live_tasks) == ("succeeded", 0)
    assert drive.retire() == ("wf-1",)


def test_a_key_is_spawned_once_over_attempts(drive):
    fence = start(drive, retries=1)
    assert drive.spawn(fence, "a", "b") == (1, 2)
    assert drive.spawn(fence, "b", "c") == (2, 3)
    drive.finish(fence, "failed")
    drive.fire(1_000)
    (again,) = drive.place(0)
    assert drive.spawn(again, "c", "a", "d") == (3, 1, 4)
    assert drive.states() == "REEEE"
    (child,) = drive.place(1)
    drive.finish(child)
    assert drive.spawn(again, "a") == (1,) and drive.task(1).result == b""


def test_another_task_under_a_key_is_refused_as_a_whole(drive):
    fence = start(drive)
    drive.spawn(fence, "a")
    refused = drive.spawn(fence, "b", "a", env={"X": "1"})
    assert refused.code is RejectionCode.REQUEST_MISMATCH and "'a'" in refused.message and "t0:a" in refused.message
    assert drive.states() == "RE"


def test_a_child_that_got_more_memory_is_found_again(drive):
    drive.register(capacity={"cpu": 4000, "memory": 4000})
    drive.submit(drive.bag(1))
    (fence,) = drive.place(0)
    wanted = {"cpu": 1000, "memory": 100}
    drive.spawn(fence, "a", resources=wanted)
    (child,) = drive.place(1)
    drive.finish(child, "outgrown", peak_mib=150)
    assert drive.task(1).profile != drive.task(1).origin.profile
    assert drive.spawn(fence, "a", resources=wanted) == (1,)


def test_profiles_are_shared(drive):
    fence = start(drive)
    one, other = (TaskSpec(id="x", program=CommandLine((word,))) for word in ("one", "other"))
    drive.spawn(fence, "a", "b", "c", specs=(one, other))
    drive.spawn(fence, "d", specs=(other,))
    drive.spawn(fence, "e")
    workflow = drive.machine.state.workflows["wf-1"]
    assert len(workflow.profiles) == 3
    assert [task.profile for task in workflow.tasks] == [0, 1, 2, 1, 2, 0]


def test_ids_stay_short_and_apart(drive):
    drive.register(cpu=4)
    named = [TaskSpec(id=name, program=CommandLine(("true",))) for name in ("a", "a:b")]
    drive.submit(msgspec.structs.replace(drive.bag(1), tasks=tuple(named)))
    fence, other = drive.place(0, 1)
    drive.spawn(fence, "b", "b:c")
    drive.spawn(other, "c")
    drive.spawn(fence, "x" * limits.SPAWN_KEY_CHARS_MAX)
    ids = [task.id for task in drive.machine.state.workflows["wf-1"].tasks]
    assert ids[3] == "a:b:c" and ids[2].startswith("a:") and ids[2].endswith(".b"), "a:b is the id of another task"
    assert ids[4] != "a:b:c" and ids[4].endswith(".c") and len(set(ids)) == 6
    assert drive.spawn(fence, "b") == (2,) and drive.spawn(other, "c") == (4,)
    (deep,) = drive.place(5)
    drive.spawn(deep, "y" * limits.SPAWN_KEY_CHARS_MAX)
    deepest = drive.task(6).id
    assert len(deepest) <= limits.NAME_CHARS_MAX and deepest.endswith("y" * limits.SPAWN_KEY_CHARS_MAX)
    taken = TaskSpec(id=ids[2], program=CommandLine(("true",)))
    drive.submit(msgspec.structs.replace(drive.bag(1), tasks=(*named, taken)), "wf-2")
    (third,) = drive.place(0, workflow_id="wf-2")
    assert drive.spawn(third, "b").code is RejectionCode.CONFLICT


@pytest.mark.parametrize(
    ("keys", "each", "words"),
    [
        ((), {}, "0 children at a time"),
        (("",), {}, "must not be empty"),
        (("a", "a"), {}, "is there twice"),
        (("a",), {"needs": ("t0",)}, "a child has no needs"),
        (("a",), {"retries": -1}, "retries"),
        (("a",), {"cache": "k-${t0.digest}"}, "a child has no needs"),
        (("a",), {"cache": "${"}, "cache.key"),
        (("a" * (limits.SPAWN_KEY_CHARS_MAX + 1),), {}, "characters long"),
        (tuple(map(str, range(limits.SPAWN_TASKS_MAX + 1))), {}, "spawn in parts"),
    ],
)
def test_wrong_children_are_refused(drive, keys, each, words):
    fence = start(drive)
    refused = drive.spawn(fence, *keys, **each)
    assert refused.code is RejectionCode.INVALID and words in refused.message
    assert drive.states() == "R"


def test_a_profile_that_does_not_come(drive):
    fence = start(drive)
    refused = drive.spawn(fence, "a", specs=(TaskSpec(id="x", program=CommandLine(("true",))),) * 501)
    assert refused.code is RejectionCode.INVALID
    drive.spawn(fence, "a")
    spawn = drive.last_spawn
    command = drive.do(
        msgspec.structs.replace(spawn, children=(msgspec.structs.replace(spawn.children[0], profile=9),))
    )
    assert "there is no profile 9" in command.message


@pytest.mark.parametrize(
    ("name", "value", "keys", "words"),
    [
        ("CHILDREN_PER_TASK_MAX", 2, "abc", "t0 would have 3 children, the limit is 2"),
        ("SPAWN_DEPTH_MAX", 0, "a", "would have 1 ancestors, the limit is 0"),
        ("TASKS_GROWN_MAX", 2, "ab", "wf-1 would have 3 tasks, the limit is 2"),
        ("SPAWNED_BYTES_MAX", 4, "ab", "would have 8 bytes, the limit is 4"),
        ("LIVE_TASKS_MAX", 2, "ab", "would pass the limit of 2"),
    ],
)
def test_limits_of_growth(drive, monkeypatch, name, value, keys, words):  # noqa: PLR0917 - one row of the table
    fence = start(drive)
    monkeypatch.setattr(limits, name, value)
    refused = drive.spawn(fence, *keys)
    assert refused.code is RejectionCode.LIMIT and words in refused.message and refused.limit == value
    assert drive.states() == "R"


def test_the_width_counts_older_children_and_the_depth_those_above(drive, monkeypatch):
    fence = start(drive)
    monkeypatch.setattr(limits, "CHILDREN_PER_TASK_MAX", 2)
    monkeypatch.setattr(limits, "SPAWN_DEPTH_MAX", 2)
    drive.spawn(fence, "a", "b")
    assert "would have 3 children" in drive.spawn(fence, "c").message
    (child,) = drive.place(1)
    drive.spawn(child, "c")
    (grandchild,) = drive.place(3)
    assert drive.task(3).origin.depth == 2
    assert "would have 3 ancestors" in drive.spawn(grandchild, "d").message


def test_only_a_live_attempt_that_may_go_on_spawns(drive):
    fence = start(drive)
    assert drive.spawn(fence, "a", incarnation=7).code is RejectionCode.STALE_INCARNATION
    assert drive.spawn(fence + 1, "a").code is RejectionCode.STALE_FENCE
    drive.control("cancel")
    stopped = drive.spawn(fence, "a")
    assert stopped.code is RejectionCode.STALE_FENCE and "told to stop" in stopped.message
    drive.finish(fence, "cancelled")
    assert drive.spawn(fence, "a").code is RejectionCode.STALE_FENCE
    drive.remove()
    assert drive.spawn(fence, "a", incarnation=1).code is RejectionCode.STALE_INCARNATION
    assert drive.do(msgspec.structs.replace(drive.last_spawn, agent="a9")).code is RejectionCode.STALE_INCARNATION
    assert drive.cancel_children(fence, 1, incarnation=1).code is RejectionCode.STALE_INCARNATION


def test_children_of_a_paused_workflow_wait(drive):
    fence = start(drive)
    drive.control("pause")
    drive.spawn(fence, "a")
    assert not [event for event in drive.events if isinstance(event, TaskReady)]
    assert drive.place(1) == (0,)
    drive.control("resume")
    assert drive.place(1) != (0,)


def test_cached_children_share_results(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b", cache="")
    assert drive.states() == "REW"
    (first,) = drive.place(1)
    drive.finish(first, result=b"5")
    assert drive.states() == "RSS" and drive.task(2).result == b"5"
    drive.spawn(fence, "c", cache="")
    assert drive.states() == "RSSS" and drive.task(0).family.open == 0


def test_a_child_is_late_by_its_own_time(drive):
    fence = start(drive)
    drive.spawn(fence, "a", expected_ms=5_000)
    drive.place(1)
    drive.now_ms += 20_000
    drive.fire()
    assert "is late, the document expects it to take 5.0 s" in told(drive, 1).reason


# --- parking


def test_a_parked_task_holds_nothing_and_goes_on_when_its_children_have_ended(drive):
    fence = start(drive, cpu=1, timeout_ms=1_000)
    drive.spawn(fence, "a", "b")
    assert drive.park(fence) == "accepted"
    assert (drive.states(), drive.free(), drive.state()) == ("PEE", 1000, "running")
    assert drive.task(0).failures == 0 and drive.machine.state.next_timer_ms is None
    assert queries.workflow_view(drive.machine, "wf-1").tasks.parked == 1
    told_now = told(drive)
    assert (told_now.state, told_now.waiting) == ("parked", "children")
    assert told_now.reason == "parked: waits for 2 of 2 children" and told_now.waits_for == ["t0:a", "t0:b"]
    assert drive.park(fence) == "duplicate"
    for position, word in ((1, "P"), (2, "E")):
        (child,) = drive.place(position)
        drive.finish(child)
        assert drive.states()[0] == word
    assert "t0 parked wait_over ready" in drive.transitions()
    ready = queries.ready_task(drive.machine, "wf-1", 0)
    assert ready.rank > 10**15 and not ready.lost
    (again,) = drive.place(0)
    assert drive.task(0).last.number == 2 and again > fence
    drive.finish(again, result=b"2")
    assert drive.state() == "succeeded" and told(drive).reason.startswith("attempt 2")


def test_a_task_waits_for_the_first_of_some(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b", "c")
    drive.park(fence, (3, 3), (1, 1), mode="any")
    assert told(drive).reason == "parked: waits for the first of 2 children"
    parent, _, other, c = drive.machine.tables.workflows["wf-1"].tasks
    assert (successes_awaited(parent, other), successes_awaited(parent, c)) == (0, 1)
    (b, c) = drive.place(2, 3)
    drive.finish(b)
    assert drive.states() == "PESR", "it does not wait for b"
    drive.finish(c, "failed")
    assert drive.states() == "EESF" and drive.state() == "running"


def test_a_task_waits_until_one_child_does_not_succeed(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b", "c")
    drive.park(fence, mode="succeeded")
    a, b = drive.place(1, 2)
    drive.finish(a)
    assert drive.states() == "PSRE"
    drive.finish(b, "failed")
    assert drive.states() == "ESFE"
    (again,) = drive.place(0)
    drive.park(again, mode="succeeded")
    assert drive.states() == "ESFE" and drive.task(0).parking.idle_parks == 1
    (again,) = drive.place(0)
    drive.park(again, (1, 1), (3, 3), mode="succeeded")
    (c,) = drive.place(3)
    drive.finish(c)
    assert drive.states() == "ESFS"


def test_ranges_may_overlap_and_name_tasks_that_are_no_children(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b")
    (child,) = drive.place(1)
    drive.spawn(child, "below")
    drive.park(fence, (2, 900), (0, 2), (-5, 1), (700, 3))
    assert drive.task(0).parking.awaits == ((0, 3),) and drive.task(0).parking.awaited == 2


def test_what_has_ended_is_not_waited_for(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b")
    (child,) = drive.place(1)
    drive.finish(child)
    drive.park(fence, (1, 1))
    assert drive.transitions() == ["t0 running parked parked", "t0 parked wait_over ready"]
    (again,) = drive.place(0)
    drive.park(again, (1, 2), mode="any")
    assert drive.states() == "ESE" and drive.task(0).parking.idle_parks == 2
    (third,) = drive.place(0)
    drive.park(third, (1, 2))
    assert drive.states() == "PSE" and drive.task(0).parking.idle_parks == 0
    assert told(drive).reason == "parked: waits for 1 of 2 children"


def test_a_task_that_parks_for_nothing_again_and_again_fails(drive, monkeypatch):
    monkeypatch.setattr(limits, "IDLE_PARKS_MAX", 2)
    fence = start(drive)
    drive.spawn(fence, "a")
    (child,) = drive.place(1)
    drive.finish(child)
    for _ in range(2):
        assert drive.park(fence) == "accepted" and drive.states() == "ES"
        (fence,) = drive.place(0)
    drive.park(fence)
    assert drive.states() == "FS" and "parked 2 times in a row" in drive.task(0).detail
    drive.control("retry")
    (fence,) = drive.place(0)
    drive.park(fence)
    assert drive.states() == "ES"


@pytest.mark.parametrize(
    ("spawns", "condition", "words"),
    [
        (False, b"", "has nothing to wait for"),
        (True, b"{", "does not say what it waits for"),
        (True, msgspec.json.encode({"children": [(1, 1)] * (limits.PARK_RANGES_MAX + 1)}), "1001 ranges"),
    ],
)
def test_a_park_that_cannot_be_is_a_failure(drive, spawns, condition, words):
    fence = start(drive)
    if spawns:
        drive.spawn(fence, "a")
    drive.finish(fence, "parked", result=condition)
    assert drive.states()[0] == "F" and words in drive.task(0).detail


def test_without_a_condition_it_waits_for_all_children(drive):
    fence = start(drive)
    drive.spawn(fence, "a")
    drive.finish(fence, "parked")
    assert told(drive).reason == "parked: waits for 1 of 1 children"


def test_an_attempt_may_park_before_its_start_is_known(drive):
    fence = start(drive, cpu=1)
    drive.submit(workflow_id="wf-2")
    (queued,) = drive.place(0, workflow_id="wf-2")
    drive.spawn(queued, "a")
    drive.park(queued)
    assert drive.states("wf-2") == "PE" and drive.queue() == []
    drive.finish(fence)


def test_of_two_attempts_the_first_to_park_decides(drive):
    drive.register("a2")
    fence = start(drive, backup=True)
    (backup,) = drive.back_up(0, agent="a2")
    drive.spawn(backup, "a", agent="a2")
    assert drive.spawn(fence, "a") == (1,)
    drive.park(backup, agent="a2")
    assert drive.states() == "PE" and drive.orders() == ([fence], [])
    assert drive.task(0).history[0].error == "attempt 2 parked first"


def test_an_attempt_that_is_told_to_stop_does_not_park(drive):
    fence = start(drive)
    drive.spawn(fence, "a")
    drive.control("cancel")
    drive.park(fence)
    assert (drive.states(), drive.state()) == ("CC", "cancelled")


def test_cancel_ends_parked_tasks_and_their_children(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b")
    drive.place(1)
    drive.park(fence)
    drive.control("cancel")
    assert drive.states() == "CRC" and drive.task(0).parking is None


def test_a_drain_does_not_wait_for_parked_tasks(drive):
    fence = start(drive)
    drive.spawn(fence, "a")
    drive.drain(1)
    drive.fire(10)
    drive.park(fence)
    assert drive.states() == "PE" and not drive.machine.state.agents["a1"].live


def test_a_paused_workflow_keeps_what_is_parked(drive):
    fence = start(drive)
    drive.spawn(fence, "a")
    (child,) = drive.place(1)
    drive.park(fence)
    drive.control("pause")
    assert told(drive).waiting == "paused" and "waits for 1 of 1" in told(drive).reason
    drive.finish(child)
    assert drive.states() == "ES" and drive.place(0) == (0,)


def test_a_parked_task_does_not_count_as_under_way(drive):
    drive.register(cpu=4)
    drive.submit(msgspec.structs.replace(drive.bag(2), max_parallel=1))
    (fence,) = drive.place(0)
    drive.spawn(fence, "a")
    drive.park(fence)
    assert drive.place(2) != (0,)


# --- failures


def test_a_failed_child_is_its_parents_matter(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b")
    (child,) = drive.place(1)
    drive.park(fence)
    drive.finish(child, "failed", error="no")
    assert (drive.states(), drive.state()) == ("PFE", "running"), "the others go on"
    (other,) = drive.place(2)
    drive.finish(other)
    (again,) = drive.place(0)
    drive.finish(again)
    assert (drive.states(), drive.state()) == ("SFS", "succeeded")
    assert drive.control("retry").code is RejectionCode.CONFLICT
    copy = Machine()
    copy.restore([drive.encoding()])
    assert copy.state.workflows["wf-1"].state.value == "succeeded"


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_parent_that_fails_takes_its_children_with_it(drive, on_failure):
    drive.register(cpu=4)
    drive.submit(drive.bag(2, on_failure=on_failure))
    fence, other = drive.place(0, 1)
    drive.spawn(fence, "a", "b", "c")
    (running, ended) = drive.place(2, 3)
    drive.spawn(running, "below")
    drive.finish(ended, "failed")
    drive.finish(fence, "failed")
    assert drive.states() == "FRRFCC" and drive.orders()[0] == (
        [running] if on_failure == "continue" else [other, running]
    )
    drive.finish(running, "cancelled")
    drive.finish(other, "cancelled" if on_failure == "stop" else "succeeded")
    assert drive.state() == "failed"
    drive.control("retry")
    assert drive.states() == ("EEEEEE" if on_failure == "stop" else "ESEEEE"), "all run again"
    assert drive.machine.state.workflows["wf-1"].handled == 0


def test_a_child_that_fails_takes_its_own_children_with_it(drive):
    fence = start(drive)
    drive.spawn(fence, "a")
    (child,) = drive.place(1)
    drive.spawn(child, "b", "c")
    drive.place(2)
    drive.finish(child, "failed")
    assert drive.states() == "RFRC" and drive.task(3).detail == "t0:a, which spawned it, failed"


def test_a_child_that_fails_after_its_parent_counts(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b")
    (child,) = drive.place(1)
    drive.finish(fence)
    drive.finish(child, "failed")
    assert (drive.states(), drive.state()) == ("SFC", "failed")
    drive.control("retry")
    assert drive.states() == "SEE", "its parent did not settle it"


def test_a_parent_that_is_tried_again_keeps_its_children(drive):
    fence = start(drive, retries=1)
    drive.spawn(fence, "a")
    drive.place(1)
    drive.finish(fence, "failed")
    assert drive.states() == "DR" and drive.orders() == ([], [])


# --- cancelling children


def test_a_parent_cancels_children(drive):
    fence = start(drive)
    drive.spawn(fence, "a", "b", "c", "d")
    running, ended, parked = drive.place(1, 2, 3)
    drive.finish(ended)
    drive.spawn(parked, "x", "y")
    (below,) = drive.place(5)
    drive.spawn(below, "z")
    drive.park(parked, (5, 6))
    assert drive.cancel_children(fence, 1, 2, 3, 4, 5, 0, -1, 99).changed
    assert drive.states() == "RRSCCRCC" and drive.orders()[0] == [running, below]
    assert drive.task(3).detail == "t0 cancelled it" == drive.task(7).detail
    assert not drive.cancel_children(fence, 1, 2, 3).changed, "they were told before"
    assert drive.cancel_children(fence, *range(501)).code is RejectionCode.LIMIT
    assert drive.spawn(running, "late").code is RejectionCode.STALE_FENCE
    drive.finish(running, "cancelled")
    drive.finish(below, "cancelled")
    drive.finish(fence)
    assert (drive.states(), drive.state()) == ("SCSCCCCC", "succeeded"), "what a parent cancels is settled"


def test_a_retry_leaves_alone_what_parents_settled(drive):
    drive.register(cpu=4)
    drive.submit(drive.bag(2))
    fence, other = drive.place(0, 1)
    drive.spawn(fence, "loser")
    (loser,) = drive.place(2)
    drive.spawn(loser, "below")
    drive.cancel_children(fence, 2)
    drive.finish(loser, "cancelled")
    drive.finish(fence)
    drive.finish(other, "failed")
    assert (drive.states(), drive.state()) == ("SFCC", "failed")
    drive.control("retry")
    assert drive.states() == "SECC"


@pytest.fixture
def small(new_drive):
    """A drive whose commands do little at once."""
    return new_drive(limits=StepLimits(inline_max=3, piece_max=2))


def test_many_children_are_cancelled_in_pieces(small):
    drive = small
    drive.register(cpu=4, prefetch=2)
    drive.submit(drive.bag(1, on_failure="continue"))
    (fence,) = drive.place(0)
    drive.spawn(fence, *"abcdefgh")
    (child,) = drive.place(3)
    drive.spawn(child, *"xyz")
    drive.finish(fence, "failed")
    assert drive.jobs() == ["cancel_children"] and drive.states() == "FEEREEECCEEE"
    copy = Machine()
    copy.restore([drive.encoding()])
    assert check(copy) == [] and b"".join(copy.snapshot()) == drive.encoding()
    assert drive.work_off() > 2 and drive.states() == "FCCRCCCCCCCC"
    drive.finish(child, "cancelled")
    assert drive.state() == "failed"


def test_a_second_race_joins_the_first(small):
    drive = small
    drive.register(cpu=8)
    drive.submit(drive.bag(1))
    (fence,) = drive.place(0)
    drive.spawn(fence, "a", "b")
    first, second = drive.place(1, 2)
    drive.spawn(first, *"abcd")
    drive.spawn(second, *"efgh")
    drive.cancel_children(fence, 1)
    assert drive.jobs() == ["cancel_children"]
    drive.cancel_children(fence, 2)
    assert drive.jobs() == ["cancel_children"]
    drive.work_off()
    assert drive.states() == "RRRCCCCCCCC"


def test_what_is_parked_is_not_woken_while_its_workflow_is_stopped(small):
    drive = small
    drive.register(cpu=8)
    drive.submit(drive.bag(3))
    fence, other = drive.place(1, 2)
    drive.spawn(fence, "a")
    (child,) = drive.place(3)
    drive.park(fence)
    drive.control("cancel")
    assert drive.jobs() == ["stop"] and drive.states() == "EPRR"
    assert drive.spawn(other, "late").code is RejectionCode.STALE_FENCE
    drive.finish(child)
    assert drive.states() == "EPRS"
    drive.finish(other)
    drive.work_off()
    assert (drive.states(), drive.state()) == ("CCSS", "cancelled")


# --- snapshots


def test_a_snapshot_lacks_a_workflow_that_came_later(drive):
    before, snapshot = drive.encoding(), drive.machine.snapshot()
    fence = start(drive)
    drive.spawn(fence, "a")
    assert b"".join(snapshot) == before


@pytest.mark.parametrize("pieces", range(8))
def test_a_snapshot_shows_a_workflow_as_it_was_before_it_grew(drive, pieces):
    fence = start(drive)
    for first in range(0, 600, 300):
        drive.spawn(fence, *[f"k{number}" for number in range(first, first + 300)], env={"X": str(first)})
    before = drive.encoding()
    snapshot = drive.machine.snapshot()
    taken = [next(snapshot, b"") for _ in range(pieces)]
    drive.spawn(fence, "one", env={"X": "new"})
    drive.place(5, 300, 601)
    drive.spawn(fence, *[f"m{number}" for number in range(300)])
    assert b"".join([*taken, *snapshot]) == before
    copy = Machine()
    copy.restore([drive.encoding()])
    assert check(copy) == [] and b"".join(copy.snapshot()) == drive.encoding()
    assert copy.state.workflows["wf-1"].spawned_bytes == drive.machine.state.workflows["wf-1"].spawned_bytes


def test_a_snapshot_that_says_wrong_things_of_children_is_refused(drive):
    fence = start(drive)
    drive.spawn(fence, "a")
    child, parent = drive.task(1), drive.task(0)
    for target, name, value in (
        (child.origin, "parent", 1),
        (child.origin, "previous", 7),
        (child.origin, "profile", 7),
        (parent.family, "last", 9),
    ):
        right = getattr(target, name)
        setattr(target, name, value)
        with pytest.raises(ValueError, match="refers to what is not there"):
            Machine().restore([drive.encoding()])
        setattr(target, name, right)
    parent.family, family = None, parent.family
    with pytest.raises(ValueError, match="refers to what is not there"):
        Machine().restore([drive.encoding()])
    parent.family = family


# --- invariants


def _set(find, name, value):
    return lambda drive: setattr(find(drive), name, value)


def _wf(drive):
    return drive.machine.state.workflows["wf-1"]


def _origin(position):
    return lambda drive: drive.task(position).origin


def _family(position):
    return lambda drive: drive.task(position).family


def _parking(drive):
    return drive.task(0).parking


# t0 is parked for its children t0:a (runs), t0:b (ready) and t0:c (failed); t1 is ready.
FAULTS = {
    "is PARKED and waits for () and ()": lambda drive: (setattr(drive.task(1), "state", TaskState.PARKED),),
    "0 failed children counted that are their parents' matter, there are 1": _set(_wf, "handled", 0),
    "t0:a: its parent is at 9": _set(_origin(2), "parent", 9),
    "has 7 ancestors counted, there are 1": _set(_origin(2), "depth", 7),
    "is a child and has needs, or is needed": _set(lambda drive: drive.task(3), "needs", (0,)),
    "was spawned with profile 9": _set(_origin(2), "profile", 9),
    "is READY, its parent FAILED": _set(lambda drive: drive.task(0), "state", TaskState.FAILED),
    "is READY, and its parent has cancelled it": _set(_origin(3), "handled", value=True),
    "is RUNNING, and its parent has cancelled it": _set(_origin(2), "handled", value=True),
    "7 of 3 children open counted, there are 2 of 3": _set(_family(0), "open", 7),
    "the chain of its children does not match them": _set(_origin(3), "previous", 1),
    "waits for 7 of 3, there are 2 of 3": _set(_parking, "awaited_open", 7),
    "is READY and waits for": _set(lambda drive: drive.task(0), "state", TaskState.READY),
    "is parked although what it waits for has ended": _set(_parking, "mode", "any"),
    "has children and does not know it": _set(lambda drive: drive.task(0), "family", None),
}


@pytest.fixture
def spawned(new_drive):
    """Return a drive with a family in all states."""
    drive = new_drive()
    drive.register(cpu=4)
    drive.submit(drive.bag(2))
    (fence,) = drive.place(0)
    drive.spawn(fence, "a", "b", "c")
    (_, child) = drive.place(2, 4)
    drive.park(fence)
    drive.finish(child, "failed")
    assert drive.states() == "PEREF" and check(drive.machine) == []
    return drive


@pytest.mark.parametrize("problem", FAULTS)
def test_invariants_of_families(spawned, problem):
    FAULTS[problem](spawned)
    assert any(problem in found for found in check(spawned.machine)), check(spawned.machine)


def test_bounds_of_families_are_invariants(spawned, monkeypatch):
    for name, problem in (
        ("TASKS_GROWN_MAX", "has 5 tasks"),
        ("CHILDREN_PER_TASK_MAX", "has 3 children"),
        ("SPAWN_DEPTH_MAX", "has 1 ancestors counted, there are 1"),
    ):
        monkeypatch.setattr(limits, name, 0)
        assert any(problem in found for found in check(spawned.machine))


# --- what an attempt sees


def _counted(drive, *ranges, bit=100):
    workflow = drive.machine.state.workflows["wf-1"]
    count = children.ChildCount(workflow, workflow.tasks[0], ranges)
    while count.count(bit):
        pass
    return count.found()


def test_an_attempt_sees_its_children(drive, monkeypatch):
    fence = start(drive)
    drive.spawn(fence, "a", "b", "c", "d")
    a, b, c = drive.place(1, 2, 3)
    drive.now_ms += 5
    drive.finish(c, result=b"3")
    drive.now_ms += 5
    drive.finish(a, "failed", error="no")
    drive.now_ms += 5
    drive.finish(b, "failed", error="not either")
    found = _counted(drive, (0, 4), bit=2)
    assert (found.total, found.open, found.first.number, found.failed.error) == (4, 1, 3, "no")
    found = _counted(drive, (4, 4))
    assert (found.total, found.open, found.first, found.failed) == (1, 1, None, None)
    with pytest.raises(children.UnknownChildError, match="has no task at 5"):
        _counted(drive, (5, 5))
    workflow, parent = children.find_parent(drive.machine, "a1", 1, fence)
    assert children.numbers_of(workflow, parent, ["b", "a"]) == [2, 1]
    with pytest.raises(children.UnknownChildError, match="has no child with the key 'z'"):
        children.numbers_of(workflow, parent, ["z"])
    ends = children.ends_of(workflow, parent, ((1, 4),), 0)
    assert [(each.number, each.state, bytes(each.result)) for each in ends.ends] == [
        (1, "failed", b"null"),
        (2, "failed", b"null"),
        (3, "succeeded", b"3"),
    ]
    assert ends.next is None
    assert len(children.ends_of(workflow, parent, ((1, 3),), 2).ends) == 2
    monkeypatch.setattr(children, "INPUTS_PIECE_COUNT_MAX", 2)
    assert children.ends_of(workflow, parent, ((0, 1), (2, 4)), 0).next == 3
    assert [each.number for each in children.ends_of(workflow, parent, ((0, 1), (2, 4)), 3).ends] == [3]
    assert children.find_parent(drive.machine, "a9", 1, fence) is None
    assert children.find_parent(drive.machine, "a1", 2, fence) is None


def test_children_that_are_known_and_equal_need_no_command(small):
    drive = small
    drive.register(cpu=4)
    drive.submit(drive.bag(1))
    (fence,) = drive.place(0)
    assert drive.spawn(fence, *"abcdef", resources={"cpu": 500}) == (1, 2, 3, 4, 5, 6)
    same = drive.last_spawn
    workflow = drive.machine.state.workflows["wf-1"]

    def known(command):
        parent = workflow.tasks[0]
        return children.known_children(drive.machine, workflow, parent, command.profiles, command.children)

    assert known(same) == [1, 2, 3, 4, 5, 6]
    other = tuple([msgspec.structs.replace(spec, resources={"cpu": 600}) for spec in same.profiles])
    assert known(msgspec.structs.replace(same, profiles=other)) is None
    fresh = msgspec.structs.replace(same.children[0], key="z")
    assert known(msgspec.structs.replace(same, children=(*same.children, fresh))) is None
    drive.control("cancel")
    assert workflow.stop_pending
    assert known(same) is None, "the attempt is told to stop by the log"
