"""A stolen token of an agent can be that agent, and nothing else: a table of what its thief tries.

The thief knows everything but secrets: names, incarnations, fences, ids and digests. It has registered an agent under
its own name. Another agent, `a1`, runs the attempt that it is after.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, NamedTuple

import msgspec
import pytest

from raftflow.domain.contract.identities.grants import is_granted
from raftflow.domain.contract.operation import Access
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle
from tests.api.test_tokens import DOCUMENT, SHARED, bearer, make

FORBIDDEN, CONFLICT, INVALID, NOT_FOUND = "forbidden", "conflict", "invalid-document", "not-found"
OWNER = "a1"
OTHER_WAY = {"Accept-Language": "en"}
"""A header that sends a request through the framework."""
NAMES = [
    *(
        "a1",
        "%61%31",
        "a1%20",
        "A1",
        "a1%00",
        "a1%00thief",
        "thief%00a1",
        "thief%2F..%2Fa1",
        "thief/../a1",
        "..%2Fa1",
    ),
    *("a1;thief", "a1,thief", "thief%0d%0aHost:%20x", "%E2%80%AEthief", "thief%20", "THIEF", "*", "thief*", "%2A"),
]
"""What the thief calls itself."""


class Scene(NamedTuple):
    """A replica, an attempt of another agent, and the thief."""

    served: Any
    workflow: str
    fence: int
    """Of the attempt that `a1` runs."""
    incarnation: int
    """Of `a1`."""
    owner: dict[str, str]
    """Its header."""
    own_incarnation: int
    """Of the agent that the thief is."""
    thief: dict[str, str]
    """The header of the thief."""
    bundle: str

    async def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.served.post(path, body, headers={**self.thief, **options.pop("headers", {})}, **options)

    async def call(self, method: str, path: str, **options: Any) -> Any:
        return await self.served.call(method, path, headers=self.thief, **options)

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        return await self.served.call(method, path, body, headers=bearer(SHARED))

    async def owners_work(self) -> Any:
        """Return all that the thief must not change."""
        state = self.served.replica.machine.state
        task = (await self.admin("GET", f"/v1/workflows/{self.workflow}/tasks/t")).json
        budget = (await self.admin("GET", f"/v1/workflows/{self.workflow}/budget")).json
        limits = (await self.admin("GET", "/v1/limits")).json["limits"]
        agent = (await self.admin("GET", f"/v1/agents/{OWNER}")).json
        members = (await self.admin("GET", "/v1/members")).json["members"]
        return (
            task["state"],
            task.get("result"),
            task,
            task.get("usage"),
            budget,
            [(each["name"], each["rate"]) for each in limits],
            (agent["incarnation"], agent["state"], agent["labels"], sorted(agent["allocated"])),
            sorted(state.agents),
            [member["name"] for member in members],
            (await self.admin("GET", "/v1/effects?show=all")).json,
            (await self.admin("GET", "/v1/approvals")).json,
            (await self.admin("GET", f"/v1/workflows/{self.workflow}")).json["tasks"],
            len(state.steps),
            sorted(each["name"] for each in (await self.admin("GET", "/v1/tokens")).json["tokens"]),
        )


async def registered(served: Any, name: str, headers: dict[str, str], **more: Any) -> Any:
    body = {"name": name, "instance": f"{name:*<8}", "resources": {"cpu": 2}, "home": name, **more}
    return await served.post("/v1/agents", body, headers=headers)


@pytest.fixture
async def scene(serve: Any) -> Scene:
    served = await serve(token=SHARED)
    owner = bearer(await make(served, "owner", "agent", agents=OWNER))
    thief = bearer(await make(served, "thief", "agent", agents="thief", labels={"zone": "a"}))
    shared = bearer(SHARED)
    incarnation = (await registered(served, OWNER, owner)).json["incarnation"]
    await served.post("/v1/limits/llm", {"rate": "100/min"}, headers=shared)
    bundle = make_bundle([BundleFile("jobs.py", b"x = 1\n")])
    task = {"id": "t", "command": ["true"], "env": {"KEY": "of the owner"}}
    document = {"name": "w", "budgets": {"usd": 5.0}, "tasks": [task, {"id": "ask", "wait": {"approval": "Go?"}}]}
    workflow = (await served.post("/v1/workflows", document, headers=shared)).json["id"]
    poll = {"incarnation": incarnation, "seq": 1, "wait_ms": 900}
    (assigned,) = (await served.post(f"/v1/agents/{OWNER}/poll", poll, headers=owner)).json["assign"]
    fence = assigned["fence"]
    calls = [{"call": "effect_begin", "fence": fence, "begin": 1, "name": "pay", "occurrence": 1, "function": "f"}]
    told = await served.post(f"/v1/agents/{OWNER}/calls", {"incarnation": incarnation, "calls": calls}, headers=owner)
    assert told.json["answers"][0]["status"] == "begun"
    own = (await registered(served, "thief", thief, labels={"zone": "a"})).json["incarnation"]
    return Scene(served, workflow, fence, incarnation, owner, own, thief, digest_of(bundle))


def end_of(scene: Scene, **more: Any) -> dict[str, Any]:
    end = {"fence": scene.fence, "workflow_id": scene.workflow, "task_id": "t", "outcome": "succeeded"}
    return {**end, "exit_code": 0, "result": "stolen", "duration_ms": 1, **more}


def calls_of(fence: int) -> list[dict[str, Any]]:
    """Return one call of each kind for an attempt."""
    key = {"fence": fence, "name": "pay", "occurrence": 1}
    return [
        {"call": "record", **key, "function": "f", "result": 1},
        {"call": "record", **key, "function": "f", "result": 1, "spent": {"usd": 4_000_000}},
        {"call": "find", **key},
        {"call": "rate", **key, "limit": "llm", "count": 50},
        {"call": "spawn", "fence": fence, "tasks": [{"id": "child", "command": ["true"]}]},
        {"call": "children", "fence": fence},
        {"call": "cancel", "fence": fence, "children": [[0, 10]]},
        {"call": "effect_end", **key, "begin": 1, "outcome": "done", "result": 1},
        {"call": "effect_begin", **key, "begin": 2, "function": "f"},
        {"call": "wait", **key, "kind": "signal", "timeout": 5},
        {"call": "wait", **key, "kind": "approval", "request": {"title": "?", "details": 1, "choices": ["y"]}},
    ]


async def test_nothing_but_being_an_agent_is_open_to_it(scene: Scene) -> None:
    """Every operation that its role does not grant, with parts and bodies of the owner that exist."""
    before = await scene.owners_work()
    parts = {"id": scene.workflow, "task": "t", "name": "n1", "digest": scene.bundle, "fence": str(scene.fence)}
    tried = 0
    for operation in OPERATIONS:
        if is_granted("agent", operation.access):
            continue
        of_agent = operation.path.startswith("/v1/agents/")
        target = operation.path.format(**{**parts, "id": OWNER if of_agent else parts["id"]})
        body = b"{}" if operation.method == "POST" else None
        for path in (target, target + "?stale=1"):
            answer = await scene.call(operation.method, path, raw=body)
            assert (answer.status, answer.word) == (403, FORBIDDEN), (operation.name, answer.body)
        if operation.method == "GET":
            assert (await scene.call("HEAD", target)).status == 403
        tried += 1
    assert tried > 40
    assert await scene.owners_work() == before


async def test_it_cannot_be_another_agent(scene: Scene) -> None:
    """Whatever the thief calls itself in the path, in a registration, and however it writes it."""
    before = await scene.owners_work()
    poll = {"incarnation": scene.incarnation, "seq": 9, "ends": [end_of(scene)], "goodbye": True}
    calls = {"incarnation": scene.incarnation, "calls": calls_of(scene.fence)}
    for name in NAMES:
        for headers in ({}, OTHER_WAY):
            for path, body in ((f"/v1/agents/{name}/poll", poll), (f"/v1/agents/{name}/calls", calls)):
                answer = await scene.post(path, body, headers=headers)
                assert answer.status in {403, 404}, (path, answer.body)
        inputs = await scene.call("GET", f"/v1/agents/{name}/attempts/{scene.fence}/inputs")
        assert inputs.status in {403, 404}, (name, inputs.body)
        answer = await registered(scene.served, msgspec.json.decode(f'"{name}"'), scene.thief)
        assert answer.status in {400, 403}, (name, answer.body)
    assert await scene.owners_work() == before


@pytest.mark.parametrize(
    "labels", [{"zone": "b"}, {"zone": "a", "gpu": "yes"}, {"zone": "A"}, {"zone": "a "}, {"zone": "a", "": "b"}]
)
async def test_it_cannot_claim_labels_that_are_not_its_own(scene: Scene, labels: dict[str, str]) -> None:
    answer = await registered(scene.served, "thief", scene.thief, labels=labels)
    assert answer.status in {400, 403}, answer.body
    assert scene.served.replica.machine.state.agents["thief"].labels == {"zone": "a"}


async def test_it_cannot_end_an_attempt_of_another_agent(scene: Scene) -> None:
    """It reports, under its own name, what another agent runs: as an end, as what it runs, drops, or brings back."""
    before = await scene.owners_work()
    own = scene.own_incarnation
    for seq, outcome in enumerate(("succeeded", "failed", "released", "agent_fault", "parked", "cancelled"), start=2):
        answer = await scene.post(
            "/v1/agents/thief/poll",
            {"incarnation": own, "seq": seq, "seen": scene.fence, "ends": [end_of(scene, outcome=outcome)]},
        )
        verdicts = [(each["fence"], each["verdict"]) for each in answer.json["verdicts"]]
        assert verdicts == [(scene.fence, "stale")], outcome
        assert not answer.json.get("assign")
    usage = [{"fence": scene.fence, "cpu_ms": 1, "memory_mib": 10**6, "peak_mib": 10**6}]
    for fields in (
        {"running": [scene.fence], "usage": usage},
        {"queued": [scene.fence]},
        {"running": [], "seen": scene.fence + 1_000},
    ):
        answer = await scene.post("/v1/agents/thief/poll", {"incarnation": own, "seq": 100, **fields})
        assert answer.status == 200, answer.body
    offer = {key: value for key, value in end_of(scene).items() if key != "exit_code"}
    answer = await registered(scene.served, "thief", scene.thief, offers=[offer])
    assert [each["verdict"] for each in answer.json["verdicts"]] == ["stale"]
    assert await scene.owners_work() == before
    ended = await scene.served.post(
        f"/v1/agents/{OWNER}/poll",
        {"incarnation": scene.incarnation, "seq": 2, "ends": [end_of(scene, result="own")]},
        headers=scene.owner,
    )
    assert [each["verdict"] for each in ended.json["verdicts"]] == ["accepted"]
    task = (await scene.admin("GET", f"/v1/workflows/{scene.workflow}/tasks/t")).json
    assert (task["state"], task["result"]) == ("succeeded", "own")


async def test_it_cannot_ask_for_an_attempt_of_another_agent(scene: Scene) -> None:
    """Steps, children, amounts, units, effects and waits belong to the agent that runs the attempt."""
    before = await scene.owners_work()
    for headers in ({}, OTHER_WAY):
        for incarnation in (scene.own_incarnation, scene.incarnation):
            for call in calls_of(scene.fence):
                answer = await scene.post(
                    "/v1/agents/thief/calls", {"incarnation": incarnation, "calls": [call]}, headers=headers
                )
                assert answer.status == 200, (call, answer.body)
                (told,) = answer.json["answers"]
                assert (told["answer"], told.get("type")) == ("refused", "stale"), (call, told)
                assert "of the owner" not in str(told)
    inputs = await scene.call("GET", f"/v1/agents/thief/attempts/{scene.fence}/inputs")
    assert (inputs.status, inputs.word) in {(409, CONFLICT), (400, INVALID)}
    assert await scene.owners_work() == before


async def test_it_cannot_answer_for_the_output_of_another_agent(scene: Scene) -> None:
    """Not even if it knows the secret number of the request for that output."""
    relay = scene.served.replica.poll_service.relay
    read = asyncio.ensure_future(scene.admin("GET", f"/v1/workflows/{scene.workflow}/tasks/t/logs?stream=stdout"))
    await scene.served.until(lambda: bool(relay._answers))
    (request,) = relay._answers

    def piece(text: bytes) -> dict[str, Any]:
        data = base64.b64encode(text).decode()
        return {
            "request": request,
            "data": data,
            "offset": 0,
            "size": len(text),
            "truncated": False,
            "complete": True,
        }

    forged = {"incarnation": scene.own_incarnation, "seq": 2, "logs": [piece(b"forged")]}
    assert (await scene.post("/v1/agents/thief/poll", forged)).status == 200
    own = {"incarnation": scene.incarnation, "seq": 2, "running": [scene.fence], "logs": [piece(b"own")]}
    assert (await scene.served.post(f"/v1/agents/{OWNER}/poll", own, headers=scene.owner)).status == 200
    found = (await read).json
    assert found["text"] == "own", found


async def test_the_agent_that_runs_the_attempt_may(scene: Scene) -> None:
    """What is refused above is refused because of who asks."""
    for call in calls_of(scene.fence):
        body = {"incarnation": scene.incarnation, "calls": [call]}
        answer = await scene.served.post(f"/v1/agents/{OWNER}/calls", body, headers=scene.owner)
        (told,) = answer.json["answers"]
        assert told.get("type") != "stale", (call, told)


async def test_it_cannot_take_a_name_that_is_present(serve: Any) -> None:
    """Not even with a token for it: the second process of a name waits until the first is gone."""
    served = await serve(token=SHARED)
    token = bearer(await make(served, "gpus", "agent", agents="gpu-*"))
    first = await registered(served, "gpu-1", token)
    for body in ({"instance": "x" * 8, "home": "elsewhere"}, {"instance": "y" * 8, "home": ""}):
        second = await registered(served, "gpu-1", token, **body)
        assert (second.status, second.word) == (409, "name-in-use"), second.body
    agents = served.replica.machine.state.agents
    assert agents["gpu-1"].incarnation == first.json["incarnation"]


async def test_a_replica_that_follows_gives_it_no_more(trio: Any) -> None:
    cluster = await trio(token=SHARED)
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    owner = bearer(await make(leader, "owner", "agent", agents=OWNER))
    thief = bearer(await make(leader, "thief", "agent", agents="thief"))
    incarnation = (await registered(leader, OWNER, owner)).json["incarnation"]
    workflow = (await leader.post("/v1/workflows", DOCUMENT, headers=bearer(SHARED))).json["id"]
    poll = {"incarnation": incarnation, "seq": 1, "wait_ms": 900}
    (assigned,) = (await leader.post(f"/v1/agents/{OWNER}/poll", poll, headers=owner)).json["assign"]
    fence = assigned["fence"]
    assert (await registered(follower, OWNER, thief)).status == 403
    own = (await registered(follower, "thief", thief)).json["incarnation"]
    for name, number, status in ((OWNER, incarnation, 403), ("thief", own, 307)):
        for what, body in (("poll", {"seq": 2}), ("calls", {"calls": calls_of(fence)})):
            path = f"/v1/agents/{name}/{what}"
            answer = await follower.post(path, {"incarnation": number, **body}, headers=thief)
            assert answer.status == status, (path, answer.body)
    await follower.until(lambda: "thief" in follower.replica.machine.state.agents)
    for name, status in ((OWNER, 403), ("thief", 409)):
        inputs = await follower.get(f"/v1/agents/{name}/attempts/{fence}/inputs?first=0", headers=thief)
        assert inputs.status == status, inputs.body
    for path in (f"/v1/workflows/{workflow}", f"/v1/workflows/{workflow}?stale", "/v1/audit?from=0", "/metrics"):
        assert (await follower.get(path, headers=thief)).status == 403, path


async def test_its_calls_are_in_the_audit_under_its_own_name(scene: Scene) -> None:
    await scene.post(
        "/v1/agents/thief/poll", {"incarnation": scene.own_incarnation, "seq": 2, "ends": [end_of(scene)]}
    )
    records = (await scene.admin("GET", "/v1/audit?from=0&limit=1000")).json["records"]
    by_owner = [each for each in records if each["actor"] == f"agent:{OWNER}"]
    assert {each["command"] for each in by_owner} == {"agent.register", "effects.begin"}
    thefts = [each for each in records if each["actor"] == "agent:thief"]
    assert "attempts.report" in {each["command"] for each in thefts}


async def test_it_reads_code_only_by_its_digest(scene: Scene) -> None:
    """Digests are in the assignments of agents that need the code. Nothing lists them to an agent."""
    for digest in ("0" * 64, "../../secret", "..%2F..%2Fsecret", "%2e%2e%2fsecret", "x" * 64, "0" * 63):
        answer = await scene.call("GET", f"/v1/bundles/{digest}/content")
        assert answer.status in {400, 404, 409, 503}, (digest, answer.body)
    for access in (Access.READ, Access.SUBMIT):
        assert not is_granted("agent", access)
    assert (await scene.call("GET", "/v1/bundles")).status == 403


@pytest.mark.parametrize(
    "fields",
    [
        {"incarnation": 2**63},
        {"seq": -1},
        {"ends": [{}]},
        {"ends": [{"fence": 1, "workflow_id": "w" * 10**5, "task_id": "t", "outcome": "succeeded"}]},
        {"wait_ms": 10**12},
        {"trouble": "x" * 10**5},
        {"load": {"cpu": "x"}},
        {"surprise": 1},
        {"usage": [{"fence": 1, "cpu_ms": -1, "memory_mib": 1, "peak_mib": 1}]},
        {"logs": [{"request": "x", "data": "%%%", "size": 1, "complete": True}]},
    ],
)
async def test_its_own_polls_are_bounded(scene: Scene, fields: dict[str, Any]) -> None:
    poll = {"incarnation": scene.own_incarnation, "seq": 2, **fields}
    for headers in ({}, OTHER_WAY):
        answer = await scene.post("/v1/agents/thief/poll", poll, headers=headers)
        assert (answer.status, answer.word) == (400, INVALID), answer.body


async def test_what_it_offers_is_bounded(scene: Scene) -> None:
    for resources in ({"cpu": 10**30}, {"cpu": -1}, {"cpu": float(2**70)}, {"x" * 500: 1}, {"cpu": "1e400"}):
        answer = await registered(scene.served, "thief", scene.thief, resources=resources)
        assert (answer.status, answer.word) == (400, INVALID), (resources, answer.body)
    for fields in ({"prefetch": 10**9}, {"pid": -1}, {"version": "x" * 10**4}, {"labels": {"zone": "a" * 10**4}}):
        answer = await registered(scene.served, "thief", scene.thief, **fields)
        assert answer.status in {400, 403}, (fields, answer.body)
