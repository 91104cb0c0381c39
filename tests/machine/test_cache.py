"""Results that stand for those of equal tasks, and equal tasks that run once."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.replies import Cleared
from raftflow.domain.tasks.program import CommandLine, PythonCall
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.domain.values.cachekeys import automatic_key, digest_of, fill
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.rules import cache
from raftflow.machine.schema.declaration import SnapshotError
from raftflow.machine.tables import results
from raftflow.machine.tables.results import CachedResult, ResultTable


@pytest.fixture
def online(drive):
    drive.register(cpu=8, prefetch=8)
    return drive


def one(**fields):
    """A workflow of one task that runs `work`, cached under its automatic key if nothing else is said."""
    priority = fields.pop("priority", 50)
    fields = {"id": "t", "program": CommandLine(("work",)), "cache": "", **fields}
    return WorkflowSpec(name="w", tasks=(TaskSpec(**fields),), priority=priority)


def go(drive, *positions, workflow_id="wf-1", result=b'"done"', outcome="succeeded"):
    """Place tasks and end their attempts."""
    for fence in drive.place(*positions, workflow_id=workflow_id):
        drive.finish(fence, outcome, result=result if outcome == "succeeded" else b"")


def counts(drive, workflow_id):
    tasks = queries.workflow_view(drive.machine, workflow_id).tasks
    return tasks.succeeded, tasks.cached, tasks.total


# --- reuse


def test_an_equal_task_of_another_workflow_has_the_result_at_once(online):
    online.submit(one(), "wf-1")
    go(online, 0)
    online.submit(one(), "wf-2")
    assert online.transitions() == ["t waiting cached succeeded"]
    assert online.state("wf-2") == "succeeded"
    assert online.task(0, "wf-2").result == b'"done"'
    assert online.task(0, "wf-2").attempts == 0
    assert counts(online, "wf-1") == (1, 0, 1)
    assert counts(online, "wf-2") == (1, 1, 1)
    view = queries.task_view(online.machine, "wf-2", "t")
    assert view.cached
    assert view.detail.startswith("has the result of wf-1/t, cached as sha256:")


def test_the_answer_to_the_submission_names_no_event_of_a_ready_task(online):
    online.submit(one(), "wf-1")
    assert [type(event).__name__ for event in online.events] == ["TaskReady", "WorkflowChanged"]
    go(online, 0)
    online.submit(one(), "wf-2")
    assert [type(event).__name__ for event in online.events] == ["WorkflowFinished", "WorkflowChanged"]


@pytest.mark.no_cover
def test_a_whole_graph_is_reused_without_recursion(online):
    online.checked = False
    length = 3_000
    online.submit(online.chain(length, cache=""), "wf-1")
    online.work_off()
    for position in range(length):
        go(online, position, result=b"%d" % position)
    online.submit(online.chain(length, cache=""), "wf-2")
    assert online.work_off() > 1, "a cascade is done in pieces too"
    assert online.states("wf-2") == "S" * length
    assert counts(online, "wf-2") == (length, length, length)
    assert check(online.machine) == []


@pytest.mark.parametrize(
    "different",
    [
        {"program": CommandLine(("work", "x"))},
        {"program": PythonCall("a:b")},
        {"env": {"A": "1"}},
        {"cwd": "/tmp"},
        {"cache": None},
        {"cache": "other"},
    ],
)
def test_what_is_not_equal_runs(online, different):
    online.submit(one(), "wf-1")
    go(online, 0)
    online.submit(one(**different), "wf-2")
    assert online.states("wf-2") == "E"


@pytest.mark.parametrize("same", [{"resources": {"cpu": 500}}, {"retries": 3}, {"kind": "x"}, {"id": "other"}])
def test_how_it_runs_makes_no_difference(online, same):
    online.submit(one(), "wf-1")
    go(online, 0)
    online.submit(one(**same), "wf-2")
    assert online.states("wf-2") == "S"


def test_inputs_are_part_of_the_automatic_key(online):
    def pair():
        return WorkflowSpec(
            name="w",
            tasks=(
                TaskSpec(id="a", program=CommandLine(("a",))),
                TaskSpec(id="b", program=CommandLine(("b",)), needs=("a",), cache=""),
            ),
        )

    for number, result in enumerate((b"1", b"2", b"1", b""), 1):
        online.submit(pair(), f"wf-{number}")
        go(online, 0, workflow_id=f"wf-{number}", result=result)
        if number != 3:
            assert online.states(f"wf-{number}") == "SE"
            go(online, 1, workflow_id=f"wf-{number}", result=b"%d" % number)
    assert online.states("wf-3") == "SS"
    assert online.task(1, "wf-3").result == b"1"


@pytest.mark.parametrize(("key", "states"), [("", "SE"), ("mine ${a.digest}", "SS")])
def test_what_is_given_too_much_to_hash_runs_by_itself(online, monkeypatch, key, states):
    monkeypatch.setattr(cache, "CACHE_INPUTS_BYTES_MAX", 3)
    tasks = (
        TaskSpec(id="a", program=CommandLine(("a",))),
        TaskSpec(id="b", program=CommandLine(("b",)), needs=("a",), cache=key),
    )
    for number in (1, 2):
        online.submit(WorkflowSpec(name="w", tasks=tasks), f"wf-{number}")
        go(online, 0, workflow_id=f"wf-{number}", result=b"1234")
        if number == 1:
            assert online.states("wf-1") == "SE"
            go(online, 1)
    assert online.states("wf-2") == states


def test_a_key_of_ones_own(online):
    def pair(key, command):
        return WorkflowSpec(
            name="w",
            tasks=(
                TaskSpec(id="fetch", program=CommandLine((command,))),
                TaskSpec(id="train", program=CommandLine((command,)), needs=("fetch",), cache=key),
            ),
        )

    online.submit(pair("train-${fetch.digest}-${fetch.result}", "x"), "wf-1")
    go(online, 0, result=b'"v1"')
    digest = sha256(b'"v1"').hexdigest()
    key = f'train-{digest}-"v1"'
    go(online, 1)
    assert [entry.key for entry in online.machine.state.results] == [key]
    online.submit(pair("train-${fetch.digest}-${fetch.result}", "y"), "wf-2")
    go(online, 0, workflow_id="wf-2", result=b'"v1"')
    assert online.states("wf-2") == "SS"


def test_keys():
    nothing = {"a": b"", "b": b"1"}
    assert fill("x-${a.result}", nothing.__getitem__) == "x-null"
    assert fill("${b.digest}", nothing.__getitem__) == sha256(b"1").hexdigest()
    long = fill("${b.result}", lambda _: b'"' + b"x" * limits.CACHE_KEY_CHARS_MAX + b'"')
    assert long.startswith("sha256:") and len(long) == 71
    assert digest_of(b"") == digest_of(b"null") == sha256(b"null").hexdigest()
    assert digest_of(b"x" * 5_000) == sha256(b"x" * 5_000).hexdigest()
    what = (CommandLine(("x",)), None)
    first = automatic_key(what, {"A": "1", "B": "2"}, [("p", b"1"), ("q", b"2")])
    assert first == automatic_key(what, {"B": "2", "A": "1"}, [("q", b"2"), ("p", b"1")])
    assert first != automatic_key(what, {"A": "1", "B": "2"}, [("p", b"2"), ("q", b"1")])


# --- equal tasks at the same time


def test_equal_tasks_run_once(online):
    online.submit(online.bag(3, cache=""), "wf-1")
    online.submit(online.bag(2, cache=""), "wf-2")
    assert (online.states("wf-1"), online.states("wf-2")) == ("EWW", "WW")
    (fence,) = online.place(0)
    assert online.place(1) == (0,)
    online.finish(fence, result=b"7")
    assert online.transitions() == ["t0 running succeeded succeeded"] + [
        f"t{n} waiting cached succeeded" for n in (1, 2, 0, 1)
    ]
    assert (online.states("wf-1"), online.states("wf-2")) == ("SSS", "SS")
    assert (counts(online, "wf-1"), counts(online, "wf-2")) == ((3, 2, 3), (2, 2, 2))
    (entry,) = online.machine.state.results
    assert (entry.hits, entry.result, entry.workflow_id, entry.task_id) == (4, b"7", "wf-1", "t0")
    assert online.machine.state.claims == {}


def test_what_needs_them_goes_on(online):
    spec = online.tasks((), (0,), (), (2,), cache="k")
    tasks = [TaskSpec(id=t.id, needs=t.needs, program=t.program, cache=None if t.needs else "k") for t in spec.tasks]
    online.submit(WorkflowSpec(name="w", tasks=tuple(tasks)), "wf-1")
    assert online.states() == "EWWW"
    go(online, 0)
    assert online.states() == "SESE"


def test_when_the_owner_fails_the_next_in_line_runs(online):
    for number in (1, 2, 3):
        online.submit(one(), f"wf-{number}")
    go(online, 0, outcome="failed")
    assert [online.states(f"wf-{number}") for number in (1, 2, 3)] == ["F", "E", "W"]
    go(online, 0, workflow_id="wf-2")
    assert [online.states(f"wf-{number}") for number in (1, 2, 3)] == ["F", "S", "S"]


def test_an_owner_with_retries_left_keeps_its_place(online):
    online.submit(one(retries=1, retry_delay_ms=10), "wf-1")
    online.submit(one(), "wf-2")
    go(online, 0, outcome="failed")
    assert (online.states("wf-1"), online.states("wf-2")) == ("D", "W")
    online.fire(10)
    go(online, 0)
    assert (online.states("wf-1"), online.states("wf-2")) == ("S", "S")


def test_a_lost_agent_changes_nothing_for_those_in_line(online):
    online.submit(online.bag(2, cache=""))
    online.place(0)
    online.remove()
    assert online.states() == "EW"
    online.register("a2", cpu=1)
    (fence,) = online.place(0, agent="a2")
    online.finish(fence, agent="a2")
    assert online.states() == "SS"


@pytest.mark.parametrize("placed", [False, True])
def test_when_the_owner_is_cancelled_the_next_in_line_runs(online, placed):
    online.submit(online.bag(2, cache=""), "wf-1")
    online.submit(one(program=CommandLine(("true",))), "wf-2")
    if placed:
        (fence,) = online.place(0)
    online.control("cancel")
    last = [] if placed else ["t0 ready cancelled cancelled", "t waiting needs_met ready"]
    assert online.transitions() == [*last, "t1 waiting cancelled cancelled"], "the cancelled one is not tried first"
    if placed:
        assert (online.states("wf-1"), online.states("wf-2")) == ("RC", "W")
        online.finish(fence, "cancelled")
    assert (online.states("wf-1"), online.states("wf-2")) == ("CC", "E")
    go(online, 0, workflow_id="wf-2")


def test_whoever_waits_can_be_cancelled(online):
    online.submit(one(), "wf-1")
    online.submit(one(), "wf-2")
    online.control("cancel", "wf-2")
    go(online, 0)
    assert (online.states("wf-1"), online.states("wf-2")) == ("S", "C")
    online.control("retry", "wf-2")
    assert online.states("wf-2") == "S", "what was cached meanwhile is found"
    assert online.transitions() == ["t cancelled revived_waiting waiting", "t waiting cached succeeded"]


def test_a_failure_that_stops_the_workflow_takes_its_line_along(online):
    online.submit(online.bag(3, cache=""))
    go(online, 0, outcome="failed")
    assert online.states() == "FCC"
    assert online.machine.state.claims == {}


def test_a_failure_that_does_not_stop_it_lets_the_next_try(online):
    online.submit(online.bag(3, cache="", on_failure="continue"))
    go(online, 0, outcome="failed")
    assert online.states() == "FEW"


def test_a_retried_workflow_asks_the_cache_again(online):
    online.submit(online.chain(2, cache="", on_failure="continue"), "wf-1")
    go(online, 0, outcome="failed")
    assert online.states() == "FC"
    online.submit(online.chain(2, cache=""), "wf-2")
    go(online, 0, workflow_id="wf-2")
    go(online, 1, workflow_id="wf-2")
    online.control("retry")
    assert online.states() == "SS"
    assert online.state() == "succeeded"


# --- who runs


def test_the_more_urgent_one_runs(online):
    online.submit(one(priority=10), "wf-1")
    online.submit(one(priority=20), "wf-2")
    assert (online.states("wf-1"), online.states("wf-2")) == ("W", "E")
    assert online.transitions() == ["t ready yielded waiting", "t waiting needs_met ready"]
    online.submit(one(priority=20), "wf-3")
    assert online.states("wf-3") == "W"
    online.place(0, workflow_id="wf-2")
    online.submit(one(priority=90), "wf-4")
    assert (online.states("wf-2"), online.states("wf-4")) == ("R", "W"), "what runs goes on"
    online.finish(1, "failed")
    assert [online.states(f"wf-{number}") for number in (1, 3, 4)] == ["W", "W", "E"]


def test_those_in_line_succeed_in_the_order_of_their_submission(online, new_drive):
    """However they came into line: a restored replica knows no other order."""
    online.submit(one(priority=10), "wf-1")
    online.submit(one(priority=5), "wf-2")
    online.submit(one(priority=20), "wf-3")
    online.place(0, workflow_id="wf-3")
    other = new_drive()
    other.machine.restore(online.machine.snapshot())
    other.index, other.now_ms = online.index, online.now_ms
    for drive in (online, other):
        drive.finish(1)
        assert [t.workflow_id for t in drive.records[-1].transitions] == ["wf-3", "wf-1", "wf-2"]


def test_a_delayed_owner_gives_way(online):
    online.submit(one(retries=1), "wf-1")
    online.submit(one(priority=90), "wf-2")
    online.submit(one(program=CommandLine(("other",))), "wf-3")
    online.place(0, workflow_id="wf-2")
    online.finish(1, "failed")
    go(online, 0, outcome="failed")
    assert (online.states("wf-1"), online.states("wf-2")) == ("D", "F")
    online.submit(one(priority=90), "wf-4")
    assert (online.states("wf-1"), online.states("wf-4")) == ("W", "E")
    assert online.fire(5_000) == 0, "the back-off means nothing any more"
    go(online, 0, workflow_id="wf-4")
    assert online.states("wf-1") == "S"


def test_nobody_waits_for_a_paused_workflow(online):
    online.submit(one(), "wf-1")
    online.submit(one(), "wf-2")
    online.control("pause", "wf-1")
    assert (online.states("wf-1"), online.states("wf-2")) == ("W", "E")
    online.control("pause", "wf-2")
    assert (online.states("wf-1"), online.states("wf-2")) == ("W", "E")
    online.control("resume", "wf-1")
    assert (online.states("wf-1"), online.states("wf-2")) == ("E", "W")
    online.control("pause", "wf-1")
    online.submit(one(), "wf-3")
    assert [online.states(f"wf-{number}") for number in (1, 2, 3)] == ["W", "W", "E"]
    go(online, 0, workflow_id="wf-3")
    assert [online.states(f"wf-{number}") for number in (1, 2, 3)] == ["S", "S", "S"]


def test_a_queued_owner_that_is_given_back_gives_way(online):
    online.submit(one(program=CommandLine(("long",)), resources={"cpu": 8000}), "wf-0")
    online.place(0, workflow_id="wf-0")
    online.submit(one(), "wf-1")
    online.submit(one(), "wf-2")
    (fence,) = online.place(0)
    assert online.states("wf-1") == "Q"
    online.control("pause", "wf-1")
    assert (online.states("wf-1"), online.states("wf-2")) == ("Q", "W")
    online.finish(fence, "released")
    assert (online.states("wf-1"), online.states("wf-2")) == ("W", "E")


def test_nobody_waits_for_what_may_never_run(online):
    online.submit(one(resources={"cpu": 1_000_000}), "wf-1")
    online.submit(one(), "wf-2")
    assert (online.states("wf-1"), online.states("wf-2")) == ("E", "E")
    go(online, 0, workflow_id="wf-2")
    online.submit(one(resources={"cpu": 1_000_000}), "wf-3")
    assert (online.states("wf-1"), online.states("wf-3")) == ("E", "S")


def test_whom_it_waits_for_is_told(online):
    online.submit(one(), "wf-1")
    online.submit(one(), "wf-2")
    explanation = queries.explain(online.machine, "wf-2", "t")
    assert (explanation.waiting, explanation.waits_for) == ("equal-task", ["wf-1/t"])
    state = online.machine.state
    assert cache.waits_for(state, state.workflows["wf-1"], online.task(0)) is None


# --- bounds


def test_a_line_is_bounded(online, monkeypatch):
    monkeypatch.setattr(cache, "CACHE_LINE_MAX", 2)
    online.submit(online.bag(5, cache=""))
    assert online.states() == "EWWEE"
    online.place(0, 3, 4)
    for fence in (2, 1, 3):
        online.finish(fence)
    assert online.states() == "SSSSS"


def test_a_cascade_is_bounded(online, monkeypatch):
    monkeypatch.setattr(cache, "CASCADE_MAX", 3)
    online.submit(one(program=CommandLine(("true",))), "wf-1")
    go(online, 0)
    online.submit(online.bag(5, cache=""), "wf-2")
    assert online.states("wf-2") == "SSSEE"
    assert online.machine.state.claims == {}


def test_the_table_forgets_what_was_not_used_for_longest(monkeypatch):
    monkeypatch.setattr(results, "CACHE_ENTRIES_MAX", 3)
    table = ResultTable()
    for number in range(3):
        table.put(CachedResult(f"k{number}", b"1", "wf", "t", number, number))
    used = table.use("k0", 7)
    assert used is not None and (used.hits, used.used_ms, used.made_ms) == (1, 7, 0)
    table.put(CachedResult("k3", b"1", "wf", "t", 9, 9))
    assert [entry.key for entry in table] == ["k2", "k0", "k3"]
    assert table.use("k1", 8) is None
    monkeypatch.setattr(results, "CACHE_BYTES_MAX", 1_000)
    table.put(CachedResult("k2", b"x" * 400, "wf", "t", 9, 9))
    assert [entry.key for entry in table] == ["k3", "k2"]
    assert table.size_bytes == sum(entry.size_bytes for entry in table) == 2 + 400 + 256 + 2 + 1 + 256
    assert not table.drop("k0")


# --- clearing, listing


def clear(drive, **fields):
    return drive.do(c.ClearCache(at_ms=drive.now_ms, actor="client:t", **fields))


def test_clearing(online):
    for number, key in enumerate(("a-1", "a-2", "b-1", "b-2"), 1):
        online.submit(one(cache=key), f"wf-{number}")
        go(online, 0, workflow_id=f"wf-{number}")
    assert clear(online, key="a-1") == Cleared(1)
    assert clear(online, key="a-1") == Cleared(0)
    assert clear(online, prefix="b-") == Cleared(2)
    assert clear(online) == Cleared(1)
    assert online.machine.state.results.size_bytes == 0
    assert online.records[-1].command == "cache.clear"
    online.submit(one(cache="a-1"), "wf-9")
    assert online.states("wf-9") == "E"


def test_listing(online):
    for number, key in enumerate(("b", "a", "ab"), 1):
        online.submit(one(cache=key), f"wf-{number}")
        go(online, 0, workflow_id=f"wf-{number}")
        online.now_ms += 1_000
    online.submit(one(cache="a"), "wf-9")
    page = queries.cache_page(online.machine, "", 2, None)
    assert ([entry.key for entry in page.entries], page.next) == (["a", "ab"], "ab")
    assert (page.total, page.bytes) == (3, online.machine.state.results.size_bytes)
    first = page.entries[0]
    assert (first.workflow_id, first.task_id, first.hits, first.size) == ("wf-2", "t", 1, 6)
    assert (first.made_at, first.used_at) == ("2023-11-14T22:13:21.000Z", "2023-11-14T22:13:23.000Z")
    page = queries.cache_page(online.machine, "", 2, page.next)
    assert ([entry.key for entry in page.entries], page.next) == (["b"], None)
    assert [entry.key for entry in queries.cache_page(online.machine, "a", 10, None).entries] == ["a", "ab"]


# --- snapshots and invariants


@pytest.fixture
def busy(online):
    """A cached result, a claim whose owner runs with a line behind it, and one whose owner is ready."""
    online.submit(one(cache="done"), "wf-1")
    go(online, 0)
    online.submit(online.bag(3, cache="run"), "wf-2")
    online.submit(online.bag(2, cache="ready"), "wf-3")
    online.place(0, workflow_id="wf-2")
    return online


def test_a_restored_machine_goes_on_alike(busy, new_drive):
    other = new_drive()
    other.machine.restore(busy.machine.snapshot())
    other.index, other.now_ms = busy.index, busy.now_ms
    for drive in (busy, other):
        drive.submit(one(cache="done"), "wf-4")
        drive.finish(2, result=b"5")
        assert (drive.states("wf-2"), drive.states("wf-3"), drive.states("wf-4")) == ("SSS", "EW", "S")
        assert counts(drive, "wf-2") == (3, 2, 3)
    assert busy.encoding() == other.encoding()
    assert busy.machine.chain == other.machine.chain


def test_an_open_snapshot_shows_the_moment_of_its_opening(busy):
    expected = busy.encoding()
    pieces = busy.machine.snapshot()
    busy.submit(one(cache="done"), "wf-4")
    busy.finish(2)
    busy.control("cancel", "wf-3")
    clear(busy)
    assert b"".join(pieces) == expected


def test_large_results_come_in_small_pieces(online):
    online.checked = False
    online.submit(online.bag(20, program=CommandLine(("x",))), "wf-0")
    for number in range(20):
        online.submit(one(cache=f"k{number}"), f"wf-{number + 1}")
        go(online, 0, workflow_id=f"wf-{number + 1}", result=b'"' + b"x" * 30_000 + b'"')
    pieces = list(online.machine.snapshot())
    copy = Machine()
    copy.restore(pieces)
    assert list(copy.state.results) == list(online.machine.state.results)
    assert copy.state.results.size_bytes == online.machine.state.results.size_bytes


def _orphan(drive):
    """The owner is gone and its line is not."""
    drive.task(0, "wf-2").claim = ""


def _second(drive):
    """Two tasks run under one claim."""
    drive.task(0, "wf-3").claim = drive.task(0, "wf-2").claim


def _ended(drive):
    """A task that has ended holds a claim."""
    drive.task(0, "wf-1").claim = drive.task(0, "wf-2").claim


@pytest.mark.parametrize("damage", [_orphan, _second, _ended])
def test_claims_that_make_no_sense_are_found(busy, damage: Callable[..., None]):
    busy.checked = False
    damage(busy)
    assert check(busy.machine) != []
    with pytest.raises(SnapshotError):
        Machine().restore(busy.machine.snapshot())
    busy.machine.restore(Machine().snapshot())
    busy.records.clear()


def test_a_result_that_is_missing_from_a_snapshot(busy):
    pieces = b"".join(busy.machine.snapshot())
    busy.machine.state.results.drop("done")
    without = b"".join(busy.machine.snapshot())
    head = pieces[: 4 + int.from_bytes(pieces[:4], "big")]
    rest = without[4 + int.from_bytes(without[:4], "big") :]
    with pytest.raises(SnapshotError, match="another number of rows"):
        Machine().restore([head + rest])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: setattr(d.machine.state.results, "size_bytes", 1), "1 bytes of cached results counted"),
        (lambda d: setattr(d.machine.state.workflows["wf-2"], "cached", 1), "1 tasks with cached results counted"),
        (lambda d: setattr(d.task(0, "wf-2"), "cached", True), "is RUNNING by a cached result"),
        (lambda d: d.machine.state.claims.clear(), "is RUNNING and holds a claim"),
        (
            lambda d: next(iter(d.machine.state.claims.values())).line.clear(),
            "does not match the tasks that share it",
        ),
    ],
)
def test_invariants(busy, change, problem):
    busy.checked = False
    good = busy.encoding()
    change(busy)
    assert any(problem in found for found in check(busy.machine)), check(busy.machine)
    busy.machine.restore([good])


def test_too_many_results_are_found(busy, monkeypatch):
    monkeypatch.setattr(limits, "CACHE_ENTRIES_MAX", 0)
    assert any("the limit CACHE_ENTRIES_MAX is 0" in found for found in check(busy.machine))
    monkeypatch.setattr(limits, "CACHE_BYTES_MAX", 0)
    assert any("which is too much" in found for found in check(busy.machine))
    monkeypatch.undo()
