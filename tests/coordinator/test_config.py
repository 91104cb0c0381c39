"""Configuration: layers, defaults, and every error with its key and its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.loading import load_config
from raftflow.coordinator.config.replica_config import CoordinatorConfig
from raftflow.coordinator.config.values import ConfigError

SECRET = "s" * 40
TOKEN = "t" * 20

BASE = """
[cluster]
id = "example"
secret_file = "secret"
[[cluster.members]]
name = "n1"
peer = "127.0.0.1:7101"
url = "http://127.0.0.1:7001"
[[cluster.members]]
name = "n2"
peer = "[::1]:7102"
url = "http://[::1]:7002/"
[replica]
name = "n1"
data_dir = "data/n1"
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)

    def write_it(text: str) -> Path:
        path = tmp_path / "n1.toml"
        path.write_text(text)
        return path

    return write_it


def load(path: Path, environ: dict[str, str] | None = None, **flags: object) -> CoordinatorConfig:
    return load_config(path, environ=environ or {}, flags={k.replace("__", "."): v for k, v in flags.items()})


def test_defaults(write: Any, tmp_path: Path) -> None:
    config = load(write(BASE))
    assert config.cluster_id == "example"
    assert config.secret == SECRET.encode()
    assert config.data_dir == tmp_path / "data" / "n1"
    assert (config.bind, config.peer_bind) == (Address("127.0.0.1", 7001), Address("127.0.0.1", 7101))
    assert config.members[1].peer == Address("::1", 7102)
    assert config.url_of("n2") == "http://[::1]:7002"
    assert config.url_of("n9") is None
    assert config.token is None
    assert (config.timing.lease_ms, config.timing.poll_wait_ms) == (10_000, 3_000)
    assert SECRET not in repr(config)


def test_flag_over_environment_over_file(write: Any) -> None:
    path = write(BASE + '[timing]\nlease_ms = 4000\n[limits]\nretention = "2d"\n')
    assert load(path).timing.lease_ms == 4_000
    assert load(path).timing.poll_wait_ms == 1_333, "an idle poll fits into the lease three times"
    assert load(path).limits.retention_ms == 2 * 86_400_000
    environ = {"RAFTFLOW_TIMING_LEASE_MS": "5000", "RAFTFLOW_PEERS": "http://elsewhere"}
    assert load(path, environ).timing.lease_ms == 5_000
    assert load(path, environ, timing__lease_ms=6_000).timing.lease_ms == 6_000
    assert load(path, environ, timing__lease_ms=None).timing.lease_ms == 5_000
    assert load(path, {"RAFTFLOW_REPLICA_NAME": "n2"}).name == "n2"


def test_secret_and_token_from_the_environment_replace_the_files(write: Any) -> None:
    path = write(BASE + 'token_file = "token"\n')
    assert load(path).token == TOKEN
    environ = {"RAFTFLOW_TOKEN": "u" * 16, "RAFTFLOW_CLUSTER_SECRET": "x" * 40}
    config = load(path, environ)
    assert (config.token, config.secret) == ("u" * 16, b"x" * 40)


def test_beyond_loopback_a_token_is_needed_unless_said_aloud(write: Any) -> None:
    path = write(BASE + 'bind = "0.0.0.0:7001"\n')
    with pytest.raises(ConfigError, match=r"replica\.bind: 0\.0\.0\.0 .*--insecure"):
        load(path)
    assert load(path, replica__insecure=True).insecure
    assert load(path, {"RAFTFLOW_TOKEN": TOKEN}).token == TOKEN
    assert load(path, {"RAFTFLOW_REPLICA_INSECURE": "yes"}).insecure


def test_names_of_the_api_are_a_list_or_divided_by_commas(write: Any) -> None:
    path = write(BASE + 'hosts = ["a.example", "b.example:8443"]\n')
    assert load(path).hosts == ("a.example", "b.example:8443")
    assert load(path, {"RAFTFLOW_REPLICA_HOSTS": "c.example, [::1]:7001"}).hosts == ("c.example", "[::1]:7001")
    assert load(write(BASE)).hosts == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("[replica]", "[replika]"), r"unknown key 'replika' at the top"),
        (("data_dir", "datadir"), r"unknown key replica\.datadir; did you mean replica\.data_dir"),
        (('data_dir = "data/n1"', ""), r"replica\.data_dir is missing"),
        (('id = "example"', ""), r"cluster\.id is missing"),
        (('id = "example"', 'id = "two words"'), r"cluster\.id .*n1\.toml.* may hold letters"),
        (('id = "example"', "id = 3"), r"cluster\.id .* must be a string"),
        (('name = "n1"\ndata', 'name = "n3"\ndata'), r"replica\.name .*'n3' is not a member; the members are n1, n2"),
        (('name = "n2"', 'name = "n1"'), r"cluster\.members\[1\]\.name 'n1' is listed twice"),
        (("127.0.0.1:7101", "127.0.0.1"), r"cluster\.members\[0\]\.peer .* is not an address"),
        (("127.0.0.1:7101", "127.0.0.1:99999"), r"is not an address"),
        (("[::1]:7102", "::1:7102"), r"is not an address"),
        (("http://127.0.0.1:7001", "ftp://127.0.0.1"), r"cluster\.members\[0\]\.url .* is not a URL"),
        (("http://127.0.0.1:7001", "http://127.0.0.1:7001/v1"), r"is not a URL"),
        (("http://127.0.0.1:7001", "https://127.0.0.1:7001"), r"https:// exactly if tls\.api_cert"),
        (('peer = "127.0.0.1:7101"\n', ""), r"cluster\.members\[0\] must have exactly the keys"),
        (('secret_file = "secret"', ""), r"cluster\.secret_file is missing"),
        (('secret_file = "secret"', 'secret_file = "none"'), r"cluster\.secret_file .* does not exist"),
        (('secret_file = "secret"', f'secret = "{SECRET}"'), r"keep the secret out of the file"),
        (("[replica]", f'[replica]\ntoken = "{TOKEN}"'), r"keep the token out of the file"),
        (("[replica]", '[replica]\ntoken_file = "none"'), r"replica\.token_file .* does not exist"),
        (("[replica]", '[replica]\ninsecure = "perhaps"'), r"replica\.insecure .* neither true nor false"),
        (("[replica]", '[replica]\nbind = "7001"'), r"replica\.bind .* is not an address"),
        (("[replica]", '[replica]\nhosts = "a.example"'), r"replica\.hosts .* must be a list of names"),
        (("[replica]", '[replica]\nhosts = ["http://a.example"]'), r"replica\.hosts .*is not a host name such as"),
        (("[replica]", "[replica]\nhosts = [7001]"), r"replica\.hosts .*is not a host name such as"),
        (("[replica]", '[tls]\napi_cert = "c"\n[replica]'), r"api_cert and tls\.api_key must be given together"),
        (("[replica]", '[tls]\npeer_cert = "c"\n[replica]'), r"peer_ca must be given together"),
        (("[replica]", "[timing]\nlease_ms = 1\n[replica]"), r"timing\.lease_ms .* whole number from 300"),
        (("[replica]", '[timing]\nlease_ms = "10s"\n[replica]'), r"timing\.lease_ms .* whole number"),
        (("[replica]", "[timing]\nlease_ms = true\n[replica]"), r"timing\.lease_ms .* whole number"),
        (("[replica]", "[timing]\npoll_wait_ms = 9000\n[replica]"), r"at most half of timing\.lease_ms"),
        (("[replica]", "[timing]\nelection_min_ms = 700\n[replica]"), r"election_max_ms must be greater"),
        (("[replica]", "[timing]\nheartbeat_ms = 150\n[replica]"), r"more than three times timing\.heartbeat_ms"),
        (("[replica]", '[limits]\nretention = "soon"\n[replica]'), r"limits\.retention .*is not a duration"),
        (("[replica]", '[limits]\nretention = "1ms"\n[replica]'), r"limits\.retention .*too short"),
        (("[cluster]\n", "[cluster\n"), r"is not TOML"),
    ],
)
def test_errors_name_the_key_and_the_source(write: Any, change: tuple[str, str], text: str) -> None:
    assert change[0] in BASE
    with pytest.raises(ConfigError, match=text):
        load(write(BASE.replace(change[0], change[1], 1)))


@pytest.mark.parametrize(
    ("environ", "flags", "text"),
    [
        ({"RAFTFLOW_TIMING_LEASE": "5"}, {}, r"variable RAFTFLOW_TIMING_LEASE: unknown key timing\.lease; did you"),
        ({"RAFTFLOW_CLUSTER_MEMBERS": "n1"}, {}, r"unknown key cluster\.members"),
        (
            {"RAFTFLOW_TIMING_LEASE_MS": "soon"},
            {},
            r"timing\.lease_ms \(environment variable RAFTFLOW_TIMING_LEASE_MS",
        ),
        ({"RAFTFLOW_TOKEN": "short"}, {}, r"RAFTFLOW_TOKEN.*at least 16"),
        ({"RAFTFLOW_CLUSTER_SECRET": "short"}, {}, r"RAFTFLOW_CLUSTER_SECRET.* use at least"),
        ({}, {"replica.nam": "n1"}, r"flag replica\.nam: unknown key"),
        ({}, {"nonsense": 1}, r"flag nonsense: unknown key"),
    ],
)
def test_errors_of_environment_and_flags(
    write: Any, environ: dict[str, str], flags: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        load_config(write(BASE), environ=environ, flags=flags)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"\[\[cluster\.members\]\] is missing"):
        load_config(None, environ={})


def test_the_secret_must_not_be_readable_by_everybody(write: Any, tmp_path: Path) -> None:
    path = write(BASE)
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(path)
