"""Wrong uses of the client: mypy reports exactly the lines that are marked as errors (`test_typing.py`)."""

import raftflow
from raftflow.client import AsyncClient, Client, TaskRef, Workflow


def build(flow: Workflow, task: TaskRef) -> None:
    flow.task("a", "python3 fetch.py")  # error: arg-type
    flow.task("b", ["true"], needs="a")  # error: arg-type
    flow.task("c", ["true"], retry=3)  # error: call-arg
    flow.task("d", ["true"], retries="3")  # error: arg-type
    flow.task("e", ["sleep", 3])  # error: list-item
    flow.task("f", ["true"], needs=[task.result])  # error: list-item arg-type
    flow.task("g", python=3)  # error: arg-type
    Workflow("x", on_failure="ignore")  # error: arg-type
    task.id = "other"  # error: misc


def call(client: Client) -> None:
    Client("http://127.0.0.1:7001", "secret")  # error: call-arg misc
    client.submit("workflow.toml")  # error: arg-type
    client.submit({"name": "x"}, "key")  # error: misc call-arg
    client.workflow(7)  # error: arg-type
    client.workflow("id").status  # error: attr-defined
    client.task_log("id", "task", "both")  # error: arg-type
    client.drain("a1", "5m")  # error: arg-type
    for task in client.workflows():
        print(task.attempt)  # error: attr-defined
    client.cancel()  # error: call-arg


async def await_call(client: AsyncClient) -> None:
    client.workflow("id").state  # error: attr-defined
    (await client.submit({"name": "x"})).wait().state  # error: attr-defined
    for view in client.workflows():  # error: attr-defined
        print(view)


@raftflow.task
def shout(text: str, times: int = 1) -> str:
    return text * times


@raftflow.task
def with_context(ctx: raftflow.Context, count: int) -> int:
    return count + ctx.attempt


def run_functions(client: Client) -> None:
    raftflow.task(retry=3)  # error: call-overload
    shout(3)  # error: arg-type
    client.run(shout, 3)  # error: call-overload
    client.run(with_context, "3")  # error: call-overload
    client.map(shout, [1, 2])  # error: arg-type call-overload
    client.start(shout, "a", 2).results()  # error: attr-defined
    shout.options(retry=3)("a")  # error: call-arg
    shout.options(retries="3")("a")  # error: typeddict-item arg-type
    with client.executor() as executor:
        executor.submit(shout, 5)  # error: arg-type
