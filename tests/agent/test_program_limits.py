"""What programs of tasks begin with: limits of the system, and no way to the rights of another user."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.config import AgentConfig
from raftflow.agent.launcher.program_limits import ProgramLimits, ProgramRlimits
from raftflow.agent.main import program_limits

LIMITS = """
import json, os, resource
from pathlib import Path

def limits():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = ("CORE", "NOFILE", "FSIZE", "NPROC")
    found = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
    return {**found, "no_new_privs": status["NoNewPrivs"].strip()}

if __name__ == "__main__":
    Path(os.environ["RAFTFLOW_RESULT"]).write_text(json.dumps(limits()))
"""


@pytest.fixture
def limits_module(tmp_path: Path) -> Path:
    path = tmp_path / "limits_of.py"
    path.write_text(LIMITS)
    return path


async def found(leader: Any, module: Path, kind: str) -> dict[str, Any]:
    if kind == "command":
        end = await leader.run(command=[sys.executable, str(module)])
    else:
        end = await leader.run(python="limits_of:limits")
    assert end.outcome == "succeeded", end.error
    told: dict[str, Any] = json.loads(bytes(end.result))
    return told


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_programs_begin_with_the_limits_of_the_configuration(
    leader: Any, agent_process: Any, limits_module: Path, kind: str
) -> None:
    agent_process(
        resources={"cpu": 1},
        python_path=[str(limits_module.parent)],
        task_files_max=200,
        task_file_mib_max=3,
        task_processes_max=5_000,
    )
    for _ in range(2):
        assert await found(leader, limits_module, kind) == {
            "CORE": [0, 0],
            "NOFILE": [200, 200],
            "FSIZE": [3 << 20, 3 << 20],
            "NPROC": [5_000, 5_000],
            "no_new_privs": "1",
        }


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_without_settings_programs_have_the_limits_of_their_agent_and_no_core_files(
    leader: Any, agent_process: Any, limits_module: Path, kind: str
) -> None:
    agent_process(resources={"cpu": 1}, python_path=[str(limits_module.parent)], task_new_privileges=True)
    own = {
        name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) for name in ("NOFILE", "FSIZE", "NPROC")
    }
    assert await found(leader, limits_module, kind) == {"CORE": [0, 0], **own, "no_new_privs": "0"}


async def test_a_file_that_is_too_large_costs_the_attempt_that_writes_it(
    leader: Any, agent_process: Any, tmp_path: Path
) -> None:
    agent_process(resources={"cpu": 1}, task_file_mib_max=1)
    large = tmp_path / "large"
    end = await leader.run(command=["sh", "-c", f"head -c 3000000 /dev/zero >{large}"])
    assert end.outcome == "failed"
    assert large.stat().st_size == 1 << 20
    end = await leader.run(python="builtins:exec", args=[f"open({str(large)!r}, 'wb').write(bytes(3000000))", {}])
    assert (end.outcome, "File too large" in end.error) == ("failed", True)
    end = await leader.run(command=["sh", "-c", "head -c 3000000 /dev/zero"])  # through a pipe: not a file
    assert end.outcome == "succeeded"


def test_a_limit_of_the_agent_itself_stays_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what this process takes for a moment, it gives back; it never has a limit of processes itself."""
    own = {
        resource.RLIMIT_NOFILE: (1_000, 4_000),
        resource.RLIMIT_FSIZE: (-1, -1),
        resource.RLIMIT_NPROC: (50, 60),
        resource.RLIMIT_CORE: (-1, -1),
    }
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(resource, "getrlimit", own.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", lambda *call: calls.append(call))
    monkeypatch.setattr(resource, "prlimit", lambda *call: calls.append(call))
    limits = ProgramRlimits(ProgramLimits(files=256, files_max=8_000, file_bytes_max=10, processes_max=99))
    assert calls == [(resource.RLIMIT_CORE, (0, 0))]
    calls.clear()
    limits.begin()
    assert calls == [(resource.RLIMIT_NOFILE, (256, 4_000)), (resource.RLIMIT_FSIZE, (10, -1))]
    calls.clear()
    limits.end(7)
    assert calls == [
        (resource.RLIMIT_NOFILE, (1_000, 4_000)),
        (resource.RLIMIT_FSIZE, (-1, -1)),
        (7, resource.RLIMIT_NOFILE, (256, 4_000)),
        (7, resource.RLIMIT_FSIZE, (10, 10)),
        (7, resource.RLIMIT_NPROC, (50, 60)),
    ]


def test_an_agent_that_runs_podman_without_root_lets_programs_get_new_privileges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raftflow.agent.main.needs_new_privileges", lambda _config: True)
    assert program_limits(AgentConfig(peers=("http://a:1",)), -1).new_privileges
    monkeypatch.setattr("raftflow.agent.main.needs_new_privileges", lambda _config: False)
    assert not program_limits(AgentConfig(peers=("http://a:1",)), -1).new_privileges
    assert program_limits(AgentConfig(peers=("http://a:1",), task_new_privileges=True), -1).new_privileges
