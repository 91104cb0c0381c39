"""To which addresses replicas connect when a member is added."""

from __future__ import annotations

import pytest

from raftflow.coordinator.config.addresses import dial_problem


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "::",
        "ff02::1",
    ],
)
def test_what_is_no_machine_is_never_a_member(host: str) -> None:
    problem = dial_problem(host, ["127.0.0.1"])
    assert problem is not None
    assert "not an address of a machine" in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST."])
def test_loopback_is_for_clusters_on_loopback(host: str) -> None:
    assert dial_problem(host, ["10.0.0.1", "n2.example"]) is not None
    assert dial_problem(host, ["127.0.0.1", "10.0.0.1"]) is None


@pytest.mark.parametrize("host", ["10.0.0.4", "192.168.1.1", "203.0.113.7", "fd00::4", "2001:db8::4", "n4.example"])
def test_machines_and_names_may_be_members(host: str) -> None:
    assert dial_problem(host, ["10.0.0.1"]) is None
