"""Snapshot files: what they say of themselves, and every way in which one can be bad."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from raftflow.cli.main import root
from raftflow.domain.features import LEVEL, NEXT_LEVEL
from raftflow.machine.machine import Machine
from raftflow.recovery.cluster_snapshot import (
    ClusterSnapshotFile,
    ClusterSnapshotWriter,
    SnapshotFileError,
)
from raftflow.recovery.verification import read_machine, verify_snapshot

Save = Callable[..., Path]


def test_a_file_says_what_it_holds_and_makes_the_same_state(machine: Machine, save: Save) -> None:
    path = save(machine)
    with ClusterSnapshotFile(path) as file:
        label = file.label
        assert read_machine(file).chain == machine.chain
    assert (label.cluster, label.replica, label.index) == ("prod", "n2", machine.applied_index + 2)
    assert (label.chain, label.feature_level, label.recovered) == (machine.chain.hex(), LEVEL, False)
    check = verify_snapshot(path)
    assert (check.ok, check.problems, check.tasks, check.agents) == (True, [], 5, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_no_byte_can_change_unnoticed(machine: Machine, save: Save) -> None:
    path = save(machine)
    good = path.read_bytes()
    rng = random.Random(7)
    for place in [*range(24), *rng.sample(range(24, len(good)), 300)]:
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << rng.randrange(8))]) + good[place + 1 :])
        with pytest.raises(SnapshotFileError, match=r"damaged|not a snapshot|snapshot format"):
            verify_snapshot(path)


def test_a_truncated_file_and_one_with_more_bytes_are_damaged(machine: Machine, save: Save) -> None:
    path = save(machine)
    good = path.read_bytes()
    for size in (0, 7, 12, 19, 200, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(SnapshotFileError, match=r"cut off|damaged|is not a snapshot"):
            verify_snapshot(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(SnapshotFileError, match="more bytes"):
        verify_snapshot(path)


def test_a_body_of_another_file_is_noticed(machine: Machine, save: Save) -> None:
    """Both halves are whole, and do not belong together."""
    one = save(machine, "one")
    with ClusterSnapshotFile(one) as file:
        label = file.label
    writer = ClusterSnapshotWriter(one.with_name("other"), msgspec.structs.replace(label, digest="00" * 32))
    body = one.read_bytes()[-label.size :]
    with writer:
        writer.write(body)
        with pytest.raises(SnapshotFileError, match="not the one that its label names"):
            writer.finish()
    assert not one.with_name("other").exists()


def test_a_file_of_a_newer_version_is_refused(machine: Machine, save: Save) -> None:
    path = save(machine)
    with ClusterSnapshotFile(path) as file:
        label, size = file.label, file.label.size
    body = path.read_bytes()[-size:]
    with ClusterSnapshotWriter(path, msgspec.structs.replace(label, feature_level=NEXT_LEVEL)) as writer:
        writer.write(body)
        writer.finish()
    with pytest.raises(SnapshotFileError, match=f"feature level {NEXT_LEVEL}"):
        verify_snapshot(path)
    path.write_bytes(path.read_bytes()[:8] + b"\2\0\0\0" + path.read_bytes()[12:])
    with pytest.raises(SnapshotFileError, match="snapshot format 2"):
        verify_snapshot(path)


def test_another_kind_of_file_is_neither_read_nor_replaced(machine: Machine, tmp_path: Path, save: Save) -> None:
    other = tmp_path / "cluster.snapshot"
    other.write_text("[cluster]\n")
    with pytest.raises(SnapshotFileError, match="is not a snapshot of a cluster; choose another name"):
        save(machine)
    with pytest.raises(SnapshotFileError, match="is not a snapshot of a cluster"):
        verify_snapshot(other)
    assert other.read_text() == "[cluster]\n"


def test_an_unfinished_file_leaves_the_one_before_as_it_was(machine: Machine, save: Save) -> None:
    path = save(machine)
    good = path.read_bytes()
    with ClusterSnapshotFile(path) as file:
        label = file.label
    with ClusterSnapshotWriter(path, label) as writer:
        writer.write(b"half")
    assert path.read_bytes() == good
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_the_file_before_and_says_so(
    machine: Machine, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(machine)
    good = path.read_bytes()
    with ClusterSnapshotFile(path) as file:
        label = file.label

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write", "fsync"):
        with ClusterSnapshotWriter(path, label) as writer:
            monkeypatch.setattr(os, name, full)
            with pytest.raises(SnapshotFileError, match="cannot be written: No space left on device"):
                writer.write(b"x") if name == "write" else writer.finish()
            monkeypatch.undo()
    assert path.read_bytes() == good
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_commands_show_and_check_a_file(machine: Machine, save: Save) -> None:
    path = save(machine)
    run = CliRunner().invoke
    shown = run(root, ["snapshot", "inspect", str(path), "-o", "json"])
    assert msgspec.json.decode(shown.output)["cluster"] == "prod"
    assert "audit" not in run(root, ["snapshot", "inspect", str(path)]).output
    checked = run(root, ["snapshot", "verify", str(path)])
    assert checked.exit_code == 0 and checked.output.startswith("ok: 1 workflows, 5 tasks and 1 agents")
    path.write_bytes(path.read_bytes()[:-1])
    for verb in ("verify",):
        with pytest.raises(SystemExit) as ended:
            root.main(["snapshot", verb, str(path)])
        assert ended.value.code == 1
