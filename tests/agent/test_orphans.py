"""Processes that hide from their launcher are killed with it, though they change parents meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PRELUDE = """
import asyncio, os, signal, subprocess, sys
from pathlib import Path
from raftflow.agent.executors import launcher_client
from raftflow.agent.launcher import process_tree
from raftflow.agent.launcher.hardening import adopt_orphans

adopt_orphans()
folder = Path(sys.argv[1])
HIDE = f"setsid env -i /bin/sh -c 'echo $$ > {folder}/pid; exec sleep 60'"

def state(pid):
    return process_tree.state_of(pid)
"""


def outcome_of(script: str, folder: Path) -> str:
    """Run a script in a process that adopts orphans, as an agent does. Returns what it prints."""
    (folder / "pid").unlink(missing_ok=True)
    argv = [sys.executable, "-c", PRELUDE + script, str(folder)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_a_process_whose_parent_ends_while_the_tree_is_killed_is_killed_too(tmp_path: Path) -> None:
    """Between the look at the tree and SIGKILL, the parent is gone, and the process belongs to this one."""
    script = """
os.mkfifo(folder / "pid")
parent = subprocess.Popen(["sh", "-c", f"{HIDE} & wait"])
pid = int((folder / "pid").read_text())
signal_child, calls = process_tree._signal_child, []

def interrupted(child, its_parent, signum):
    if signum == signal.SIGKILL and not calls:
        calls.append(child)
        parent.kill()
        parent.wait()
    return signal_child(child, its_parent, signum)

process_tree._signal_child = interrupted
process_tree.kill_descendants(os.getpid())
assert calls
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if state(pid) != "T" else "stopped, and alive")
"""
    assert outcome_of(script, tmp_path) == "-9"


def test_what_a_killed_launcher_hands_over_late_is_gone_when_the_end_is_told(tmp_path: Path) -> None:
    """The kernel closes the socket of the launcher before it hands the launcher's children to the agent."""
    script = """
os.mkfifo(folder / "pid")
kill_descendants, calls = launcher_client.kill_descendants, []

def late(root):
    calls.append(root)
    return kill_descendants(root) if len(calls) > 1 else 0

launcher_client.kill_descendants = late

async def run():
    ended = asyncio.get_running_loop().create_future()
    launcher = launcher_client.LauncherClient("x", os.environ, print, adopts=True)
    launcher.start()
    launcher.spawn(("sh", "-c", f"({HIDE} &); sleep 60"), {"RAFTFLOW_FENCE": "1"}, ended.set_result, cwd=None,
                   folder=f"{folder}/output", bytes_max=9)
    pid = int(await asyncio.to_thread((folder / "pid").read_text))
    os.kill(launcher.pid, signal.SIGKILL)
    await ended
    print(state(pid) or "gone")
    await launcher.close()

asyncio.run(run())
"""
    assert outcome_of(script, tmp_path) == "gone"


async def test_the_next_agent_kills_what_outlived_agent_and_launcher(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any
) -> None:
    """Both were killed at once, for instance by the system when memory ran out."""
    agent = agent_process(resources={"cpu": 1})
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    await leader.assign({"command": ["sh", "-c", f"echo $$ > {fifo}; exec sleep 300"]})
    pid = int(await asyncio.to_thread(fifo.read_text))
    (launcher,) = agent.children()
    agent.signal(signal.SIGSTOP)
    os.kill(launcher, signal.SIGKILL)
    agent.signal(signal.SIGKILL)
    await agent.wait()
    os.kill(pid, 0)
    other = agent_process(work_dir=str(tmp_path / "other"))
    await leader.until(lambda: len(leader.registrations) == 2)
    os.kill(pid, 0)  # it belongs to another work directory
    other.signal(signal.SIGKILL)
    agent_process(resources={"cpu": 1})
    await gone(pid)
