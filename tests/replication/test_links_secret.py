"""Where the cluster's secret comes from, and what is refused with advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftflow.replication.net.secret import SecretError, load_secret


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"  sixteen bytes 16\n")
    path.chmod(0o600)
    return path


def test_white_space_around_it_is_stripped(secret_file: Path) -> None:
    assert load_secret(secret_file) == load_secret(str(secret_file)) == b"sixteen bytes 16"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o620, 0o640])
def test_a_file_that_others_may_read_is_refused_with_the_cure(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    with pytest.raises(SecretError, match=f"chmod 600 {secret_file}"):
        load_secret(secret_file)


def test_a_short_one_is_refused(secret_file: Path) -> None:
    secret_file.write_bytes(b"  fifteen bytes 1  ")
    with pytest.raises(SecretError, match="15 bytes; use at least 16"):
        load_secret(secret_file)


def test_a_missing_one_comes_with_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="head -c 32 /dev/urandom"):
        load_secret(tmp_path / "none")
    with pytest.raises(SecretError, match="not a regular file"):
        load_secret("/dev/null")


def test_an_absurdly_long_one_is_refused(secret_file: Path) -> None:
    secret_file.write_bytes(b"x" * 5000)
    with pytest.raises(SecretError, match="longer than 4096"):
        load_secret(secret_file)


def test_the_environment_can_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTFLOW_TEST_SECRET", "0123456789abcdef")
    assert load_secret("env:RAFTFLOW_TEST_SECRET") == b"0123456789abcdef"
    monkeypatch.delenv("RAFTFLOW_TEST_SECRET")
    with pytest.raises(SecretError, match="RAFTFLOW_TEST_SECRET"):
        load_secret("env:RAFTFLOW_TEST_SECRET")
