"""The clients of a chaos run: they submit, send again, read, cancel, pause, resume and retry, all recorded."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from raftflow.chaos.history import HistoryWriter
from raftflow.chaos.workload.code_bundles import WorkloadCode, make_code
from raftflow.chaos.workload.documents import PlannedWorkflow, plan_pulse, plan_workflow
from raftflow.chaos.workload.http_client import ReplicaClient, RequestEnd
from raftflow.chaos.workload.instances import WorkflowInstance, plan_instance
from raftflow.chaos.workload.tasks import MODULUS

TIMEOUT_S: Final = 2.0
_PULSE_TIMEOUT_S: Final = 1.0
_PATIENT_TIMEOUT_S: Final = 15.0
"""One client waits for long, as the SDK does: it hears what a replica answers that was cut off for some seconds."""
_PULSE_PAUSE_S: Final = 0.2
_PAUSE_S: Final = 0.25
_OPEN_MAX: Final = 5
"""Workflows of one client that have not ended, as far as it knows: a closed loop, so that the load stays bounded."""
_RESEND_SHARE: Final = 0.15
"""So many acknowledged submissions are sent again, as a client does that lost the answer."""
_TRIES_MAX: Final = 8
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})
_CODE_SHARE: Final = 0.2
"""So many workflows of the submitting clients run with a code bundle."""
_CODES_MAX: Final = 4
_CODE_PAUSE_S: Final = 4.0
_BUNDLE_TYPE: Final = "application/octet-stream"
_KNOWN_MAX: Final = 400
"""Workflows that readers choose from: the newest."""


@dataclass(slots=True)
class SubmittedWorkflow:
    """A workflow that a client knows."""

    id: str
    may_fail: bool
    state: str = "pending"


@dataclass(slots=True)
class WorkloadSettings:
    """How heavy the load is, and what it is drawn from."""

    seed: int
    run: str
    """Begins the names of its workflows."""
    collector: str
    """The socket of the collector."""
    clients: int = 3
    readers: int = 2


@dataclass(slots=True)
class KnownWorkflows:
    """What was acknowledged to any client."""

    settings: WorkloadSettings
    ids: list[str] = field(default_factory=list)
    tasks: int = 0
    codes: list[WorkloadCode] = field(default_factory=list)
    """The newest code bundles that were acknowledged."""
    instances: Counter[str] = field(default_factory=Counter)
    """Submissions of recorded workflows that were acknowledged, by instance."""


class WorkloadClient:
    """One process of the history: one operation at a time."""

    def __init__(
        self,
        name: str,
        http: ReplicaClient,
        history: HistoryWriter,
        *,
        urls: Callable[[], Sequence[str]],
        chance: random.Random,
        known: KnownWorkflows,
    ) -> None:
        self.name = name
        self._http = http
        self._history = history
        self._urls = urls
        self.chance = chance
        self._known = known
        self._requests = 0

    @property
    def collector(self) -> str:
        """The socket of the collector."""
        return self._known.settings.collector

    def workflow_name(self, number: int) -> str:
        """Return the name of one of its workflows."""
        return f"{self._known.settings.run}-{self.name}-{number}"

    def draw_code(self) -> WorkloadCode | None:
        """Return a code bundle that the cluster has acknowledged, for some of the workflows."""
        codes = self._known.codes
        return self.chance.choice(codes) if codes and self.chance.random() < _CODE_SHARE else None

    async def send_code(self) -> None:
        """Send a code bundle, once: workflows use it only if it was acknowledged."""
        code = make_code(self.chance.randrange(MODULUS))
        url = self.chance.choice(list(self._urls()))
        path = f"/v1/bundles/{code.digest}"
        end = await self._http.request("POST", url, path, body=code.content, media_type=_BUNDLE_TYPE)
        if end.outcome == "ok":
            self._known.codes.append(code)
            del self._known.codes[:-_CODES_MAX]

    async def submit(self, planned: PlannedWorkflow, stop: asyncio.Event) -> str | None:
        """Submit until it is acknowledged or certainly refused, always under one key; returns the workflow's id."""
        self._requests += 1
        request = f"{self._known.settings.run}-{self.name}-{self._requests}"
        body = msgspec.json.encode(planned.document)
        value: dict[str, Any] = {
            "request": request,
            "workflow_name": planned.document["name"],
            "tasks": planned.tasks,
        }
        if planned.may_fail:
            value["may_fail"] = True
        if "code" in planned.document:
            value["code"] = planned.document["code"]
        for _ in range(_TRIES_MAX):
            end = await self._operation("submit", value, "POST", "/v1/workflows", body=body, key=request)
            value = {**value, "resent": True}
            if end.outcome == "ok":
                workflow = str(end.body["id"])
                self._known.ids.append(workflow)
                self._known.tasks += len(planned.tasks)
                del self._known.ids[:-_KNOWN_MAX]
                if self.chance.random() < _RESEND_SHARE:
                    await self._operation("submit", value, "POST", "/v1/workflows", body=body, key=request)
                return workflow
            if end.outcome == "fail" and 400 <= end.status < 500 and end.status not in (408, 429):
                return None
            if stop.is_set():
                return None
            await asyncio.sleep(_PAUSE_S)
        return None

    async def control(self, verb: str, workflow: str) -> RequestEnd:
        """Cancel, pause, resume or retry a workflow."""
        self._requests += 1
        request = f"{self._known.settings.run}-{self.name}-{self._requests}"
        value = {"workflow": workflow, "request": request}
        return await self._operation(verb, value, "POST", f"/v1/workflows/{workflow}/{verb}", key=request)

    async def read(self, workflow: str) -> str | None:
        """Read the state of a workflow; returns it, None if it was not read."""
        end = await self._operation("read", {"workflow": workflow}, "GET", f"/v1/workflows/{workflow}")
        return str(end.body["state"]) if end.outcome == "ok" and end.status == 200 else None

    async def read_tasks(self, workflow: str) -> None:
        """Read the tasks of a workflow."""
        path = f"/v1/workflows/{workflow}/tasks"
        await self._operation("read", {"workflow": workflow, "what": "tasks"}, "GET", path)

    async def _operation(
        self,
        function: str,
        value: Mapping[str, Any],
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        key: str | None = None,
    ) -> RequestEnd:
        """Send one request to a replica drawn at random, and record it."""
        url = self.chance.choice(list(self._urls()))
        operation = self._history.invoke(self.name, function, value, is_write=key is not None)
        try:
            end = await self._http.request(method, url, path, body=body, key=key)
        except asyncio.CancelledError:
            self._history.unknown(operation, "the client was stopped")
            raise
        if function == "read" and end.status == 404:
            end = RequestEnd("ok", 404, None, end.index)
        if end.outcome == "ok":
            answer = _answer_of(function, end)
            self._history.ok(operation, answer if end.index is None else {**answer, "index": end.index})
        elif end.outcome == "fail":
            self._history.fail(operation, end.error)
        else:
            self._history.unknown(operation, end.error)
        return end


def _answer_of(function: str, end: RequestEnd) -> dict[str, Any]:
    if function == "submit":
        return {"workflow": end.body["id"]}
    if function != "read":
        return {"state": end.body["state"]}
    if end.status == 404:
        return {"found": False}
    if "tasks" in end.body and isinstance(end.body["tasks"], list):
        tasks = {
            task["id"]: {"state": task["state"], "attempt": task["attempt"]}
            | ({"result": task["result"]} if task["state"] == "succeeded" else {})
            for task in end.body["tasks"]
        }
        return {"found": True, "tasks": tasks}
    return {"found": True, "state": end.body["state"], "name": end.body["name"]}


async def submitter(client: WorkloadClient, stop: asyncio.Event) -> None:
    """Submit workflows and follow them; now and then cancel, pause, resume or retry one."""
    followed: list[SubmittedWorkflow] = []
    number = 0
    while not stop.is_set():
        if len(followed) < _OPEN_MAX:
            number += 1
            code = client.draw_code()
            planned = plan_workflow(client.workflow_name(number), client.chance, client.collector, code)
            workflow = await client.submit(planned, stop)
            if workflow is not None:
                followed.append(SubmittedWorkflow(workflow, planned.may_fail))
        if followed:
            await _follow(client, client.chance.choice(followed), followed)
        await asyncio.sleep(_PAUSE_S * client.chance.random() * 2)
    for left in followed:  # what is paused would never end
        await _leave(client, left)


async def _follow(client: WorkloadClient, workflow: SubmittedWorkflow, followed: list[SubmittedWorkflow]) -> None:
    state = await client.read(workflow.id)
    if state is None:
        return
    workflow.state = state
    drawn = client.chance.random()
    if state == "failed" and workflow.may_fail and drawn < 0.7:
        await client.control("retry", workflow.id)
    elif state in _ENDED:
        followed.remove(workflow)
        await client.read_tasks(workflow.id)
    elif state == "paused":
        await client.control("resume" if drawn < 0.9 else "cancel", workflow.id)
    elif drawn < 0.04:
        await client.control("cancel", workflow.id)
    elif drawn < 0.1:
        await client.control("pause", workflow.id)
    elif drawn < 0.3:
        await client.read_tasks(workflow.id)


async def _leave(client: WorkloadClient, workflow: SubmittedWorkflow) -> None:
    """Resume a workflow that may be paused."""
    for _ in range(_TRIES_MAX):
        state = await client.read(workflow.id)
        if state is not None and state != "paused":
            return
        if state == "paused" and (await client.control("resume", workflow.id)).outcome == "ok":
            return
        await asyncio.sleep(_PAUSE_S)


async def reader(client: WorkloadClient, known: KnownWorkflows, stop: asyncio.Event) -> None:
    """Read workflows that any client knows, the newest most often."""
    while not stop.is_set():
        await asyncio.sleep(_PAUSE_S * client.chance.random())
        if not known.ids:
            continue
        recent = known.ids[-20:] if client.chance.random() < 0.8 else known.ids
        if client.chance.random() < 0.8:
            await client.read(client.chance.choice(recent))
        else:
            await client.read_tasks(client.chance.choice(recent))


async def replayer(
    client: WorkloadClient, instances: Sequence[WorkflowInstance], known: KnownWorkflows, stop: asyncio.Event
) -> None:
    """Submit recorded workflows, one after the other, and follow each to its end."""
    deck: list[WorkflowInstance] = []
    number = 0
    while not stop.is_set() and instances:
        deck = deck or client.chance.sample(instances, len(instances))
        recorded = deck.pop()
        number += 1
        planned = plan_instance(client.workflow_name(number), recorded, client.chance, client.collector)
        workflow = await client.submit(planned, stop)
        if workflow is None:
            continue
        known.instances[recorded.name] += 1
        while not stop.is_set():
            if await client.read(workflow) in _ENDED:
                break
            await asyncio.sleep(_PAUSE_S)
        await client.read_tasks(workflow)


async def pulse(client: WorkloadClient, stop: asyncio.Event) -> None:
    """Submit one tiny workflow after the other, so that a recovery is seen at once."""
    number = 0
    while not stop.is_set():
        number += 1
        await client.submit(
            plan_pulse(client.workflow_name(number), client.chance.randrange(1_000), client.collector), stop
        )
        await asyncio.sleep(_PULSE_PAUSE_S)


async def code_sender(client: WorkloadClient, stop: asyncio.Event) -> None:
    """Send one code bundle after the other."""
    while not stop.is_set():
        await client.send_code()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _CODE_PAUSE_S * client.chance.random())


class Workload:
    """All clients of a run on one event loop."""

    def __init__(
        self,
        history: HistoryWriter,
        urls: Callable[[], Sequence[str]],
        token: str | None,
        settings: WorkloadSettings,
        instances: Sequence[WorkflowInstance] = (),
    ) -> None:
        self.known = KnownWorkflows(settings)
        self._instances = instances
        self._history = history
        self._urls = urls
        self._token = token
        self._settings = settings
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Let every client finish its operation. Call it on the loop."""
        self._stop.set()

    async def run(self) -> None:
        """Run all clients until `stop`."""
        async with (
            ReplicaClient(self._token, TIMEOUT_S) as http,
            ReplicaClient(self._token, _PULSE_TIMEOUT_S) as quick,
            ReplicaClient(self._token, _PATIENT_TIMEOUT_S) as patient,
            asyncio.TaskGroup() as group,
        ):
            for number in range(1, self._settings.clients + 1):
                group.create_task(submitter(self._client(f"client-{number}", http), self._stop))
            for number in range(1, self._settings.readers + 1):
                group.create_task(reader(self._client(f"reader-{number}", http), self.known, self._stop))
            replay = self._client("replay-1", http)
            group.create_task(replayer(replay, self._instances, self.known, self._stop))
            for number in (1, 2):
                group.create_task(pulse(self._client(f"pulse-{number}", quick), self._stop))
            group.create_task(pulse(self._client("patient-1", patient), self._stop))
            group.create_task(code_sender(self._client("code-1", patient), self._stop))

    def _client(self, name: str, http: ReplicaClient) -> WorkloadClient:
        chance = random.Random(f"{self._settings.seed}/{name}")  # noqa: S311 - a seed gives the same load again
        return WorkloadClient(name, http, self._history, urls=self._urls, chance=chance, known=self.known)
