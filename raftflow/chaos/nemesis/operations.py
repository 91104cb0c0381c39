"""What operators do while a cluster works: members replaced, added and removed, upgrades, drains, a second agent."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, Final

from raftflow import helpers
from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.kinds import ChaosFault, NoEffectError
from raftflow.chaos.testbed import READY_S, Testbed
from raftflow.chaos.undo import EndProcess
from raftflow.local.processes import record_of

_HEARD_S: Final = 15.0


def _add(bed: Testbed) -> str:
    """Add a replica on a machine that is free. Raises `NoEffectError`."""
    name = bed.add_replica()
    if name is None:
        raise NoEffectError("no machine is free")
    return name


def _members(bed: Testbed) -> list[str]:
    with bed.cluster.client() as client:
        return sorted(member.name for member in client.members().members if member.voting)


def _replaced(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    (name,) = targets
    added = _add(bed)
    bed.remove_replica(name)
    yield {"added": added, "removed": name, "members": _members(bed)}


def _grown(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Add two replicas. If two were added before, two are removed first."""
    del targets
    if len(bed.cluster.replica_names) > bed.replicas:
        _remove_two(bed, chance)
    yield {"added": [_add(bed), _add(bed)], "members": _members(bed)}


def _shrunk(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Remove two replicas. If the cluster is as small as at first, two are added before."""
    del targets
    while len(bed.cluster.replica_names) < bed.replicas + 2:
        _add(bed)
    yield {"removed": _remove_two(bed, chance), "members": _members(bed)}


def _remove_two(bed: Testbed, chance: random.Random) -> list[str]:
    removed = chance.sample(bed.cluster.replica_names, 2)
    for name in removed:
        bed.remove_replica(name)
    return removed


def _upgraded(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Stop and start the replicas one by one. The first time they come back as the next version."""
    del chance
    before = bed.upgrade()
    for name in targets:
        bed.cluster.stop(name)
        bed.start_process(name)
        bed.cluster.wait_ready(READY_S)
    levels = {name: status.feature_level_max for name, status in bed.cluster.statuses().items() if status is not None}
    if not levels:
        raise NoEffectError("no replica tells its version")
    yield {"level_before": before, "levels": levels}


def _drained(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    (name,) = targets
    with bed.cluster.client() as client:
        client.drain(name, chance.choice([None, 0.5]))
        try:
            state = client.agent(name).state
            if state != "draining":
                raise NoEffectError(f"{name} is {state}")
            yield {"state": state}
        finally:
            client.resume_agent(name)


def _second_agent(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Start a second agent under the name of one that runs. It must be refused."""
    del chance
    (name,) = targets
    work, said = bed.cluster.directory / f"{name}.second", bed.cluster.directory / "logs" / f"{name}.second.log"
    before = said.stat().st_size if said.exists() else 0
    argv = [*bed.command_of(name), *helpers.command("raftflow", "agent", "run", "--name", name)]
    argv += ["--peers", ",".join(bed.cluster.urls), "--work-dir", str(work)]
    with said.open("ab") as output:
        second = subprocess.Popen(argv, env=bed.agent_environment(name), stdout=output, stderr=output)
    number = bed.undo.add(EndProcess(record_of(second.pid)))
    try:
        if not bed.wait_for(lambda: b"Give this one a name of its own" in said.read_bytes()[before:], _HEARD_S):
            raise NoEffectError("the second agent was not refused in time")
        yield {"refused": True}
    finally:
        second.kill()
        second.wait()
        bed.undo.drop(number)


_NOT_HELD: Final = (0.0, 0.1)

KINDS: Final = (
    ChaosFault(
        "replace-member",
        kinds.replica,
        _replaced,
        _NOT_HELD,
        alone=True,
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="a new replica joins, then one of the old is removed",
    ),
    ChaosFault(
        "grow-members",
        kinds.all_replicas,
        _grown,
        _NOT_HELD,
        alone=True,
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="two replicas join",
    ),
    ChaosFault(
        "shrink-members",
        kinds.all_replicas,
        _shrunk,
        _NOT_HELD,
        alone=True,
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="two of five replicas, or of seven, are removed",
    ),
    ChaosFault(
        "rolling-upgrade",
        kinds.all_replicas,
        _upgraded,
        _NOT_HELD,
        alone=True,
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="the replicas are stopped and started one by one, the first time as the next version",
    ),
    ChaosFault("drain-agent", kinds.agent, _drained, (0.5, 2.0), about="an agent is drained, then resumed"),
    ChaosFault(
        "second-agent",
        kinds.agent,
        _second_agent,
        (0.2, 1.0),
        about="a second agent starts under one name",
    ),
)
