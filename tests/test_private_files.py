"""Files with a secret in them: what is refused, and whether the advice fits."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow import private_files
from raftflow.agent import config as agent_config
from raftflow.client import UsageError
from raftflow.client import settings as client_settings
from raftflow.client.http.session import load_certificates
from raftflow.coordinator.config import loading as coordinator_config
from raftflow.coordinator.config.values import ConfigError
from raftflow.private_files import (
    LOOK_EVERY_S,
    PrivateFileError,
    TokenInUse,
    close_to_others,
    make_folders,
    read_token,
)

TOKEN = "t" * 20
PEERS = "http://127.0.0.1:7001"
REPLICA = """
[cluster]
id = "example"
secret_file = "{secret}"
[[cluster.members]]
name = "n1"
peer = "127.0.0.1:7101"
url = "{scheme}://127.0.0.1:7001"
[replica]
name = "n1"
data_dir = "data"
token_file = "{token}"
[tls]
{tls}
"""


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def load_replica(folder: Path, secret: Path, token: Path, tls: str = "", **environ: str) -> str | None:
    scheme = "https" if tls else "http"
    (folder / "n1.toml").write_text(REPLICA.format(secret=secret, token=token, tls=tls, scheme=scheme))
    return coordinator_config.load_config(folder / "n1.toml", environ=environ).token


def good(folder: Path) -> Path:
    path = folder / "good"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def in_cert(folder: Path, key: Path, which: str) -> str:
    names = {f"{which}_cert": good(folder), f"{which}_key": key, f"{which}_ca": good(folder)}
    return "\n".join(f'{name} = "{path}"' for name, path in names.items())


def load_client_key(path: Path) -> None:
    try:
        load_certificates(None, path, path)
    except UsageError as error:
        if "key file" in str(error):
            raise  # else it is a private file, which is no key


READERS: dict[str, Callable[[Path, Path], Any]] = {
    "token of a replica": lambda folder, path: load_replica(folder, good(folder), path),
    "token of a replica, environment": lambda folder, path: load_replica(
        folder, good(folder), good(folder), RAFTFLOW_TOKEN_FILE=str(path)
    ),
    "secret": lambda folder, path: load_replica(folder, path, good(folder)),
    "key of the API": lambda folder, path: load_replica(
        folder, good(folder), good(folder), in_cert(folder, path, "api")
    ),
    "token of an agent": lambda _, path: agent_config.load_config(
        None, {}, {"peers": PEERS, "token_file": str(path)}
    ),
    "token of an agent, environment": lambda _, path: agent_config.load_config(
        None, {"RAFTFLOW_TOKEN_FILE": str(path)}, {"peers": PEERS}
    ),
    "token of a client": lambda _, path: client_settings.resolve({"token_file": str(path)}, {}),
    "token of a client, environment": lambda _, path: client_settings.resolve({}, {"RAFTFLOW_TOKEN_FILE": str(path)}),
    "key of a client": lambda _, path: load_client_key(path),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_what_others_may_read_or_write(private: Path, tmp_path: Path, reader: str) -> None:
    READERS[reader](tmp_path, private)
    for mode in (0o666, 0o644, 0o640, 0o620, 0o604, 0o602):
        private.chmod(mode)
        with pytest.raises((ConfigError, agent_config.AgentConfigError, UsageError), match=f"chmod 600 {private}"):
            READERS[reader](tmp_path, private)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_advice_that_fits(
    private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    wrong = (ConfigError, agent_config.AgentConfigError, UsageError)
    with pytest.raises(wrong, match="does not exist"):
        READERS[reader](tmp_path, tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(wrong, match="directory"):
        READERS[reader](tmp_path, tmp_path / "folder")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(wrong, match="not a regular file"):
        READERS[reader](tmp_path, tmp_path / "fifo")  # and waits for nobody
    opened = os.open

    def closed(path: Any, *rest: Any) -> int:
        if os.fspath(path) == str(private):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest)

    monkeypatch.setattr(private_files.os, "open", closed)
    with pytest.raises(wrong, match=r"cannot be read by user \w+") as refused:
        READERS[reader](tmp_path, private)
    assert "urandom" not in str(refused.value)  # that would overwrite the secret of a cluster
    assert "make one" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"x" * 5_000, "longer than 4096"),
        (b"two words", "one token"),
        (b"\xff" * 20, "one token"),
        (b"line\nline\nline", "has 3 lines"),
        (b"line\ntwo words", "one token"),
    ],
)
def test_contents_that_are_no_token(private: Path, content: bytes, words: str) -> None:
    private.write_bytes(content)
    with pytest.raises(PrivateFileError, match=words) as refused:
        read_token(private)
    assert content.decode("latin-1").strip() not in str(refused.value) or not content.strip()


def test_a_file_of_another_user_is_named_with_its_owner(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_files.os, "geteuid", lambda: 65_534)
    private.chmod(0o644)
    with pytest.raises(PrivateFileError, match="run as "):
        read_token(private)


def test_secrets_of_containers_are_taken(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie on a read-only mount, where nobody can change their mode; they are links in Kubernetes."""

    class Mount:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(private_files.os, "fstatvfs", lambda _: Mount)
    link = private.with_name("link")
    link.symlink_to(private)
    for mode in (0o444, 0o440, 0o644):
        private.chmod(mode)
        assert read_token(link) == TOKEN
    private.chmod(0o666)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        read_token(link)


def test_a_configuration_file_with_a_token_is_private(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'[agent]\npeers = ["{PEERS}"]\ntoken = "{TOKEN}"\n[client]\ntoken = "{TOKEN}"\n')
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        client_settings.resolve({}, {"RAFTFLOW_CONFIG": str(file)})
    file.write_text(f'[agent]\npeers = ["{PEERS}"]\ntoken = "{TOKEN}"\n')
    with pytest.raises(agent_config.AgentConfigError, match="chmod 600"):
        agent_config.load_config(file, {}, {})
    assert agent_config.load_config(file, {"RAFTFLOW_TOKEN": TOKEN}, {}).token == TOKEN  # the file's is not used
    file.chmod(0o600)
    assert agent_config.load_config(file, {}, {}).token == TOKEN


def test_one_place_gives_one_token(private: Path) -> None:
    both = {"RAFTFLOW_TOKEN": TOKEN, "RAFTFLOW_TOKEN_FILE": str(private)}
    with pytest.raises(agent_config.AgentConfigError, match="one of them"):
        agent_config.load_config(None, both, {"peers": PEERS})
    with pytest.raises(UsageError, match="one of them"):
        client_settings.resolve({}, both)
    with pytest.raises(ConfigError, match="one of them"):
        load_replica(private.parent, private, private, **both)
    assert client_settings.resolve({"token_file": str(private)}, {"RAFTFLOW_TOKEN": "other"})["token"] == TOKEN


# --- what takes the place of what


def test_a_variable_that_overrides_a_file_of_a_replica_says_so(
    private: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_replica(tmp_path, private, private) == TOKEN
    assert not caplog.records
    assert load_replica(tmp_path, private, private, RAFTFLOW_TOKEN="u" * 20) == "u" * 20
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"environment variable RAFTFLOW_TOKEN takes the place of replica.token_file in {tmp_path / 'n1.toml'}"
    )
    caplog.clear()
    load_replica(tmp_path, private, private, RAFTFLOW_REPLICA_DATA_DIR="data")
    assert not caplog.records  # it says the same
    load_replica(tmp_path, private, private, RAFTFLOW_REPLICA_DATA_DIR="elsewhere", RAFTFLOW_TIMING_LEASE_MS="5000")
    assert ["data_dir" in record.getMessage() for record in caplog.records] == [True]


def test_a_variable_that_overrides_a_file_of_an_agent_says_so(
    private: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'[agent]\npeers = ["{PEERS}"]\ntoken_file = "{private}"\n')
    assert agent_config.load_config(file, {"RAFTFLOW_PEERS": PEERS}, {}).token == TOKEN
    assert not caplog.records
    variables = {"RAFTFLOW_TOKEN": "u" * 20, "RAFTFLOW_PEERS": "http://other:1"}
    assert agent_config.load_config(file, variables, {}).token == "u" * 20
    told = sorted(record.getMessage() for record in caplog.records)
    assert told == [
        f"environment variable RAFTFLOW_PEERS takes the place of agent.peers in {file}",
        f"environment variable RAFTFLOW_TOKEN takes the place of agent.token_file in {file}",
    ]


# --- a token in use


def write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.rename(path)


def test_a_token_in_use_follows_its_file(private: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = [0.0]
    token = TokenInUse(TOKEN, private, clock=lambda: now_s[0])
    write_private(private, "another-token\n")
    assert token.current() == TOKEN, "it does not look at the file for every request"
    now_s[0] += LOOK_EVERY_S
    assert token.current() == "another-token"
    assert not token.read_again()
    write_private(private, "a third one")
    assert not token.read_again()
    assert token.current() == "another-token"
    private.unlink()
    now_s[0] += LOOK_EVERY_S
    assert token.current() == "another-token"
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["ERROR", "ERROR"]
    assert "another-token" not in caplog.text
    write_private(private, "a-fourth-token")
    assert token.read_again()
    assert token.current() == "a-fourth-token"


def test_a_token_without_a_file_stays() -> None:
    token = TokenInUse(TOKEN)
    assert not token.read_again()
    assert token.current() == TOKEN


# --- what is made, and what was open


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): f"{path.lstat().st_mode & 0o777:04o}"
        for path in sorted(directory.rglob("*"))
    }


@pytest.mark.usefixtures("no_umask")
def test_folders_are_private_with_all_that_is_missing_above_them(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b" / "c")
    assert modes(tmp_path) == {"a": "0700", "a/b": "0700", "a/b/c": "0700"}
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "empty").mkdir(mode=0o777)
    make_folders(tmp_path / "a")
    make_folders(tmp_path / "empty")
    assert modes(tmp_path) == {"a": "0755", "a/b": "0700", "a/b/c": "0700", "empty": "0700"}
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folders(tmp_path / "file")


@pytest.mark.usefixtures("no_umask")
def test_a_folder_is_closed_with_all_that_is_its_own(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.touch(mode=0o644)
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "file").touch(mode=0o640)
    (inside / "private").touch(mode=0o600)
    (inside / "link").symlink_to(outside)
    (inside / "name").hardlink_to(outside)
    os.mkfifo(inside / "fifo", 0o666)
    assert close_to_others(inside) == [str(inside / path) for path in (".", "deep", "deep/file")]
    left = {"inside/fifo": "0666", "inside/link": "0777", "inside/name": "0644", "outside": "0644"}
    closed = {"inside": "0700", "inside/deep": "0700", "inside/deep/file": "0600", "inside/private": "0600"}
    assert modes(tmp_path) == left | closed
    assert close_to_others(inside) == []


def test_what_belongs_to_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch(mode=0o644)
    monkeypatch.setattr(private_files.os, "geteuid", lambda: 65_534)
    assert close_to_others(tmp_path) == []
    assert modes(tmp_path) == {"file": "0644"}
