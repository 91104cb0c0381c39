"""Nothing is forgotten: each command has a simulated sender, and each command and each fault shows its effect."""

from __future__ import annotations

import ast
import re
from contextlib import closing
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import raftflow.simulation
from raftflow.domain.commands import AnyCommand
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import (
    Cleared,
    Done,
    EffectBegun,
    EndVerdict,
    Fired,
    Placed,
    RatesTaken,
    RateVerdict,
    Reported,
    Retired,
    SignalTaken,
    StepsRecorded,
    StepVerdict,
    TasksSpawned,
    WaitBegun,
    WorkflowAccepted,
)
from raftflow.simulation import run
from raftflow.simulation.campaign import run_many
from raftflow.simulation.checkers.command_effects import has_effect
from raftflow.simulation.nemesis.kinds import EFFECTS, EXPOSURE, FAULT_KINDS
from raftflow.simulation.plan import FAMILIES, SeedPlan, make_plan
from raftflow.simulation.run import RunOptions, World
from raftflow.simulation.world.loop import VirtualLoop

FIRST_SEEDS = (180, 135, 115, 17, 252, 168, 60, 142, 63, 26, 3, 1, 330, 303, 216, 141, 106, 360)
"""These showed everything when they were chosen, in 38 s of CPU time."""
SEEDS = [
    *FIRST_SEEDS,
    *range(27),
    *(seed for seed in range(27, 600) if FAMILIES[seed % len(FAMILIES)] in {"all", "leases"}),
]
"""Within these everything must be seen; without the first ones eighty are enough. What is rare comes at the end."""
DISK_EFFECTS = frozenset(FAULT_KINDS["failing disk"].effects)

NOT_SIMULATED: dict[type, str] = {}
"""Commands that no run shows with an effect, each with the reason."""

SENT_BY_THE_CODE_UNDER_TEST = {
    "RemoveAgent": "the leader removes agents whose lease ended; agents say goodbye",
    "CommitPlacements": "the leader places tasks",
    "RecordSteps": "agents pass on the steps of their programs",
    "TakeRates": "agents pass on what their programs take of rate limits",
    "SpawnTasks": "agents pass on what their programs spawn",
    "BeginEffect": "agents pass on which effects their programs begin",
    "EndEffect": "agents pass on what became of the effects of their programs",
    "BeginWait": "agents pass on what their programs wait for",
    "CancelChildren": "agents pass on what their programs cancel",
    "ReportAttempts": "agents report",
    "CommitBackups": "the leader gives late tasks a second attempt",
    "OfferEnds": "agents that were lost offer what they finished",
    "RecallAttempts": "the leader balances queues",
    "RetireWorkflows": "the leader forgets finished workflows",
    "RegisterBundle": "the leader registers a code bundle that a client sent",
    "RetireBundles": "the leader forgets code bundles that nothing refers to",
    "ContinueAgenda": "the leader carries out large commands in pieces",
    "RaiseFeatureLevel": "the leader raises the level after an upgrade",
    "BeginWorkflow": "the upload of a large workflow",
    "AddTasks": "the upload of a large workflow",
    "FinishWorkflow": "the upload of a large workflow",
    "DropUploads": "a new leader drops the uploads of others",
}
"""Commands that a simulated client or agent causes and does not make itself."""


def source_of(*rooms: str) -> str:
    folder = Path(raftflow.simulation.__file__).parent
    files = [file for room in rooms for file in sorted((folder / room).rglob("*.py"))]
    code = [file.read_text(encoding="utf-8").replace("from __future__ import annotations", "") for file in files]
    return "\n".join(code)


def names_in(*rooms: str) -> set[str]:
    """Return the names that the code of these rooms uses, imports apart."""
    return {node.id for node in ast.walk(ast.parse(source_of(*rooms))) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("command", get_args(AnyCommand))
def test_each_command_has_a_simulated_sender(command: type) -> None:
    sent = command.__name__ in names_in("load", "world", "nemesis")
    excused = command.__name__ in SENT_BY_THE_CODE_UNDER_TEST or command in NOT_SIMULATED
    assert sent != excused, (
        f"{command.__name__}: let load/clients.py send it, or say here who sends it, or why nobody does; not both"
    )


def test_the_lists_of_senders_name_commands() -> None:
    names = {command.__name__ for command in get_args(AnyCommand)}
    assert SENT_BY_THE_CODE_UNDER_TEST.keys() <= names
    assert {command.__name__ for command in NOT_SIMULATED} <= names


@pytest.mark.parametrize(
    ("reply", "effect"),
    [
        (Done(), True),
        (Done(changed=False), False),
        (WorkflowAccepted("wf"), True),
        (Placed((0, 0)), False),
        (Placed((0, 7)), True),
        (Reported((EndVerdict(1, "stale"),)), False),
        (Reported((EndVerdict(1, "stale"), EndVerdict(2, "accepted"))), True),
        (RatesTaken((RateVerdict("wait", wait_ms=5),)), False),
        (RatesTaken((RateVerdict("known"), RateVerdict("taken"))), True),
        (StepsRecorded((StepVerdict("known"),)), False),
        (StepsRecorded((StepVerdict("known"), StepVerdict("recorded"))), True),
        (TasksSpawned((1,), 0), False),
        (TasksSpawned((1, 2), 1), True),
        (EffectBegun("known", 1), False),
        (EffectBegun("open", 1), True),
        (Fired(0), False),
        (WaitBegun(1), True),
        (SignalTaken("repeated"), False),
        (SignalTaken("kept"), True),
        (Cleared(2), True),
        (Retired(()), False),
        (Rejection(RejectionCode.INVALID, "no"), False),
    ],
)
def test_a_reply_tells_whether_its_command_had_an_effect(reply, effect) -> None:
    assert has_effect(reply) is effect


def test_each_kind_of_fault_has_a_handler() -> None:
    with closing(VirtualLoop()) as loop:
        world = World(loop, 0, RunOptions())
        assert world.faults._handlers.keys() == FAULT_KINDS.keys()
        world.cluster.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_asks_for_known_kinds_of_faults(seed: int) -> None:
    assert make_plan(seed, RunOptions()).weights.keys() <= FAULT_KINDS.keys()


def test_each_fault_that_the_trace_counts_is_declared() -> None:
    counted = set(
        re.findall(r'(?:\bfault\(\s*|kind(?:: str)?\s?=\s?)"([^"]+)"', source_of("load", "world", "nemesis"))
    )
    assert {name for name in counted if name not in {"add", "remove"}} <= EFFECTS | {EXPOSURE}


def planned(monkeypatch, **plan: object) -> None:
    """Let every seed mean this, beside what it draws."""

    def make(seed: int, options: RunOptions) -> SeedPlan:
        return msgspec.structs.replace(make_plan(seed, options), **plan)

    monkeypatch.setattr(run, "make_plan", make)


@pytest.mark.timeout(300)
def test_each_fault_and_each_command_shows_its_effect() -> None:
    faults = set(EFFECTS) - DISK_EFFECTS | {"failing sync"}
    commands = {command.__struct_config__.tag for command in get_args(AnyCommand) if command not in NOT_SIMULATED}
    for report in run_many(SEEDS, RunOptions(seconds=4.0)):
        assert report.violations == []
        assert report.faults.keys() <= EFFECTS
        faults -= report.faults.keys()
        commands -= report.commands.keys()
        if not faults | commands:
            return
    pytest.fail(f"no seed up to {SEEDS[-1]} shows {sorted(faults)} and {sorted(commands)}")


@pytest.mark.timeout(300)
def test_each_operation_of_a_disk_fails(monkeypatch) -> None:
    settings = {"segment_bytes": 4096, "snapshot_entries": 20}
    planned(monkeypatch, weights={"failing disk": 6, "snapshot": 3, "burst": 6}, every_s=0.1, settings=settings)
    missing = set(DISK_EFFECTS)
    for report in run_many(range(60), RunOptions(seconds=4.0, replicas=3)):
        assert report.violations == []
        missing -= report.faults.keys()
        if not missing:
            return
    pytest.fail(f"no seed shows {sorted(missing)}")
