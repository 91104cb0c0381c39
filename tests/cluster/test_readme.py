"""Every block, every command, every document and every link of the README works as it is printed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from raftflow.client import Client
from raftflow.local.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "scripts" / "first_hour"


def load_script() -> ModuleType:
    """Import `scripts/first_hour`, which has no suffix."""
    loader = importlib.machinery.SourceFileLoader("first_hour", str(SCRIPT))
    spec = importlib.util.spec_from_loader("first_hour", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["first_hour"] = module
    loader.exec_module(module)
    return module


sys.dont_write_bytecode, _before = True, sys.dont_write_bytecode
first_hour = load_script()
sys.dont_write_bytecode = _before
BLOCKS = first_hour.blocks_of(README)


def section(title: str) -> str:
    match = re.search(rf"^(#+) {re.escape(title)}\n", README, re.MULTILINE)
    assert match is not None, title
    return re.split(rf"^#{{1,{len(match[1])}}} ", README[match.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def environment(**more: str) -> dict[str, str]:
    base = {key: value for key, value in os.environ.items() if not key.startswith("RAFTFLOW_")}
    # The commands come from the environment that runs the tests.
    return {**base, "PATH": f"{Path(sys.executable).parent}:{base['PATH']}", **more}


def run(script: str, cwd: Path, *codes: int, **more: str) -> str:
    argv, env = ["bash", "-euc", script], environment(**more)
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode in (codes or (0,)), f"$ {script}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_two_commands_are_the_ones_that_are_tested() -> None:
    # The first is run by .ci/run and by test_demo, the second is what runs this.
    blocks = [block.body for block in first_hour.blocks_of(section("Two commands"))]
    assert blocks == ["scripts/setup && .venv/bin/raftflow demo\n", "scripts/test\n"]
    assert os.access(ROOT / "scripts" / "setup", os.X_OK)
    assert os.access(ROOT / "scripts" / "test", os.X_OK)


def test_only_two_blocks_are_not_run_and_every_other_one_is() -> None:
    assert [block.body.split()[0] for block in BLOCKS if block.not_run] == ["scripts/test", "raftflow"]
    for block in BLOCKS:
        assert block.language in {"sh", "text"} or block.file_name, f"README.md:{block.line} is never used"
        assert block.language != "text" or block.marker == "output", f"README.md:{block.line} is never compared"


def test_every_link_has_a_target() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(links) >= 10
    for link in links:
        path, _, anchor = link.partition("#")
        if path:
            assert (ROOT / path).exists(), link
        elif anchor:
            assert anchor in anchors, link


@pytest.mark.parametrize(
    ("expected", "said", "agrees"),
    [
        ("done\n", "done\n", True),
        ("done\n", "done\nmore\n", False),
        ("...\ndone\n", "much\nmore\ndone\n", True),
        ("done\n...\n", "done\n", True),
        ("done\n", "", False),
        ("leader n1, term 3\n", "leader n2, term 14\n", True),
        ("leader n1, term 3\n", "leader none, term 3\n", False),
        ("NAME  STATE\na1    up\n", "NAME   STATE\na2     up\n", True),
        ("id wf-01m8mvt54cyr0eq81fqzgsr169\n", "id wf-01aaaaaaaaaaaaaaaaaaaaaaaa\n", True),
        ("at 2026-11-29T23:56:27.148Z\n", "at 2027-01-02T03:04:05Z\n", True),
    ],
)
def test_printed_output_is_compared_by_its_shape(expected: str, said: str, *, agrees: bool) -> None:
    try:
        first_hour.check_output(expected, said)
    except first_hour.BlockError:
        assert not agrees
    else:
        assert agrees


@pytest.mark.parametrize(
    "text",
    [
        "<!-- first_hour: on m1 sometimes -->\n",
        "<!-- first_hour: on the moon -->\n```sh\ntrue\n```\n",
        "<!-- first_hour: output -->\n\n```text\nx\n```\n",
    ],
)
def test_an_unknown_comment_is_reported(text: str) -> None:
    with pytest.raises(first_hour.BlockError):
        first_hour.blocks_of(text)


@pytest.mark.parametrize("arguments", [["--venv"], ["--wrong"], ["a", "b"], ["full"], ["--venv", "full"]])
def test_a_wrong_call_is_reported_and_nothing_is_done(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    done = subprocess.run([SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "first_hour" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.fixture
def small_checkout(tmp_path: Path) -> Path:
    """A checkout with a script and a README to be written."""
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / "first_hour").write_bytes(SCRIPT.read_bytes())
    return root


@pytest.mark.parametrize(
    ("readme", "code", "told"),
    [
        ("```sh\nx=1\ncd ..\n```\n```sh\n[ $x = 1 ] && [ -d raftflow ] && echo yes\n```\n", 0, '"blocks": 2'),
        ("```sh\nfalse\ntrue\n```\n", 1, "README.md:1: exit code 1"),
        ("```sh\ntrue\n```\n\n```sh\nfalse && true; exit 7\n```\n", 1, "README.md:5: exit code 7"),
        ("```sh\necho a\n```\n<!-- first_hour: output -->\n```text\nb\n```\n", 1, "the output differs"),
        ("```toml\n# a.toml\nx = 1\n```\n```sh\ngrep x a.toml\n```\n", 0, '"blocks": 2'),
        ("```toml\nx = 1\n```\n", 1, "neither commands nor a file"),
        ('<!-- first_hour: on m1, background, until "up" -->\n```sh\necho dead\n```\n', 1, "did not print 'up'"),
        ('<!-- first_hour: on m1, background, until "up" -->\n```sh\necho up; sleep 99\n```\n', 0, '"blocks": 1'),
        ("<!-- first_hour: not run, no -->\n```sh\nfalse\n```\n", 0, '"not_run": 1'),
        ("```sh\nread x || echo none\n```\n<!-- first_hour: output -->\n```text\nnone\n```\n", 0, '"blocks": 1'),
    ],
)
def test_the_script_reports_what_does_not_work(readme: str, code: int, told: str, small_checkout: Path) -> None:
    (small_checkout / "README.md").write_text(f"{readme}")
    argv = [sys.executable, str(small_checkout / "scripts" / "first_hour"), "--loopback"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert told in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_block_of_the_first_hour_works(tmp_path: Path) -> None:
    """All blocks in order, on clusters with a token. The demo has a test of its own."""
    argv = [SCRIPT, tmp_path / "hour", "--venv", sys.prefix, "--skip", "raftflow demo"]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["not_run"] == 3
    assert answer["blocks"] + answer["not_run"] == sum(block.language != "text" for block in BLOCKS)


@pytest.mark.slow
def test_the_loop_over_100_numbers_outlives_its_leader_and_an_agent(tmp_path: Path) -> None:
    files = {block.file_name: block.body for block in BLOCKS if block.file_name == "loop.py"}
    for name, body in files.items():
        (tmp_path / name).write_text(body)
    lines = [line for body in files.values() for line in body.splitlines() if line and not line.startswith("# ")]
    assert len(lines) == 8
    run("raftflow cluster up --nodes 3 --agents 2 --token --data-dir my-cluster", tmp_path)
    try:
        cluster = LocalCluster.load(tmp_path / "my-cluster")
        argv = ["bash", "-euc", ". my-cluster/client.env; python loop.py"]
        program = subprocess.Popen(argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
        with cluster.client() as client:
            run_id = _first_workflow(client)
            for view in client.watch(run_id, timeout_s=30):
                if view.tasks.succeeded >= 10:
                    assert view.finished_at is None
                    break
            cluster.kill(cluster.wait_leader())
            cluster.kill("a1")
            output, _ = program.communicate(timeout=60)
            assert (program.returncode, output) == (0, "328350\n")
            assert client.workflow(run_id).tasks.succeeded == 100
    finally:
        run("raftflow cluster down --data-dir my-cluster", tmp_path)


def _first_workflow(client: Client) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for view in client.workflows(limit=1):
            return view.id
    raise AssertionError("no workflow came")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_commands_of_the_operators_table_work(tmp_path: Path) -> None:
    """Every command of the table does something on a cluster with a token."""
    hello = next(block.body for block in BLOCKS if block.file_name == "hello.toml")
    (tmp_path / "hello.toml").write_text(hello.replace("jobs:add", "builtins:sum"))
    table = section("Commands")
    commands = re.findall(r"`(raftflow [^`]+)`(?:, `([a-z]+ [a-z -]+)`)? \|", table)
    flat = [word for first, second in commands for word in (first, f"raftflow {second}" if second else "") if word]
    assert len(flat) == 24, flat
    run("raftflow cluster up --nodes 3 --agents 2 --token --data-dir my-cluster", tmp_path)
    try:
        shell = ". my-cluster/client.env\n"
        workflow = run(f"{shell}raftflow workflow submit hello.toml --wait -o jsonl", tmp_path)
        name = json.loads(workflow.splitlines()[-1])["id"]
        for command in flat:
            line = command.replace("NAME", "a1").replace("WORKFLOW", name).replace("TASK", "sum")
            line = line.replace("bench failover", "bench failover --runs 1").replace("INDEX", "3")
            line = line.replace("simulate faults", "simulate faults --seeds 0:1")
            line = line.replace("--config FILE", "--config my-cluster/n1.toml").replace("SNAPSHOT", "copy.snapshot")
            line = line.replace("save FILE", "save copy.snapshot").replace("export FILE", "export copy.audit")
            line = line.replace("FILE", "hello.toml").replace("raftflow events", "raftflow events --no-follow")
            # An agent that is there is not forgotten (tests/machine/test_agent_names.py). A replica that runs is
            # neither recovered nor restored (tests/recovery).
            refused = {"agent forget": 4, "raftflow recover": 1, "coordinator restore": 1}
            codes = next(((code,) for verb, code in refused.items() if verb in line), (0,))
            if "doctor" in line:
                codes = (0, 1)  # a machine that runs other tests may be found busy
            run(shell + line, tmp_path, *codes)
    finally:
        run("raftflow cluster down --data-dir my-cluster", tmp_path)


@pytest.mark.parametrize("kind", ["three-node", "five-node"])
def test_the_shipped_configurations_load(kind: str, tmp_path: Path) -> None:
    from raftflow.agent.config import load_config as load_agent
    from raftflow.coordinator.config.loading import load_config

    for file in (ROOT / "cluster-configs" / kind).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    run("(umask 077; head -c 32 /dev/urandom | base64 >secret; head -c 32 /dev/urandom | base64 >token)", tmp_path)
    files = sorted(tmp_path.glob("n*.toml"))
    assert len(files) == {"three-node": 3, "five-node": 5}[kind]
    for file in files:
        config = load_config(file, environ={})
        assert config.name == file.stem
        assert len(config.members) == len(files)
    agent = load_agent(tmp_path / "agent.toml", {}, {})
    assert len(agent.peers) == len(files)
