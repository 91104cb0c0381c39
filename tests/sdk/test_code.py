"""Which files of a folder travel, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftflow.domain.limits import BUNDLE_BYTES_MAX
from raftflow.domain.values.code_bundle import read_bundle
from raftflow.sdk import code
from raftflow.sdk.code import FolderCode
from raftflow.sdk.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "main.py").write_text("import package\n")
    (folder / "package" / "__init__.py").write_text("")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def paths(folder: Path) -> list[str]:
    return [file.path for file in read_bundle(FolderCode(folder).bundle().content)]


PLAIN = ["main.py", "package/__init__.py", "run.sh"]


def test_files_travel_with_their_content_and_whether_they_are_programs(folder: Path) -> None:
    bundle = FolderCode(folder).bundle()
    assert [(file.path, bytes(file.content), file.executable) for file in read_bundle(bundle.content)] == [
        ("main.py", b"import package\n", False),
        ("package/__init__.py", b"", False),
        ("run.sh", b"#!/bin/sh\n", True),
    ]
    assert bundle.describe().endswith(f"3 files, {len(bundle.content)} bytes")


def test_the_digest_depends_on_the_files_alone(folder: Path, tmp_path: Path) -> None:
    first = FolderCode(folder).bundle().digest
    os.utime(folder / "main.py", (1, 1))
    (folder / "package").chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    assert FolderCode(tmp_path / "elsewhere").bundle().digest == first


def test_what_is_no_code_stays_and_is_told(folder: Path) -> None:
    for name in (".git/config", "package/__pycache__/x.pyc", ".venv/bin/python", "old.pyc", "x.egg-info/PKG-INFO"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no code")
    bundle = FolderCode(folder).bundle()
    assert paths(folder) == PLAIN
    assert bundle.left_out == (".git/", ".venv/", "old.pyc", "x.egg-info/", "package/__pycache__/")
    assert "left out: .git/, .venv/, old.pyc, x.egg-info/, package/__pycache__/" in bundle.describe()


def test_the_ignore_file_names_more(folder: Path) -> None:
    for name in ("data/a.csv", "package/b.csv", "package/notes.md", "notes.md", "package/data"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    (folder / ".raftflowignore").write_text("# not code\n*.csv\n\ndata/\n/notes.md\n")
    assert paths(folder) == ["main.py", "package/__init__.py", "package/data", "package/notes.md", "run.sh"]
    (folder / ".raftflowignore").write_text("!main.py\n")
    with pytest.raises(UsageError, match="cannot take back"):
        paths(folder)


def test_links_inside_travel_as_files_and_others_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "same.py").symlink_to("main.py")
    assert paths(folder) == ["main.py", "package/__init__.py", "run.sh", "same.py"]
    for target, told in (
        ("/etc/passwd", "outside of the folder"),
        ("nothing", "leads nowhere"),
        ("package", "a link to a folder"),
    ):
        (folder / "same.py").unlink()
        (folder / "same.py").symlink_to(target)
        with pytest.raises(UsageError, match=told):
            paths(folder)
    (folder / "same.py").unlink()
    (folder / "same.py").symlink_to("same.py")
    with pytest.raises(UsageError, match="leads nowhere"):
        paths(folder)


def test_pipes_and_devices_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match=r"pipe is not a regular file: remove it, or name it in \.raftflowignore"):
        paths(folder)


def test_too_much_says_what_made_it_so(folder: Path) -> None:
    with (folder / "package" / "model.bin").open("wb") as file:
        file.truncate(BUNDLE_BYTES_MAX)
    with pytest.raises(UsageError, match=rf"The largest one is package/model.bin with {BUNDLE_BYTES_MAX} bytes"):
        paths(folder)


def test_too_many_files_say_where_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "BUNDLE_FILES_MAX", 40)
    (folder / "cache").mkdir()
    for number in range(40):
        (folder / "cache" / str(number)).touch()
    with pytest.raises(UsageError, match=r"more than 40 files: .* \(most of them are in cache/\)"):
        paths(folder)


def test_an_edit_gives_another_bundle_and_nothing_else_reads_the_files_again(folder: Path) -> None:
    given = FolderCode(folder)
    first = given.bundle()
    assert given.bundle() is first
    (folder / "main.py").write_text("import sys\n")
    assert given.bundle().digest != first.digest


def test_code_is_a_folder(folder: Path) -> None:
    for wrong in (folder / "main.py", folder / "nothing"):
        with pytest.raises(UsageError, match="code is a folder"):
            FolderCode(wrong)
