"""Each table is declared once, completely; what is made of the declarations works for a table that nobody knew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest

from raftflow.domain import limits
from raftflow.machine.machine import Machine
from raftflow.machine.read.invariants import check
from raftflow.machine.schema import declaration, registry
from raftflow.machine.schema.declaration import Counter, Limit, Reason, Saved, SnapshotError, Table, saved_rows
from raftflow.machine.snapshot.stream import Header
from raftflow.machine.tables import state as state_module
from raftflow.machine.tables.state import State

IN_THE_HEADER = {"feature_level"}
"""What `snapshot.stream.Header` holds by itself."""

WEAK = {"shapes"}
"""Filled by those who hold its rows."""


def faults(state: State) -> Iterator[str]:
    """Yield what is missing in the declarations."""
    declared = [entry.name for entry in (*registry.TABLES, *registry.COUNTERS)]
    for name in sorted(set(vars(state)) - set(declared) - IN_THE_HEADER):
        yield f"State.{name} has no declaration"
    for name in sorted(set(declared) - set(vars(state))):
        yield f"{name} is declared and State does not have it"
    for name in sorted({name for name in declared if declared.count(name) > 1}):
        yield f"{name} is declared twice"
    for entry in (*registry.TABLES, *registry.COUNTERS):
        for field in fields(entry):
            value = getattr(entry, field.name)
            if value is None or (isinstance(value, str) and len(value) < 5):
                yield f"{entry.name}: {field.name} is missing, or its reason"
            if isinstance(value, Limit) and not hasattr(limits, value.name):
                yield f"{entry.name}: there is no limit {value.name}"
    for table in registry.TABLES:
        if isinstance(table.saved, Reason) and isinstance(table.derive, Reason) and table.name not in WEAK:
            yield f"{table.name} is neither saved nor derived, so a restored machine lacks it"
    places = [saved.field for _, saved in registry.saved_tables()] + [each.field for each in registry.COUNTERS]
    if sorted(places) != list(range(first := len(Header.__struct_fields__), first + len(places))):
        yield f"places in the header: {sorted(places)}"
    kinds = [kind for _, saved in registry.saved_tables() for kind in saved.kinds]
    if len({b"H", b"E", *kinds}) != 2 + len(kinds):
        yield f"two tables have frames of one kind: {kinds}"


def test_every_table_is_declared_completely() -> None:
    assert list(faults(State())) == []


# --- a table that nobody knew


class Note(msgspec.Struct, array_like=True):
    """A row of it; it changes in place."""

    name: str
    count: int = 0


class Seal(msgspec.Struct, array_like=True, frozen=True):
    """A row that never changes."""

    name: str
    count: int = 0


def _add(state: Any, row: Any) -> None:
    state.notes[row.name] = row


def _problems(state: Any, _: int) -> Iterator[str]:
    if any(row.name != name for name, row in state.notes.items()):
        yield "a note is under another name"


def _retire(state: Any, workflows: Any) -> None:
    for workflow in workflows:
        state.notes.pop(workflow.id, None)


NEXT_FIELD = len(Header.__struct_fields__) + len(registry.saved_tables()) + len(registry.COUNTERS)
"""The next place in the header."""


def table_of(row: type[msgspec.Struct], bytes_of: Any = None) -> Table:
    """Declare the table, as a contributor would."""
    return Table(
        name="notes",
        about="notes by name",
        saved=saved_rows(
            field=NEXT_FIELD, kind=b"N", row=row, rows=lambda state: state.notes.values(), add=_add, bytes_of=bytes_of
        ),
        derive=Reason("nothing of it follows from other tables"),
        problems=_problems,
        limit=Limit(name="LABELS_MAX", rows=lambda state: len(state.notes)),
        retire=_retire,
        parts=lambda state: (state.notes,),
    )


@pytest.fixture
def with_notes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the state a table, and declare it."""
    plain = State.__init__

    def init(self: Any, *arguments: Any) -> None:
        plain(self, *arguments)
        self.notes = {}

    def declare(table: Table) -> None:
        monkeypatch.setattr(registry, "TABLES", (*registry.TABLES, table))

    monkeypatch.setattr(State, "__init__", init)
    return declare


@pytest.mark.parametrize("row", [Note, Seal])
def test_a_new_table_is_saved_checked_restored_retired_and_discarded(
    with_notes: Any, new_drive: Any, monkeypatch: Any, row: Any
) -> None:
    with_notes(table_of(row))
    assert list(faults(State())) == []
    drive = new_drive()
    drive.submit()
    state = drive.machine.state
    state.notes = {"wf-1": row("wf-1", 1), "b": row("b", 2)}
    pieces = drive.machine.snapshot()
    if row is Note:
        state.notes["b"].count = 9
    state.notes["c"] = row("c")
    machine = Machine()
    machine.restore(pieces)
    assert list(machine.state.notes.values()) == [row("wf-1", 1), row("b", 2)], "as of the moment it was opened"
    assert check(machine) == []
    assert machine.state.notes.keys() == {"wf-1", "b"}

    state.notes["d"] = row("e")
    assert check(drive.machine) == ["a note is under another name"]
    monkeypatch.setattr(limits, "LABELS_MAX", 3)
    assert check(drive.machine) == ["notes: 4, the limit LABELS_MAX is 3", "a note is under another name"]
    drive.checked = False
    drive.control("cancel")
    drive.now_ms += 1
    drive.retire()
    assert list(state.notes) == ["b", "c", "d"]

    notes = state.notes
    drive.machine.restore(machine.snapshot())
    drive.machine.sweep(100)
    assert notes == {}


def test_rows_that_may_be_large_come_in_frames_of_a_bounded_size(with_notes: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(declaration, "BATCH_BYTES", 10)
    table = table_of(Seal, lambda row: row.count)
    with_notes(table)
    state: Any = State()
    state.notes = {name: Seal(name, size) for name, size in (("a", 4), ("b", 6), ("c", 30), ("d", 1))}
    assert isinstance(table.saved, Saved)
    frozen = table.saved.freeze(state, None)  # type: ignore[arg-type]  # plain rows do not ask for it
    frames = [[row[0] for row in msgspec.msgpack.decode(content)] for _, content in frozen.frames]
    assert (frozen.rows, frames) == (4, [["a", "b"], ["c"], ["d"]])


def test_a_table_that_is_newer_than_the_snapshot_is_empty(with_notes: Any, new_drive: Any) -> None:
    drive = new_drive()
    drive.submit()
    pieces = list(drive.machine.snapshot())
    with_notes(table_of(Note))
    machine = Machine()
    machine.restore(pieces)
    assert machine.state.notes == {}


def test_a_table_that_is_not_known_is_refused(with_notes: Any, monkeypatch: Any) -> None:
    known = registry.TABLES
    with_notes(table_of(Note))
    machine = Machine()
    machine.state.notes["a"] = Note("a")
    pieces = list(machine.snapshot())
    monkeypatch.setattr(registry, "TABLES", known)
    with pytest.raises(SnapshotError, match="unknown kind b'N'"):
        Machine().restore(pieces)


def test_forgotten_declarations_are_found(with_notes: Any, monkeypatch: Any) -> None:
    known, good = registry.TABLES, table_of(Note)
    assert list(faults(State())) == ["State.notes has no declaration"]
    saved = good.saved
    assert isinstance(saved, Saved)
    for bad, fault in (
        ({"problems": None}, "notes: problems is missing, or its reason"),
        ({"limit": Reason("")}, "notes: limit is missing, or its reason"),
        ({"limit": Limit(name="NOTES_MAX", rows=len)}, "notes: there is no limit NOTES_MAX"),
        ({"saved": Reason("forgotten")}, "notes is neither saved nor derived, so a restored machine lacks it"),
        ({"name": "note"}, "State.notes has no declaration"),
    ):
        monkeypatch.setattr(registry, "TABLES", (*known, replace(good, **bad)))
        assert fault in list(faults(State()))
    monkeypatch.setattr(registry, "TABLES", (*known, replace(good, saved=replace(saved, field=18))))
    assert any("places in the header" in fault for fault in faults(State()))
    monkeypatch.setattr(registry, "TABLES", (*known, replace(good, saved=replace(saved, kinds=(b"A",)))))
    assert any("frames of one kind" in fault for fault in faults(State()))
    monkeypatch.setattr(registry, "TABLES", (*known, good, good))
    assert "notes is declared twice" in list(faults(State()))


def test_a_declaration_without_a_part_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="problems"):
        Table(name="notes", about="")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="problems"):
        Counter(name="notes", field=NEXT_FIELD)  # type: ignore[call-arg]


def test_the_state_has_no_class_attributes_that_hide_a_table() -> None:
    """A table on the class would be shared by all machines, and the test of declarations would not see it."""
    plain = {name for name, value in vars(state_module.State).items() if not name.startswith("_")}
    assert plain == {"next_timer_ms", "shape", "add_kind"}
