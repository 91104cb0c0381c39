"""Whose a process is, when it has left its session, cleared its environment and lost its parent."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.launcher.process_marks import ProcessMarks

RLIMIT_LOCKS = 10
HIDE = "setsid env -i /bin/sh -c 'echo $$ >{fifo}; exec /bin/sleep 300'"
FORGE = "(RAFTFLOW_FENCE=1 setsid /bin/sh -c 'echo $$ >{fifo}; exec /bin/sleep 300' &)"
LOWER = "(prlimit --locks=7:7 " + HIDE + " &)"
ADOPT = (
    "exec {python} -S -c 'import ctypes, os, time; pid = os.fork() or (os.setsid(), "
    "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0), os.fork() and time.sleep(300), os.setsid(), os.environ.clear(), "
    'print(os.getpid(), file=open("{fifo}", "w")), time.sleep(300))\''
)
WORKER = """
import os, sys
def hide(fifo):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/sh", ["sh", "-c", f"echo $$ >{fifo}; exec /bin/sleep 300"], {})
        os._exit(0)
    open(fifo + ".2").read()
"""


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("script", [f"({HIDE} &)", FORGE, LOWER, ADOPT], ids=["hides", "forges", "lowers", "adopts"])
async def test_a_hidden_process_ends_with_its_attempt_while_others_run(
    leader: Any, agent_process: Any, fifo: Path, gone: Any, script: str
) -> None:
    """The other attempt is older, so its fence is known, and it goes on."""
    agent_process(resources={"cpu": 2})
    started = fifo.with_name("started")
    os.mkfifo(started)
    (other,) = await leader.assign({"command": ["sh", "-c", f"echo 1 >{started}; exec sleep 300"]})
    assert other == 1
    await asyncio.to_thread(started.read_text)
    ready = fifo.with_name("ready")
    os.mkfifo(ready)
    code = script.format(fifo=fifo, python=sys.executable)
    tail = f"; read x <{ready}"
    (fence,) = await leader.assign({"command": ["sh", "-c", code.removeprefix("exec ") + tail]})
    pid = int(await asyncio.to_thread(fifo.read_text))
    ended = os.pidfd_open(pid)
    await asyncio.to_thread(ready.write_text, "\n")
    assert (await leader.end_of(fence)).outcome == "succeeded"
    await gone(pid)
    os.close(ended)
    assert other not in leader.accepted


async def test_a_hidden_process_of_a_call_ends_with_its_worker(
    leader: Any, agent_process: Any, fifo: Path, tmp_path: Path, gone: Any
) -> None:
    (tmp_path / "hiding.py").write_text(WORKER)
    agent_process(resources={"cpu": 2}, python_path=[str(tmp_path)])
    started = tmp_path / "started"
    os.mkfifo(started)
    (other,) = await leader.assign({"command": ["sh", "-c", f"echo 1 >{started}; exec sleep 300"]})
    await asyncio.to_thread(started.read_text)
    os.mkfifo(f"{fifo}.2")
    (fence,) = await leader.assign({"python": "hiding:hide", "args": [str(fifo)]})
    pid = int(await asyncio.to_thread(fifo.read_text))
    await asyncio.to_thread(Path(f"{fifo}.2").write_text, "")
    assert (await leader.end_of(fence)).outcome == "succeeded"
    await gone(pid)
    assert other not in leader.accepted


async def test_a_hidden_process_is_left_alone_while_its_attempt_runs(
    leader: Any, agent_process: Any, fifo: Path, gone: Any
) -> None:
    agent_process(resources={"cpu": 2})
    (fence,) = await leader.assign({"command": ["sh", "-c", f"({HIDE.format(fifo=fifo)} &); sleep 300"]})
    pid = int(await asyncio.to_thread(fifo.read_text))
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    os.kill(pid, 0)
    leader.stop.append(fence)
    await leader.notify()
    await leader.end_of(fence)
    await gone(pid)


async def test_the_next_agent_kills_what_hid_from_an_agent_that_was_killed_with_its_launcher(
    leader: Any, agent_process: Any, fifo: Path, gone: Any, tmp_path: Path
) -> None:
    agent = agent_process(resources={"cpu": 1})
    await leader.assign({"command": ["sh", "-c", f"({HIDE.format(fifo=fifo)} &); sleep 300"]})
    pid = int(await asyncio.to_thread(fifo.read_text))
    (launcher,) = agent.children()
    agent.signal(signal.SIGSTOP)
    os.kill(launcher, signal.SIGKILL)
    agent.signal(signal.SIGKILL)
    await agent.wait()
    other = agent_process(work_dir=str(tmp_path / "other"))
    await leader.until(lambda: len(leader.registrations) == 2)
    os.kill(pid, 0)  # it belongs to another work directory
    other.signal(signal.SIGKILL)
    agent_process(resources={"cpu": 1})
    await gone(pid)


def marked(marks: ProcessMarks, identity: int, *argv: str) -> subprocess.Popen[bytes]:
    marks.begin(identity)
    pid = 0
    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE)
        pid = process.pid
    finally:
        marks.end(identity, pid)
    return process


def test_a_program_and_all_that_it_starts_carry_its_mark() -> None:
    own = resource.getrlimit(RLIMIT_LOCKS)
    marks = ProcessMarks("a")
    marks.prepare()
    assert marks.works
    code = "import os, sys; pid = os.fork(); print(pid, flush=True) if pid else None; sys.stdin.read()"
    marks.begin(41)
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    marks.end(41, process.pid)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert (marks.id_of(process.pid), marks.id_of(child)) == (41, 41)
    assert ProcessMarks("b").id_of(child) is None
    assert marks.id_of(os.getpid()) is None
    assert resource.getrlimit(RLIMIT_LOCKS) == own
    process.communicate()
    assert marks.id_of(process.pid) is None
    marks.end(42, process.pid)  # it has ended: nothing happens


class Limit:
    """The limit of a process, as the system keeps it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, hard: int, *, is_root: bool = False, allowed: bool = True
    ) -> None:
        self.now = (hard, hard)
        self._is_root = is_root
        self._allowed = allowed
        monkeypatch.setattr(resource, "getrlimit", lambda _which: self.now)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, _which: int, limit: tuple[int, int]) -> None:
        if not self._allowed:
            raise PermissionError
        size = [float("inf") if each == resource.RLIM_INFINITY else each for each in (*limit, self.now[1])]
        if size[0] > size[1] or (size[1] > size[2] and not self._is_root):
            raise ValueError("not allowed to raise maximum limit")
        self.now = limit


@pytest.mark.parametrize(
    ("hard", "is_root", "allowed", "works", "after"),
    [
        (resource.RLIM_INFINITY, False, True, True, resource.RLIM_INFINITY),
        ((1 << 63) - 1, False, True, True, (1 << 63) - 1),
        (5, True, True, True, resource.RLIM_INFINITY),
        (5, False, True, False, 5),
        (resource.RLIM_INFINITY, True, False, False, resource.RLIM_INFINITY),
    ],
    ids=["usual", "large", "in a task of root", "in a task", "not in this system"],
)
def test_programs_are_marked_where_the_system_allows_it(
    monkeypatch: pytest.MonkeyPatch, *, hard: int, is_root: bool, allowed: bool, works: bool, after: int
) -> None:
    """Elsewhere they are known by session and environment."""
    limit = Limit(monkeypatch, hard, is_root=is_root, allowed=allowed)
    marks = ProcessMarks("inner")
    marks.prepare()
    assert (marks.works, limit.now) == (works, (after, after))
    marks.begin(1)
    assert (limit.now[0] != after) == works
    marks.end(1, 0)
    assert limit.now == (after, after)


async def test_without_marks_processes_are_known_by_session_and_environment(
    leader: Any, agent_process: Any, fifo: Path, gone: Any
) -> None:
    """As in an agent that another agent runs: its limit cannot be raised. The agent is not root's then."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("no setpriv here")
    rights = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"] if os.geteuid() == 0 else []
    agent_process(prefix=["prlimit", "--locks=5:5", *rights], resources={"cpu": 2})
    (other,) = await leader.assign({"command": ["sleep", "300"]})
    named = f"(setsid sh -c 'echo $$ >{fifo}; exec sleep 300' &); read x <{fifo}; sleep 0.3"
    script = f"grep -q 'locks *5 ' /proc/self/limits || exit 9; {named}; kill -0 $x && echo $x >$RAFTFLOW_RESULT"
    end = await leader.run(command=["sh", "-c", script])
    assert end.exit_code == 0, "it was marked, or killed while its attempt ran"
    await gone(int(end.result))
    assert other not in leader.accepted
