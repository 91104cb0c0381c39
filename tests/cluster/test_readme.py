"""Every command and every document of the README works as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(text: str) -> list[tuple[str, str]]:
    """Return (language, body) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


BLOCKS = fenced(README)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def shell_blocks(text: str) -> list[str]:
    return [body for language, body in fenced(text) if language == "sh"]


def environment(**more: str) -> dict[str, str]:
    base = {key: value for key, value in os.environ.items() if not key.startswith("RAFTFLOW_")}
    # The commands come from the environment that runs the tests.
    return {**base, "PATH": f"{Path(sys.executable).parent}:{base['PATH']}", **more}


def run(script: str, cwd: Path, **more: str) -> str:
    argv, env = ["bash", "-euc", script], environment(**more)
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"$ {script}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with what the README's reader has: the scripts and the configurations."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    shutil.copytree(ROOT / "cluster-configs", tmp_path / "cluster-configs")
    yield tmp_path
    if (tmp_path / "my-cluster" / "cluster.json").exists():
        run("raftflow cluster down --data-dir my-cluster", tmp_path)


def test_the_two_commands_are_the_ones_that_are_tested() -> None:
    # The first is run by .ci/run and by test_demo, the second is what runs this.
    assert shell_blocks(section("Two commands")) == [
        "scripts/setup && .venv/bin/raftflow demo\n",
        "scripts/test\n",
    ]
    assert os.access(ROOT / "scripts" / "setup", os.X_OK)
    assert os.access(ROOT / "scripts" / "test", os.X_OK)


def test_one_machine_and_the_operators_table(folder: Path) -> None:
    hello = next(body for language, body in BLOCKS if language == "toml" and body.startswith("# hello.toml"))
    (folder / "hello.toml").write_text(hello)
    script = "".join(shell_blocks(section("Try it on one machine")))
    down = "raftflow cluster down --data-dir my-cluster\n"
    assert script.endswith(down)
    out = run(script.removesuffix(down), folder)
    assert "hello" in out
    assert "succeeded" in out

    commands = re.findall(r"`(raftflow [^`]+)`(?:, `([a-z]+ [a-z -]+)`)? \|", section("Operating"))
    flat = [word for first, second in commands for word in (first, f"raftflow {second}" if second else "") if word]
    assert len(flat) == 17, flat
    where = {"RAFTFLOW_PEERS": peers_of(folder)}
    listed = run("raftflow workflow list -o jsonl", folder, **where)
    workflow = json.loads(listed.splitlines()[0])["id"]
    for command in flat:
        if command.startswith("raftflow agent forget"):
            continue  # it is refused while the agent is there (test_names.py)
        line = command.replace("NAME", "a1").replace("WORKFLOW", workflow).replace("TASK", "words")
        line = line.replace("bench failover", "bench failover --runs 1").replace("FILE", "hello.toml")
        line = line.replace("simulate faults", "simulate faults --seeds 0:1")
        shown = run(line, folder, **where)
        if "task logs" in line:
            assert '"numbers"' in shown
            assert "[1,2,3]" in shown.replace(" ", "")
    run(down, folder)


def peers_of(folder: Path) -> str:
    from raftflow.local.cluster import LocalCluster

    return ",".join(LocalCluster.load(folder / "my-cluster").urls)


def test_three_machines(folder: Path) -> None:
    """The three machines are three loopback addresses."""
    text = section("Three machines")
    configs = folder / "cluster-configs" / "three-node"
    for file in configs.glob("*.toml"):
        localise(file, folder)
    blocks = [block.replace("10.0.0.", "127.0.0.") for block in shell_blocks(text)]
    keys, coordinator, agent, work = blocks
    run(keys, folder)
    processes = []
    try:
        for name in ("n1", "n2", "n3"):
            line = coordinator.strip().replace("n1.toml", f"{name}.toml")
            processes.append(background(line, configs))
        processes.append(background(agent.strip(), configs))
        await_agent(work, configs)
        out = run(work, configs)
        assert "leader" in out
        processes.append(replace_a_machine(configs, work))
    finally:
        for process in reversed(processes):
            process.terminate()
        codes = [process.wait(timeout=60) for process in reversed(processes)]
    # The replica that was removed had ended by itself, and well.
    assert codes == [0, 0, 0, 0, 0]


def replace_a_machine(configs: Path, work: str) -> subprocess.Popen[bytes]:
    """Do what the README says about a replica that takes the place of another."""
    blocks = [block.replace("10.0.0.", "127.0.0.") for block in shell_blocks(section("Operating"))]
    order, start, change = blocks
    assert "--bootstrap" in order
    members, mine = (configs / "n3.toml").read_text().split("\n[replica]\n")
    member = '[[cluster.members]]\nname = "n4"\npeer = "127.0.0.4:7101"\nurl = "http://127.0.0.4:7001"\n'
    mine = mine.replace("n3", "n4").replace("127.0.0.3", "127.0.0.4")
    (configs / "n4.toml").write_text(f"{members}\n{member}\n[replica]\njoin = true\n{mine}")
    process = background(start.strip(), configs)
    exports = "\n".join(line for line in work.splitlines() if line.startswith("export "))
    deadline = time.monotonic() + 60
    while True:
        # Members can change when all replicas have met: the command may be given again until then.
        argv = ["bash", "-euc", f"{exports}\n{change}"]
        done = subprocess.run(
            argv, cwd=configs, env=environment(), capture_output=True, text=True, timeout=90, check=False
        )
        if done.returncode == 0:
            assert "n4" in done.stdout
            return process
        assert time.monotonic() < deadline, done.stdout + done.stderr


def localise(file: Path, folder: Path) -> None:
    """Turn a file for a machine of its own into one for an address of this machine."""
    content = file.read_text().replace("10.0.0.", "127.0.0.").replace("/var/lib/raftflow", str(folder / "data"))
    content = content.replace("0.0.0.0:", f"127.0.0.{file.stem[-1]}:")
    file.write_text(content)


def background(line: str, cwd: Path) -> subprocess.Popen[bytes]:
    # `exec` so that the signal reaches the command and not a shell in front of it.
    settings, _, command = line.rpartition("raftflow ")
    exports = f"export {settings.strip()}; " if settings else ""
    return subprocess.Popen(["bash", "-euc", f"{exports}exec raftflow {command}"], cwd=cwd, env=environment())


def await_agent(work: str, cwd: Path) -> None:
    exports = "\n".join(line for line in work.splitlines() if line.startswith("export "))
    deadline = time.monotonic() + 40
    while True:
        done = subprocess.run(
            ["bash", "-euc", f"{exports}\nraftflow agent list -o jsonl"],
            cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if '"up"' in done.stdout:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)


def test_the_workflow_of_the_readme_is_valid(folder: Path) -> None:
    nightly = next(body for language, body in BLOCKS if language == "toml" and 'name = "nightly"' in body)
    (folder / "nightly.toml").write_text(nightly)
    run("raftflow workflow validate nightly.toml", folder)


def test_the_python_example_runs(folder: Path) -> None:
    example = next(body for language, body in BLOCKS if language == "python")
    run("raftflow cluster up --nodes 3 --agents 1 --data-dir my-cluster", folder)
    peers = ", ".join(f'"{url}"' for url in peers_of(folder).split(","))
    (folder / "example.py").write_text(re.sub(r"Client\(\[.*?\]\)", f"Client([{peers}])", example))
    assert run("python example.py", folder) == "succeeded\n"


@pytest.mark.parametrize("kind", ["three-node", "five-node"])
def test_the_shipped_configurations_load(kind: str, folder: Path) -> None:
    from raftflow.agent.config import load_config as load_agent
    from raftflow.coordinator.config import load_config

    directory = folder / "cluster-configs" / kind
    run("(umask 077; head -c 32 /dev/urandom | base64 > secret; head -c 32 /dev/urandom | base64 > token)", directory)
    files = sorted(directory.glob("n*.toml"))
    assert len(files) == {"three-node": 3, "five-node": 5}[kind]
    for file in files:
        config = load_config(file, environ={})
        assert config.name == file.stem
        assert len(config.members) == len(files)
    agent = load_agent(directory / "agent.toml", {}, {})
    assert len(agent.peers) == len(files)
