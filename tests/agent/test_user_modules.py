"""A worker never runs a module that is older than its file; where modules are looked for."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import py_compile
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftflow.domain.contract.views import ReportedEnd

VALUE = "import os\ndef get(): return [{0}, os.getpid()]\n"


def value(end: ReportedEnd) -> Any:
    assert end.outcome == "succeeded", end.error
    return json.loads(bytes(end.result))


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    return tmp_path / "lib"


def edit_function(lib: Path) -> None:
    (lib / "mod.py").write_text(VALUE.format(2))


def edit_keeping_size_and_times(lib: Path) -> None:
    before = (lib / "mod.py").stat()
    (lib / "mod.py").write_text(VALUE.format(2))
    os.utime(lib / "mod.py", ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_keeping_times(lib: Path) -> None:
    before = (lib / "mod.py").stat()
    (lib / "new").write_text(VALUE.format(2))
    os.utime(lib / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (lib / "new").rename(lib / "mod.py")


def edit_transitive(lib: Path) -> None:
    (lib / "deep.py").write_text("number = 2\n")


def edit_submodule(lib: Path) -> None:
    (lib / "pkg" / "sub.py").write_text(VALUE.format(2))


def edit_package(lib: Path) -> None:
    (lib / "pkg" / "__init__.py").write_text("number = 2\n")


def edit_namespace_package(lib: Path) -> None:
    (lib / "space" / "sub.py").write_text(VALUE.format(2))


def module_becomes_package(lib: Path) -> None:
    (lib / "mod").mkdir()
    (lib / "mod" / "__init__.py").write_text(VALUE.format(2))


def optional_module_appears(lib: Path) -> None:
    (lib / "extra.py").write_text("number = 2\n")


def optional_submodule_appears(lib: Path) -> None:
    (lib / "pkg" / "extra.py").write_text("number = 2\n")


def bytecode_alone(lib: Path) -> None:
    (lib / "made.py").write_text(VALUE.format(2))
    py_compile.compile(str(lib / "made.py"), cfile=str(lib / "bare.pyc"), doraise=True)


def source_beside_bytecode(lib: Path) -> None:
    (lib / "bare.py").write_text(VALUE.format(2))


def zip_replaced(lib: Path) -> None:
    with zipfile.ZipFile(lib / "new.zip", "w") as archive:
        archive.writestr("zipped.py", VALUE.format(2))
    (lib / "new.zip").rename(lib / "lib.zip")


def earlier_folder(lib: Path) -> None:
    (lib / "first" / "late.py").write_text(VALUE.format(2))


def release_switched(lib: Path) -> None:
    shutil.copytree(lib / "release-1", lib / "release-2")  # the same size and times, but for one file
    before = (lib / "release-1" / "app.py").stat()
    (lib / "release-2" / "app.py").write_text(VALUE.format(2))
    os.utime(lib / "release-2" / "app.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    (lib / "next").symlink_to("release-2")
    (lib / "next").rename(lib / "current")


def fill(lib: Path) -> list[str]:
    """Lay out the modules before their changes. Returns the folders in which they are."""
    for folder in ("pkg", "space", "first", "second", "release-1"):
        (lib / folder).mkdir()
    for file in ("mod.py", "pkg/sub.py", "space/sub.py", "second/late.py", "release-1/app.py", "made.py"):
        (lib / file).write_text(VALUE.format(1))
    (lib / "deep.py").write_text("number = 1\n")
    (lib / "middle.py").write_text("from deep import number\n")
    (lib / "outer.py").write_text("import middle\n" + VALUE.format("middle.number"))
    (lib / "pkg" / "__init__.py").write_text("number = 1\n")
    (lib / "uses_pkg.py").write_text("import pkg\n" + VALUE.format("pkg.number"))
    for name, extra in (("optional", "extra"), ("optional_sub", "pkg.extra")):
        guarded = f"try:\n    from {extra} import number\nexcept ImportError:\n    number = 1\n"
        (lib / f"{name}.py").write_text(guarded + VALUE.format("number"))
    py_compile.compile(str(lib / "made.py"), cfile=str(lib / "bare.pyc"), doraise=True)
    with zipfile.ZipFile(lib / "lib.zip", "w") as archive:
        archive.writestr("zipped.py", VALUE.format(1))
    (lib / "current").symlink_to("release-1")
    return [str(lib), *(str(lib / each) for each in ("first", "second", "current", "lib.zip"))]


CHANGES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("mod:get", edit_function),
    ("mod:get", edit_keeping_size_and_times),
    ("mod:get", replace_keeping_times),
    ("mod:get", module_becomes_package),
    ("outer:get", edit_transitive),
    ("pkg.sub:get", edit_submodule),
    ("uses_pkg:get", edit_package),
    ("space.sub:get", edit_namespace_package),
    ("optional:get", optional_module_appears),
    ("optional_sub:get", optional_submodule_appears),
    ("bare:get", bytecode_alone),
    ("bare:get", source_beside_bytecode),
    ("zipped:get", zip_replaced),
    ("late:get", earlier_folder),
    ("app:get", release_switched),
)


@pytest.mark.parametrize("case", CHANGES, ids=[change.__name__ for _, change in CHANGES])
async def test_a_changed_module_gets_a_new_worker(
    leader: Any,
    start_agent: Any,
    lib: Path,
    caplog: pytest.LogCaptureFixture,
    case: tuple[str, Callable[[Path], None]],
) -> None:
    function, change = case
    caplog.set_level(logging.INFO, "raftflow.agent")
    start_agent(resources={"cpu": 1}, python_path=fill(lib))
    first, pid = value(await leader.run(python=function))
    assert first == 1
    assert value(await leader.run(python=function)) == [1, pid]  # it is kept for as long as nothing changes
    assert "gets a new worker" not in caplog.text
    change(lib)
    second, fresh = value(await leader.run(python=function))
    assert second == 2
    assert fresh != pid
    assert caplog.text.count("gets a new worker") == 1
    assert value(await leader.run(python=function)) == [2, fresh]


async def test_a_removed_module_is_gone(leader: Any, start_agent: Any, lib: Path) -> None:
    start_agent(resources={"cpu": 1}, python_path=fill(lib))
    value(await leader.run(python="mod:get"))
    (lib / "mod.py").unlink()
    end = await leader.run(python="mod:get")
    assert end.outcome == "failed"
    assert "no module 'mod'" in end.error


async def test_a_module_that_was_missing_or_broken_works_when_it_is_there(
    leader: Any, start_agent: Any, lib: Path
) -> None:
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    assert "no module 'mod'" in (await leader.run(python="mod:get")).error
    (lib / "mod.py").write_text("import helper\nget = helper.get\n")
    assert "No module named 'helper'" in (await leader.run(python="mod:get")).error
    (lib / "helper.py").write_text("def get() return 1\n")
    assert "SyntaxError" in (await leader.run(python="mod:get")).error
    (lib / "helper.py").write_text("def get(): return 1\n")
    assert value(await leader.run(python="mod:get")) == 1


async def test_files_that_are_no_modules_cost_no_worker(leader: Any, start_agent: Any, lib: Path) -> None:
    (lib / "mod.py").write_text("import os\ndef get(path):\n    open(path, 'w').close()\n    return os.getpid()\n")
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    pids = {value(await leader.run(python="mod:get", args=[str(lib / f"out-{n}.json")])) for n in range(4)}
    assert len(pids) == 1


async def test_installed_modules_are_not_looked_at(leader: Any, start_agent: Any, lib: Path) -> None:
    """They are many, and the agent is restarted when they change."""
    (lib / "mod.py").write_text("import click, os\ndef get(): return os.getpid()\n")
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    pid = value(await leader.run(python="mod:get"))
    import click

    os.utime(click.__file__)
    assert value(await leader.run(python="mod:get")) == pid


async def test_a_changed_extension_module_gets_a_new_worker(leader: Any, start_agent: Any, lib: Path) -> None:
    spec = importlib.util.find_spec("xxlimited")
    if spec is None or spec.origin is None:
        pytest.skip("this interpreter has no extension module to play with")
    extension = lib / Path(spec.origin).name
    shutil.copy2(spec.origin, extension)
    (lib / "mod.py").write_text("import os, xxlimited\ndef get(): return [xxlimited.__file__, os.getpid()]\n")
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    file, pid = value(await leader.run(python="mod:get"))
    assert file == str(extension)
    assert value(await leader.run(python="mod:get"))[1] == pid
    shutil.copy2(spec.origin, lib / "new")
    (lib / "new").rename(extension)
    assert value(await leader.run(python="mod:get"))[1] != pid


RUNNING = """
import os, sys, traceback
def work(fifo):
    with open(fifo, "w") as file: file.write("x")
    with open(fifo) as file: file.read()
    try:
        raise ValueError("old code")
    except ValueError:
        traceback.print_exc()
        raise
"""


async def test_a_call_that_runs_goes_on_and_shows_no_newer_lines(leader: Any, start_agent: Any, lib: Path) -> None:
    fifo = lib / "fifo"
    os.mkfifo(fifo)
    (lib / "mod.py").write_text(RUNNING)
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    (fence,) = await leader.assign({"python": "mod:work", "args": [str(fifo)]})
    await asyncio.to_thread(fifo.read_text)
    (lib / "mod.py").write_text("# a newer line\n" * 20)
    await asyncio.to_thread(fifo.write_text, "x")
    end = await leader.end_of(fence)
    assert "ValueError: old code" in end.error
    assert f"changed while the call ran, so the lines that ran are not shown: {lib / 'mod.py'}" in end.error
    assert "newer line" not in end.error
    printed = bytes((await leader.log_of(fence, "stderr")).data).decode()
    assert "ValueError: old code" in printed
    assert "newer line" not in printed


async def test_lines_that_were_shown_before_the_edit_are_shown_after_it(
    leader: Any, start_agent: Any, lib: Path
) -> None:
    fifo = lib / "fifo"
    os.mkfifo(fifo)
    (lib / "mod.py").write_text(
        "import inspect\ndef work(fifo):\n    inspect.getsource(work)\n    open(fifo, 'w').close()\n"
        "    open(fifo).close()\n    return inspect.getsource(work)\n"
    )
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    (fence,) = await leader.assign({"python": "mod:work", "args": [str(fifo)]})
    await asyncio.to_thread(fifo.read_bytes)
    (lib / "mod.py").write_text("# a newer line\n" * 20)
    await asyncio.to_thread(fifo.write_bytes, b"")
    assert "return inspect.getsource(work)" in value(await leader.end_of(fence))


async def test_edits_within_one_second_are_all_seen(leader: Any, start_agent: Any, lib: Path) -> None:
    """Of the same size too: Python's own check of its bytecode looks at whole seconds."""
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    for number in range(5):
        (lib / "mod.py").write_text(f"def get(): return {number}\n")
        assert value(await leader.run(python="mod:get")) == number


# --- where modules are looked for


async def test_the_default_is_the_folder_in_which_the_agent_was_started(
    leader: Any, start_agent: Any, lib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lib / "mod.py").write_text("def get(): return __file__\n")
    monkeypatch.chdir(lib)
    start_agent(resources={"cpu": 1})
    await leader.until(lambda: leader.registrations)
    monkeypatch.chdir(tmp_path)  # nothing depends on where the process is now
    assert value(await leader.run(python="mod:get")) == str(lib / "mod.py")


async def test_the_start_folder_is_kept_as_the_shell_names_it(
    leader: Any, start_agent: Any, lib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lib)
    monkeypatch.chdir(lib / "current")
    monkeypatch.setenv("PWD", str(lib / "current"))
    start_agent(resources={"cpu": 1})
    assert value(await leader.run(python="app:get"))[0] == 1
    release_switched(lib)
    assert value(await leader.run(python="app:get"))[0] == 2


async def test_a_module_that_is_not_found_says_where_it_was_looked_for(
    leader: Any, start_agent: Any, lib: Path
) -> None:
    (lib / "mod.py").write_text("def get():\n    import absent_two\n")
    start_agent(resources={"cpu": 1}, python_path=[str(lib)])
    for function in ("absent:get", "mod:get"):
        error = (await leader.run(python=function)).error
        assert str(lib) in error
        assert "python_path" in error
        assert "absent" in error


async def test_cwd_and_pythonpath_of_a_task(leader: Any, start_agent: Any, lib: Path) -> None:
    for folder in ("usual", "work", "work/more", "other"):
        (lib / folder).mkdir()
        (lib / folder / "which.py").write_text("import os\ndef get(): return [__file__, os.getcwd(), os.getpid()]\n")
    start_agent(resources={"cpu": 1}, python_path=[str(lib / "usual")])
    usual = await leader.run(python="which:get")
    here, _, pid = value(usual)
    assert here == str(lib / "usual" / "which.py")
    work = {"cwd": str(lib / "work")}
    seen = {}
    for task, folder in (
        (work, "work"),
        ({"env": {"PYTHONPATH": str(lib / "other")}}, "other"),
        ({**work, "env": {"PYTHONPATH": f"{lib / 'other'}:more"}}, "work"),
    ):
        first = value(await leader.run(python="which:get", **task))
        assert first[0] == str(lib / folder / "which.py")
        assert value(await leader.run(python="which:get", **task)) == first  # kept as well
        seen[first[2]] = folder
    assert len({pid, *seen}) == 4
    assert value(await leader.run(python="which:get"))[2] == pid
    (lib / "work" / "which.py").unlink()  # then PYTHONPATH is next, whose relative folders begin in cwd
    end = await leader.run(python="which:get", cwd=work["cwd"], env={"PYTHONPATH": "more"})
    assert value(end)[0] == str(lib / "work" / "more" / "which.py")


async def test_workers_of_many_folders_are_bounded(leader: Any, start_agent: Any, lib: Path, gone: Any) -> None:
    start_agent(resources={"cpu": 1}, python_path=[str(lib)], workers_idle_max=2)
    (lib / "mod.py").write_text("import os\ndef get(): return os.getpid()\n")
    pids = []
    for number in range(4):
        (lib / f"run-{number}").mkdir()
        pids.append(value(await leader.run(python="mod:get", cwd=str(lib / f"run-{number}"))))
    assert len(set(pids)) == 4
    for pid in pids[:2]:
        await gone(pid)
    assert value(await leader.run(python="mod:get", cwd=str(lib / "run-3"))) == pids[3]
