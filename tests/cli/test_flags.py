"""Flags, the environment and files: which one counts, and what is passed on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raftflow.cli.terminal.options import resolve

Run = Callable[..., Result]


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text('[client]\npeers = ["http://file:1"]\ntoken = "file"\ncacert = "ca.pem"\n[agent]\nname = "x"\n')
    file.chmod(0o600)
    env = {"RAFTFLOW_CONFIG": str(file)}
    assert resolve({}, env) == {"peers": ["http://file:1"], "token": "file", "cacert": str(tmp_path / "ca.pem")}
    env |= {"RAFTFLOW_PEERS": "http://env:1, http://env:2", "RAFTFLOW_TOKEN": "env"}
    assert resolve({}, env)["peers"] == ["http://env:1", "http://env:2"]
    settings = resolve({"peers": "http://flag:1", "token": None}, env)
    assert (settings["peers"], settings["token"]) == (["http://flag:1"], "env")


@pytest.mark.parametrize("text", ["[client]\npeer = 1", "[client]\ntoken = 1", "client = 1", "x", None])
def test_a_wrong_file_is_wrong_usage(run: Run, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "client.toml"
    if text is not None:
        file.write_text(text)
    result = run("workflow", "list", env={"RAFTFLOW_CONFIG": str(file)})
    assert result.exit_code == 2
    assert str(file) in result.stderr


def test_connection_flags_may_stand_anywhere(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/agents"] = {"agents": []}
    assert run("--peers", fake.url, "agent", "list", env={}).exit_code == 0
    assert run("agent", "list", "--peers", fake.url, env={}).exit_code == 0


def test_agent_run_passes_its_flags_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import raftflow.agent.main

    seen = []
    monkeypatch.setattr(raftflow.agent.main, "run", lambda config: seen.append(config) or 0)
    flags = ("--name", "a7", "--cpus", "2", "--memory", "1GiB", "--resource", "gpu=1", "--label", "zone=a")
    more = ("--prefetch", "3", "--work-dir", str(tmp_path), "--peers", "http://h:1,http://h:2", "--token", "t")
    assert run("agent", "run", *flags, *more).exit_code == 0
    (config,) = seen
    assert (config.name, config.peers, config.token) == ("a7", ("http://h:1", "http://h:2"), "t")
    assert config.capacity() == {"cpu": 2000, "memory": 1024, "gpu": 1000}
    assert (config.labels, config.prefetch, config.work_dir) == ({"zone": "a"}, 3, str(tmp_path))


def test_coordinator_run_passes_its_flags_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import raftflow.api.server

    seen = []
    monkeypatch.setattr(raftflow.api.server, "run", lambda config: seen.append(config) or 5)
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("s" * 40)
    file = tmp_path / "n.toml"
    member = '[[cluster.members]]\nname = "n1"\npeer = "127.0.0.1:7101"\nurl = "http://127.0.0.1:7001"\n'
    file.write_text(f'[cluster]\nid = "c"\nsecret_file = "secret"\n{member}[replica]\nname = "nX"\ndata_dir = "d"\n')
    flags = (
        "--name",
        "n1",
        "--data-dir",
        str(tmp_path / "e"),
        "--set",
        "timing.lease_ms=4321",
        "--bind",
        "0.0.0.0:7001",
    )
    result = run("coordinator", "run", "--config", str(file), *flags, "--insecure")
    assert result.exit_code == 5, result.output
    (config,) = seen
    assert (config.name, config.data_dir, config.insecure) == ("n1", tmp_path / "e", True)
    assert config.timing.lease_ms == 4321
    # Open to the network, without a token, and without saying so: refused.
    refused = run("coordinator", "run", "--config", str(file), *flags)
    assert refused.exit_code == 2
    assert "--insecure" in refused.stderr


def test_demo_and_bench_pass_their_flags_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import raftflow.bench.main
    import raftflow.demo.main

    monkeypatch.setattr(
        raftflow.demo.main, "run_demo", lambda **given: int(given == {"data_dir": tmp_path, "keep": True})
    )
    assert run("demo", "--data-dir", str(tmp_path), "--keep").exit_code == 1
    result = {"name": "failover", "runs": [1.0, 2.0], "median": {"seconds": 1.5}}
    monkeypatch.setattr(raftflow.bench.main, "run", lambda name, **given: {**result, "given": given["runs"]})
    assert json.loads(run("bench", "failover", "--runs", "2", "-o", "json").stdout) == {**result, "given": 2}
    assert run("bench", "failover").stdout.splitlines()[2].split() == ["seconds", "1.5"]
