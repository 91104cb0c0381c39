"""`raftflow chaos run`: a cluster, a load, faults, a history, and the verdict of the checker."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from raftflow.chaos.ending import write_final
from raftflow.chaos.history import FORMAT, HistoryWriter
from raftflow.chaos.making import TestbedPlan, existing_testbed, testbed
from raftflow.chaos.nemesis.catalogue import FAULTS, needs_disks, possible_faults
from raftflow.chaos.nemesis.kinds import NotRecoveredError
from raftflow.chaos.nemesis.nemesis import RECOVERY_S, Nemesis
from raftflow.chaos.page import write_page
from raftflow.chaos.testbed import Testbed, collector_path
from raftflow.chaos.undo import UndoList
from raftflow.chaos.verdict import ChaosReport, CheckerViolation, check, recoveries
from raftflow.chaos.workload.clients import Workload, WorkloadSettings
from raftflow.chaos.workload.instances import WorkflowInstance, read_instances
from raftflow.client.errors import ClientError
from raftflow.local.cluster_file import LocalClusterError
from raftflow.private_files import make_folders

_STOPS_S: Final = 60.0
_FIRST_WRITES_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What a run is asked for."""

    replicas: int = 3
    agents: int = 3
    minutes: float = 1.0
    seed: int = 1
    faults: tuple[str, ...] = ()
    """Only these kinds; all that are possible here if it is empty."""
    directory: Path | None = None
    """Where history, report and cluster go: a new temporary directory by default."""
    keep: bool = False
    """Keep the data of the cluster, also if nothing was found."""
    network: str = "auto"
    """`namespaces`, `proxies`, or `auto`: namespaces where they are allowed."""
    cluster: Path | None = None
    """The directory of a local cluster that is used in place of a new one."""
    i_mean_it: bool = False
    """Use it although it was not made for chaos."""


def run_chaos(options: ChaosOptions, say: Callable[[str], None]) -> ChaosReport:
    """Run, check and report. Raises `LocalClusterError`, `ClientError`, `CheckerFailedError`, `KeyboardInterrupt`."""
    if options.directory is None:
        directory = Path(tempfile.mkdtemp(prefix="raftflow-chaos-"))
    else:
        directory = options.directory.absolute()
        make_folders(directory)
    with _interruptible(), (directory / "watchdog.log").open("ab") as log:
        undo = UndoList(log)
        try:
            report = _run(options, directory, undo, say)
        finally:
            with _uninterrupted():
                undo.close()
    page = directory / "report.html"
    write_page(report, {fault.name: fault.about for fault in FAULTS}, page)
    report.report = str(page)
    (directory / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    if not report.violations and not options.keep:
        shutil.rmtree(directory / "cluster", ignore_errors=True)
    return report


def _run(options: ChaosOptions, directory: Path, undo: UndoList, say: Callable[[str], None]) -> ChaosReport:
    history_path = directory / "history.jsonl"
    settings = WorkloadSettings(options.seed, f"chaos-{secrets.token_hex(3)}", str(collector_path()))
    instances, which = read_instances()
    say(which)
    with HistoryWriter(history_path) as history:
        history.write(
            "header",
            version=FORMAT,
            seed=options.seed,
            replicas=options.replicas,
            agents=options.agents,
            system="raftflow",
            collector="local",
            bounds={"recovery_s": RECOVERY_S, "overlap": "backups"},
            workload=msgspec.to_builtins(settings),
        )
        say(f"{options.replicas} replicas, {options.agents} agents, history and report under {directory}")
        with _testbed(options, directory, history, undo) as bed:
            faults, impossible = possible_faults(bed, options.faults)
            for reason, names in _by_reason(impossible).items():
                say(f"impossible here: {', '.join(names)}: {reason}")
            nemesis = Nemesis(bed, faults, options.seed, say, RECOVERY_S)
            workload = bed.loop.call(_make_workload(settings, instances, bed))
            trouble = _inject(options, workload, bed, nemesis, say)
            attempts = bed.collector.started
        acknowledged = history.acknowledged
    say("checking the history")
    answer = check(history_path)
    violations = [*trouble.violations, *answer.violations]
    return ChaosReport(
        seed=options.seed,
        faults=dict(sorted(nemesis.report.counts.items())),
        acknowledged=acknowledged,
        tasks=trouble.tasks,
        violations=[msgspec.to_builtins(each) for each in violations],
        recovery_s=recoveries(nemesis.report.recovery_s),
        history=str(history_path),
        replicas=options.replicas,
        agents=options.agents,
        minutes=options.minutes,
        pairs=nemesis.report.pairs,
        without_effect=dict(sorted(nemesis.report.without_effect.items())),
        impossible=impossible,
        operations=answer.operations,
        unknown=answer.unknown,
        attempts=attempts,
        instances=dict(sorted(workload.known.instances.items())),
    )


def _by_reason(impossible: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in impossible.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _testbed(
    options: ChaosOptions, directory: Path, history: HistoryWriter, undo: UndoList
) -> contextlib.AbstractContextManager[Testbed]:
    if options.cluster is not None:
        return existing_testbed(options.cluster, history, undo, i_mean_it=options.i_mean_it)
    plan = TestbedPlan(options.replicas, options.agents, needs_disks(options.faults), options.network)
    return testbed(directory / "cluster", plan, history, undo)


@dataclass(slots=True)
class InjectionEnd:
    """What was seen outside of the history while faults were injected."""

    violations: list[CheckerViolation]
    tasks: int


def _inject(
    options: ChaosOptions, workload: Workload, bed: Testbed, nemesis: Nemesis, say: Callable[[str], None]
) -> InjectionEnd:
    """Run load and nemesis, then let everything come to its end."""
    history = bed.history
    found: list[CheckerViolation] = []
    running = bed.loop.begin(workload.run())
    try:
        if history.wait_acknowledged(0.0, _FIRST_WRITES_S) is None:
            raise LocalClusterError(f"the cluster acknowledged nothing within {_FIRST_WRITES_S:g} s")
        nemesis.run(options.minutes * 60)
    except NotRecoveredError as error:
        found.append(CheckerViolation(kind="recovery", text=str(error), at=history.now_s()))
    finally:
        bed.loop.soon(workload.stop)
    running.result(_STOPS_S)
    say("all faults are undone; waiting for the work to end")
    try:
        problems = write_final(bed, workload.known.settings.run)
    except (LocalClusterError, ClientError) as error:
        found.append(
            CheckerViolation(kind="recovery", text=f"the cluster cannot be read: {error}", at=history.now_s())
        )
        problems = []
    found += [CheckerViolation(kind="replicas", text=line, at=history.now_s()) for line in problems]
    return InjectionEnd(found, workload.known.tasks)


async def _make_workload(settings: WorkloadSettings, instances: Sequence[WorkflowInstance], bed: Testbed) -> Workload:
    return Workload(bed.history, lambda: bed.cluster.urls, bed.cluster.token, settings, instances)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the run as Ctrl-C does, so that everything is undone."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals off while faults are undone."""
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[signal.Signals, Any] = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
