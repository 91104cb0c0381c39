"""An agent of root that works and runs its tasks as another user."""

import asyncio
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.config import AgentConfigError, load_config
from raftflow.agent.other_user import child_user, root_files

USER = "nobody"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def reachable() -> list[str]:
    """Return a command before another one that lets every user reach the interpreter, in a mount namespace."""
    place = Path(os.path.realpath(sys.executable)).parent.parent
    closed = next((each for each in (*place.parents[::-1], place) if not each.stat().st_mode & 0o001), None)
    if closed is None:
        return []
    below = place.relative_to(closed)
    script = (
        f"d=$(mktemp -d) && mount -t tmpfs -o mode=755 tmpfs $d && mkdir -p $d/{below}"
        f' && mount --bind {place} $d/{below} && mount --move $d {closed} && rmdir $d && exec "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


@pytest.fixture
def work(trusted_folder: Path) -> Path:
    """Return a folder of the other user, below one that everybody can trust."""
    os.chown(trusted_folder, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
    return trusted_folder


@pytest.fixture
def fifo(work: Path) -> Path:
    path = work / "fifo"
    os.mkfifo(path)
    path.chmod(0o666)
    return path


TRIES = """
import json, os, signal, sys
from pathlib import Path

def tries(action):
    try:
        return action() or "done"
    except OSError as error:
        return type(error).__name__

def look(token_file, agent):
    return {
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "home": os.environ["HOME"],
        "token": tries(lambda: Path(token_file).read_text()),
        "environ": tries(lambda: Path(f"/proc/{agent}/environ").read_text()),
        "memory": tries(lambda: open(f"/proc/{agent}/mem", "rb")),
        "signals": [tries(lambda: os.kill(agent, number)) for number in (0, signal.SIGTERM, signal.SIGKILL)],
        "root": [tries(lambda: os.setuid(0)), tries(lambda: os.seteuid(0)), tries(lambda: os.setgid(0))],
        "written": tries(lambda: Path("/etc/raftflow-was-here").write_text("x")),
        "rights": [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines()
                   if line.startswith("Cap") and not line.startswith("CapBnd")],
    }

if __name__ == "__main__":
    Path(os.environ["RAFTFLOW_RESULT"]).write_text(json.dumps(look(sys.argv[1], int(sys.argv[2]))))
"""


def as_in_the_unit() -> list[str]:
    """Return a command before another one that leaves root the rights that the unit for systemd leaves it."""
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("NOT CHECKED: setpriv is missing; install util-linux")
    unit = Path(__file__).parents[2] / "cluster-configs" / "systemd" / "raftflow-agent.service"
    (rights,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit.read_text(), re.MULTILINE)
    kept = ",".join(f"+{right.removeprefix('CAP_').lower()}" for right in rights.split())
    return [program, f"--bounding-set=-all,{kept}", "--no-new-privs"]


async def test_an_agent_with_the_rights_of_its_unit_runs_tasks_and_ends_them(
    leader: Any, agent_process: Any, work: Path, fifo: Path
) -> None:
    agent = agent_process(
        prefix=[*reachable(), *as_in_the_unit()], run_as=USER, work_dir=str(work / "agent"), drain_timeout_s=0.2
    )
    end = await leader.run(command=["id", "-un"])
    assert end.outcome == "succeeded", end.error
    (fence,) = await leader.assign({"command": ["sh", "-c", f"echo >{fifo}; sleep 600"], "grace_ms": 200})
    await asyncio.to_thread(fifo.read_text)
    agent.signal(signal.SIGTERM)
    assert (await leader.end_of(fence)).outcome == "abandoned"
    assert await agent.wait() == 0


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_tasks_are_another_users_and_cannot_reach_the_agent(
    leader: Any, agent_process: Any, work: Path, kind: str
) -> None:
    token = work / "token"
    token.write_text("the-token\n")
    token.chmod(0o600)
    modules = work / "modules"
    modules.mkdir()
    (modules / "looking.py").write_text(TRIES)
    agent = agent_process(
        prefix=reachable(),
        resources={"cpu": 1},
        run_as=USER,
        work_dir=str(work / "agent"),
        token_file=str(token),
        python_path=[str(modules)],
    )
    if kind == "command":
        end = await leader.run(command=[sys.executable, str(modules / "looking.py"), str(token), str(agent.pid)])
    else:
        end = await leader.run(python="looking:look", args=[str(token), agent.pid])
    assert end.outcome == "succeeded", end.error
    assert leader.tokens == {"Bearer the-token"}
    user = pwd.getpwnam(USER)
    assert json.loads(bytes(end.result)) == {
        "ids": [[user.pw_uid] * 3, [user.pw_gid] * 3, [user.pw_gid]],
        "home": user.pw_dir,
        "token": "PermissionError",
        "environ": "PermissionError",
        "memory": "PermissionError",
        "signals": ["PermissionError"] * 3,
        "root": ["PermissionError"] * 3,
        "written": "PermissionError",
        "rights": ["0" * 16] * 4,
    }


async def test_output_inputs_stops_and_leftovers_are_as_ever(
    leader: Any, agent_process: Any, work: Path, fifo: Path, gone: Any
) -> None:
    agent = agent_process(prefix=reachable(), resources={"cpu": 2}, run_as=USER, work_dir=str(work / "agent"))
    end = await leader.run(command=["sh", "-c", "cat $RAFTFLOW_INPUTS; echo 7 >$RAFTFLOW_RESULT"], inputs={"a": [1]})
    assert (end.outcome, bytes(end.result)) == ("succeeded", b"7")
    assert json.loads((await leader.log_of(end.fence, "stdout")).data) == {"a": [1]}
    fence = await leader.assign_apart({"a": [1] * 9}, command=["sh", "-c", "cat $RAFTFLOW_INPUTS >$RAFTFLOW_RESULT"])
    assert json.loads(bytes((await leader.end_of(fence)).result)) == {"a": [1] * 9}
    end = await leader.run(command=["sh", "-c", "(setsid env -i sleep 300 >&- 2>&- & echo $! >$RAFTFLOW_RESULT)"])
    await gone(int(end.result))
    (fence,) = await leader.assign({"command": ["sh", "-c", f"echo 1 >{fifo}; exec sleep 300"]})
    await asyncio.to_thread(fifo.read_text)
    leader.stop.append(fence)
    await leader.notify()
    assert (await leader.end_of(fence)).outcome == "cancelled"
    (launcher,) = agent.children()
    os.kill(launcher, signal.SIGKILL)
    await leader.until(lambda: agent.children() not in ([launcher], []))
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"


async def test_the_next_agent_ends_what_one_of_another_user_has_left(
    leader: Any, agent_process: Any, work: Path, fifo: Path, gone: Any
) -> None:
    settings = {"resources": {"cpu": 1}, "run_as": USER, "work_dir": str(work / "agent")}
    agent = agent_process(prefix=reachable(), **settings)
    pid_file = work / "pid"
    script = (
        f"(setsid env -i sh -c 'echo $$ >{pid_file}; exec sleep 300' &); until [ -s {pid_file} ]; do sleep 0.01; done"
    )
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    (launcher,) = agent.children()
    await leader.assign({"command": ["sh", "-c", f"{script}; echo 1 >{fifo}; sleep 300"]})
    await asyncio.to_thread(fifo.read_text)
    pid = int(pid_file.read_text())
    agent.signal(signal.SIGSTOP)
    os.kill(launcher, signal.SIGKILL)
    agent.signal(signal.SIGKILL)
    await agent.wait()
    os.kill(pid, 0)
    agent_process(prefix=reachable(), **settings)
    await gone(pid)


@pytest.mark.parametrize(
    ("user", "uid", "why"),
    [
        ("root", 0, "tasks would be root's"),
        ("no-such-user", 0, "there is no user 'no-such-user'"),
        (USER, 1_000, "only an agent that root starts"),
    ],
)
def test_a_user_that_cannot_be_meant_is_refused(
    monkeypatch: pytest.MonkeyPatch, user: str, uid: int, why: str
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    with pytest.raises(AgentConfigError, match=rf"run_as \(flag\): {why}"):
        load_config(None, {}, {"peers": "http://a:1", "run_as": user})


def test_a_user_who_cannot_run_the_interpreter_is_told_so_at_the_start(tmp_path: Path) -> None:
    """And a working directory that is closed to the user is left."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    interpreter = closed / "python"
    interpreter.symlink_to(sys.executable)
    script = (
        "import os, sys; from raftflow.agent.other_user import become_user; "
        f"sys.executable = {str(interpreter)!r}; print(become_user({USER!r})); print(os.getcwd())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=closed, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"{USER} cannot run {interpreter}: let this user reach and read it, and raftflow\n/\n"


def test_files_of_root_are_read_in_one_block_only(tmp_path: Path) -> None:
    """In a child: the process has another effective user from then on."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    pid = os.fork()
    if not pid:
        try:
            user = pwd.getpwnam(USER)
            assert child_user() == {}
            with root_files():
                secret.read_text()
            os.setegid(user.pw_gid)
            os.seteuid(user.pw_uid)
            assert child_user() == {"user": user.pw_uid, "group": user.pw_gid}
            for _ in range(2):
                with root_files():
                    assert secret.read_text() == "x"
                try:
                    secret.read_text()
                except PermissionError:
                    continue
                os._exit(2)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
