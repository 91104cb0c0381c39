"""What a replica says of its machine: `GET /v1/host`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import resource
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from raftflow.api.diagnostics import host_facts
from raftflow.api.diagnostics.certificates import certificate_facts
from raftflow.api.diagnostics.file_modes import EXPOSED_MAX, file_modes
from raftflow.api.diagnostics.host_facts import HostFacts
from raftflow.api.diagnostics.pressure import pressure_stall
from raftflow.api.diagnostics.watch import SAMPLE_TICKS, TICK_S, ReplicaWatch
from raftflow.coordinator.config.loading import load_config
from raftflow.coordinator.config.replica_config import CoordinatorConfig, SavedSnapshots, Tls
from raftflow.domain.contract.cluster import HostView
from raftflow.local.faults.disk_images import memory_disk
from raftflow.replication.histogram import DISK_BOUNDS_S, Histogram
from tests.api.test_tls import make_certificate


async def host_of(served: Any) -> HostView:
    answer = await served.get("/v1/host")
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=HostView)


async def test_a_replica_tells_of_its_machine(one: Any) -> None:
    view = await host_of(one)
    assert (view.name, view.unread) == ("n1", "")
    assert abs(view.time_ms - view.cluster_time_ms) < 5_000
    assert view.max_fds == resource.getrlimit(resource.RLIMIT_NOFILE)[0] and 0 < view.open_fds < view.max_fds
    assert view.disk is not None and view.disk.path == str(one.config.data_dir)
    assert view.disk.size_bytes > view.disk.free_bytes > 0 and not view.disk.read_only
    assert (view.snapshots, view.repairing, view.damaged_files, view.certificates) == (None, False, [], [])
    assert [(file.setting, file.exposed) for file in view.files] == [("replica.data_dir", "")]


async def test_a_token_is_needed_and_no_secret_is_told(serve: Any) -> None:
    token = "t" * 32
    served = await serve(token=token)
    assert (await served.get("/v1/host")).status == 401
    answer = await served.get("/v1/host", headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 200
    assert token.encode() not in answer.body and served.config.secret not in answer.body


async def test_the_limit_of_descriptors_is_that_of_now(one: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, hard))
    try:
        assert (await host_of(one)).max_fds == 777
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_read_only_disk_without_space(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(
        f_bavail=3, f_frsize=4096, f_blocks=1000, f_favail=7, f_files=100, f_flag=os.ST_RDONLY | os.ST_NOSUID
    )
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    disk = (await host_of(one)).disk
    assert disk is not None
    assert (disk.free_bytes, disk.size_bytes, disk.free_files, disk.read_only) == (12_288, 4_096_000, 7, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_system_that_is_full_and_then_read_only(tmp_path: Path) -> None:
    """A real one, of some pages."""
    with memory_disk(tmp_path, size=64 * 1024):
        before = host_facts._disk_of(tmp_path)
        assert (before.free_bytes, before.read_only) == (64 * 1024, False)
        with contextlib.suppress(OSError), (tmp_path / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert host_facts._disk_of(tmp_path).free_bytes == 0
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        assert host_facts._disk_of(tmp_path).read_only


async def test_a_wrong_clock_is_told_as_it_is(one: Any) -> None:
    clock = SimpleNamespace(now_ms=lambda: 1_000, running_s=lambda: 7.5)
    view = await HostFacts(one.replica, Histogram(DISK_BOUNDS_S), clock).view()
    assert (view.time_ms, view.running_ms) == (1_000, 7_500)


async def test_a_disk_that_hangs_holds_nobody_up(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is told in time, and one thread waits for the disk, however often somebody asks."""
    released, started = threading.Event(), []
    monkeypatch.setattr(host_facts, "READ_S", 0.05)

    def hang(config: CoordinatorConfig) -> Any:
        started.append(config)
        released.wait(20)
        return read(config)

    read = host_facts._read_files
    monkeypatch.setattr(host_facts, "_read_files", hang)
    facts = HostFacts(one.replica, Histogram(DISK_BOUNDS_S))
    try:
        for _ in range(3):
            view = await facts.view()
            assert (view.disk, view.unread) == (None, "its file systems did not answer within 0.05 s")
    finally:
        released.set()
    assert len(started) == 1
    monkeypatch.setattr(host_facts, "READ_S", 20.0)
    assert (await facts.view()).disk is not None


async def test_a_data_directory_that_is_gone(one: Any) -> None:
    one.replica.config = msgspec.structs.replace(one.config, data_dir=one.config.data_dir / "gone")
    view = await HostFacts(one.replica, Histogram(DISK_BOUNDS_S)).view()
    assert view.unread == "the data directory cannot be read: No such file or directory"


async def test_damage_and_repair_are_told(one: Any) -> None:
    directory = one.config.data_dir
    (directory / "repair").write_text("{}")
    (directory / "audit" / "x.damaged-1").write_text("")
    view = await host_of(one)
    assert (view.repairing, view.damaged_files) == (True, ["audit/x.damaged-1"])
    assert [(file.path, file.exposed) for file in view.files if file.exposed] == [
        (str(directory / "repair"), "readable"),
        (str(directory / "audit" / "x.damaged-1"), "readable"),
    ]


# --- modes of files


@pytest.fixture
def config(tmp_path: Path) -> CoordinatorConfig:
    """A configuration with a secret, a token and keys, all private."""
    cert, key = make_certificate(tmp_path)
    for name in ("secret", "token"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text("0123456789abcdef0123456789abcdef")
    file = tmp_path / "n1.toml"
    tls = "\n".join(
        f'{name} = "{path.name}"'
        for name, path in (
            ("api_cert", cert),
            ("api_key", key),
            ("api_ca", cert),
            ("peer_cert", cert),
            ("peer_key", key),
            ("peer_ca", cert),
        )
    )
    file.write_text(
        '[cluster]\nid = "c"\nsecret_file = "secret"\n'
        '[[cluster.members]]\nname = "n1"\npeer = "127.0.0.1:1"\nurl = "https://127.0.0.1:2"\n'
        f'[replica]\nname = "n1"\ndata_dir = "data"\ntoken_file = "token"\n[tls]\n{tls}\n'
    )
    for folder in (tmp_path / "data", tmp_path / "data" / "journal"):
        folder.mkdir(mode=0o700)
    return load_config(file, environ={})


def exposed(config: CoordinatorConfig) -> dict[str, tuple[str, str]]:
    return {file.setting: (file.mode, file.exposed) for file in file_modes(config) if file.exposed}


PRIVATE = ["cluster.secret_file", "replica.token_file", "tls.api_key", "tls.peer_key"]


def test_private_files_are_fine(config: CoordinatorConfig) -> None:
    assert [file.setting for file in file_modes(config)] == [*PRIVATE, "configuration", "replica.data_dir"]
    assert exposed(config) == {}


@pytest.mark.parametrize("setting", PRIVATE)
@pytest.mark.parametrize(("mode", "told"), [(0o640, "readable"), (0o604, "readable"), (0o620, "writable")])
def test_a_private_file_that_others_may_use(config: CoordinatorConfig, setting: str, mode: int, told: str) -> None:
    path = dict(config.private_files)[setting]
    path.chmod(mode)
    assert exposed(config)[setting] == (f"{mode:04o}", told)


def test_a_configuration_may_be_read_and_not_written(config: CoordinatorConfig) -> None:
    assert config.file is not None
    config.file.chmod(0o644)
    assert exposed(config) == {}
    config.file.chmod(0o664)
    assert exposed(config) == {"configuration": ("0664", "writable")}


def test_the_data_directory_and_its_files(config: CoordinatorConfig) -> None:
    (config.data_dir / "journal" / "1").touch(mode=0o600)
    assert exposed(config) == {}
    config.data_dir.chmod(0o755)
    assert exposed(config) == {"replica.data_dir": ("0755", "readable")}
    config.data_dir.chmod(0o700)
    (config.data_dir / "journal").chmod(0o720)
    assert exposed(config) == {"replica.data_dir": ("0720", "writable")}
    (config.data_dir / "journal").chmod(0o700)
    for number in range(EXPOSED_MAX + 5):
        (config.data_dir / "journal" / f"open{number}").touch()
        (config.data_dir / "journal" / f"open{number}").chmod(0o644)
    assert len([file for file in file_modes(config) if file.exposed == "readable"]) == EXPOSED_MAX
    config.data_dir.chmod(0o777)
    assert ("0777", "writable") in [(file.mode, file.exposed) for file in file_modes(config)]


def test_a_file_that_is_gone_is_told(config: CoordinatorConfig) -> None:
    dict(config.private_files)["tls.api_key"].unlink()
    (gone, _) = [file for file in file_modes(config) if file.error]
    assert (gone.setting, gone.error) == ("tls.api_key", "it cannot be read: No such file or directory")


# --- certificates


def test_a_certificate_is_read_as_an_independent_library_reads_it(tmp_path: Path) -> None:
    from cryptography import x509

    cert, _ = make_certificate(tmp_path)
    known = x509.load_pem_x509_certificate(cert.read_bytes())
    found = certificate_facts("tls.api_cert", cert)
    assert (found.error, found.subject, found.names) == ("", "n1", ["127.0.0.1"])
    assert found.not_after_ms == known.not_valid_after_utc.timestamp() * 1000
    assert found.not_before_ms == known.not_valid_before_utc.timestamp() * 1000


@pytest.mark.parametrize("year", [1950, 2049, 2050, 2999])
def test_names_and_times_of_every_kind(tmp_path: Path, year: int) -> None:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    until = dt.datetime(year, 6, 1, 12, 30, 15, tzinfo=dt.UTC)
    names = [
        x509.DNSName("*.example"),
        x509.IPAddress(ipaddress.ip_address("::1")),
        x509.RFC822Name("a@b"),
        x509.DNSName("x" * 60),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(dt.datetime(1950, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names * 10), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "c.pem"
    file.write_bytes(b"some text\n" + certificate.public_bytes(serialization.Encoding.PEM) * 2)
    found = certificate_facts("tls.peer_ca", file)
    assert (found.error, found.subject) == ("", "")
    assert found.names == ["*.example", "::1", "x" * 60] * 10
    assert found.not_after_ms == until.timestamp() * 1000


def test_a_file_without_a_certificate(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    assert certificate_facts("s", key).error == "it has no certificate in PEM form"
    assert certificate_facts("s", tmp_path / "none").error == "it cannot be read: No such file or directory"
    assert certificate_facts("s", tmp_path).error == "it cannot be read: Is a directory"
    lines = cert.read_text().splitlines()
    for broken in (lines[:2] + lines[-1:], [lines[0], "AAAA", lines[-1]], [lines[0], "!", lines[-1]]):
        (tmp_path / "broken").write_text("\n".join(broken))
        assert certificate_facts("s", tmp_path / "broken").error.startswith("its certificate is not understood: ")


def test_bytes_that_are_damaged_anywhere_never_fail(tmp_path: Path) -> None:
    import base64
    import random
    import ssl

    cert, _ = make_certificate(tmp_path)
    der = ssl.PEM_cert_to_DER_cert(cert.read_text())
    rng = random.Random(5)
    for _ in range(300):
        place = rng.randrange(len(der))
        damaged = der[:place] + bytes([rng.randrange(256)]) + der[place + 1 : rng.randrange(place, len(der)) + 1]
        text = base64.b64encode(damaged).decode()
        cert.write_text(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        certificate_facts("s", cert)


async def test_certificates_of_a_replica(one: Any, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    one.replica.config = msgspec.structs.replace(
        one.config, tls=Tls(api_cert=cert, api_key=key, api_ca=cert, peer_cert=cert, peer_key=key, peer_ca=cert)
    )
    settings = [each.setting for each in (await host_of(one)).certificates]
    assert settings == ["tls.api_cert", "tls.api_ca", "tls.peer_cert", "tls.peer_ca"]


# --- pressure, snapshots


def test_pressure_of_a_kernel_that_has_it(tmp_path: Path) -> None:
    assert pressure_stall(tmp_path) == pressure_stall(tmp_path / "none")
    (tmp_path / "cpu").write_text("some avg10=1.00 avg60=2.50 avg300=3.00 total=4\n")
    (tmp_path / "io").write_text(
        "some avg10=9.00 avg60=9.00 avg300=9.00 total=9\nfull avg10=0.00 avg60=0.75 avg300=0.00 total=1\n"
    )
    (tmp_path / "memory").write_text("full avg10\n")
    found = pressure_stall(tmp_path)
    assert (found.cpu_some, found.io_full, found.memory_full) == (2.5, 0.75, None)


async def test_the_age_of_the_newest_snapshot(one: Any, tmp_path: Path) -> None:
    saved = SavedSnapshots(every_ms=60_000, keep=3, directory=tmp_path)
    one.replica.config = msgspec.structs.replace(one.config, snapshot=saved)
    found = (await host_of(one)).snapshots
    assert found is not None and (found.count, found.newest_ms, found.error) == (0, None, "")
    for number, name in enumerate(
        ["test.n1.20261130T071500Z", "test.n1.20261130T071600Z", "test.n2.20261130T071700Z"]
    ):
        (tmp_path / f"{name}.snapshot").touch()
        os.utime(tmp_path / f"{name}.snapshot", (1_000 + number, 1_000 + number))
    found = (await host_of(one)).snapshots
    assert found is not None and (found.count, found.newest_ms) == (2, 1_001_000)
    one.replica.config = msgspec.structs.replace(
        one.config, snapshot=SavedSnapshots(every_ms=60_000, directory=tmp_path / "none")
    )
    found = (await host_of(one)).snapshots
    assert found is not None and found.error == "it cannot be read: No such file or directory"


# --- what happened lately


class FakeLoop:
    """A clock that is set by hand, and the timers that wait for it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, at_s: float, work: Callable[[], None]) -> Any:
        entry = (at_s, work)
        self.timers.append(entry)
        return SimpleNamespace(cancel=lambda: self.timers.remove(entry))

    def tick(self, late_s: float = 0.0) -> None:
        """Let the next timer fire, late by so much."""
        at_s, work = self.timers.pop(0)
        self.now_s = at_s + late_s
        work()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A watch over a replica that only has a term and agents."""
    loop = FakeLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    stamp = SimpleNamespace(term=4)
    agents: dict[str, Any] = {}
    replica: Any = SimpleNamespace(
        log=SimpleNamespace(stamp=lambda: stamp), machine=SimpleNamespace(tables=SimpleNamespace(agents=agents))
    )
    syncs = Histogram(DISK_BOUNDS_S)
    watch = ReplicaWatch(replica, syncs)
    watch.start()
    return SimpleNamespace(loop=loop, stamp=stamp, agents=agents, syncs=syncs, watch=watch)


def test_the_lag_of_the_loop_is_that_of_the_last_minute(watched: Any) -> None:
    watched.loop.tick(late_s=0.25)
    assert (watched.watch.loop_lag().max_ms, watched.watch.loop_lag().window_s) == (250.0, 1.0)
    for _ in range(60):
        watched.loop.tick(late_s=0.001)
    assert (watched.watch.loop_lag().max_ms, watched.watch.loop_lag().window_s) == (1.0, 60.0)


def test_terms_of_the_last_hour(watched: Any) -> None:
    watched.stamp.term = 9
    assert watched.watch.terms().terms == 5
    for _ in range(round(3_700 / TICK_S)):
        watched.loop.tick()
    found = watched.watch.terms()
    assert (found.terms, 3_580 < found.window_s <= 3_610) == (0, True)


def test_syncs_of_the_last_five_minutes(watched: Any) -> None:
    for _ in range(99):
        watched.syncs.note(0.0015)
    watched.syncs.note(0.3)
    found = watched.watch.sync_times()
    assert (found.count, found.p99_ms) == (100, 2.0)
    assert found.mean_ms == pytest.approx(4.485)
    watched.syncs.note(9.0)
    watched.syncs.note(9.0)
    assert watched.watch.sync_times().p99_ms == 5_000.0
    for _ in range(320):
        watched.loop.tick()
    assert watched.watch.sync_times().count == 0


def test_agents_are_drained_since_they_were_seen_so(watched: Any) -> None:
    watched.agents.update(
        {"a1": SimpleNamespace(name="a1", drained=True), "a2": SimpleNamespace(name="a2", drained=False)}
    )
    for _ in range(3 * SAMPLE_TICKS):
        watched.loop.tick()
    (found,) = watched.watch.drained_agents()
    assert (found.name, found.for_s) == ("a1", 20.0)
    watched.agents["a1"].drained = False
    for _ in range(SAMPLE_TICKS):
        watched.loop.tick()
    assert watched.watch.drained_agents() == []


def test_a_watch_that_was_stopped_leaves_no_timer(watched: Any) -> None:
    watched.watch.stop()
    watched.watch.stop()
    assert watched.loop.timers == []
