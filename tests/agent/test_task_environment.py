"""What tasks inherit of their agent's environment: what is on a list, and never a secret of the cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.task_environment import is_secret, pass_env_problem, task_environment

SERVICE = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": "/lib",
    "RAFTFLOW_PEERS": "http://10.0.0.1:7100",
    "RAFTFLOW_TOKEN": "t",
    "RAFTFLOW_TOKEN_FILE": "/etc/raftflow/token",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "s",
    "AWSOME": "1",
    "DATABASE_URL": "postgres://u:p@h",
}
USUAL = {"PATH", "HOME", "LC_ALL", "PYTHONPATH"}


@pytest.mark.parametrize(
    ("passed", "more"),
    [
        ([], set()),
        (["DATABASE_URL", "MISSING"], {"DATABASE_URL"}),
        (["AWS_*"], {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        (["RAFTFLOW_PEERS"], {"RAFTFLOW_PEERS"}),
        (["RAFTFLOW_*"], {"RAFTFLOW_PEERS", "RAFTFLOW_TOKEN_FILE"}),
    ],
)
def test_tasks_inherit_what_is_on_the_list(passed: list[str], more: set[str]) -> None:
    assert pass_env_problem(passed) is None
    assert set(task_environment(SERVICE, passed)) == USUAL | more


@pytest.mark.parametrize("name", ["RAFTFLOW_TOKEN", "RAFTFLOW_CLUSTER_SECRET", "RAFTFLOW_CLIENT_KEY"])
def test_a_secret_of_the_cluster_is_never_inherited(name: str) -> None:
    assert is_secret(name)
    assert task_environment({name: "x"}, ["RAFTFLOW_*", name]) == {}
    assert "secret of the cluster" in str(pass_env_problem([name]))


@pytest.mark.parametrize("name", ["", "*", "A-B", "*_TOKEN", "A*B", "A=1", "1A", "A\n"])
def test_names_that_cannot_be_meant_are_refused(name: str) -> None:
    assert "is not the name of a variable" in str(pass_env_problem(["HOME", name]))


PROBE = """
import json, os
from pathlib import Path

def seen():
    found, pid = {}, os.getpid()
    while len(found) < 3:  # the task, the launcher, the agent
        try:
            found[str(pid)] = Path(f"/proc/{pid}/environ").read_text()
        except OSError as error:
            found[str(pid)] = type(error).__name__
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found

if __name__ == "__main__":
    Path(os.environ["RAFTFLOW_RESULT"]).write_text(json.dumps(seen()))
"""


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_a_task_finds_no_secret_in_any_environment_up_to_its_agent(
    leader: Any, agent_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Its own, its launcher's and its agent's. Root may look into each of them."""
    monkeypatch.setenv("RAFTFLOW_TOKEN", "the-token-of-the-agent")
    monkeypatch.setenv("RAFTFLOW_PEERS", leader.url)
    monkeypatch.setenv("CLOUD_PASSWORD", "the-password")
    monkeypatch.setenv("PASSED_ON", "the-variable-that-may-be-seen")
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    agent = agent_process(resources={"cpu": 1}, pass_env=["PASSED_*"], python_path=[str(tmp_path)])
    if kind == "command":
        end = await leader.run(command=[sys.executable, str(probe)])
    else:
        end = await leader.run(python="probe:seen")
    assert end.outcome == "succeeded", end.error
    assert leader.tokens == {"Bearer the-token-of-the-agent"}
    seen = json.loads(bytes(end.result))
    own, launcher, agents = seen.values()
    assert list(map(int, seen))[1:] == [*agent.children(), agent.pid]
    assert "the-variable-that-may-be-seen" in own
    for environ in (own, launcher, agents):
        assert not any(each in environ for each in ("the-token-of-the-agent", "the-password", leader.url))
    assert agents.strip("\0") in {"", "PermissionError"}


SET_BY_THE_AGENT = [f"RAFTFLOW_{name}" for name in ("WORKFLOW", "TASK", "ATTEMPT", "FENCE", "SOCKET", "PROGRESS")]


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_a_task_cannot_set_what_its_agent_sets(leader: Any, start_agent: Any, kind: str) -> None:
    """It may set other variables of the cluster, such as its address, to be a client of it."""
    start_agent(resources={"cpu": 1})
    names = [*SET_BY_THE_AGENT, "RAFTFLOW_AGENT_INSTANCE"]
    env = dict.fromkeys(names, "forged") | {"RAFTFLOW_PEERS": "http://a:1"}
    code = "import json, os; json.dump(dict(os.environ), open(os.environ['RAFTFLOW_RESULT'], 'w'))"
    if kind == "command":
        end = await leader.run(command=[sys.executable, "-S", "-c", code], env=env)
    else:
        end = await leader.run(python="builtins:eval", args=["dict(__import__('os').environ)", {}], env=env)
    assert end.outcome == "succeeded", end.error
    seen = json.loads(bytes(end.result))
    assert [name for name in names if seen[name] in ("", "forged")] == []
    assert seen["RAFTFLOW_FENCE"] == str(end.fence)
    assert seen["RAFTFLOW_PEERS"] == "http://a:1"


def test_a_process_keeps_its_variables_when_its_environment_is_erased() -> None:
    """Programs that it starts inherit them, and C functions find them: the time zone is one."""
    script = """
import os, subprocess, time
from raftflow.agent.launcher.hardening import erase_environment
erase_environment(lambda name: name == "SECRET")
time.tzset()
print(os.environ["KEPT"], "SECRET" in os.environ, time.tzname[0], flush=True)
subprocess.run(["/bin/sh", "-c", "echo $KEPT $SECRET"], check=True)
print(open("/proc/self/environ").read().strip(chr(0)))
"""
    env = {**os.environ, "KEPT": "kept", "SECRET": "x", "TZ": "ABC-3"}
    done = subprocess.run([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "kept False ABC\nkept\n\n"
