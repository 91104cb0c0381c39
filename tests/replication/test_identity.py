"""A data directory belongs to one replica of one cluster, and to one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from raftflow.replication.members import identity
from raftflow.replication.members.identity import DataDir, IdentityError
from raftflow.replication.real_files import RealFileSystem
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash

PATH = Path("/data")


def opened(fs: FaultyFileSystem, cluster: str = "north", replica: str = "a", disk: str = "d1") -> DataDir:
    return DataDir.open(fs, PATH, cluster, replica, new_disk_id=lambda: disk)


def test_the_first_open_makes_it_ours() -> None:
    fs = FaultyFileSystem()
    first = opened(fs)
    assert (first.disk_id, first.has_journal) == ("d1", False)
    assert [path.parent for path in (first.journal_dir, first.snapshot_dir, first.audit_dir)] == [PATH] * 3
    first.note_journal()
    first.close()
    fs.restart(Loss.ALL, Random(0))
    again = opened(fs, disk="d2")
    assert (again.disk_id, again.has_journal) == ("d1", True)


@pytest.mark.parametrize(
    ("cluster", "replica", "message"),
    [("south", "a", "belongs to cluster 'north', not 'south'"), ("north", "b", "belongs to replica 'a', not 'b'")],
)
def test_somebody_elses_directory_is_refused(cluster: str, replica: str, message: str) -> None:
    fs = FaultyFileSystem()
    opened(fs).close()
    with pytest.raises(IdentityError, match=message):
        opened(fs, cluster, replica)
    opened(fs).close()


def test_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = FaultyFileSystem()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "FORMAT", 2)
        opened(fs).close()
    with pytest.raises(IdentityError, match="format 2, but this program reads format 1"):
        opened(fs)


def test_every_flipped_byte_and_every_cut_is_found() -> None:
    fs = FaultyFileSystem()
    opened(fs).close()
    content = fs.content(PATH / "identity")
    for offset in range(len(content)):
        changed = bytearray(content)
        changed[offset] ^= 1 << offset % 7
        for data in (bytes(changed), content[:offset]):
            file = fs.open(PATH / "identity")
            file.truncate(0)
            file.write_at(0, data)
            with pytest.raises(IdentityError, match=r"damaged"):
                opened(fs)


def test_a_missing_identity_is_not_made_anew_over_data() -> None:
    fs = FaultyFileSystem()
    first = opened(fs)
    fs.open(first.journal_dir / "x", create=True)
    first.close()
    fs.remove(PATH / "identity")
    with pytest.raises(IdentityError, match="no identity file"):
        opened(fs)


@pytest.mark.parametrize("loss", Loss)
def test_crash_at_every_step(loss: Loss) -> None:
    """The disk id that anybody saw is the one that stays, and so is the note about the journal."""
    for step in range(1, 100):
        fs = FaultyFileSystem()
        fs.crash_at = step
        seen = noted = None
        try:
            first = opened(fs)
            seen = first.disk_id
            first.note_journal()
            noted = True
        except SimulatedCrash:
            pass
        fs.restart(loss, Random(step))
        again = opened(fs, disk="d2")
        assert seen in {None, again.disk_id}
        assert again.has_journal or not noted
        if noted:
            break
    else:
        pytest.fail("more steps than were tried")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    fs = RealFileSystem()
    held = DataDir.open(fs, tmp_path / "d", "north", "a")
    program = (
        "import sys; from pathlib import Path; from raftflow.replication.real_files import RealFileSystem\n"
        "from raftflow.replication.members.identity import DataDir\n"
        "DataDir.open(RealFileSystem(), Path(sys.argv[1]), 'north', 'a'); print('opened')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "d")]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "is in use by another process" in second.stderr
    held.close()
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.stdout == "opened\n"
    fs.close()


def test_an_unusable_path_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    fs = RealFileSystem()
    with pytest.raises(IdentityError, match=r"cannot use .*Repair"):
        DataDir.open(fs, tmp_path / "file" / "d", "north", "a")
    fs.close()


def test_names_are_bounded() -> None:
    for cluster, replica in (("", "a"), ("north", "x" * 256)):
        with pytest.raises(ValueError, match="1 to 255 bytes"):
            opened(FaultyFileSystem(), cluster, replica)
