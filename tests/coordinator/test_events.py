"""The history of events: its bound, and the same ids whether events were derived early or late."""

from __future__ import annotations

import pytest

from raftflow.coordinator.events.history import EventHistory, EventId, GoneError
from raftflow.domain.commands import DrainAgent, RegisterAgent, encode_entry
from raftflow.machine.machine import Machine


def apply_to(machine: Machine, *histories: EventHistory) -> None:
    """Apply an entry with two events."""
    index = machine.applied_index + 1
    register = RegisterAgent(at_ms=index, actor="agent:a", name=f"a{index}", instance="i" * 8, capacity={"cpu": 1})
    entry = encode_entry((register, DrainAgent(at_ms=index, actor="client:c", name=f"a{index}")))
    result = machine.apply(index, 1, entry)
    for history in histories:
        history.add(result, entry)


def ids_of(history: EventHistory, after: EventId, limit: int = 1_000) -> list[str]:
    return [event.id for event in history.read(after, limit, lambda _event: True).events]


def test_the_oldest_entries_go_and_their_ids_are_gone() -> None:
    machine, history = Machine(), EventHistory(entries_max=3)
    for _ in range(10):
        apply_to(machine, history)
    assert history.oldest == EventId(8, 0)
    assert ids_of(history, history.oldest) == ["8.1", "8.2", "9.1", "9.2", "10.1", "10.2"]
    with pytest.raises(GoneError):
        ids_of(history, EventId(7, 2))


def test_memory_is_bounded_also_by_bytes() -> None:
    machine, history = Machine(), EventHistory(bytes_max=20_000)
    for _ in range(200):
        apply_to(machine, history)
        ids_of(history, history.oldest)
    assert history.kept_bytes <= 30_000
    assert ids_of(history, history.oldest)


def test_a_page_ends_within_an_entry_and_the_next_goes_on_there() -> None:
    machine, history = Machine(), EventHistory()
    for _ in range(3):
        apply_to(machine, history)
    found, after = [], history.oldest
    while (piece := history.read(after, 1, lambda _event: True)).events:
        found += [event.id for event in piece.events]
        after = piece.following
    assert found == ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2"]


def test_a_replica_with_a_snapshot_tells_the_same_ids_from_there_on() -> None:
    machine, whole, late = Machine(), EventHistory(), EventHistory()
    for _ in range(3):
        apply_to(machine, whole)
    late.restart(3)
    assert late.end() == EventId(4, 0)
    for _ in range(3):
        apply_to(machine, whole, late)
    assert ids_of(late, late.oldest) == ids_of(whole, EventId(3, 2))
    with pytest.raises(GoneError):
        ids_of(late, EventId(3, 1))


def test_a_reader_that_has_all_of_a_snapshot_goes_on_at_the_replica_that_was_installed_from_it() -> None:
    machine, whole, late = Machine(), EventHistory(), EventHistory()
    for _ in range(3):
        apply_to(machine, whole)
    read = whole.read(EventId(0, 0), 1_000, lambda _event: True)
    by_limit = whole.read(EventId(3, 0), 2, lambda _event: True)
    late.restart(3)
    apply_to(machine, whole, late)
    for after in (read.following, by_limit.following):
        assert ids_of(late, after) == ids_of(whole, after) == ["4.1", "4.2"]
    half = whole.read(EventId(3, 0), 1, lambda _event: True)
    with pytest.raises(GoneError):  # an event of the snapshot's entry is missing
        ids_of(late, half.following)


def test_begins_at_the_end() -> None:
    machine, history = Machine(), EventHistory()
    apply_to(machine, history)
    assert history.end() == EventId(2, 0)
    assert ids_of(history, history.end()) == []
