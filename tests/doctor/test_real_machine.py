"""From a real fault of a machine to the finding: what a replica reads, judged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from raftflow.api.diagnostics import host_facts
from raftflow.api.diagnostics.certificates import certificate_facts, list_facts
from raftflow.api.diagnostics.file_modes import file_modes
from raftflow.authority.folder import AuthorityFolder
from raftflow.coordinator.config.loading import load_config
from raftflow.doctor.examine import examine
from raftflow.doctor.facts import ClusterFacts
from raftflow.local.faults.disk_images import memory_disk
from tests.api.test_tls import make_certificate
from tests.doctor.healthy import change


def bad(gathered: ClusterFacts) -> list[tuple[str, str]]:
    return [(each.severity.value, each.code) for each in examine(gathered).findings if not each.is_ok]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk(tmp_path: Path) -> None:
    with memory_disk(tmp_path, size=4 << 30):  # nothing is written: it costs no memory
        assert bad(change("n2", disk=host_facts._disk_of(tmp_path))) == []
    with memory_disk(tmp_path, size=64 * 1024):
        with contextlib.suppress(OSError), (tmp_path / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert bad(change("n2", disk=host_facts._disk_of(tmp_path))) == [("problem", "disk-space")]


def test_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    cert, _ = make_certificate(tmp_path)  # for two days, of which one is left
    found = certificate_facts("tls.peer_ca", cert)
    for left_h, severity in ((20, []), (12, [("warning", "certificate")]), (2, [("problem", "certificate")])):
        assert bad(change("n2", certificates=[found], time_ms=found.not_after_ms - left_h * 3_600_000)) == severity


def test_a_list_of_revoked_certificates_that_is_old(tmp_path: Path) -> None:
    folder = AuthorityFolder(tmp_path / "ca")
    folder.create()
    found = list_facts("tls.crl", folder.path / "crl.pem")
    days = (found.not_after_ms - found.not_before_ms) / 86_400_000
    assert (found.error, round(days)) == ("", 30)
    assert bad(change("n2", certificates=[found], time_ms=found.not_after_ms + 1)) == [("problem", "certificate")]
    (tmp_path / "no.pem").write_text("no list")
    assert "no list of revoked" in list_facts("tls.crl", tmp_path / "no.pem").error
    assert "cannot be read" in list_facts("tls.crl", tmp_path / "nothing.pem").error


def test_a_secret_that_others_can_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    (tmp_path / "n1.toml").write_text(
        '[cluster]\nid = "c"\nsecret_file = "secret"\n'
        '[[cluster.members]]\nname = "n1"\npeer = "127.0.0.1:1"\nurl = "http://127.0.0.1:2"\n'
        '[replica]\nname = "n1"\ndata_dir = "data"\n'
    )
    (tmp_path / "data").mkdir(mode=0o700)
    config = load_config(tmp_path / "n1.toml", environ={})
    assert bad(change("n2", files=file_modes(config))) == []
    secret.chmod(0o644)
    assert bad(change("n2", files=file_modes(config))) == [("problem", "file-mode")]
