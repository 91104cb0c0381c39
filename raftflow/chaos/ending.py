"""The end of a run: everything is undone, the work ends, and the history gets what the cluster says of all of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

from raftflow.chaos.testbed import Testbed
from raftflow.client.aio import AsyncClient
from raftflow.client.errors import ClientError
from raftflow.domain.contract.views import TaskView
from raftflow.local.cluster_file import LocalClusterError

WORK_ENDS_S: Final = 120.0
"""All work ends within this time after the last fault."""
_REST_S: Final = 30.0
_AT_ONCE: Final = 16
_POLL_S: Final = 0.2
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


async def wait_for_work(bed: Testbed, run: str, timeout_s: float) -> int:
    """Wait until no workflow is under way; what is paused is resumed. Returns how many have not ended."""
    deadline_s = time.monotonic() + timeout_s
    async with AsyncClient(bed.cluster.urls, token=bed.cluster.token, environ={}) as client:
        while True:
            left = 0
            for state in ("pending", "running", "paused"):
                async for view in client.workflows(state=state):
                    if not view.name.startswith(run):
                        continue
                    left += 1
                    if state == "paused":
                        with contextlib.suppress(ClientError):
                            await client.resume(view.id)
            if left == 0 or time.monotonic() > deadline_s:
                return left
            await asyncio.sleep(_POLL_S)


async def read_everything(bed: Testbed, run: str) -> dict[str, Any]:
    """Return every workflow of a run with its tasks, as the cluster has them."""
    gate = asyncio.Semaphore(_AT_ONCE)
    async with AsyncClient(bed.cluster.urls, token=bed.cluster.token, environ={}) as client:

        async def attempts_of(workflow: str, task: TaskView) -> TaskView:
            async with gate:
                return await client.task(workflow, task.id)

        async def read(workflow: str, name: str, state: str) -> tuple[str, dict[str, Any]]:
            async with gate:
                tasks = await client.tasks(workflow)
            # The list has no attempts. One that succeeded at once has no history worth a request.
            several = [task for task in tasks if task.attempt != 1 or task.state != "succeeded" or task.backup]
            detailed = await asyncio.gather(*(attempts_of(workflow, task) for task in several))
            views = {task.id: task for task in tasks} | {task.id: task for task in detailed}
            tasks_told = {task: _told(view) for task, view in views.items()}
            return workflow, {"name": name, "state": state, "tasks": tasks_told}

        found = [(view.id, view.name, view.state) async for view in client.workflows() if view.name.startswith(run)]
        pieces: dict[str, Any] = {}
        for first in range(0, len(found), 200):
            batch = found[first : first + 200]
            pieces.update(await asyncio.gather(*(read(*each) for each in batch)))
        return pieces


def _told(task: TaskView) -> dict[str, Any]:
    told: dict[str, Any] = {"state": task.state, "attempt": task.attempt}
    if task.state == "succeeded":
        told["result"] = task.result
    if task.history:
        told["attempts"] = [
            {"attempt": each.attempt, "fence": each.fence, "state": each.outcome or "running", "agent": each.agent}
            for each in task.history
        ]
    return told


def replicas_agree(bed: Testbed) -> tuple[bool | None, bool | None, list[str]]:
    """Tell whether all audits and ledgers verify, and whether all digests are equal; and what is wrong."""
    problems: list[str] = []
    try:
        statuses = bed.cluster.wait_equal(_REST_S)
    except (LocalClusterError, ClientError) as error:
        return None, None, [str(error)]
    equal = len({status.digest for status in statuses.values()}) == 1
    with bed.cluster.client() as client:
        for name in statuses:
            url = bed.cluster.url_of(name)
            try:
                checks = (client.audit_verify(url), client.ledger_verify(url))
            except ClientError as error:
                problems.append(f"{name}: {error}")
                continue
            problems += [f"{name}: {line}" for check in checks for line in check.problems]
    return not problems, equal, problems


def write_final(bed: Testbed, run: str) -> list[str]:
    """Wait for the work, and write the last lines of the history; returns what the replicas found wrong."""
    left = bed.loop.call(wait_for_work(bed, run, WORK_ENDS_S), WORK_ENDS_S + 60.0)
    workflows = bed.loop.call(read_everything(bed, run), None)
    verified, equal, problems = replicas_agree(bed)
    bed.history.write(
        "final", workflows=workflows, audit_verified=verified, digests_equal=equal, unfinished=left, problems=problems
    )
    bed.history.write("end")
    return problems
