"""Campaigns: many seeds, in several processes. The command line runs these."""

from __future__ import annotations

import gc
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from raftflow.helpers import spawn_context
from raftflow.simulation.run import Report, RunOptions, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class SeedFailure(msgspec.Struct, frozen=True):
    """A violation and the seed that shows it."""

    seed: int
    kind: str
    detail: str


class Summary(msgspec.Struct):
    """What a campaign found."""

    seeds: int = 0
    violations: list[SeedFailure] = []
    faults: dict[str, int] = {}
    """How many faults of each kind took effect."""
    commands: dict[str, int] = {}
    """How many commands of each kind had an effect, by tag."""
    acknowledged: int = 0
    entries: int = 0
    reads: int = 0
    simulated_s: float = 0.0

    def add(self, report: Report) -> None:
        """Count one run."""
        self.seeds += 1
        self.violations += [SeedFailure(report.seed, found.kind, found.detail) for found in report.violations]
        self.faults = dict(sorted((Counter(self.faults) + Counter(report.faults)).items()))
        self.commands = dict(sorted((Counter(self.commands) + Counter(report.commands)).items()))
        self.acknowledged += report.acknowledged
        self.entries += report.entries
        self.reads += report.reads
        self.simulated_s = round(self.simulated_s + report.simulated_s, 3)


def _prepare() -> None:
    """Keep imported modules out of the garbage collections after each run."""
    gc.collect()
    gc.freeze()


def _run(task: tuple[int, RunOptions]) -> Report:
    seed, options = task
    report = simulate(seed, options)
    if not report.violations:
        report.trace = []
    return report


def run_many(seeds: Iterable[int], options: RunOptions, *, jobs: int = 1) -> Iterator[Report]:
    """Run seeds in `jobs` processes; the reports come as they are done, those without a violation without a trace."""
    tasks: list[tuple[int, RunOptions]] = [(seed, options) for seed in seeds]
    if jobs <= 1 or len(tasks) == 1:
        for task in tasks:
            yield _run(task)
        return
    context = spawn_context()
    with context.Pool(jobs, initializer=_prepare) as pool:
        yield from pool.imap_unordered(_run, tasks, chunksize=1)


def campaign(
    seeds: Iterable[int],
    options: RunOptions,
    *,
    jobs: int = 1,
    progress: Callable[[Report], None] = lambda _report: None,
) -> Summary:
    """Run seeds and sum up."""
    summary = Summary()
    for report in run_many(seeds, options, jobs=jobs):
        summary.add(report)
        progress(report)
    summary.violations.sort(key=lambda found: found.seed)
    return summary
