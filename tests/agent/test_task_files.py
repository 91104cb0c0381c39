"""What tasks may put in place of the files that their agent reads: one failed attempt each, and nothing else."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.workdir.files import (
    CaptureFolder,
    UnfitFileError,
    create_file,
    open_file,
    opened_folder,
    read_file,
)
from raftflow.agent.workdir.trash import TrashFolder, remove_tree

HOSTILE_RESULTS = {
    "fifo": ('mkfifo "$RAFTFLOW_RESULT"', "there is a FIFO in place of a regular file"),
    "directory": ('mkdir "$RAFTFLOW_RESULT"', "there is a directory in place"),
    "own memory": ('ln -s /proc/self/mem "$RAFTFLOW_RESULT"', "there is a symbolic link in place"),
    "endless device": ('ln -s /dev/zero "$RAFTFLOW_RESULT"', "there is a symbolic link in place"),
    "link to itself": ('ln -s "$RAFTFLOW_RESULT" "$RAFTFLOW_RESULT"', "there is a symbolic link in place"),
    "link to a file": ('ln -s "$RAFTFLOW_INPUTS" "$RAFTFLOW_RESULT"', "there is a symbolic link in place"),
    "hard link": ('ln "$RAFTFLOW_INPUTS" "$RAFTFLOW_RESULT"', "has 2 names"),
    "sparse": ('truncate -s 1T "$RAFTFLOW_RESULT"', "has 1099511627776 bytes, the limit is 65536"),
    "folder removed": ('rm -r "$(dirname "$RAFTFLOW_RESULT")"', "was removed or renamed"),
    "folder renamed": ('d="$(dirname "$RAFTFLOW_RESULT")"; mv "$d" "$d.away"', "was removed or renamed"),
    "folder is a link": (
        'd="$(dirname "$RAFTFLOW_RESULT")"; echo 1 >"$RAFTFLOW_RESULT"; mv "$d" "$d.away"; ln -s "$d.away" "$d"',
        "a symbolic link is in its place",
    ),
    "folder is another": (
        'd="$(dirname "$RAFTFLOW_RESULT")"; mv "$d" "$d.away"; mkdir "$d"; echo 1 >"$RAFTFLOW_RESULT"',
        "another directory is in its place",
    ),
    "captures are taken": (
        """w="$(dirname "$RAFTFLOW_RESULT")/../../attempts/$RAFTFLOW_FENCE"; echo 1; while [ ! -d "$w" ]; do :; done
        rm "$w/stdout"; mkfifo "$w/stdout" "$w/stderr"; echo 2; echo 3 >&2""",
        "the file of captured stderr cannot be created: a FIFO is in its place",
    ),
}


async def test_whatever_is_in_place_of_a_result_is_one_failed_attempt(leader: Any, start_agent: Any) -> None:
    agent = start_agent()
    for name, (script, words) in HOSTILE_RESULTS.items():
        end = await leader.run(command=["sh", "-c", script])
        assert (end.outcome, end.exit_code) == ("failed", 0), (name, end)
        assert words in end.error, name
        innocent = await leader.run(command=["sh", "-c", 'cat "$RAFTFLOW_INPUTS" >"$RAFTFLOW_RESULT"'])
        assert (innocent.outcome, bytes(innocent.result)) == ("succeeded", b"{}"), name
    assert not agent.done()


async def test_a_socket_in_place_of_a_result(leader: Any, start_agent: Any) -> None:
    start_agent()
    code = "import os, socket; os.chdir(os.path.dirname(os.environ['RAFTFLOW_RESULT'])); "
    end = await leader.run(command=[sys.executable, "-c", code + "socket.socket(1).bind('result.json')"])
    assert (end.outcome, "there is a socket in place" in end.error) == ("failed", True), end


async def test_captures_that_somebody_prepared_are_moved_out_of_the_way(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    """Of an attempt that is to come: a FIFO there would have stopped the launcher."""
    start_agent()
    script = (
        'w="$(dirname "$RAFTFLOW_RESULT")/../../attempts/$((RAFTFLOW_FENCE + 1))"; mkdir "$w"; mkfifo "$w/stdout"'
    )
    assert (await leader.run(command=["sh", "-c", script])).outcome == "succeeded"
    end = await leader.run(command=["echo", "heard"])
    assert end.outcome == "succeeded", end
    assert (await leader.log_of(end.fence, "stdout")).data == b"heard\n"
    code = """
import os
folder = f"{os.path.dirname(os.environ['RAFTFLOW_PROGRESS'])}/../../attempts/{int(os.environ['RAFTFLOW_FENCE']) + 1}"
os.mkdir(folder)
os.mkfifo(f"{folder}/stdout")
"""
    end = await leader.run(python="builtins:exec", args=[code])
    assert end.outcome == "succeeded", end
    end = await leader.run(python="builtins:print", args=["heard"])
    assert end.outcome == "succeeded", end
    assert (await leader.log_of(end.fence, "stdout")).data == b"heard\n"


@pytest.mark.parametrize(
    "harm",
    [
        "shutil.rmtree(folder)",
        "os.rename(folder, folder + '.away')",
        "os.rename(folder, folder + '.away'); os.symlink(folder + '.away', folder)",
        "os.rename(folder, folder + '.away'); open(folder, 'w')",
        "os.chmod(folder, 0)",
        "os.mkdir(path)",
        "os.symlink('/nowhere/at/all', path)",
        "os.mkfifo(path)",
    ],
)
async def test_a_call_can_tell_its_progress_whatever_the_one_before_did(
    leader: Any, start_agent: Any, harm: str
) -> None:
    """Both may be calls of one worker."""
    start_agent()
    head = "import os, shutil, stat; path = os.environ['RAFTFLOW_PROGRESS']; folder = os.path.dirname(path)\n"
    assert (await leader.run(python="builtins:exec", args=[head + harm, {}])).outcome == "succeeded"
    code = (
        "assert not os.path.lexists(path); assert stat.S_IMODE(os.lstat(folder).st_mode) == 0o700\n"
        "import raftflow; raftflow.progress(0.5); assert open(path).read() == '0.5000\\n'"
    )
    end = await leader.run(python="builtins:exec", args=[head + code, {}])
    assert end.outcome == "succeeded", end


async def test_every_attempt_has_inputs_of_its_own(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent()
    read = 'printf \'["%s", %s, "%s"]\' "$RAFTFLOW_INPUTS" "$(cat "$RAFTFLOW_INPUTS")" '
    read += '"$(stat -c %a "$(dirname "$RAFTFLOW_INPUTS")")" >"$RAFTFLOW_RESULT"'
    harms = (
        'rm "$RAFTFLOW_INPUTS"',
        'echo 1 >"$RAFTFLOW_INPUTS"',
        'chmod 0 "$RAFTFLOW_INPUTS" "$(dirname "$RAFTFLOW_INPUTS")"',
        'ln "$RAFTFLOW_INPUTS" "$(dirname "$RAFTFLOW_INPUTS")/../link"',
        'cp "$RAFTFLOW_INPUTS" x; mv x "$RAFTFLOW_INPUTS"',
        'echo \'{"a":2}\' >"$(dirname "$RAFTFLOW_INPUTS")/progress"; mkdir "$(dirname "$RAFTFLOW_INPUTS")/d"',
        "true",
    )
    seen = set()
    for harm in harms:
        harmed = await leader.run(command=["sh", "-c", harm], cwd=str(tmp_path), inputs={"a": 1})
        assert harmed.outcome == "succeeded", harm
        for inputs in ({}, {"b": [harm]}):
            end = await leader.run(command=["sh", "-c", read], inputs=inputs)
            assert end.outcome == "succeeded", (harm, end)
            path, content, mode = json.loads(bytes(end.result))
            assert (content, mode) == (inputs, "700"), harm
            seen.add(path)
            assert not os.path.exists(path)  # noqa: ASYNC240, PTH110 - a local disk
    assert len(seen) == 2 * len(harms)


async def test_a_work_directory_that_is_removed_is_made_anew(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    agent = start_agent()
    work, shared = tmp_path / "agent", tmp_path / "shared"
    shared.mkdir()
    assert (await leader.run(python="builtins:print", args=[1])).outcome == "succeeded"
    for harm in (f"rm -r {work}", f"mv {work} {work}.away", f"rm -r {work}/exchange", f"rm -r {work}/attempts",
                 f"rm -r {work}/workers {work}/trash", f"rm -r {work}/exchange; ln -s {shared} {work}/exchange",
                 f"rm -r {work}/attempts; touch {work}/attempts"):  # fmt: skip
        await leader.run(command=["sh", "-c", harm])
        # What the launcher and the workers do by themselves may fail once: the agent learns of it that way.
        await leader.run(command=["echo", "lost"])
        await leader.run(python="builtins:print", args=["lost"])
        end = await leader.run(command=["sh", "-c", 'echo heard; cat "$RAFTFLOW_INPUTS" >"$RAFTFLOW_RESULT"'])
        assert (end.outcome, bytes(end.result)) == ("succeeded", b"{}"), (harm, end)
        assert (await leader.log_of(end.fence, "stdout")).data == b"heard\n", harm
        end = await leader.run(python="builtins:print", args=["heard"])
        assert end.outcome == "succeeded", (harm, end)
        assert (await leader.log_of(end.fence, "stdout")).data == b"heard\n", harm
    assert list(shared.iterdir()) == []
    assert not agent.done()
    assert stat.S_IMODE((work / "exchange").stat().st_mode) == 0o700


async def test_logs_of_files_that_somebody_replaced(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent()
    end = await leader.run(command=["echo", "text"])
    file = tmp_path / "agent" / "attempts" / str(end.fence) / "stdout"
    file.write_bytes(b"te")
    piece = await leader.log_of(end.fence, "stdout")
    assert (piece.data, piece.offset, piece.size, piece.complete) == (b"te", 0, 5, True)
    piece = await leader.log_of(end.fence, "stdout", 2)
    assert (piece.data, piece.offset, piece.size, piece.truncated) == (b"", 5, 5, True), "nobody waits for the rest"
    file.unlink()
    os.mkfifo(file)
    assert "there is a FIFO in place" in (await leader.log_of(end.fence, "stdout")).error
    file.unlink()
    file.symlink_to("/proc/self/environ")
    assert "there is a symbolic link in place" in (await leader.log_of(end.fence, "stdout")).error


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A place for trees that are too deep to be cleaned up after a test that fails."""
    yield tmp_path
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


async def test_what_an_attempt_leaves_does_not_hold_up_the_agent(leader: Any, start_agent: Any, deep: Path) -> None:
    start_agent(resources={"cpu": 2})
    code = """
import os
os.chdir(os.path.dirname(os.environ["RAFTFLOW_RESULT"]))
for number in range(3_000):
    os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY))
for number in range(1_200):
    os.mkdir("d")
    os.chdir("d")
os.chmod(".", 0)
"""
    end = await leader.run(command=[sys.executable, "-c", code])
    assert end.outcome == "succeeded", end
    ends = await asyncio.wait_for(leader.run(command=["/bin/true"]), 5)
    assert ends.outcome == "succeeded"
    trash = deep / "agent" / "trash"
    async with asyncio.timeout(30):
        while any(trash.iterdir()):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    assert len(list((deep / "agent" / "exchange").iterdir())) <= 2


# --- the module itself


def test_only_regular_files_of_ours_with_one_name_are_opened(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"12345")
    assert read_file(str(plain), 5, "it") == b"12345"
    with pytest.raises(UnfitFileError, match="it has 5 bytes, the limit is 4"):
        read_file(str(plain), 4, "it")
    assert read_file(str(tmp_path / "none"), 5, "it") is None
    os.mkfifo(tmp_path / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.close()
    (tmp_path / "link").symlink_to(plain)
    (tmp_path / "folder").mkdir()
    found = {"fifo": "a FIFO", "socket": "a socket", "link": "a symbolic link", "folder": "a directory"}
    for name, words in found.items():
        with pytest.raises(UnfitFileError, match=f"it cannot be read: there is {words} in place of a regular file"):
            open_file(str(tmp_path / name), "it")
    with pytest.raises(UnfitFileError, match="there is a character device"):
        open_file("/dev/null", "it")
    (tmp_path / "second").hardlink_to(plain)
    with pytest.raises(UnfitFileError, match="has 2 names"):
        open_file(str(plain), "it")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_refused(tmp_path: Path) -> None:
    (tmp_path / "his").write_bytes(b"1")
    os.chown(tmp_path / "his", 12_345, -1)
    with pytest.raises(UnfitFileError, match="belongs to user 12345"):
        open_file(str(tmp_path / "his"), "it")


def test_a_file_that_grows_is_read_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    os.truncate(file, 1 << 40)
    with pytest.raises(UnfitFileError, match=f"has {1 << 40} bytes"):
        read_file(str(file), 1000, "it")


def test_files_are_created_exclusively(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("link", "."):
        with pytest.raises(UnfitFileError, match=r"it cannot be created: a .* is in its place"):
            create_file(str(tmp_path / name), "it")
    assert not (tmp_path / "target").exists()
    folder = CaptureFolder(str(tmp_path / "no" / "attempts" / "7"))
    with pytest.raises(UnfitFileError, match="it cannot be created: the folder above it was removed"):
        folder.create("stdout", "it")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (
        pytest.raises(UnfitFileError, match="a symbolic link is in its place"),
        opened_folder(str(tmp_path / "loop"), "it"),
    ):
        pass


def test_trees_are_removed_whatever_they_are(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"1")
    tree = tmp_path / "tree"
    here = tree
    for depth in range(30):
        here.mkdir()
        (here / "file").write_bytes(b"")
        (here / "link").symlink_to(outside)
        os.mkfifo(here / "fifo")
        (here / "odd\udcffname").mkdir()
        here = here / f"d{depth % 3}"
    for path in sorted(tree.rglob("*"), reverse=True):
        if not path.is_symlink() and path.is_dir():
            path.chmod(0)
    tree.chmod(0)
    remove_tree(str(tree))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]
    assert (outside / "kept").read_bytes() == b"1"


def test_a_deep_tree_is_removed_without_recursion(deep: Path) -> None:
    depth = 1_500
    fd = os.open(deep, os.O_RDONLY)
    os.mkdir("tree", dir_fd=fd)
    for _ in range(depth):
        below = os.open("tree", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        os.mkdir("tree", dir_fd=fd)
    os.close(fd)
    remove_tree(str(deep / "tree"))
    assert not (deep / "tree").exists()


def test_the_trash_takes_anything(tmp_path: Path) -> None:
    folder = tmp_path / "trash"
    trash = TrashFolder(folder)
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"1")
    for name in ("file", "link", "full", "none"):
        trash.put(str(tmp_path / name))
    trash.close(10)
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []
