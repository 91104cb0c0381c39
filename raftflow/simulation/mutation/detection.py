"""Runs planted faults until the simulation detects them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

from raftflow.helpers import spawn_context
from raftflow.replication.raft.rules import NO_RULES
from raftflow.simulation.mutation.mutants import MUTANTS
from raftflow.simulation.plan import FAMILIES, RunOptions
from raftflow.simulation.run import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.simulation.mutation.mutant import Mutant


class MutantResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how a mutant was found."""

    mutant: str
    found: bool
    seed: int | None
    kind: str
    detail: str
    tried: int
    """Seeds that were run."""
    seeds_max: int


def hunt(mutant: Mutant, first_seed: int = 0) -> MutantResult:
    """Run seeds until the mutant shows, or until its number of seeds is over.

    A seed counts only if the run without the mutant is clean.
    """
    options = RunOptions(disabled_rules=NO_RULES if mutant.rule is None else frozenset({mutant.rule}))
    seeds = (seed for seed in itertools.count(first_seed) if mutant.family in (None, FAMILIES[seed % len(FAMILIES)]))
    for tried, seed in enumerate(itertools.islice(seeds, mutant.seeds_max), 1):
        with mutant.plant():
            report = simulate(seed, options)
        if report.violations and not simulate(seed, RunOptions()).violations:
            found = report.violations[0]
            return MutantResult(
                mutant=mutant.name,
                found=True,
                seed=seed,
                kind=found.kind,
                detail=found.detail,
                tried=tried,
                seeds_max=mutant.seeds_max,
            )
    return MutantResult(
        mutant=mutant.name,
        found=False,
        seed=None,
        kind="",
        detail="",
        tried=mutant.seeds_max,
        seeds_max=mutant.seeds_max,
    )


def hunt_named(name: str) -> MutantResult:
    """Hunt the mutant of that name."""
    return hunt(next(mutant for mutant in MUTANTS if mutant.name == name))


def hunt_all(names: list[str], *, jobs: int = 1) -> Iterator[MutantResult]:
    """Hunt mutants in several processes; the findings come in the order of the names."""
    if jobs <= 1 or len(names) == 1:
        yield from map(hunt_named, names)
        return
    context = spawn_context()
    with context.Pool(jobs) as pool:
        yield from pool.imap(hunt_named, names, chunksize=1)
