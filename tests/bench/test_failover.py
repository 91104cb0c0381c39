"""The failover benchmark with machines that fall silent: what it needs, and that nothing of it is left behind."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from raftflow.bench.benchmarks import failover
from raftflow.bench.settings import BenchError
from raftflow.local.faults import namespaces
from raftflow.local.faults.namespaces import Machines, NamespaceError, machines


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [("os.geteuid", lambda: 1000, "run this as root"), ("shutil.which", lambda _name: None, "install iproute2")],
)
def test_where_machines_cannot_be_made_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, cure: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda _name: "/sbin/ip")
    monkeypatch.setattr(name, value)
    with pytest.raises(BenchError, match=cure):
        asyncio.run(failover.measure(tmp_path / "cluster", runs=1, how="silent"))
    assert not (tmp_path / "cluster").exists()


def test_what_was_made_is_removed_when_the_rest_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, ...]] = []

    def ip(*words: str) -> None:
        done.append(words)
        if words[:2] == ("netns", "add") and len([each for each in done if each[:2] == words[:2]]) == 2:
            raise NamespaceError("no more")

    monkeypatch.setattr(namespaces, "_ip", ip)
    monkeypatch.setattr(namespaces, "check", lambda: None)
    with pytest.raises(NamespaceError, match="no more"), machines(3):
        raise AssertionError("it was not made")
    assert len([words for words in done if words[:2] == ("netns", "delete")]) == 3
    assert len([words for words in done if words[:2] == ("link", "delete")]) == 4


def test_two_sets_of_machines_have_names_of_their_own() -> None:
    one, other = Machines(3), Machines(3)
    assert one.command(0) != other.command(0)
    assert all(len(name) <= 15 for _ in range(20) for name in Machines(9).names), "an interface's name is no longer"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["silent", "stop"])
def test_a_leader_that_says_nothing_costs_the_next_task_little(tmp_path: Path, how: str) -> None:
    try:
        if how == "silent":
            namespaces.check()
            with machines(1):
                pass
    except NamespaceError as error:
        pytest.skip(str(error))
    before = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True).stdout if how == "silent" else b""
    result = asyncio.run(failover.measure(tmp_path / "cluster", runs=1, how=how))
    (run,) = result["runs"]
    assert 0.1 < run["submit_seconds"] <= run["task_seconds"] < 3.0
    assert result["long_tasks_disturbed"] == 0
    if how == "silent":
        after = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True).stdout
        assert len(after.splitlines()) == len(before.splitlines())
