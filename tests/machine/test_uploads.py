"""Workflows that come in pieces: what they come to, what is refused, and that nobody sees them before their end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.events import WorkflowChanged, WorkflowReady
from raftflow.domain.pieces import Draft, TaskPiece
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import Done, WorkflowAccepted
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.schema.declaration import SnapshotError
from raftflow.machine.schema.uploads import UPLOADS
from raftflow.machine.snapshot.stream import _frames
from raftflow.machine.tables import uploads

DIAMOND = ((), (0,), (0,), (1, 2), (0, 3))


@pytest.fixture
def pieces(drive: Any) -> Any:
    """A drive on the newest level, with an agent."""
    drive.register(cpu=8, prefetch=8)
    return drive


def begin(drive: Any, **fields: Any) -> Any:
    given = {"workflow_id": "wf-1", "name": "w", "tasks": 3, "needs": 2, **fields}
    return drive.do(c.BeginWorkflow(at_ms=drive.now_ms, actor="client:test", **given))


def add(drive: Any, *tasks: c.TaskPart, profiles: tuple[TaskSpec, ...] = (), number: int = 0) -> Any:
    return drive.do(
        c.AddTasks(
            at_ms=drive.now_ms,
            actor="client:test",
            workflow_id="wf-1",
            number=number,
            profiles=profiles,
            tasks=tasks,
        )
    )


def finish(drive: Any, *path: int, fingerprint: bytes = bytes(16), request_id: str = "") -> Any:
    return drive.do(
        c.FinishWorkflow(
            at_ms=drive.now_ms,
            actor="client:test",
            workflow_id="wf-1",
            fingerprint=fingerprint,
            path=path,
            request_id=request_id,
        )
    )


def drop(drive: Any, *workflow_ids: str) -> Any:
    return drive.do(c.DropUploads(at_ms=drive.now_ms, actor="leader:r1", workflow_ids=workflow_ids))


PROFILE = TaskSpec(id="a", program=CommandLine(("true",)))
A, B = c.TaskPart(0, "a", 0, 2), c.TaskPart(2, "b", 0, 1, (0,))


# --- what comes of it


@st.composite
def graphs(draw: Any) -> WorkflowSpec:
    """Any graph: tasks are written in any order, and needs point both ways."""
    count = draw(st.integers(1, 12))
    order = draw(st.permutations(range(count)))
    place = {number: position for position, number in enumerate(order)}
    tasks = []
    for number in order:
        needs = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=6)) if number else []
        cached = draw(st.sampled_from([None, None, "", "k"]))
        if cached is not None and needs and draw(st.booleans()):
            cached = f"k-${{t{place[needs[0]]}.digest}}"
        tasks.append(
            TaskSpec(
                id=f"t{place[number]}",
                needs=tuple(f"t{place[need]}" for need in needs),
                program=CommandLine(("run", draw(st.sampled_from(["a", "b", "c"])))),
                resources={"cpu": draw(st.sampled_from([500, 1000]))},
                expected_ms=draw(st.sampled_from([None, None, 0, 7_000])),
                labels=draw(st.sampled_from([{}, {"zone": "z"}])),
                cache=cached,
            )
        )
    return WorkflowSpec(
        name="graph",
        tasks=tuple(tasks),
        priority=draw(st.integers(0, 100)),
        on_failure=draw(st.sampled_from(["stop", "continue"])),
        max_parallel=draw(st.sampled_from([None, 2])),
    )


@pytest.mark.no_cover
@given(spec=graphs(), tasks_max=st.integers(1, 5), bytes_max=st.sampled_from([1, 200, limits.PIECE_BYTES_MAX]))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_pieces_come_to_what_one_command_comes_to(new_drive, spec, tasks_max, bytes_max):
    one, other, third = new_drive(), new_drive(), new_drive()
    for each in (one, other, third):
        each.register(cpu=8)
        each.submit(each.bag(1, program=CommandLine(("run", "a"))), "wf-0")
        (fence,) = each.place(0, workflow_id="wf-0")
        each.finish(fence, duration_ms=4_000)
    accepted = one.submit(spec, request_id="r")
    commands = other.pieces(spec, request_id="r", tasks_max=tasks_max, bytes_max=bytes_max)
    for command in commands:
        # The third replica is restored from a snapshot before every piece.
        copy = Machine()
        copy.restore(third.machine.snapshot())
        third.machine = copy
        reply, again = other.do(command), third.do(command)
        assert reply == again
    assert reply == accepted
    assert one.facts() == other.facts() == third.facts()
    assert one.machine.state.workflows["wf-1"].dependents == tuple(
        [tuple(positions) for positions in other.machine.state.workflows["wf-1"].dependents]
    )
    assert one.do(commands[-1]) == accepted, "it is the same request"


def test_a_request_is_answered_once(pieces):
    spec = pieces.tasks(*DIAMOND)
    accepted = pieces.upload(spec, request_id="r")
    assert isinstance(accepted, WorkflowAccepted)
    assert pieces.submit(spec, "wf-2", request_id="r") == accepted, "however it comes"
    assert pieces.do(pieces.pieces(spec, "wf-3", "r")[-1]) == accepted
    other = pieces.do(pieces.pieces(pieces.chain(2), "wf-3", "r")[-1])
    assert other.code is RejectionCode.REQUEST_MISMATCH
    assert list(pieces.machine.state.workflows) == ["wf-1"]


def test_nobody_sees_it_before_its_end(pieces):
    *before, last = pieces.pieces(pieces.bag(5), request_id="r")
    shown = []
    for command in before:
        pieces.do(command)
        assert pieces.events == []
        shown.append(
            [
                queries.workflow_page(pieces.machine, None, 10, None).workflows,
                queries.workflow_view(pieces.machine, "wf-1"),
                list(queries.ready_tasks(pieces.machine)),
                pieces.machine.state.live_tasks,
                pieces.place(0),
                pieces.control("cancel").code,
            ]
        )
    assert shown == [[[], None, [], 0, (0,), RejectionCode.NOT_FOUND]] * len(before)
    pieces.do(last)
    assert pieces.events == [WorkflowReady("wf-1"), WorkflowChanged("wf-1")]
    assert (pieces.states(), pieces.machine.state.live_tasks, pieces.machine.state.upload_tasks) == ("EEEEE", 5, 0)


def test_it_runs(pieces):
    pieces.upload(pieces.tasks(*DIAMOND))
    for position in range(5):
        (fence,) = pieces.place(position)
        assert pieces.finish(fence) == "accepted"
    assert pieces.state() == "succeeded"


def test_one_without_a_ready_task_tells_of_none(pieces):
    """Tasks that share results come in one by one."""
    pieces.upload(pieces.bag(2, cache="k"))
    assert [type(event).__name__ for event in pieces.events] == ["TaskReady", "WorkflowChanged"]
    assert pieces.states() == "EW"


def test_many_dependents_in_any_order(pieces):
    """More than fit into a tuple, and those that come first in the document come last here."""
    count = 3 * uploads._TUPLE_MAX
    needs = [(count - 1,) if position < 40 else (count - 1, count - 2) for position in range(count - 2)]
    pieces.upload(pieces.tasks(*needs, (), ()), tasks_max=limits.PIECE_TASKS_MAX)
    (wf,) = pieces.machine.state.workflows.values()
    assert list(wf.dependents[count - 1]) == list(range(count - 2))
    assert isinstance(wf.dependents[count - 1], list)
    copy = Machine()
    copy.restore(pieces.machine.snapshot())
    assert check(copy) == []


def test_dependents_are_sorted_though_they_come_otherwise(pieces):
    begin(pieces, tasks=40, needs=39)
    order = [c.TaskPart(0, "t0", 0, 1), *[c.TaskPart(n, f"t{n}", 0, 1, (0,)) for n in (3, 1, 2, *range(39, 3, -1))]]
    assert add(pieces, *order, profiles=(PROFILE,)) == Done()
    assert isinstance(finish(pieces, 0, 7), WorkflowAccepted)
    assert pieces.machine.state.workflows["wf-1"].dependents[0] == list(range(1, 40))


def test_it_warns_of_what_no_agent_can_run(new_drive):
    """Of the first shapes, as one command would."""
    tasks = [TaskSpec(id=f"t{n}", program=CommandLine(("x",)), resources={"cpu": 1000, "gpu": n}) for n in range(25)]
    spec = WorkflowSpec(name="w", tasks=tuple(tasks))
    drives = [new_drive(), new_drive()]
    for drive in drives:
        drive.register()
    whole, pieces = drives[0].submit(spec), drives[1].upload(spec)
    assert whole == pieces
    assert len(whole.warnings) == uploads.SHAPES_MAX - 1


def test_the_search_for_redundant_needs_is_bounded(pieces, monkeypatch):
    spec = pieces.tasks((), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3))
    monkeypatch.setattr(uploads, "WORK_PER_PIECE", 1)
    pieces.upload(spec, tasks_max=5)
    assert [task.waited for task in pieces.machine.state.workflows["wf-1"].tasks] == [
        (), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3),
    ]  # fmt: skip
    monkeypatch.setattr(uploads, "WORK_PER_PIECE", 50_000)
    monkeypatch.setattr(uploads, "WORK_MIN", 0)
    monkeypatch.setattr(uploads, "WORK_PER_EDGE", 0)
    pieces.upload(spec, "wf-2", tasks_max=5)
    assert pieces.machine.state.workflows["wf-2"].dependents[0] == (1, 2, 3, 4)


# --- limits


def test_what_was_announced_counts_towards_the_limits(pieces, monkeypatch):
    monkeypatch.setattr(limits, "LIVE_TASKS_MAX", 10)
    assert begin(pieces, tasks=8, needs=0) == Done()
    assert pieces.machine.state.upload_tasks == 8
    full = pieces.submit(pieces.bag(3), "wf-2")
    assert (full.code, full.limit) == (RejectionCode.LIMIT, 10) and "8 tasks are unfinished" in full.message
    assert begin(pieces, workflow_id="wf-3", tasks=3).code is RejectionCode.LIMIT
    assert pieces.submit(pieces.bag(2), "wf-2")
    assert drop(pieces, "wf-1", "wf-1", "wf-9") == Done()
    assert drop(pieces, "wf-1") == Done(changed=False)
    assert pieces.machine.state.upload_tasks == 0
    assert isinstance(pieces.submit(pieces.bag(8), "wf-3"), WorkflowAccepted)


def test_uploads_are_bounded_and_count_as_workflows(pieces, monkeypatch):
    monkeypatch.setattr(limits, "UPLOADS_MAX", 2)
    assert [begin(pieces, workflow_id=f"wf-{n}") for n in range(2)] == [Done(), Done()]
    full = begin(pieces, workflow_id="wf-2")
    assert (full.code, full.limit) == (RejectionCode.LIMIT, 2)
    monkeypatch.setattr(limits, "UPLOADS_MAX", 9)
    monkeypatch.setattr(limits, "WORKFLOWS_MAX", 2)
    assert begin(pieces, workflow_id="wf-2").limit == 2
    assert pieces.submit(workflow_id="wf-2").limit == 2


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"workflow_id": " "}, "id"),
        ({"name": ""}, "name"),
        ({"priority": 101}, "priority"),
        ({"max_parallel": 0}, "max_parallel"),
        ({"tasks": 0}, "tasks"),
        ({"tasks": limits.TASKS_PER_WORKFLOW_MAX + 1}, "tasks"),
        ({"needs": -1}, "needs"),
        ({"needs": limits.EDGES_PER_WORKFLOW_MAX + 1}, "needs"),
    ],
)
def test_beginnings_that_are_refused(pieces, fields, path):
    refused = begin(pieces, **fields)
    assert (refused.code, [problem.path for problem in refused.problems]) == (RejectionCode.INVALID, [path])
    assert pieces.machine.state.uploads == {}


def test_ids_are_unique(pieces):
    pieces.submit(workflow_id="wf-1")
    assert begin(pieces).code is RejectionCode.CONFLICT
    begin(pieces, workflow_id="wf-2")
    assert begin(pieces, workflow_id="wf-2").code is RejectionCode.CONFLICT
    assert pieces.submit(workflow_id="wf-2").code is RejectionCode.CONFLICT


# --- pieces

CACHED = TaskSpec(id="k", program=CommandLine(("x",)), cache="${a.digest}")
MANY = limits.PIECE_NEEDS_MAX


@pytest.mark.parametrize(
    ("tasks", "profiles", "told"),
    [
        ([A] * (limits.PIECE_TASKS_MAX + 1), [], "more than 1000 tasks or profiles"),
        ([], [PROFILE] * (limits.PIECE_TASKS_MAX + 1), "more than 1000 tasks or profiles"),
        ([], [PROFILE] * 4, "more profiles than tasks"),
        ([], [TaskSpec(id="a", needs=("b",), program=CommandLine(("x",)))], "a profile has none"),
        ([], [TaskSpec(id="a", program=CommandLine(()))], "must name a program"),
        ([], [TaskSpec(id="a", program=CommandLine(("x",)), cache="${")], "without its '}'"),
        ([c.TaskPart(1, "a", 0, 1)], [], "is the id of another task"),
        ([c.TaskPart(1, "c", 0, 1), c.TaskPart(3, "c", 0, 1)], [], "is the id of another task"),
        ([c.TaskPart(1, " ", 0, 1)], [], "may hold letters"),
        ([c.TaskPart(0, "c", 0, 1)], [], "not a free place"),
        ([c.TaskPart(4, "c", 0, 1)], [], "not a free place"),
        ([c.TaskPart(-1, "c", 0, 1)], [], "not a free place"),
        ([c.TaskPart(1, "c", 0, 1), c.TaskPart(1, "d", 0, 1)], [], "not a free place"),
        ([c.TaskPart(1, "c", 1, 1)], [], "profile 1, which has not come"),
        ([c.TaskPart(1, "c", -1, 1)], [], "profile -1, which has not come"),
        ([c.TaskPart(1, "c", 0, -1)], [], "has rank -1"),
        ([c.TaskPart(1, "c", 0, uploads.RANK_MAX + 1)], [], "has rank"),
        ([c.TaskPart(1, "c", 0, 1, (0, 0))], [], "one of them twice"),
        ([c.TaskPart(1, "c", 0, 1, tuple(range(MANY + 1)))], [], "too many needs"),
        ([c.TaskPart(1, "c", 0, 1, (1,))], [], "needs the task at 1, which has not come"),
        ([c.TaskPart(1, "c", 0, 1, (3,)), c.TaskPart(3, "d", 0, 1)], [], "needs the task at 3, which has not come"),
        ([c.TaskPart(1, "c", 0, 1, (4,))], [], "needs the task at 4, which has not come"),
        ([c.TaskPart(1, "c", 0, 1, (-1,))], [], "needs the task at -1, which has not come"),
        ([c.TaskPart(1, "c", 1, 1)], [CACHED], "refers to 'a', which it does not need"),
        ([c.TaskPart(1, "c", 0, 1, (0, 2)), c.TaskPart(3, "d", 0, 1, (0,))], [], "3 more needs are too many"),
    ],
)  # fmt: skip
def test_pieces_that_are_refused(pieces, tasks, profiles, told):
    begin(pieces, tasks=4, needs=3)
    assert add(pieces, A, B, profiles=(PROFILE,)) == Done()
    before = pieces.facts()
    refused = add(pieces, *tasks, profiles=tuple(profiles), number=1)
    assert refused.code is RejectionCode.INVALID
    assert told in refused.message
    assert pieces.facts() == before


def test_references_of_cache_keys_are_looked_up_in_needs(pieces):
    begin(pieces, tasks=3, needs=2)
    assert add(pieces, A, c.TaskPart(1, "c", 1, 1, (0,)), profiles=(PROFILE, CACHED)) == Done()
    assert "refers to 'a'" in add(pieces, c.TaskPart(2, "d", 1, 1, (1,)), number=1).message
    assert add(pieces, c.TaskPart(2, "d", 1, 1, (0,)), number=1) == Done()
    assert isinstance(finish(pieces, 0, 1), WorkflowAccepted)


def test_no_piece_counts_twice_and_none_is_left_out(pieces):
    assert add(pieces, A).code is RejectionCode.NOT_FOUND
    begin(pieces)
    assert add(pieces, A, profiles=(PROFILE,)) == Done()
    for number in (0, 2):
        refused = add(pieces, B, number=number)
        assert refused.code is RejectionCode.CONFLICT and "1 pieces have come" in refused.message
    assert add(pieces, B, number=1) == Done()


@pytest.mark.parametrize("path", [(), (3,), (-1,), (1, 0), tuple([0] * 101)])
def test_ends_that_are_refused(pieces, path):
    assert finish(pieces, 0).code is RejectionCode.NOT_FOUND
    begin(pieces)
    add(pieces, A, B, profiles=(PROFILE,))
    assert "2 of 3 tasks and 1 of 2 needs have come" in finish(pieces, 0).message
    add(pieces, c.TaskPart(1, "c", 0, 1), number=1)
    assert "3 of 3 tasks and 1 of 2 needs" in finish(pieces, 0).message
    drop(pieces, "wf-1")
    begin(pieces, needs=1)
    add(pieces, A, B, c.TaskPart(1, "c", 0, 1), profiles=(PROFILE,))
    assert "path" in finish(pieces, *path).message
    assert "3 bytes, not 16" in finish(pieces, 0, fingerprint=b"abc").message
    assert isinstance(finish(pieces, 0, 2), WorkflowAccepted)
    assert pieces.machine.state.workflows["wf-1"].facts.path == (0, 2)


# --- snapshots


def test_a_snapshot_in_the_middle_shows_its_moment(pieces):
    commands = pieces.pieces(pieces.tasks(*DIAMOND), request_id="r")
    for command in commands[:2]:
        pieces.do(command)
    expected, open_ = pieces.encoding(), pieces.machine.snapshot()
    first = next(open_)
    for command in commands[2:]:
        pieces.do(command)
    (fence,) = pieces.place(0)
    pieces.finish(fence)
    assert first + b"".join(open_) == expected
    copy = Machine()
    copy.restore([expected])
    for command in commands[2:]:
        copy.apply(copy.applied_index + 1, 1, c.encode_entry((command,)))
    assert check(copy) == []
    assert copy.state.workflows["wf-1"].open == 5


def _reframed(data: bytes, change: Any) -> bytes:
    frames = []
    for kind, payload in change(list(_frames([data]))):
        frames.append((len(payload) + 1).to_bytes(4, "big") + kind + payload)
    return b"".join(frames)


def _without(*kinds: bytes) -> Any:
    return lambda frames: [each for each in frames if each[0] not in kinds]


def _another_piece(frames: Any) -> Any:
    """The second piece is put before the first."""
    first, second = (number for number, frame in enumerate(frames) if frame[0] == b"I")
    frames[first], frames[second] = frames[second], frames[first]
    return frames


def _another_count(frames: Any) -> Any:
    header = msgspec.msgpack.decode(frames[0][1])
    header[UPLOADS.saved.field] = 2
    frames[0] = (b"H", msgspec.msgpack.encode(header))
    return frames


def _fewer(frames: Any) -> Any:
    last = max(number for number, frame in enumerate(frames) if frame[0] == b"I")
    return frames[:last] + frames[last + 1 :]


def _announcing(place: int, number: int) -> Any:
    """The upload announces another number of tasks or needs."""

    def change(frames: Any) -> Any:
        at = next(number for number, frame in enumerate(frames) if frame[0] == b"U")
        record = msgspec.msgpack.decode(frames[at][1])
        record[place] = number
        frames[at] = (b"U", msgspec.msgpack.encode(record))
        return frames

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_announcing(5, 2**40), "makes no sense"),
        (_announcing(5, -1), "makes no sense"),
        (_announcing(6, 2**40), "makes no sense"),
        (_without(b"U"), "a piece without an upload"),
        (_without(b"U", b"I"), "another number of rows"),
        (_another_count, "another number of rows"),
        (_another_piece, "has not come"),
        (_fewer, "some of its pieces are missing"),
        (lambda frames: [*frames[:-1], (b"I", b"\xc1"), frames[-1]], "not a readable snapshot"),
    ],
)
def test_uploads_in_snapshots_that_cannot_be_used(pieces, change, told):
    for command in pieces.pieces(pieces.chain(4))[:3]:
        pieces.do(command)
    data = _reframed(pieces.encoding(), change)
    with pytest.raises(SnapshotError, match=told):
        Machine().restore([data])


# --- cutting


def cut(spec: WorkflowSpec, *bounds: int) -> list[tuple[list[str], list[int]]]:
    """Return for each piece the examples of its profiles and the positions of its tasks."""
    draft = Draft(spec)
    draft.rank([None] * len(draft.kinds()))
    decode = msgspec.msgpack.decode
    return [
        ([profile["id"] for profile in decode(piece.profiles)], [task[0] for task in decode(piece.tasks)])
        for piece in draft.cut(*bounds)
    ]


def test_profiles_go_in_the_order_of_the_document_before_their_tasks(drive):
    tasks = [
        TaskSpec(id=f"t{n}", program=CommandLine((f"c{n % 3}",)), needs=("t4",) if n < 4 else ()) for n in range(5)
    ]
    spec = WorkflowSpec(name="w", tasks=tuple(tasks))
    assert cut(spec, 2) == [(["t0", "t1"], [4, 0]), (["t2"], [1, 2]), ([], [3])]
    assert cut(spec, 10, 1) == [
        (["t0"], []), (["t1"], []), ([], [4]), ([], [0]), ([], [1]), (["t2"], []), ([], [2]), ([], [3])
    ]  # fmt: skip


def test_a_piece_has_no_more_needs_than_it_may(drive, monkeypatch):
    monkeypatch.setattr(limits, "PIECE_NEEDS_MAX", 3)
    spec = drive.tasks((), (), (), (), (0, 1, 2, 3), (0, 1), (2,), (0,))
    assert cut(spec) == [(["t0"], [0, 1, 2, 3, 7, 5]), ([], [6]), ([], [4])]


def test_every_piece_of_a_large_document_is_within_its_limits(drive):
    tasks = [
        TaskSpec(id=f"t{n}", program=CommandLine(("x" * (30_000 if n % 100 == 0 else 10), str(n))))
        for n in range(2_500)
    ]
    draft = Draft(WorkflowSpec(name="w", tasks=tuple(tasks)))
    draft.rank([None] * len(draft.kinds()))
    pieces: list[TaskPiece] = list(draft.cut())
    assert all(len(profiles) + len(parts) <= limits.PIECE_BYTES_MAX for profiles, parts in pieces)
    assert 3 < len(pieces) < 10
