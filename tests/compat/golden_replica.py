"""A replica of a one-member cluster on a given directory: what `scripts/make_golden` records and the tests open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import inspect
from msgspec.structs import replace

from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.coordinator.host import HostedMachine
from raftflow.domain import commands as c
from raftflow.domain.features import LEVEL
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.program import CommandLine, ContainerRun, PythonCall, TaskWait
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.rules.step_limits import StepLimits
from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.log import Role
from raftflow.replication.members.membership import MemberInfo, Membership
from raftflow.replication.members.starts import PeerRecord, ReplicaStart
from raftflow.replication.net.links import StreamLinks
from raftflow.replication.real_files import RealFileSystem

GOLDEN = Path(__file__).parent / "golden"
CLUSTER, NAME, PEERS = "golden", "n1", ("n2", "n3")
PEER_STARTS = {
    "n2": PeerRecord(start=ReplicaStart(7, "nonce-n2"), index=12, term=3),
    "n3": PeerRecord(start=ReplicaStart(2, "nonce-n3")),
}
"""What the replica remembers of its peers."""
GIVEN_UP = PeerRecord(start=ReplicaStart(5, "nonce-lost"), index=20, term=4)
"""What a peer remembered of the replica, and its disk did not."""
SEGMENT_BYTES = 1024
MEMBERS = Membership(
    (MemberInfo("n1", "host1:7000", "https://host1:7001"), MemberInfo("n2", "host2:7000", "")),
    (MemberInfo("n3", "[::1]:7000", "https://host3:7001"),),
    ("n0",),
)
STEP_LIMITS = StepLimits(inline_max=40, piece_max=4)
"""So small that the agenda of the golden state is not empty."""
START_MS = 1_700_000_000_000


class GoldenReplica:
    """The log, the machine behind it, and the audit."""

    def __init__(self, directory: Path, level: int) -> None:
        self.machine = Machine(level_max=level, limits=STEP_LIMITS)
        self.failures: list[Exception] = []
        self.fs = RealFileSystem()
        self.audit = AuditFile(self.fs, directory / "audit", self.failures.append)
        links = StreamLinks(name=NAME, cluster_id=CLUSTER, bind=("127.0.0.1", 0), peers={}, secret=bytes(32))
        config = LogConfig(
            name=NAME,
            members=(NAME,),
            cluster_id=CLUSTER,
            data_dir=directory,
            segment_bytes=SEGMENT_BYTES,
            election_min_s=0.2,
            election_max_s=0.3,
        )
        hosted = HostedMachine(self.machine, self.audit, lambda _result: None)
        self.log = PySyncObjLog(config, hosted, links, self.fs, before_compaction=self.audit.compact)
        self.hosted = hosted


@asynccontextmanager
async def opened(directory: Path, level: int) -> AsyncIterator[GoldenReplica]:
    """Start the replica and wait until it leads; everything is closed afterwards."""
    replica = GoldenReplica(directory, level)
    leads = asyncio.Event()
    replica.log.on_role_change(lambda role, _term: leads.set() if role is Role.LEADER else None)
    try:
        await replica.log.start()
        replica.hosted.open_audit()
        await asyncio.wait_for(leads.wait(), 10)
        yield replica
    finally:
        await replica.log.close()
        await replica.audit.close()
        replica.fs.close()


def commands() -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield batches that use every command and every field, with values that differ from the defaults."""
    clock = iter(range(START_MS, START_MS + 10**9, 1_000))

    def stamp(request_id: str = "") -> dict[str, object]:
        return {"at_ms": next(clock), "actor": "client:golden", "request_id": request_id}

    yield (
        c.RegisterAgent(
            **stamp("register-1"),
            name="a1",
            instance="instance-1",
            capacity={"cpu": 8_000, "memory": 4_096, "gpu": 2_000},
            labels={"zone": "west"},
            prefetch=4,
            home="home",
        ),
        c.RegisterAgent(**stamp(), name="a2", instance="instance-2", capacity={"cpu": 1_000, "memory": 512}),
    )
    tasks = (
        TaskSpec(
            id="a", program=CommandLine(("prog", "--x", "ä")), env={"K": "V"}, cwd="/srv", labels={"zone": "west"}
        ),
        TaskSpec(
            id="b",
            needs=("a",),
            program=PythonCall("package.module:function", b"[1,2]", b'{"k":"v"}'),
            resources={"cpu": 500, "memory": 64, "gpu": 1_000},
            retries=3,
            retry_delay_ms=500,
            retry_delay_max_ms=5_000,
            timeout_ms=60_000,
            grace_ms=1_000,
            expected_ms=2_000,
        ),
        TaskSpec(id="c", needs=("a", "b"), program=ContainerRun("registry/image:1", ("true",))),
    )
    for number in range(1, 6):
        spec = WorkflowSpec(name=f"golden-{number}", tasks=tasks, priority=10 * number, on_failure="continue")
        yield (c.SubmitWorkflow(**stamp(f"submit-{number}"), workflow_id=f"wf-{number}", spec=spec),)
    yield (
        c.CommitPlacements(
            **stamp(), placements=tuple(c.Placement(f"wf-{number}", 0, "a1", 1) for number in (1, 2, 3))
        ),
    )
    ends = (
        c.AttemptEnd(1, "wf-1", "a", AttemptOutcome.SUCCEEDED, 0, "", b'{"n":1}', 1_200),
        c.AttemptEnd(2, "wf-2", "a", AttemptOutcome.FAILED, -9, "killed", b"", 300, 200, 30),
    )
    yield (c.ReportAttempts(**stamp(), agent="a1", incarnation=1, ends=ends, missing=(3,)),)
    yield (c.ReportAttempts(**stamp(), agent="a1", incarnation=7, ends=ends),)
    yield (c.CommitPlacements(**stamp(), placements=(c.Placement("wf-1", 1, "a1", 1),)),)
    yield (c.RecordSteps(**stamp(), agent="a1", incarnation=1, steps=_steps(4)),)
    yield (
        c.SetRateLimit(**stamp("limit-1"), name="llm", amount=100, period_ms=60_000, burst=20),
        c.SetRateLimit(**stamp(), name="gone", amount=1, period_ms=1_000, burst=1),
        c.RemoveRateLimit(**stamp(), name="gone"),
        c.TakeRates(**stamp(), agent="a1", incarnation=1, takes=(c.RateToTake(4, "llm", 3, "raftflow.rate.llm", 1),)),
    )
    yield (
        c.CreateToken(**stamp("token-1"), name="ops", role="operate", digest=bytes(32), lifetime_ms=86_400_000),
        c.CreateToken(
            **stamp(), name="gpu", role="agent", digest=b"g" * 32, agents="gpu-*", labels={"zone": "a", "disk": "ssd"}
        ),
        c.CreateToken(**stamp(), name="gone", role="read", digest=b"x" * 32),
        c.RevokeToken(**stamp(), name="gone"),
        c.RotateToken(**stamp(), name="ops", digest=b"o" * 32, overlap_ms=3_600_000),
    )
    yield (c.ReportAttempts(**stamp(), agent="a1", incarnation=1, ends=(_failed(4, "wf-1", "b"),)),)
    yield (c.FireTimers(**stamp()),)
    for action in ("pause", "resume", "cancel"):
        yield (c.ControlWorkflow(**stamp(f"{action}-4"), workflow_id="wf-4", action=action),)
    yield (c.SetPriority(**stamp("priority-5"), workflow_id="wf-5", priority=95),)
    yield (c.ControlWorkflow(**stamp("retry-2"), workflow_id="wf-2", action="retry"),)
    yield (
        c.DrainAgent(**stamp(), name="a1", leaving=True),
        c.ResumeAgent(**stamp(), name="a1"),
    )
    yield (c.RemoveAgent(**stamp(), name="a2", incarnation=2, reason="lost"),)
    yield (c.RetireWorkflows(**stamp(), before_ms=START_MS + 10**6, count_max=1),)
    yield (c.RaiseFeatureLevel(**stamp(), level=LEVEL, supported=(c.Supported("n1", LEVEL),)),)
    yield (c.SubmitWorkflow(**stamp("submit-9"), workflow_id="wf-9", spec=WorkflowSpec(name="last", tasks=tasks)),)
    bag = tuple(TaskSpec(id=f"t{number}", program=CommandLine(("x",))) for number in range(50))
    yield (c.SubmitWorkflow(**stamp(), workflow_id="wf-12", spec=WorkflowSpec(name="bag", tasks=bag)),)
    yield (c.ControlWorkflow(**stamp("cancel-12"), workflow_id="wf-12", action="cancel"),)
    yield from spending(stamp)
    yield from bundles(stamp, tasks)
    yield from pieces(stamp)  # here, so that one of the snapshots holds an upload
    yield from online(stamp)
    yield from faults(stamp)
    yield from families(stamp)
    yield from effects(stamp)
    yield from waits(stamp)
    yield (c.ContinueAgenda(**stamp()),)


def spending(stamp: Callable[..., dict[str, object]]) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield a workflow with budgets, one of which is used up, raised, and used up again."""
    budgets = (Budget("usd", 20_000_000, 16_000_000), Budget("tokens", 5_000_000, 4_000_000))
    task = TaskSpec(id="t", program=CommandLine(("x",)), rates={"llm": 1})
    spec = WorkflowSpec(name="budget", tasks=(task,), budgets=budgets)
    yield (
        c.SubmitWorkflow(**stamp("submit-20"), workflow_id="wf-20", spec=spec),
        c.RaiseBudget(
            **stamp("raise-20"), workflow_id="wf-20", raises=(c.BudgetRaise("usd", 1_000_000, added=True),)
        ),
        c.BeginWorkflow(**stamp(), workflow_id="wf-21", name="large", tasks=1, needs=0, budgets=budgets),
        c.DropUploads(**stamp(), workflow_ids=("wf-21",)),
    )


def bundles(
    stamp: Callable[..., dict[str, object]], tasks: tuple[TaskSpec, ...]
) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield code bundles. One stays, with a workflow and an upload that refer to it; one is forgotten."""
    kept, forgotten = "1" * 64, "2" * 64
    yield (
        c.RegisterBundle(**stamp(), digest=kept, size=1_000),
        c.RegisterBundle(**stamp(), digest=forgotten, size=2_000),
        c.RetireBundles(**stamp(), digests=(kept, forgotten, "3" * 64), unused_ms=1_500),
    )
    spec = WorkflowSpec(name="code", tasks=tasks, code=forgotten)
    yield (c.SubmitWorkflow(**stamp("submit-18"), workflow_id="wf-18", spec=spec),)
    yield (
        c.BeginWorkflow(**stamp(), workflow_id="wf-19", name="pieces", tasks=2, needs=0, code=forgotten),
        c.RetireBundles(**stamp(), digests=(forgotten,), unused_ms=0),
    )


def online(stamp: Callable[..., dict[str, object]]) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield what adjusts running work.

    The first batch leaves a backup, a larger demand and a cached result behind.
    """
    large = {"cpu": 1_000, "memory": 100}
    tasks = (
        TaskSpec(id="a", program=CommandLine(("slow",)), resources=large, kind="slow", backup=True),
        TaskSpec(id="b", program=CommandLine(("large",)), resources=large, memory_max_mib=300),
        TaskSpec(id="c", program=CommandLine(("same",)), resources=large, cache="key-1"),
        TaskSpec(id="d", program=CommandLine(("same",)), resources=large, cache="key-1"),
        TaskSpec(id="e", program=CommandLine(("alone",)), exclusive=True, needs=("a", "c")),
        TaskSpec(id="f", program=CommandLine(("twice",)), cache="", needs=("b",)),
    )
    yield (
        c.RegisterAgent(**stamp(), name="b1", instance="i", capacity={"cpu": 4_000, "memory": 4_096}, prefetch=4),
        c.RegisterAgent(**stamp(), name="b2", instance="i", capacity={"cpu": 4_000, "memory": 4_096}),
        c.SubmitWorkflow(
            **stamp("submit-10"), workflow_id="wf-10", spec=WorkflowSpec(name="online", tasks=tasks, max_parallel=5)
        ),
        c.CommitPlacements(**stamp(), placements=tuple(c.Placement("wf-10", task, "b1", 3) for task in range(3))),
        c.CommitBackups(**stamp(), placements=(c.Placement("wf-10", 0, "b2", 4),)),
        c.ReportAttempts(
            **stamp(),
            agent="b1",
            incarnation=3,
            ends=(
                c.AttemptEnd(6, "wf-10", "b", AttemptOutcome.OUTGROWN, -9, "", b"", 40, 30, 150),
                c.AttemptEnd(7, "wf-10", "c", AttemptOutcome.SUCCEEDED, 0, "", b'{"n":2}', 1_300, 900, 80),
            ),
        ),
    )
    yield (
        c.ReportAttempts(
            **stamp(),
            agent="b2",
            incarnation=4,
            ends=(c.AttemptEnd(8, "wf-10", "a", AttemptOutcome.SUCCEEDED, 0, "", b"1", 700, 600, 90),),
            missing=(77,),
        ),
    )
    yield (c.SubmitWorkflow(**stamp(), workflow_id="wf-11", spec=WorkflowSpec(name="more", tasks=tasks[:2])),)
    yield (
        c.CommitPlacements(
            **stamp(),
            placements=tuple(
                c.Placement(workflow, task, "b1", 3) for workflow, task in (("wf-11", 0), ("wf-10", 1), ("wf-10", 4))
            ),
        ),
    )
    yield (c.RecallAttempts(**stamp(), agent="b1", incarnation=3, fences=(9, 11)),)
    yield (c.DrainAgent(**stamp(), name="b1", deadline_ms=2_000),)
    yield (c.FireTimers(**stamp()),)
    yield (c.FireTimers(**stamp()),)
    yield (c.RemoveAgent(**stamp(), name="b1", incarnation=3, reason="lost"),)
    yield (c.RegisterAgent(**stamp(), name="b1", instance="j", capacity={"cpu": 4_000, "memory": 4_096}, prefetch=4),)
    yield (
        c.OfferEnds(
            **stamp(),
            agent="b1",
            incarnation=5,
            ends=(c.AttemptEnd(9, "wf-11", "a", AttemptOutcome.SUCCEEDED, 0, "", b"9", 800, 700, 60),),
        ),
    )
    yield (c.ClearCache(**stamp(), key="key-1"), c.ClearCache(**stamp(), prefix="no"))


def pieces(stamp: Callable[..., dict[str, object]]) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield uploads. One upload is finished, one dropped, and one left in the middle."""
    profiles = (
        TaskSpec(id="a", program=CommandLine(("prog", "--ä")), env={"K": "V"}, retries=2),
        TaskSpec(id="b", program=PythonCall("package.module:function", b"[1]"), cache="key-${a.digest}"),
    )

    def begin(name: str, tasks: int) -> c.BeginWorkflow:
        return c.BeginWorkflow(
            **stamp(),
            workflow_id=name,
            name="pieces",
            tasks=tasks,
            needs=2,
            priority=70,
            on_failure="continue",
            max_parallel=2,
        )

    def add(name: str, number: int, profiles: tuple[TaskSpec, ...], *tasks: c.TaskPart) -> c.AddTasks:
        return c.AddTasks(**stamp(), workflow_id=name, number=number, profiles=profiles, tasks=tasks)

    first, second, third = (
        c.TaskPart(2, "a", 0, 3_000),
        c.TaskPart(0, "b", 1, 2_000, (2,)),
        c.TaskPart(1, "c", 0, 9, (0,)),
    )
    yield (begin("wf-12", 3),)
    yield (add("wf-12", 0, profiles[:1], first), begin("wf-13", 4))
    yield (add("wf-13", 0, profiles, first, second), begin("wf-14", 5))
    yield (add("wf-12", 1, profiles[1:], second, third),)
    yield (
        c.FinishWorkflow(**stamp("submit-12"), workflow_id="wf-12", fingerprint=bytes(range(16)), path=(2, 0, 1)),
        c.DropUploads(**stamp(), workflow_ids=("wf-14", "wf-15")),
    )


def faults(stamp: Callable[..., dict[str, object]]) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield losses and faults of agents.

    Pairs of attempts of which one is over are left behind, each over in another way.

    One agent that is gone is drained, another one forgotten.
    """
    task = TaskSpec(
        id="a",
        program=CommandLine(("twice",)),
        resources={"cpu": 1_000, "memory": 100},
        memory_max_mib=300,
        retries=2,
        backup=True,
    )
    spec = WorkflowSpec(name="pairs", tasks=(task, replace(task, id="b"), replace(task, id="c")), max_parallel=6)
    yield (
        c.RegisterAgent(**stamp(), name="b3", instance="i", capacity={"cpu": 4_000, "memory": 4_096}),
        c.SubmitWorkflow(**stamp("submit-16"), workflow_id="wf-16", spec=spec),
        c.CommitPlacements(**stamp(), placements=tuple(c.Placement("wf-16", task, "b1", 5) for task in range(3))),
        c.CommitBackups(**stamp(), placements=tuple(c.Placement("wf-16", task, "b2", 4) for task in range(3))),
    )
    ends = (
        c.AttemptEnd(15, "wf-16", "a", AttemptOutcome.FAILED, 3, "exit code 3", b"", 40, 30, 50),
        c.AttemptEnd(16, "wf-16", "b", AttemptOutcome.OUTGROWN, -9, "", b"", 40, 30, 150),
    )
    yield (c.ReportAttempts(**stamp(), agent="b2", incarnation=4, ends=ends),)
    yield (
        c.RemoveAgent(**stamp(), name="b2", incarnation=4, reason="lost"),
        c.RemoveAgent(**stamp(), name="b3", incarnation=6, reason="lost_together"),
        c.BeginWorkflow(**stamp(), workflow_id="wf-17", name="pieces", tasks=2, needs=0),
        c.AddTasks(**stamp(), workflow_id="wf-17", number=0, profiles=(task,), tasks=(c.TaskPart(0, "a", 0, 3_000),)),
    )
    yield (
        c.RegisterAgent(**stamp(), name="c1", instance="i", capacity={"cpu": 1_000}, home="home"),
        c.RemoveAgent(**stamp(), name="c1", incarnation=7, reason="left"),
        c.DrainAgent(**stamp(), name="c1"),
        c.ForgetAgent(**stamp(), name="a2"),
    )


def families(stamp: Callable[..., dict[str, object]]) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield a task that spawns children, cancels one of them, and is left parked; one child has failed."""
    root = TaskSpec(id="root", program=CommandLine(("grow",)))
    child = replace(root, id="x", program=PythonCall("package.module:function", b"[2]"), retries=1)
    yield (
        c.RegisterAgent(**stamp(), name="g1", instance="i", capacity={"cpu": 4_000, "memory": 4_096}),
        c.SubmitWorkflow(**stamp(), workflow_id="wf-21", spec=WorkflowSpec(name="family", tasks=(root,))),
        c.CommitPlacements(**stamp(), placements=(c.Placement("wf-21", 0, "g1", 8),)),
    )
    children = tuple(c.ChildTask(key, number % 2) for number, key in enumerate("abcd"))
    own = {"agent": "g1", "incarnation": 8, "fence": 12}
    yield (
        c.SpawnTasks(**stamp(), **own, profiles=(root, child), children=children),
        c.SpawnTasks(**stamp(), **own, profiles=(child,), children=(c.ChildTask("a", 0), c.ChildTask("e", 0))),
        c.CancelChildren(**stamp(), **own, children=(4, 9)),
        c.CommitPlacements(**stamp(), placements=(c.Placement("wf-21", 1, "g1", 8),)),
    )
    ends = (
        c.AttemptEnd(12, "wf-21", "root", AttemptOutcome.PARKED, 0, "", b'{"children":[[1,3]]}', 5),
        _failed(13, "wf-21", "root:a"),
    )
    yield (c.ReportAttempts(**stamp(), agent="g1", incarnation=8, ends=ends),)


def effects(stamp: Callable[..., dict[str, object]]) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield effects of a task, one in each state."""
    task = TaskSpec(id="pay", program=CommandLine(("pay",)))
    yield (
        c.RegisterAgent(**stamp(), name="e1", instance="i", capacity={"cpu": 4_000, "memory": 4_096}),
        c.SubmitWorkflow(**stamp(), workflow_id="wf-20", spec=WorkflowSpec(name="effects", tasks=(task,))),
        c.CommitPlacements(**stamp(), placements=(c.Placement("wf-20", 0, "e1", 9),)),
    )
    own = {"agent": "e1", "incarnation": 9, "fence": 14}
    key = {"name": "send ä", "function": "package.module:send"}
    yield tuple([c.BeginEffect(**stamp(), **own, **key, begin=number, occurrence=number) for number in range(1, 7)])

    def end(begin: int, outcome: Any, **told: Any) -> c.EndEffect:
        return c.EndEffect(**stamp(), **own, name="send ä", begin=begin, occurrence=begin, outcome=outcome, **told)

    yield (
        end(1, "done", result=b'{"n":3}'),
        end(2, "not_done"),
        *[end(begin, "uncertain", detail="no answer") for begin in (3, 4, 5)],
        end(5, "done", result=b"1"),
    )
    yield (
        c.ResolveEffect(**stamp("resolve-3"), number=3, resolution="retry"),
        c.ResolveEffect(**stamp("resolve-4"), number=4, resolution="fail", detail="no"),
        c.ResolveEffect(**stamp("resolve-5"), number=5, resolution="done", result=b"[2]"),
    )


def waits(stamp: Callable[..., dict[str, object]]) -> Iterator[tuple[c.AnyCommand, ...]]:
    """Yield a task that is parked for a signal and an approval; one signal was taken, and one is kept."""
    task = TaskSpec(id="ask", program=CommandLine(("ask",)))
    yield (
        c.SubmitWorkflow(**stamp(), workflow_id="wf-19", spec=WorkflowSpec(name="waits", tasks=(task,))),
        c.CommitPlacements(**stamp(), placements=(c.Placement("wf-19", 0, "g1", 8),)),
        c.SendSignal(**stamp(), workflow_id="wf-19", name="early", payload=b"1", key="k1"),
    )
    own = {"agent": "g1", "incarnation": 8, "fence": 15}
    approval = b'{"title":"ship"}'
    yield (
        c.BeginWait(**stamp(), **own, kind="signal", name="early", occurrence=1),
        c.BeginWait(**stamp(), **own, kind="signal", name="go", occurrence=1, request=b"{}", checked=1, fault="f"),
        c.BeginWait(
            **stamp(),
            **own,
            kind="approval",
            name="ship",
            occurrence=1,
            timeout_ms=9,
            on_timeout=b"0",
            request=approval,
        ),
        c.SendSignal(**stamp(), workflow_id="wf-19", name="go", payload=b"2", key="k2", checked=3),
        c.SendSignal(**stamp(), workflow_id="wf-19", name="later", payload=b"[]"),
        c.DecideApproval(**stamp("decide-9"), number=9, choice="approve", comment="c", payload=b"1"),
    )
    yield (
        c.ReportAttempts(
            **stamp(),
            agent="g1",
            incarnation=8,
            ends=(c.AttemptEnd(15, "wf-19", "ask", AttemptOutcome.PARKED, 0, "", b'{"waits":[1,2]}', 5),),
        ),
    )
    go = TaskSpec(id="go", program=TaskWait("signal", "go", 9, b"[1]"), resources={}, expected_ms=0)
    ship = TaskSpec(id="ship", program=TaskWait("approval", "ship", 0, b"", approval), resources={}, expected_ms=0)
    later = replace(go, id="later", needs=("go",))
    spec = WorkflowSpec(name="document-waits", tasks=(go, ship, later))
    yield (
        c.SubmitWorkflow(**stamp(), workflow_id="wf-22", spec=spec),
        c.SendSignal(**stamp(), workflow_id="wf-22", name="go", payload=b"3"),
    )


def _steps(fence: int) -> tuple[c.StepToRecord, ...]:
    """Return steps of an attempt: two that are recorded, one twice, and one of another function."""
    ask = c.StepToRecord(fence, "ask ä", 1, "package.module:ask", b'{"n":1}')
    return (
        ask,
        replace(ask, occurrence=2, result=b"null", spent=(("usd", 1_500_000),)),
        ask,
        replace(ask, function="package.module:other"),
    )


def _failed(fence: int, workflow: str, task: str) -> c.AttemptEnd:
    return c.AttemptEnd(fence, workflow, task, AttemptOutcome.FAILED, 3, "exit code 3", b"", 10)


def tag_of(command: c.AnyCommand) -> str:
    """Return the tag that the command has in the log."""
    return str(type(command).__struct_config__.tag)


def parts_of(kind: type[c.Command]) -> list[str]:
    """Return every field of a command and of what it holds, and every value of its enumerations, as paths."""
    found: dict[str, None] = {}

    def walk(info: Any, path: str) -> None:
        if isinstance(info, inspect.StructType):
            for field in info.fields:
                below = f"{path}.{field.encode_name}" if path else field.encode_name
                found[below] = None
                walk(field.type, below)
        elif isinstance(info, inspect.EnumType):
            found.update(dict.fromkeys(f"{path}={each.value}" for each in info.cls))
        elif isinstance(info, inspect.LiteralType):
            found.update(dict.fromkeys(f"{path}={each}" for each in info.values))
        elif isinstance(info, inspect.UnionType):
            for each in info.types:
                walk(each, path)
        elif isinstance(info, inspect.VarTupleType):
            walk(info.item_type, path)

    walk(inspect.type_info(kind), "")
    return sorted(found)
