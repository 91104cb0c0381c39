"""Many agents that fall silent at once are given up slowly."""

from __future__ import annotations

import pytest

from raftflow.coordinator.leader.mass_loss import LostTogether, MassLossThrottle


def grants(loss_throttle: MassLossThrottle, silent: int, present: int) -> list[int]:
    """How many are given up at each look, four a second, until none is left."""
    found: list[int] = []
    while silent:
        granted = loss_throttle.grant(silent, silent=silent, present=present, now_s=100.0 + len(found) / 4)
        found.append(granted)
        silent -= granted
        present -= granted
        assert len(found) < 100
    return found


@pytest.mark.parametrize(("silent", "present"), [(1, 1), (2, 2), (2, 5), (3, 15), (200, 1_000)])
def test_few_are_given_up_at_once(silent: int, present: int) -> None:
    loss_throttle = MassLossThrottle()
    assert grants(loss_throttle, silent, present) == [silent]
    assert (loss_throttle.active, loss_throttle.begun, loss_throttle.held_back) == (False, 0, 0)


def test_half_of_ten_go_at_five_a_second() -> None:
    loss_throttle = MassLossThrottle()
    assert grants(loss_throttle, 5, 10) == [1, 1, 1, 1, 1]
    assert (loss_throttle.active, loss_throttle.begun) == (True, 1)


def test_a_large_fleet_goes_faster_after_a_second() -> None:
    found = grants(MassLossThrottle(), 500, 1_000)
    assert found[:5] == [1, 1, 1, 1, 2]
    assert set(found[5:-1]) == {25}, "a tenth of a thousand a second"
    assert sum(found) == 500


def test_who_is_silent_counts_before_its_lease_is_over() -> None:
    """The agents' leases do not end in the same moment, even if they vanished together."""
    loss_throttle = MassLossThrottle()
    assert loss_throttle.grant(1, silent=50, present=100, now_s=7.0) == 1
    assert loss_throttle.grant(9, silent=49, present=99, now_s=7.1) == 0
    assert loss_throttle.held_back == 9
    loss_throttle.reset()
    assert (loss_throttle.active, loss_throttle.held_back) == (False, 0)
    assert loss_throttle.grant(2, silent=2, present=50, now_s=8.0) == 2


@pytest.mark.parametrize(
    ("silent", "present", "together"),
    [
        (1, 1, False),
        (2, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2, 4, False),
        (3, 4, True),
        (3, 15, False),
        (4, 15, True),
    ],
)
def test_how_many_are_a_loss_that_counts_against_nobody(silent: int, present: int, *, together: bool) -> None:
    found = LostTogether()
    names = [f"a{number}" for number in range(silent)]
    found.note(names, present)
    assert [name in found for name in names] == [together] * silent


def test_those_that_vanished_together_stay_so_until_they_are_heard() -> None:
    """The last of them is given up when it is the only one that is left."""
    found = LostTogether()
    found.note(["a1", "a2"], 2)
    found.note(["a2"], 1)
    assert "a2" in found
    found.forget("a1")
    found.forget("a3")
    assert ("a1" in found, "a2" in found) == (False, True)
    found.clear()
    assert "a2" not in found
