"""Scripts whose own functions run on a cluster, as printed: nothing is installed on the agents."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions
from raftflow.local.faults.namespaces import Machines, NamespaceError, machines


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster.create(tmp_path_factory.mktemp("scripts") / "cluster", ClusterOptions())
    made.start()
    made.wait_leader()
    made.wait_agents()
    yield made
    made.down()


def start(cluster: LocalCluster, script: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAFTFLOW_PEERS": ",".join(cluster.urls), "RAFTFLOW_TOKEN": cluster.token or ""}
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_calls(cluster: LocalCluster, program: subprocess.Popen[str], eventually: Callable[..., Any]) -> None:
    """Wait until ten calls have succeeded. If that does not come true, say what the program said."""
    try:
        with cluster.client() as client:
            eventually(
                lambda: any(view.tasks.succeeded >= 10 for view in client.workflows(limit=1)), what="ten calls"
            )
            return
    except AssertionError as error:
        program.kill()
        told, errors = program.communicate(timeout=10)
        pytest.fail(f"{error}\n{told}\n{errors}")


def run(cluster: LocalCluster, script: Path) -> str:
    program = start(cluster, script)
    told, errors = program.communicate(timeout=90)
    assert program.returncode == 0, told + errors
    return told


LOOP = """
import time
import raftflow
from part import factor

@raftflow.task
def scale(x):
    time.sleep(0.05)
    return factor() * x

with raftflow.Client() as client:
    print(sum(client.map(scale, range(100))))
"""


def test_a_scripts_own_function_is_mapped_while_a_leader_and_an_agent_die(
    cluster: LocalCluster, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    (tmp_path / "part.py").write_text("def factor():\n    return 2\n")
    (tmp_path / "loop.py").write_text(LOOP)
    program = start(cluster, tmp_path / "loop.py")
    wait_for_calls(cluster, program, eventually)
    leader, agent = cluster.wait_leader(), cluster.agent_names[0]
    cluster.kill(leader)
    cluster.kill(agent)
    cluster.start_agent(agent)
    cluster.start_replica(leader)
    told, errors = program.communicate(timeout=90)
    assert (told, program.returncode) == ("9900\n", 0), errors
    (tmp_path / "part.py").write_text("def factor():\n    return 10\n")
    time.sleep(0.01)
    assert run(cluster, tmp_path / "loop.py") == "49500\n"


WAYS = """
import asyncio, raftflow, sys
print("once for each import", file=sys.stderr)

def double(x):
    return 2 * x

@raftflow.task
async def triple(x):
    await asyncio.sleep(0)
    return 3 * x

@raftflow.task
def add(x, y):
    return x + y

def main():
    with raftflow.Client() as client:
        print(client.run(double, 4), client.start(triple, 4).result())
        with client.executor() as pool:
            print([pool.submit(double, 1).result(), pool.submit(triple, 1).result()])
        with raftflow.Workflow("flow") as flow:
            add(triple(2), add(1, 1))
        run = client.submit(flow)
        print(run.results()["add-2"])
    return 0

async def other():
    async with raftflow.AsyncClient() as client:
        print(await client.map(triple, [1, 2]))

if __name__ == "__main__":
    asyncio.run(other())
sys.exit(main())
"""


def test_all_ways_to_call_take_functions_of_the_script(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "all-ways.py").write_text(WAYS)
    assert run(cluster, tmp_path / "all-ways.py").split("\n") == [
        "[3, 6]",
        "8 12",
        "[2, 3]",
        "8",
        "",
    ]


CONTRACT = """
import raftflow

@raftflow.task(resources={"cpu": 1}, retries=3)
def double(x): return 2 * x

@raftflow.task
def main(ctx: raftflow.Context, n: int):
    parts = ctx.map(double, range(n))
    text = ctx.step("ask", ask, "prompt")
    return [sum(parts), text]

def ask(prompt):
    return prompt.upper()

with raftflow.Client() as client:
    print(sum(client.map(double, range(100))))
    print(client.start(main, 10).result())
"""


def test_children_and_steps_of_a_script_run_with_its_code(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "contract.py").write_text(CONTRACT)
    assert run(cluster, tmp_path / "contract.py") == "9900\n[90, 'PROMPT']\n"


LATE = """
import raftflow
client = raftflow.Client()

def late():
    return 1

try:
    client.run(late)
except raftflow.TaskFailed as error:
    print(error)
"""


def test_a_function_below_the_client_is_named_with_the_line(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    assert "the script 'late' makes a client in line 3, before it has defined 'late'" in run(
        cluster, tmp_path / "late.py"
    )


BROKEN = """
import raftflow
if __name__ != "__main__":
    raise ValueError("not here")

def work():
    return 1

with raftflow.Client() as client:
    for _ in range(2):
        try:
            client.run(work)
        except raftflow.TaskFailed as error:
            print("not here" in str(error))
"""


def test_a_script_that_fails_where_it_is_imported_says_so_each_time(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    assert run(cluster, tmp_path / "broken.py").split() == ["True", "True"]


MACHINES = """
import os
import time
import raftflow
from part import factor

@raftflow.task
def where(x):
    time.sleep(0.05)
    return [os.readlink("/proc/self/ns/net"), factor() * x]

with raftflow.Client() as client:
    done = client.map(where, range(120))
    print(len({place for place, _ in done}), sum(value for _, value in done))
"""


@pytest.mark.slow
def test_three_machines_run_a_script_that_none_of_them_has(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    """The machine with the leader and an agent falls silent meanwhile. Nothing is done to the agents."""
    try:
        with machines(3) as made:
            commands = [made.command(number) for number in range(3)]
            options = ClusterOptions(
                agents=3,
                hosts=tuple(zip(made.hosts, commands, strict=True)),
                agent_machines=tuple(commands),
                lease_ms=1_500,
                with_token=True,
            )
            cluster = LocalCluster.create(tmp_path / "cluster", options)
            try:
                _run_on_machines(cluster, made, tmp_path, eventually)
            finally:
                cluster.down()
    except NamespaceError as error:
        pytest.skip(str(error))


def _run_on_machines(cluster: LocalCluster, made: Machines, tmp_path: Path, eventually: Callable[..., Any]) -> None:
    cluster.start()
    cluster.wait_leader()
    cluster.wait_agents()
    (tmp_path / "part.py").write_text("def factor():\n    return 2\n")
    (tmp_path / "machines.py").write_text(MACHINES)
    program = start(cluster, tmp_path / "machines.py")
    with cluster.client():
        wait_for_calls(cluster, program, eventually)
        silent = cluster.replica_names.index(cluster.wait_leader())
        made.silence(silent)
        told, errors = program.communicate(timeout=90)
        assert program.returncode == 0, errors
        assert told.split()[1] == str(2 * sum(range(120)))
        made.heal(silent)
        (tmp_path / "part.py").write_text("def factor():\n    return 10\n")
        cluster.wait_agents()
        assert run(cluster, tmp_path / "machines.py").split() == ["3", str(10 * sum(range(120)))]
