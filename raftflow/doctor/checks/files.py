"""Checks of files: who may use them, certificates, damage, snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from raftflow.doctor.facts import ClusterFacts
from raftflow.doctor.findings import CheckResult, Severity, Thresholds, judged
from raftflow.doctor.units import duration, moment
from raftflow.domain.contract.cluster import CertificateFacts, FileMode, SavedSnapshotFacts

_DAY_MS: Final = 24 * 3600 * 1000
EXPIRY_DAYS_MIN: Final = (30.0, 7.0)
"""A certificate that is valid for less is a warning, and a problem,"""
EXPIRY_SHARES: Final = (1 / 3, 1 / 10)
"""if no more than this share of its lifetime is left. Certificates may have short lives."""
SNAPSHOT_AGE: Final = Thresholds(warning=2, problem=10)
"""Age of the newest snapshot, in periods of `snapshot.every`."""


def check_files(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check modes of files, and files that were set aside."""
    for name, host in gathered.hosts():
        exposed = [file for file in host.files if file.exposed or file.error]
        yield from (_exposed(name, file) for file in exposed)
        if not exposed and host.files:
            measured = f"{len(host.files)} files and directories, none is open to others"
            yield CheckResult(code="file-mode", severity=Severity.OK, subject=name, measured=measured)
        if host.damaged_files:
            yield CheckResult(
                code="damaged-files",
                severity=Severity.WARNING,
                subject=name,
                measured=f"set aside: {', '.join(host.damaged_files)}",
                meaning="The replica found damaged files, and took their content from the others.",
                advice="check the disk (`smartctl -a`, `dmesg`); then remove these files",
                page="flipped-bits",
                value=len(host.damaged_files),
                unit="files",
            )


def _exposed(name: str, file: FileMode) -> CheckResult:
    if file.error:
        return CheckResult(
            code="file-mode",
            severity=Severity.WARNING,
            subject=name,
            measured=f"{file.setting} {file.path}: {file.error}",
            meaning="The replica read it at its start, and cannot read it any more: it will not start again.",
            advice="put the file back",
        )
    secret = file.setting not in {"replica.data_dir", "snapshot.dir", "configuration"}
    meaning = "Other users of the machine may change it." if file.exposed == "writable" else "Others may read it."
    if secret:
        meaning += (
            " Treat the key, token or secret in it as known to them. The replica refuses the file at its next start."
        )
    return CheckResult(
        code="file-mode",
        severity=Severity.PROBLEM,
        subject=name,
        measured=f"{file.setting} {file.path} has mode {file.mode}",
        meaning=meaning,
        advice=f"run: chmod go-rwx {file.path}" + ("; then make a new key, token or secret" if secret else ""),
    )


def check_certificates(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check until when certificates are valid, and for which names."""
    peers = {member.name: f"tcp://{member.peer}" for member in gathered.members}
    urls = {each.name: each.url for each in gathered.replicas}
    for name, host in gathered.hosts():
        for certificate in host.certificates:
            yield _validity(name, certificate, host.time_ms)
            addresses = {"tls.api_cert": urls, "tls.peer_cert": peers}.get(certificate.setting, {})
            if name in addresses and not certificate.error:
                yield from _names(name, certificate, addresses[name])


def _validity(name: str, certificate: CertificateFacts, now_ms: int) -> CheckResult:
    where = f"{certificate.setting} {certificate.path}"
    if certificate.error:
        return CheckResult(
            code="certificate",
            severity=Severity.PROBLEM,
            subject=name,
            measured=f"{where}: {certificate.error}",
            meaning="The replica uses what it read before, and will not start again.",
            advice="put a certificate in PEM form there",
            page="certificate-expired",
        )
    days = (certificate.not_after_ms - now_ms) / _DAY_MS
    if certificate.not_before_ms > now_ms:
        severity, measured = Severity.PROBLEM, f"{where} is valid only from {moment(certificate.not_before_ms)} on"
    else:
        severity = _severity(days, (certificate.not_after_ms - certificate.not_before_ms) / _DAY_MS)
        told = f"for {days:.0f} more days" if days >= 2 else f"for {days * 24:.0f} more hours"
        until = moment(certificate.not_after_ms)
        measured = f"{where} is valid {told}, until {until}" if days > 0 else f"{where} has expired, on {until}"
    return judged(
        code="certificate",
        severity=severity,
        subject=name,
        measured=measured,
        meaning="Clients, agents or replicas refuse a connection with a certificate that is not valid.",
        advice="issue a new one and replace the file: the replica reads it within half a minute",
        page="certificate-expired",
        value=round(days, 2),
        unit="days",
    )


def _severity(days: float, lifetime_days: float) -> Severity:
    """Return how bad it is that a certificate is valid for so many more days."""
    pairs = zip(EXPIRY_DAYS_MIN, EXPIRY_SHARES, strict=True)
    warns, fails = (days < least and days < share * lifetime_days for least, share in pairs)
    if fails or days <= 0:
        return Severity.PROBLEM
    return Severity.WARNING if warns else Severity.OK


def _names(name: str, certificate: CertificateFacts, url: str) -> Iterator[CheckResult]:
    host = urlsplit(url).hostname or ""
    fits = any(_matches(pattern, host) for pattern in certificate.names)
    if host and not fits:
        yield CheckResult(
            code="certificate-names",
            severity=Severity.PROBLEM,
            subject=name,
            measured=f"{certificate.setting} is for {', '.join(certificate.names) or 'no name'}, and the address "
            f"of the replica has {host}",
            meaning="Clients and replicas refuse a connection to an address that the certificate does not name.",
            advice=f"issue a certificate with the name {host}",
            page="certificate-expired",
        )


def _matches(pattern: str, host: str) -> bool:
    """Compare a name of a certificate with a host; `*` stands for one label at the left (RFC 9525)."""
    pattern, host = pattern.lower(), host.lower()
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:]
    return pattern == host


def check_snapshots(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check the age of the newest snapshot of each replica that saves them."""
    saving = [(name, host.snapshots, host.time_ms) for name, host in gathered.hosts() if host.snapshots is not None]
    if not saving:
        if any(True for _ in gathered.hosts()):
            yield CheckResult(
                code="snapshots",
                severity=Severity.OK,
                subject="cluster",
                measured="no replica saves snapshots by itself (`snapshot.every`)",
                meaning="A snapshot is the way back when a majority of the disks is lost.",
                advice="save one with `raftflow snapshot save FILE`, or set `snapshot.every` and `snapshot.dir`",
                page="majority-disks-lost",
            )
        return
    for name, snapshots, now_ms in saving:
        yield _age(name, snapshots, now_ms)


def _age(name: str, snapshots: SavedSnapshotFacts, now_ms: int) -> CheckResult:
    every = f"one is saved every {duration(snapshots.every_s)} in {snapshots.directory}"
    age_s = None if snapshots.newest_ms is None else (now_ms - snapshots.newest_ms) / 1000
    if snapshots.error or age_s is None:
        severity, measured = Severity.PROBLEM, f"none; {every}"
        if snapshots.error:
            measured = f"{snapshots.directory}: {snapshots.error}"
    else:
        severity = SNAPSHOT_AGE.judge(max(0.0, age_s - 60) / max(snapshots.every_s, 1.0))
        measured = f"the newest of {snapshots.count} is {duration(max(0.0, age_s))} old; {every}"
    return judged(
        code="snapshots",
        severity=severity,
        subject=name,
        measured=measured,
        meaning="Snapshots are not saved as they should be: the way back may lead to an old state.",
        advice="the log of the replica says why; `raftflow snapshot save FILE` saves one now",
        page="snapshot-damaged",
        value=None if age_s is None else round(age_s, 1),
        unit="" if age_s is None else "s",
    )
