"""Snapshots: one moment while commands go on, a machine that is equal afterwards, and refusal of everything else."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.machine.machine import Machine
from raftflow.machine.read.invariants import check
from raftflow.machine.schema.declaration import SnapshotError
from raftflow.machine.snapshot import stream as snapshots
from raftflow.machine.snapshot.stream import read_snapshot_header
from raftflow.machine.tables import copy_on_write
from raftflow.machine.tables.copy_on_write import CHUNK


@pytest.fixture
def busy(drive):
    """A bit of everything: queued, running, delayed, void, paused, finished, labelled, gone."""
    drive.register("a1", cpu=2, prefetch=2, labels={"zone": "a"})
    drive.register("a2", prefetch=1)
    drive.register("a3")
    drive.submit(drive.tasks((), (), (), (0,), retries=2, timeout_ms=1_000), request_id="r1")
    drive.submit(drive.bag(3, resources={"cpu": 1000, "memory": 0}, env={"A": "b"}), "wf-2")
    drive.submit(drive.bag(1), "wf-3")
    drive.place(0, 1, 2)
    drive.place(0, 1, agent="a2", workflow_id="wf-2")
    drive.place(0, agent="a3", workflow_id="wf-3")
    drive.finish(1, "failed", error="boom")
    drive.finish(6, agent="a3", result=b'{"x":[1,2]}')
    drive.remove("a3", "left")
    drive.control("pause", "wf-2")
    drive.fire(500_000)
    return drive


def test_a_restored_machine_is_the_same_and_goes_on_the_same(busy, new_drive):
    assert (busy.states(), busy.states("wf-2"), busy.orders("a1")) == ("EDDW", "RQE", ([2, 3], []))
    other = new_drive()
    other.machine.restore(busy.machine.snapshot())
    other.index, other.now_ms = busy.index, busy.now_ms
    assert (other.machine.applied_index, other.machine.clock_ms) == (busy.index, busy.now_ms)
    assert other.encoding() == busy.encoding()
    for drive in (busy, other):
        drive.fire(5_000)
        drive.place(0, 1, agent="a2")
        drive.finish(4, agent="a2")
        drive.submit(request_id="r1", workflow_id="wf-9")
        drive.control("resume", "wf-2")
        drive.register("a4", capacity={"gpu": 1})
        drive.drain_leaving("a1")
        drive.retire()
    assert other.machine.chain == busy.machine.chain
    assert other.encoding() == busy.encoding()
    assert other.events == busy.events


def test_shapes_and_names_are_shared_after_a_restore(busy):
    machine = Machine()
    machine.restore(busy.machine.snapshot())
    first, second = machine.state.workflows["wf-1"], machine.state.workflows["wf-3"]
    assert first.profiles[0].shape is second.profiles[0].shape
    assert first.tasks[0].last.agent is machine.state.agents["a1"].name


@pytest.mark.parametrize("size", [1, 7, 4_096])
def test_pieces_may_be_cut_anywhere(busy, size):
    whole = busy.encoding()
    machine = Machine()
    machine.restore(whole[at : at + size] for at in range(0, len(whole), size))
    assert b"".join(machine.snapshot()) == whole


def _frame(kind: bytes, value: object) -> bytes:
    payload = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
    return (len(payload) + 1).to_bytes(4, "big") + kind + payload


def _frames(data: bytes) -> list[tuple[bytes, object]]:
    return [(kind, msgspec.msgpack.decode(payload)) for kind, payload in snapshots._frames([data])]


def _changed(edit):
    """Make a snapshot worse by a change of its decoded frames."""

    def change(data: bytes) -> bytes:
        frames = _frames(data)
        edit(frames)
        return b"".join(_frame(kind, value) for kind, value in frames)

    return change


def _set(kind: bytes, *path_and_value: object):
    """Set one value inside the first frame of a kind."""

    def edit(frames):
        place = next(value for found, value in frames if found == kind)
        *path, last, value = path_and_value
        for step in path:
            place = place[step]
        place[last] = value

    return _changed(edit)


def _drop(kind: bytes):
    def edit(frames):
        frames.remove(next(frame for frame in frames if frame[0] == kind))

    return _changed(edit)


BROKEN = {
    "empty": lambda data: b"",
    "cut off within a frame": lambda data: data[:-1],
    "without its end": lambda data: data[:-6],
    "with more after its end": lambda data: data + data[-6:],
    "another file": lambda data: _frame(b"H", ["something", 1]),
    "another file of no list": lambda data: _frame(b"H", 5),
    "another format": _set(b"H", 1, 99),
    "a broken header": _set(b"H", 2, "x"),
    "no header": _drop(b"H"),
    "a frame without content": lambda data: bytes(4) + data,
    "a frame of unknown kind": lambda data: data[:-6] + _frame(b"?", None) + data[-6:],
    "bytes that are no MessagePack": lambda data: data[:-6] + _frame(b"T", b"\xc1") + data[-6:],
    "no UTF-8": lambda data: data.replace(b"wf-1", b"\xff\xff\xff\xff"),
    "a missing agent": _drop(b"A"),
    "a missing workflow head": _drop(b"W"),
    "missing tasks": _drop(b"T"),
    "missing profiles": _drop(b"P"),
    "missing requests": _drop(b"R"),
    "a task out of place": _set(b"T", 0, 1, 5),
    "a task without its profile": _set(b"T", 0, 2, 9),
    "a task with a need that is not there": _set(b"T", 3, 3, [77]),
    "a queued task without an attempt": _set(b"T", 3, 5, 3),
    "an attempt of another incarnation": _set(b"A", 2, 7),
    "an agent with less than is allocated": _set(b"A", 3, {}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_cannot_be_read_changes_nothing(drive, new_drive, fault):
    drive.register("a2", prefetch=1)
    drive.submit(drive.tasks((), (), (0,), (0,), retries=2), request_id="r1")
    drive.place(0, 1, agent="a2")
    data = BROKEN[fault](drive.encoding())
    other = new_drive()
    other.submit(workflow_id="mine")
    before = other.encoding()
    assert issubclass(SnapshotError, ValueError)
    with pytest.raises(SnapshotError):
        other.machine.restore([data])
    assert other.encoding() == before


def test_large_states_come_in_small_pieces(drive):
    drive.checked = False
    drive.submit(drive.bag(3 * CHUNK + 5), request_id="r1")
    big = b'"' + b"x" * 60_000 + b'"'
    drive.register(cpu=10)
    drive.submit(drive.bag(10), "wf-2")
    for number in range(1_200):
        drive.submit(workflow_id=f"small-{number}")
    drive.place(*range(10), workflow_id="wf-2")
    drive.report(*[drive.end(fence, result=big) for fence in range(1, 11)])
    pieces = list(drive.machine.snapshot())
    assert len(pieces) >= 5
    assert max(len(piece) for piece in pieces) <= snapshots.PIECE_BYTES_MAX
    machine = Machine()
    machine.restore(pieces)
    assert check(machine) == []


def test_an_open_snapshot_shows_the_moment_of_its_opening(busy):
    expected = busy.encoding()
    pieces = busy.machine.snapshot()
    busy.fire(5_000)
    busy.control("cancel", "wf-2")
    busy.drain_leaving("a1")
    busy.register("a2", "new instance")
    busy.register("a9")
    busy.submit(workflow_id="wf-9")
    busy.place(0, agent="a9", workflow_id="wf-9")
    busy.retire()
    assert b"".join(pieces) == expected
    assert busy.machine._step.copying is None


def test_a_second_snapshot_ends_the_first(busy):
    first = busy.machine.snapshot()
    second = busy.machine.snapshot()
    with pytest.raises(RuntimeError, match="ended by a newer one"):
        next(first)
    first.close()
    assert b"".join(second) == busy.encoding()


def test_a_snapshot_that_is_closed_or_dropped_costs_nothing_more(busy):
    pieces = busy.machine.snapshot()
    pieces.close()
    assert busy.machine._step.copying is None
    assert list(pieces) == []
    pieces = busy.machine.snapshot()
    del pieces
    assert busy.machine._step.copying is None


def test_a_restore_ends_an_open_snapshot(busy):
    pieces = busy.machine.snapshot()
    busy.machine.restore([busy.encoding()])
    with pytest.raises(RuntimeError, match="or by a restore"):
        next(pieces)


def test_a_heavy_chunk_is_written_in_parts_and_kept_task_by_task(drive, new_drive):
    """What is encoded in one go is bounded, however large the results of a workflow are."""
    drive.checked = False
    big = b'"' + b"x" * 60_000 + b'"'
    count = CHUNK + 20
    drive.register(cpu=count)
    drive.submit(drive.bag(count))
    drive.place(*range(count))
    drive.report(*[drive.end(fence, result=big) for fence in range(1, CHUNK)])
    state = copy_on_write.CopyOnWrite(drive.machine.state)
    workflow = drive.machine.state.workflows["wf-1"]
    parts = list(state.write_chunk(workflow, 0))
    assert len(parts) > 40
    assert max(map(len, parts)) < copy_on_write.HEAVY_BYTES + 2 * len(big)
    expected = drive.encoding()
    pieces = drive.machine.snapshot()
    drive.report(*[drive.end(fence, result=big) for fence in range(CHUNK, count + 1)])
    kept = drive.machine._step.copying._heavy[1, 0]
    assert sum(map(len, kept.values())) < 1_000, "the one task of the heavy chunk that changed, as it was"
    data = b"".join(pieces)
    assert data == expected
    other = new_drive(checked=False)
    other.machine.restore([data])
    assert other.encoding() == expected


STEPS = ["fire", "place", "finish", "fail", "drain", "undrain", "lose", "register", "pause", "resume", "cancel"]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    before=st.lists(st.sampled_from(STEPS), max_size=12),
    after=st.lists(st.tuples(st.sampled_from([*STEPS, "piece", "submit", "retry", "retire"]), st.integers(0, 9))),
)
def test_snapshots_show_one_moment_whatever_happens_meanwhile(new_drive, monkeypatch_small_pieces, before, after):
    drive = new_drive(checked=False)
    for name in ("a1", "a2"):
        drive.register(name, cpu=2, prefetch=2)
    drive.submit(drive.tasks(*[()] * 6, (0, 1), (2,), retries=1, retry_delay_ms=1, timeout_ms=1))
    drive.submit(drive.bag(CHUNK + 2, on_failure="continue"), "wf-2")
    for step in before:
        _apply_step(drive, step, 0)
    expected = drive.encoding()
    pieces = drive.machine.snapshot()
    read = []
    for step, number in after:
        if step == "piece":
            read += [piece for piece in [next(pieces, None)] if piece]
        else:
            _apply_step(drive, step, number)
    assert b"".join([*read, *pieces]) == expected
    assert check(drive.machine) == []


@pytest.fixture(scope="module", params=[copy_on_write.HEAVY_BYTES, 4, -1])
def monkeypatch_small_pieces(request):
    """A piece for every frame, so that commands come between any two; chunks are light, mixed, or all heavy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "PIECE_FRAMES_MAX", 1)
        patch.setattr(copy_on_write, "HEAVY_BYTES", request.param)
        yield


def _apply_step(drive, step, number):
    agent = f"a{1 + number % 2}"
    workflow_id = f"wf-{1 + number % 3 // 2}"
    live = list(drive.machine.state.agents[agent].live)
    if step == "place":
        drive.place(number, number + CHUNK - 3, agent=agent, workflow_id=workflow_id)
    elif step in {"finish", "fail"} and live:
        outcome = "succeeded" if step == "finish" else "failed"
        result = {"result": b"1234567"} if step == "finish" and number % 2 else {}
        if drive.machine.state.agents[agent].present:
            drive.finish(live[number % len(live)], outcome, agent=agent, **result)
    elif step == "fire":
        drive.fire(number * 20_000)
    elif step in {"drain", "undrain"}:
        (drive.drain_leaving if step == "drain" else drive.resume)(agent)
    elif step == "lose":
        drive.remove(agent)
    elif step == "register":
        drive.register(agent, f"i{number}", cpu=2, prefetch=2)
    elif step in {"pause", "resume", "cancel", "retry"}:
        drive.control(step, workflow_id, request_id=f"r{number}")
    elif step == "submit":
        drive.submit(workflow_id=f"new-{drive.index}")
    elif step == "retire":
        drive.retire()


def test_the_first_frame_is_read_alone(drive) -> None:
    drive.submit()
    pieces = list(drive.machine.snapshot())
    header = read_snapshot_header(iter(pieces))
    assert (header.applied_index, header.chain) == (drive.machine.applied_index, drive.machine.chain)
    for bad in ([], [b"\0\0\0\2H\xc1"], [b"\0\0\0\2Hx"], [b"\0\0\0\3H\x91\xff"]):
        with pytest.raises(SnapshotError, match="not a"):
            read_snapshot_header(bad)
