"""The public API of the client as a user writes it: mypy accepts all of this (`test_typing.py`)."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import raftflow
from raftflow.client import (
    AsyncClient,
    AsyncWorkflowRun,
    Client,
    OutcomeUnknown,
    Refused,
    TaskRef,
    Unreachable,
    WaitTimeout,
    Workflow,
    WorkflowFailed,
    WorkflowRun,
)
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import AgentView, TaskLog, TaskView, WorkflowView


def double(value: int) -> int:
    return 2 * value


def build() -> Workflow:
    flow = Workflow("nightly", priority=50, on_failure="continue", max_parallel=4, defaults={"retries": 3})
    fetch = flow.task("fetch", ["python3", "fetch.py"], timeout="5m", resources={"cpu": 0.5, "memory": "1GiB"})
    assert_type(fetch, TaskRef)
    flow.task("train", python=double, args=[fetch.result], needs=[fetch, "prepare"], retries=2, retry_delay=1.5)
    flow.task("prepare", python="jobs:prepare", kwargs={"key": fetch.result}, cache=True, constraints={"labels": {}})
    return flow


def submit_and_wait() -> dict[str, Any]:
    with Client("http://127.0.0.1:7001", timeout_s=10) as client:
        run = client.submit(build(), idempotency_key="night-1")
        assert_type(run, WorkflowRun)
        assert_type(run.id, str)
        assert_type(client.workflow(run.id), WorkflowView)
        assert_type(client.workflows(state="running", limit=5), Iterator[WorkflowView])
        assert_type(client.tasks(run.id), list[TaskView])
        assert_type(client.task_log(run.id, "fetch", "stderr", attempt=1), TaskLog)
        assert_type(client.agents(), list[AgentView])
        assert_type(client.call(operations.workflows.SHOW_WORKFLOW, run.id), WorkflowView)
        for view in client.watch(run.id, timeout_s=60.0):
            print(view.state, view.tasks.succeeded, view.finished_at)
        try:
            assert_type(run.wait(timeout_s=5, check=False), WorkflowView)
        except WaitTimeout:
            client.cancel(run.id)
        except WorkflowFailed as failed:
            print(failed.workflow.tasks.failed)
        except OutcomeUnknown as unknown:
            print(unknown.idempotency_key)
        except Refused as refused:
            print(refused.kind, refused.problem.status)
        except Unreachable as unreachable:
            print(unreachable.failures)
        return client.results(run.id)


def submit_a_document(client: Client) -> str:
    return client.submit({"name": "one", "tasks": [{"id": "t", "command": ["true"]}]}).id


async def submit_from_asyncio() -> None:
    async with AsyncClient(["http://127.0.0.1:7001", "http://127.0.0.1:7002"], environ={}) as client:
        run = await client.submit(build())
        assert_type(run, AsyncWorkflowRun)
        assert_type(await run.wait(), WorkflowView)
        assert_type(await run.results(), dict[str, Any])
        changes: AsyncIterator[WorkflowView] = client.watch(run.id)
        async for view in changes:
            print(view.state)
        async for view in client.workflows():
            print(view.name)


@raftflow.task
def shout(text: str, times: int = 1) -> str:
    return text * times


@raftflow.task(resources={"cpu": 1}, retries=3, timeout="5m", labels={"zone": "a"}, cache=True)
async def wait_for(count: int) -> int:
    return count


@raftflow.task
def with_context(ctx: raftflow.Context, count: int) -> int:
    return count + ctx.attempt


def run_functions() -> None:
    assert_type(shout("a", times=2), str)
    assert_type(with_context(3), int)
    with raftflow.Client() as client:
        assert_type(client.run(shout, "a", times=2), str)
        assert_type(client.run(wait_for, 3), int)
        assert_type(client.run(with_context, 3), int)
        assert_type(client.run(double, 3), int)
        assert_type(client.map(double, range(100)), list[int])
        assert_type(client.map(wait_for, [1, 2]), list[int])
        assert_type(client.map(shout, ["a"], timeout=60), list[str])
        run = client.start(shout, "a")
        assert_type(run, raftflow.Run[str])
        assert_type(run.result(timeout=5), str)
        run.cancel()
        print(run.status())
        with client.executor() as executor:
            assert_type(executor.submit(shout, "a", times=2).result(), str)
        with raftflow.Workflow("nightly") as flow:
            rows = shout("a")
            shout.options(id="last", after=[rows], retries=5)(rows, 2)
        client.submit(flow)


async def run_functions_without_blocking() -> None:
    async with raftflow.AsyncClient() as client:
        assert_type(await client.run(wait_for, 3), int)
        assert_type(await client.map(shout, ["a", "b"]), list[str])
        assert_type(await (await client.start(shout, "a")).result(), str)


def charge(cents: int, *, idempotency_key: str) -> str:
    return f"{idempotency_key} {cents}"


@raftflow.task(budgets={"usd": 5}, rates={"llm": 1})
def asks_and_pays(ctx: raftflow.Context, cents: int) -> str:
    review: object = ctx.wait("review", timeout="2h", default=None, schema={"type": "object"})
    answer = ctx.approval("pay", details={"cents": cents, "review": review}, timeout="3d", on_timeout="deny")
    assert_type(answer, raftflow.Approval)
    ctx.rate("llm", 2)
    ctx.spend(tokens=1200, usd="0.03")
    paid = ctx.effect("pay", charge, cents, verify=lambda cents, idempotency_key: raftflow.UNKNOWN)
    return f"{answer} by {answer.by}: {paid}"


def people() -> None:
    with raftflow.Client() as client:
        client.send_signal("wf-1", "review", {"stars": 5}, key="review-1")
        for asked in client.approvals():
            client.decide(asked.id, "approve", comment="fine", payload={"cents": 5})
        for effect in client.effects():
            client.resolve_effect(effect.id, "done", result="paid")
        client.raise_budget("wf-1", add={"usd": 5})
        client.set_limit("llm", "100/min", burst=20)
