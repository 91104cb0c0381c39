"""`raftflow config init` writes files that replicas and agents can use, privately, and never over others."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from raftflow.agent.config import load_config as load_agent
from raftflow.api.http.tls import revoked_certificates, tls_context
from raftflow.cli.main import root
from raftflow.coordinator.config.loading import load_config
from raftflow.provision.files import ClusterPlan, render
from raftflow.provision.hosts import Host, ProvisionError, parse_hosts
from raftflow.replication.net.tls import contexts

ROOT = Path(__file__).resolve().parents[2]
THREE = "10.0.0.1,10.0.0.2,10.0.0.3"


def init(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["config", "init", *arguments])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("hosts", "urls"),
    [
        (THREE, ["http://10.0.0.1:7001", "http://10.0.0.2:7001", "http://10.0.0.3:7001"]),
        ("a, B.example,c-1:9000", ["http://a:7001", "http://b.example:7001", "http://c-1:9000"]),
        ("fd00::1,[fd00::2],[fd00::3]:80", ["http://[fd00::1]:7001", "http://[fd00::2]:7001", "http://[fd00::3]:80"]),
        ("localhost:1,localhost:2,localhost:3", ["http://localhost:1", "http://localhost:2", "http://localhost:3"]),
        ("a,b,c,d,e", [f"http://{name}:7001" for name in "abcde"]),
    ],
)
def test_replicas_and_agents_read_the_files(hosts: str, urls: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    done = init(
        "--hosts", hosts, "--nodes", str(len(urls)), "--dir", str(folder), "--data-dir", str(tmp_path / "data")
    )
    assert done.exit_code == 0, done.output
    configs = [load_config(folder / f"n{number}.toml", environ={}) for number in range(1, len(urls) + 1)]
    assert [config.member.url for config in configs] == urls
    assert len({(config.cluster_id, config.secret, config.token, config.members) for config in configs}) == 1
    assert len(configs[0].secret) >= 32
    assert len(configs[0].token or "") >= 32
    assert len({config.data_dir for config in configs}) == len(urls)
    agent = load_agent(folder / "agent.toml", {}, {})
    assert list(agent.peers) == urls
    assert agent.work_dir == str(tmp_path / "data" / "agent")


def test_certificates_come_with_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    arguments = ("--hosts", THREE, "--dir", str(folder), "--data-dir", str(tmp_path / "data"), "--tls")
    done = init(*arguments)
    assert done.exit_code == 0, done.output
    for name, host in (("n1", "10.0.0.1"), ("n2", "10.0.0.2"), ("n3", "10.0.0.3")):
        config = load_config(folder / f"{name}.toml", environ={})
        assert config.member.url == f"https://{host}:7001"
        assert tls_context(config) is not None
        assert revoked_certificates(config) is not None
        assert config.tls.peer_cert is not None and config.tls.peer_key is not None and config.tls.peer_ca is not None
        contexts(config.tls.peer_cert, config.tls.peer_key, config.tls.peer_ca)
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    assert not (folder / "ca.key").exists()
    assert mode(tmp_path / "cluster-ca") == 0o700
    assert f"RAFTFLOW_CACERT={folder / 'ca.pem'}" in (folder / "client.env").read_text()
    assert list(load_agent(folder / "agent.toml", {}, {}).peers) == [f"https://10.0.0.{n}:7001" for n in (1, 2, 3)]
    before = (folder / "n1.pem").read_text()
    assert init(*arguments, "--force").exit_code == 0
    assert (folder / "n1.pem").read_text() == before, "machines may use it"


def test_all_files_are_private_and_the_shell_finds_the_cluster(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    assert init("--hosts", THREE, "--dir", str(folder)).exit_code == 0
    names = {"n1.toml", "n2.toml", "n3.toml", "agent.toml", "client.env", "secret", "token"}
    assert {path.name for path in folder.iterdir()} == names
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    script = f'. {folder}/client.env && echo "$RAFTFLOW_PEERS $RAFTFLOW_TOKEN"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    token = (folder / "token").read_text().strip()
    assert shown == ["http://10.0.0.1:7001,http://10.0.0.2:7001,http://10.0.0.3:7001", token]


def test_two_clusters_share_neither_id_nor_secret_nor_token(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert init("--hosts", THREE, "--dir", str(tmp_path / name)).exit_code == 0
    one, other = (load_config(tmp_path / name / "n1.toml", environ={}) for name in ("a", "b"))
    assert one.cluster_id != other.cluster_id
    assert one.secret != other.secret
    assert one.token != other.token


def test_the_next_steps_name_every_machine_and_no_secret(tmp_path: Path) -> None:
    done = init("--hosts", "10.0.0.1,b,fd00::3", "--dir", str(tmp_path / "my cluster"))
    for text in ("10.0.0.1:", " b:", "[fd00::3]:", "/n1.toml", "/n2.toml", "/n3.toml", "agent.toml", "client.env"):
        assert text in done.output
    for name in ("secret", "token"):
        assert (tmp_path / "my cluster" / name).read_text().strip() not in done.output


@pytest.mark.parametrize(
    ("hosts", "nodes", "told"),
    [
        (THREE, "5", "--nodes is 5, but --hosts names 3"),
        (THREE, "4", "--nodes is 4; an odd number is needed"),
        ("a", "1", "a real cluster has at least 3 replicas"),
        ("a,b", "2", "a real cluster has at least 3 replicas"),
        (THREE, "0", "a real cluster has at least 3 replicas"),
        (THREE, "-3", "a real cluster has at least 3 replicas"),
        (THREE, "99", "the limit is 9"),
        ("a,b", None, "the number of hosts in --hosts is 2, and a real cluster"),
        ("a,b,c,d", None, "is 4; an odd number is needed"),
        (",".join("abcdefghijk"), None, "the limit is 9"),
        ("a,a,b", None, "a:7001 is listed twice"),
        ("a,A,b", None, "a:7001 is listed twice"),
        ("fd00::1,[fd00:0::1]:7001,b", None, "[fd00::1]:7001 is listed twice"),
        ("a:7001,a:7101,b", None, "choose ports that lie closer together"),
        ("a,,b", None, "host 2 is empty"),
        ("", None, "host 1 is empty"),
        ("http://a,b,c", None, "is a URL or a path"),
        ("a:0,b,c", None, "the port is a number from 1 to 65435"),
        ("a:65500,b,c", None, "the port is a number from 1 to 65435"),
        ("a:x,b,c", None, "the port is a number"),
        ("a:,b,c", None, "the port is a number"),
        ("fd00::1:70001,b,c", None, "is written [fd00::1]:7001"),
        ("[fd00::x]:7001,b,c", None, "is not an IPv6 address"),
        ("10.0.0.300,b,c", None, "is not an IPv4 address"),
        ("10.0.0,b,c", None, "is not an IPv4 address"),
        ("0.0.0.0,b,c", None, "is not the address of one machine"),
        ("fe80::1%eth0,b,c", None, "has a scope"),
        ("a b,c,d", None, "is not a host name"),
        ("-a,c,d", None, "is not a host name"),
        ("a\n,c,é", None, "is not a host name"),
        ('a"\nx = 1,c,d', None, "is not a host name"),
    ],
)
def test_a_wrong_list_is_refused_and_nothing_is_written(
    hosts: str, nodes: str | None, told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "cluster"
    done = init("--hosts", hosts, "--dir", str(folder), *(() if nodes is None else ("--nodes", nodes)))
    assert done.exit_code == 2
    assert told in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--cluster-id", "a b"), "--cluster-id"),
        (("--data-dir", "relative"), "--data-dir"),
        (("--data-dir", '/a"b'), "--data-dir"),
        (("--data-dir", "/a\nb"), "--data-dir"),
    ],
)
def test_a_value_that_would_break_a_file_is_refused(more: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = init("--hosts", THREE, "--dir", str(tmp_path / "cluster"), *more)
    assert done.exit_code == 2
    assert told in done.stderr


def test_files_that_exist_stay_unless_forced_and_then_secret_and_token_stay(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    assert init("--hosts", THREE, "--dir", str(folder)).exit_code == 0
    before = {path.name: path.read_text() for path in folder.iterdir()}
    again = init("--hosts", "a,b,c", "--dir", str(folder))
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    (folder / "token").chmod(0o644)
    forced = init("--hosts", "a,b,c", "--dir", str(folder), "--force")
    assert forced.exit_code == 0, forced.output
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert after["secret"] == before["secret"]
    assert after["token"] == before["token"]
    assert after["token"].strip() in after["client.env"]
    assert "http://a:7001" in after["n1.toml"]
    assert {mode(path) for path in folder.iterdir()} == {0o600}


def test_one_file_that_exists_is_enough_to_write_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir(mode=0o700)
    (folder / "secret").symlink_to(tmp_path / "elsewhere")
    done = init("--hosts", THREE, "--dir", str(folder))
    assert done.exit_code == 2
    assert "already contains secret" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["secret"]
    forced = init("--hosts", THREE, "--dir", str(folder), "--force")
    assert forced.exit_code == 2
    assert "not a regular file" in forced.stderr


def test_an_open_directory_is_closed_if_empty_and_refused_if_not(tmp_path: Path) -> None:
    for name in ("empty", "used"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "used" / "notes").touch()
    assert init("--hosts", THREE, "--dir", str(tmp_path / "empty")).exit_code == 0
    assert mode(tmp_path / "empty") == 0o700
    done = init("--hosts", THREE, "--dir", str(tmp_path / "used"))
    assert done.exit_code == 2
    assert "chmod 700" in done.stderr
    done = init("--hosts", THREE, "--dir", str(tmp_path / "used" / "notes"))
    assert done.exit_code == 2
    assert "is not a directory" in done.stderr


def join(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["config", "join", *arguments])


def test_a_replica_that_joins_lists_the_members_and_itself(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    init("--hosts", THREE, "--dir", str(folder), "--data-dir", "/srv/data")
    done = join("n4", "--host", "fd00::4", "--dir", str(folder))
    assert done.exit_code == 0, done.output
    assert "member add n4 --peer [fd00::4]:7101 --url http://[fd00::4]:7001" in done.stdout
    first, fourth = (load_config(folder / f"{name}.toml", environ={}) for name in ("n1", "n4"))
    assert fourth.members[:3] == first.members
    assert fourth.member.url == "http://[fd00::4]:7001"
    assert (fourth.cluster_id, fourth.secret, fourth.token) == (first.cluster_id, first.secret, first.token)
    assert (fourth.join, str(fourth.data_dir)) == (True, "/srv/data/n4")
    assert not first.join
    assert mode(folder / "n4.toml") == 0o600


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("n3", "--host", "10.0.0.4"), "needs a new name"),
        (("agent", "--host", "10.0.0.4"), "needs a new name"),
        (("a b", "--host", "10.0.0.4"), "'a b' may hold"),
        (("../n4", "--host", "10.0.0.4"), "'../n4' may hold"),
        (("n4", "--host", "10.0.0.3"), "is the address of n3"),
        (("n4", "--host", "10.0.0.3:7101"), "is the address of n3"),
        (("n4", "--host", "http://x"), "--host 'http://x' is a URL"),
        (("n4", "--host", "10.0.0.4", "--dir", "nowhere"), "has no file of a replica"),
    ],
)
def test_a_replica_that_cannot_join_is_refused(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init("--hosts", THREE)
    before = sorted(path.name for path in (tmp_path / "raftflow-cluster").iterdir())
    done = join(*arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    assert sorted(path.name for path in (tmp_path / "raftflow-cluster").iterdir()) == before


def test_a_replica_on_loopback_listens_there_only() -> None:
    hosts = parse_hosts("127.0.0.1,127.0.0.2,10.0.0.3")
    assert [host.listen for host in hosts] == ["127.0.0.1", "127.0.0.2", "0.0.0.0"]
    assert Host("fd00::1", 7001).listen == "::"
    with pytest.raises(ProvisionError, match="listed twice"):
        parse_hosts("127.0.0.1,127.0.0.1,127.0.0.1")


@pytest.mark.parametrize(("kind", "count"), [("three-node", 3), ("five-node", 5)])
def test_the_files_in_cluster_configs_are_what_config_init_writes(kind: str, count: int) -> None:
    """To write them again: `raftflow config init --cluster-id production --hosts 10.0.0.1,... --dir`, then copy."""
    hosts = parse_hosts(",".join(f"10.0.0.{number + 1}" for number in range(count)))
    folder = ROOT / "cluster-configs" / kind
    assert {path.name: path.read_text() for path in folder.iterdir()} == render(
        ClusterPlan(cluster_id="production", hosts=hosts)
    )


def test_the_tables_in_comments_are_valid() -> None:
    """Who uncomments [tls], [agent.resources] or [agent.labels] gets what replicas and agents know."""
    files = render(ClusterPlan(cluster_id="production", hosts=parse_hosts(THREE)))
    for name, key in (("n1.toml", "tls"), ("agent.toml", "agent")):
        lines = files[name].splitlines()
        document = tomllib.loads("\n".join(line.removeprefix("# ") if _is_toml(line) else line for line in lines))
        assert key in document
        if name == "n1.toml":
            from raftflow.coordinator.config.replica_config import SECTIONS

            assert set(document["tls"]) == set(SECTIONS["tls"])
        else:
            assert document["agent"]["resources"]["gpu"] == 2


def _is_toml(line: str) -> bool:
    text = line.removeprefix("# ")
    return text != line and (text.startswith("[") or (" = " in text and text.split(" = ")[0].isidentifier()))


@pytest.mark.slow
def test_the_wheel_contains_what_config_init_needs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "raftflow", source / "raftflow", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    if built.returncode and "setuptools" in built.stderr:
        pytest.skip("setuptools, which builds the wheel, cannot be had here")
    assert built.returncode == 0, built.stderr
    wheel = next(tmp_path.glob("*.whl"))
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    install = [*pip, "--python", str(venv / "bin" / "python"), "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=60)
    # Its dependencies are those of the tests; raftflow itself is only in the wheel.
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [venv / "bin" / "raftflow", "config", "init", "--hosts", THREE, "--dir", "mine"],
        cwd=tmp_path, env={"PYTHONPATH": packages, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert load_config(tmp_path / "mine" / "n3.toml", environ={}).name == "n3"
