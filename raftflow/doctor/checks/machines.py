"""Checks of the machines: clocks, disks, CPU, descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raftflow.doctor.checks.replicas import CLUSTER
from raftflow.doctor.facts import ClockSample, ClusterFacts
from raftflow.doctor.findings import CheckResult, Severity, Thresholds, judged
from raftflow.doctor.units import duration, size
from raftflow.domain.contract.views import HostView

_MIB = 1024 * 1024
SKEW_MS: Final = Thresholds(warning=1_000, problem=30_000)
"""Wall clocks may differ: no promise rests on them. Times that users see, and the time at a failover, do."""
RATE: Final = Thresholds(warning=0.02, problem=0.1)
"""Clocks must run at about the same rate: a leader waits a tenth longer than the lease of an agent."""
CLUSTER_TIME_MS: Final = Thresholds(warning=60_000, problem=3_600_000)
FREE_BYTES_MIN: Final = (2048 * _MIB, 512 * _MIB)
"""Less free space is a warning, and a problem."""
FREE_FILES_MIN: Final = (10_000, 500)
SYNC_MS: Final = Thresholds(warning=500, problem=5_000)
"""Time within which 99 of 100 syncs end, the upper bound of a class: more than one took over 100 ms, over 1 s."""
SYNCS_MIN: Final = 100
"""Of fewer syncs the mean alone counts: one slow sync among them says little."""
SYNC_MEAN_MS: Final = Thresholds(warning=20, problem=200)
CPU_PERCENT: Final = Thresholds(warning=50, problem=101)
LATE_SHARE: Final = 0.1
"""Pressure on the CPUs counts only if the replica itself was late by this share of `election_min_ms`."""
IO_PERCENT: Final = Thresholds(warning=25, problem=101)
MEMORY_PERCENT: Final = Thresholds(warning=5, problem=50)
DESCRIPTORS_SHARE: Final = Thresholds(warning=0.8, problem=0.95)
DESCRIPTORS_MIN: Final = 1_024


def check_clocks(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Compare the wall clocks, the rates at which clocks run, and cluster time."""
    yield from _skew(gathered)
    for each in gathered.replicas:
        if len(each.samples) > 1:
            yield _rate(each.name, each.samples[0], each.samples[-1])
    leader = gathered.leader
    if leader is not None and leader.host is not None:
        ahead_ms = leader.host.cluster_time_ms - leader.host.time_ms
        severity = CLUSTER_TIME_MS.judge(abs(ahead_ms))
        yield judged(
            code="cluster-time",
            severity=severity,
            subject=CLUSTER,
            measured=f"{_signed_s(ahead_ms)} against the clock of {leader.name}",
            meaning="A clock was set under a running cluster. Times of workflows and of the audit differ by as much.",
            advice="nothing, if that clock is right now: cluster time follows it, by a tenth of the time that passes",
            page="wrong-clock",
            value=round(ahead_ms / 1000, 3),
            unit="s",
        )


def _skew(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Compare the wall clocks of all replicas with the one in the middle."""
    readings = {
        each.name: min(each.samples, key=lambda sample: sample.round_trip_ms)
        for each in gathered.replicas
        if each.samples
    }
    if not readings:
        return
    offsets = sorted(sample.offset_ms for sample in readings.values())
    middle_ms = offsets[len(offsets) // 2] if len(offsets) > 2 else offsets[0]
    for name, sample in readings.items():
        skew_ms = sample.offset_ms - middle_ms
        unsure_ms = sample.round_trip_ms / 2
        severity = SKEW_MS.judge(max(0.0, abs(skew_ms) - unsure_ms)) if len(readings) > 1 else Severity.OK
        yield judged(
            code="clock-skew",
            severity=severity,
            subject=name,
            measured=f"{_signed_s(skew_ms)} against the other replicas, exact to {unsure_ms / 1000:.3f} s",
            meaning="Its clock is wrong, or theirs are. Deadlines, and times that users see, follow the leader.",
            advice="set the clock of its machine by NTP (`timedatectl`)",
            page="wrong-clock",
            value=round(skew_ms / 1000, 3),
            unit="s",
        )


def _rate(name: str, first: ClockSample, last: ClockSample) -> CheckResult:
    """Compare the rate of a replica's running clock with that of this machine."""
    here_s = (last.sent_s + last.received_s - first.sent_s - first.received_s) / 2
    there_s = (last.running_ms - first.running_ms) / 1000
    unsure = ((first.round_trip_ms + last.round_trip_ms) / 2000 + 0.002) / here_s if here_s > 0 else 1.0
    rate = there_s / here_s if here_s > 0 else 1.0
    severity = RATE.judge(max(0.0, abs(rate - 1) - unsure))
    return judged(
        code="clock-rate",
        severity=severity,
        subject=name,
        measured=f"{rate:.3f} s in one second of this machine, exact to {unsure:.3f} s",
        meaning="One of the two clocks runs too fast or too slow. An agent measures its lease with its own clock, "
        "and the leader waits only a tenth longer.",
        advice="see which machine is wrong (`chronyc tracking`), and take it out of the cluster",
        page="wrong-clock",
        value=round(rate, 3),
        unit="s per s",
    )


def check_disks(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check free space, whether the file system can be written, and how long syncs take."""
    for name, host in gathered.hosts():
        if host.disk is None:
            yield CheckResult(
                code="disk-space",
                severity=Severity.PROBLEM,
                subject=name,
                measured=host.unread or "not known",
                meaning="The disk hangs, or a network file system does not answer.",
                advice="look at the machine's kernel log (`dmesg`)",
                page="slow-disk",
            )
        else:
            yield _space(name, host)
            yield _read_only(name, host)
        yield _syncs(name, host)


def _space(name: str, host: HostView) -> CheckResult:
    disk = host.disk
    assert disk is not None  # noqa: S101 - the caller looks
    share = 100 * disk.free_bytes / disk.size_bytes if disk.size_bytes else 0.0
    measured = f"{size(disk.free_bytes)} free of {size(disk.size_bytes)} ({share:.0f} %) at {disk.path}"
    severity = _at_least(disk.free_bytes, FREE_BYTES_MIN)
    if disk.files_max and _at_least(disk.free_files, FREE_FILES_MIN) is not Severity.OK:
        severity = max(severity, _at_least(disk.free_files, FREE_FILES_MIN), key=list(Severity).index)
        measured += f", {disk.free_files} files can still be made"
    return judged(
        code="disk-space",
        severity=severity,
        subject=name,
        measured=measured,
        meaning="A replica stops when its disk is full.",
        advice="free space, or move the data directory to a larger disk while the replica is stopped",
        page="disk-full",
        value=disk.free_bytes,
        unit="bytes",
    )


def _at_least(value: int, bounds: tuple[int, int]) -> Severity:
    warning, problem = bounds
    if value < problem:
        return Severity.PROBLEM
    return Severity.WARNING if value < warning else Severity.OK


def _read_only(name: str, host: HostView) -> CheckResult:
    disk = host.disk
    assert disk is not None  # noqa: S101 - the caller looks
    return judged(
        code="disk-read-only",
        severity=Severity.PROBLEM if disk.read_only else Severity.OK,
        subject=name,
        measured=f"{disk.path} is {'read-only' if disk.read_only else 'writable'}",
        meaning="The kernel remounts a file system after an error. The replica stops at its next write.",
        advice="look at the machine's kernel log (`dmesg`); repair or replace the disk",
        page="disk-read-only",
    )


def _syncs(name: str, host: HostView) -> CheckResult:
    syncs = host.syncs
    severity = SYNC_MEAN_MS.judge(syncs.mean_ms)
    if syncs.count >= SYNCS_MIN:
        severity = max(severity, SYNC_MS.judge(syncs.p99_ms), key=list(Severity).index)
    return judged(
        code="disk-sync",
        severity=severity,
        subject=name,
        measured=f"{syncs.count} syncs in {duration(syncs.window_s)}: {syncs.mean_ms:.1f} ms in the mean, 99 of 100 "
        f"within {syncs.p99_ms:g} ms",
        meaning="Every write waits for a sync on a majority of the disks.",
        advice="give the data directory a disk of its own; see what else writes there (`iostat -x 1`)",
        page="slow-disk",
        value=syncs.mean_ms,
        unit="ms",
    )


def check_processes(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check descriptors, the lag of the event loop, and how much the machine's threads wait."""
    for name, host in gathered.hosts():
        yield _descriptors(name, host)
        yield _loop_lag(name, host)
        yield from _pressure(name, host)


def _descriptors(name: str, host: HostView) -> CheckResult:
    share = host.open_fds / host.max_fds if host.max_fds > 0 else 0.0
    severity = DESCRIPTORS_SHARE.judge(share)
    low = 0 < host.max_fds < DESCRIPTORS_MIN
    if low and severity is Severity.OK:
        severity = Severity.WARNING
    return judged(
        code="descriptors",
        severity=severity,
        subject=name,
        measured=f"{host.open_fds} open, the limit is {host.max_fds if host.max_fds > 0 else 'none'}",
        meaning="Clients and agents are refused when the descriptors for connections are used up.",
        advice="raise the limit (`ulimit -n`, or LimitNOFILE= of its service), and restart the replica",
        page="limits",
        value=host.open_fds,
        unit="descriptors",
    )


def _loop_lag(name: str, host: HostView) -> CheckResult:
    bounds = Thresholds(warning=host.election_min_ms / 2, problem=host.election_min_ms)
    severity = bounds.judge(host.loop.max_ms)
    return judged(
        code="loop-lag",
        severity=severity,
        subject=name,
        measured=f"{host.loop.max_ms:.0f} ms at most in {duration(host.loop.window_s)}",
        meaning=f"The replica was late. After {host.election_min_ms} ms without its leader, a replica can stand for "
        f"election.",
        advice="give the replica CPU time: fewer tasks on its machine, or a machine of its own",
        page="starved-machine",
        value=host.loop.max_ms,
        unit="ms",
    )


def _pressure(name: str, host: HostView) -> Iterator[CheckResult]:
    for code, share, bounds, what in (
        ("cpu-pressure", host.pressure.cpu_some, CPU_PERCENT, "threads waited for a CPU"),
        ("io-pressure", host.pressure.io_full, IO_PERCENT, "everything waited for disks"),
        ("memory-pressure", host.pressure.memory_full, MEMORY_PERCENT, "everything waited for memory"),
    ):
        if share is None:
            continue
        severity = bounds.judge(share)
        if code == "cpu-pressure" and host.loop.max_ms < host.election_min_ms * LATE_SHARE:
            severity = Severity.OK  # others wait, and the replica does not: it has a better niceness than tasks
        yield judged(
            code=code,
            severity=severity,
            subject=name,
            measured=f"{what} for {share:g} % of the last minute; load {host.load_1m:g} on {host.cpu_count} CPUs",
            meaning="A starved replica answers late, and may lose its leadership.",
            advice="run fewer tasks on its machine (`--cpus` of the agent), or move the replica",
            page="starved-machine",
            value=share,
            unit="percent",
        )


def _signed_s(ms: float) -> str:
    return f"{ms / 1000:+.3f} s"
