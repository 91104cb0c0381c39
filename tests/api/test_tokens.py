"""Tokens: who is let in and for what, over the framework, the fast path and a replica that forwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.coordinator.config.replica_config import Timing
from raftflow.domain.contract.identities.grants import GRANTS, is_granted
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.values.roles import ROLES

SHARED = "the token of the configuration"
OTHER = "another-token-of-the-configuration"
DOCUMENT = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}
DIGEST = "0" * 64
PARTS = {"id": "a1", "name": "x1", "task": "t", "digest": DIGEST, "fence": "1"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def make(served: Any, name: str, role: str, **more: Any) -> str:
    made = await served.post("/v1/tokens", {"name": name, "role": role, **more}, headers=bearer(SHARED))
    assert made.status == 201, made.body
    return str(made.json["token"])


async def ask(served: Any, operation: Operation[Any], token: str | None) -> Any:
    target = operation.path.format(**PARTS)
    headers = {} if token is None else bearer(token)
    return await served.call(operation.method, target, headers=headers)


def expected(operation: Operation[Any], role: str | None) -> set[int]:
    """What the door answers: 401, 403, or something else, which the handler decides."""
    if operation.access is Access.OPEN:
        return set()
    if role is None:
        return {401}
    return set() if is_granted(role, operation.access) else {403}


async def table(served: Any, tokens: dict[str, str | None]) -> list[str]:
    """Ask for every operation with every token. Return the cells that are not as declared."""
    wrong = []
    for operation in OPERATIONS:
        for who, token in tokens.items():
            role = who if who in GRANTS else None
            if operation.name == "show_leader" and role is not None:
                continue  # would be held; `test_the_fast_path_knows_roles` asks
            status = (await ask(served, operation, token)).status
            refused = expected(operation, role)
            is_right = status in refused if refused else status not in {401, 403}
            if operation.access is Access.REPLICA and role == "all":
                is_right = status == 403  # it has no proof
            if not is_right:
                wrong.append(f"{operation.name} as {who}: {status}, not {refused or 'let in'}")
    return wrong


async def all_tokens(served: Any) -> dict[str, str | None]:
    tokens: dict[str, str | None] = {"nobody": None, "a made-up token": "rft-" + "A" * 43, "all": SHARED}
    for role in ROLES:
        tokens[role] = await make(served, role, role)
    tokens["an expired token"] = await make(served, "old", "admin", expires_s=1)
    tokens["a revoked token"] = await make(served, "gone", "admin")
    assert (await served.call("DELETE", "/v1/tokens/gone", headers=bearer(SHARED))).status == 200
    return tokens


async def expire(served: Any, tokens: dict[str, str | None]) -> None:
    """Wait until the token that lives for a second has ended."""
    token = str(tokens["an expired token"])
    identities = served.server._identities
    await served.until(lambda: identities.identify(f"Bearer {token}".encode()) is None)


async def test_every_operation_lets_in_whom_it_declares(serve: Any) -> None:
    served = await serve(token=SHARED)
    tokens = await all_tokens(served)
    await expire(served, tokens)
    assert await table(served, tokens) == []


@pytest.mark.slow
async def test_a_replica_that_forwards_lets_in_the_same(trio: Any) -> None:
    cluster = await trio(token=SHARED)
    leader = await cluster.leader()
    tokens = await all_tokens(leader)
    await expire(leader, tokens)
    follower = cluster.followers()[0]
    await expire(follower, tokens)
    assert await table(follower, tokens) == []


async def test_a_new_token_is_known_at_once_by_every_replica(trio: Any) -> None:
    cluster = await trio(token=SHARED)
    await cluster.leader()
    for number in range(10):
        for follower in cluster.followers():
            token = await make(follower, f"{number}-{follower.config.name}", "read")
            for served in cluster.live.values():
                answer = await served.get("/v1/identity", headers=bearer(token))
                assert (answer.status, answer.json["role"]) == (200, "read")


async def test_the_fast_path_knows_roles(serve: Any) -> None:
    served = await serve(token=SHARED)
    reader, agent = await make(served, "r", "read"), await make(served, "a", "agent", agents="gpu-*")
    submitter = await make(served, "s", "submit")

    async def statuses(method: str, target: str, body: Any) -> list[int]:
        answers = [
            await served.call(method, target, body, headers=bearer(token)) for token in (reader, agent, submitter)
        ]
        return [answer.status for answer in answers]

    before = served.server.fast_path.taken
    assert await statuses("POST", "/v1/workflows", DOCUMENT) == [403, 403, 201]
    assert await statuses("POST", "/v1/agents/gpu-1/poll", {"incarnation": 1, "seq": 1}) == [403, 404, 403]
    assert await statuses("POST", "/v1/agents/cpu-1/poll", {"incarnation": 1, "seq": 1}) == [403, 403, 403]
    assert await statuses("POST", "/v1/agents/cpu-1/calls", {"incarnation": 1, "calls": []}) == [403, 403, 403]
    assert await statuses("GET", "/v1/leader?term=0&wait_ms=1", None) == [200, 200, 200]
    assert served.server.fast_path.taken == before + 5, "the framework refused"


async def test_an_agent_is_only_itself(serve: Any) -> None:
    served = await serve(token=SHARED)
    token = await make(served, "zone-a", "agent", agents="gpu-*", labels={"zone": "a"})

    async def register(name: str, **labels: str) -> Any:
        body = {"name": name, "instance": f"{name:*<8}", "resources": {"cpu": 1}, "labels": labels}
        return await served.post("/v1/agents", body, headers=bearer(token))

    assert (await register("gpu-1", zone="a")).status == 200
    assert (await register("gpu-2")).status == 200
    refused = [await register("cpu-1"), await register("gpu-1", zone="b"), await register("gpu-1", other="x")]
    assert [(each.status, each.word) for each in refused] == [(403, "forbidden")] * 3
    assert "zone-a" in refused[0].json["detail"]
    answer = await served.get("/v1/agents/cpu-1/attempts/1/inputs", headers=bearer(token))
    assert (answer.status, answer.word) == (403, "forbidden")


async def test_a_held_answer_ends_when_its_token_is_revoked(serve: Any) -> None:
    served = await serve(token=SHARED, timing=Timing(lease_ms=60_000, poll_wait_ms=20_000))
    token = await make(served, "watcher", "read")
    agent = await make(served, "agents", "agent")
    workflow = await served.post("/v1/workflows", DOCUMENT, headers=bearer(SHARED))
    body = {"name": "a1", "instance": "12345678", "resources": {"gpu": 1}}
    incarnation = (await served.post("/v1/agents", body, headers=bearer(agent))).json["incarnation"]
    loop = asyncio.get_running_loop()
    held = [
        asyncio.ensure_future(
            served.get(f"/v1/workflows/{workflow.json['id']}?wait_ms=10000", headers=bearer(token))
        ),
        asyncio.ensure_future(
            served.post(
                "/v1/agents/a1/poll",
                {"incarnation": incarnation, "seq": 1, "wait_ms": 20_000},
                headers=bearer(agent),
            )
        ),
    ]
    await served.until(lambda: served.replica.poll_service.held == 1)
    began_s = loop.time()
    for name in ("watcher", "agents"):
        assert (await served.call("DELETE", f"/v1/tokens/{name}", headers=bearer(SHARED))).status == 200
    ended = await asyncio.gather(*held, return_exceptions=True)
    assert loop.time() - began_s < 8.0, "before the answers, which are held for longer"
    # The client asks once more by itself when the connection of a GET ends.
    assert all(isinstance(each, Exception) or each.status == 401 for each in ended), ended
    assert (await served.get("/v1/status", headers=bearer(token))).status == 401


async def test_a_rotated_token_has_two_secrets_for_a_time(serve: Any) -> None:
    served = await serve(token=SHARED)
    old = await make(served, "t", "submit")

    async def rotate(overlap_s: float) -> str:
        answer = await served.post("/v1/tokens/t/rotate", {"overlap_s": overlap_s}, headers=bearer(SHARED))
        assert (answer.status, answer.json["role"]) == (200, "submit")
        return str(answer.json["token"])

    async def are_valid(*tokens: str) -> list[bool]:
        return [(await served.get("/v1/status", headers=bearer(token))).status == 200 for token in tokens]

    new = await rotate(60)
    assert await are_valid(old, new) == [True, True]
    (view,) = (await served.get("/v1/tokens", headers=bearer(SHARED))).json["tokens"]
    assert view["old_secret_until"] is not None and new not in str(view)
    newest = await rotate(0)
    assert await are_valid(old, new, newest) == [False, False, True]
    unknown = await served.post("/v1/tokens/none/rotate", headers=bearer(SHARED))
    assert (unknown.status, unknown.word) == (404, "not-found")


async def test_the_token_of_the_configuration_is_replaced_while_a_replica_serves(serve: Any) -> None:
    served = await serve(token=SHARED)
    held = asyncio.ensure_future(served.get("/v1/leader?term=9&wait_ms=10000", headers=bearer(SHARED)))

    async def are_valid() -> list[bool]:
        return [(await served.get("/v1/status", headers=bearer(token))).status == 200 for token in (SHARED, OTHER)]

    assert await are_valid() == [True, False]
    served.server._identities.use_tokens([OTHER, SHARED])
    assert await are_valid() == [True, True]
    assert not held.done()
    served.server._identities.use_tokens([OTHER])
    assert await are_valid() == [False, True]
    (ended,) = await asyncio.gather(held, return_exceptions=True)
    assert isinstance(ended, Exception) or ended.status == 401


async def test_a_repeated_request_gets_the_same_token_after_the_secret_was_replaced(serve: Any) -> None:
    served = await serve(token=SHARED)
    headers = {**bearer(SHARED), "Idempotency-Key": "k1"}
    first = await served.post("/v1/tokens", {"name": "t", "role": "read"}, headers=headers)
    served.replica.secrets = (b"n" * 32, *served.replica.secrets)
    again = await served.post("/v1/tokens", {"name": "t", "role": "read"}, headers=headers)
    assert again.json == first.json
    other = await served.post("/v1/tokens", {"name": "u", "role": "read"}, headers=headers | {"Idempotency-Key": "k"})
    assert other.status == 201


async def test_a_repeated_request_gets_the_same_token(serve: Any) -> None:
    served = await serve(token=SHARED)

    async def create(name: str, key: str, role: str = "read") -> Any:
        headers = {**bearer(SHARED), "Idempotency-Key": key}
        return await served.post("/v1/tokens", {"name": name, "role": role}, headers=headers)

    first, again = await create("t", "k1"), await create("t", "k1")
    assert (first.status, first.json) == (201, again.json)
    assert (await create("t", "k2")).word == "conflict"
    assert (await create("t", "k1", "admin")).word == "request-mismatch"
    other = await create("u", "k3")
    assert other.json["token"] != first.json["token"]
    await served.call("DELETE", "/v1/tokens/t", headers=bearer(SHARED))
    gone = await create("t", "k1")
    assert (gone.status, gone.word) == (409, "conflict"), "a token that is not valid is not shown"


async def test_who_did_it_stands_in_the_audit(serve: Any) -> None:
    served = await serve(token=SHARED)
    token = await make(served, "alice", "operate")
    for headers in (bearer(token), bearer(SHARED)):
        await served.post("/v1/workflows", DOCUMENT, headers=headers)
    await served.post("/v1/limits/llm", {"rate": "1/s"}, headers=bearer(token))
    records = (await served.get("/v1/audit?from=0&limit=100", headers=bearer(SHARED))).json["records"]
    assert [(each["actor"], each["command"]) for each in records if each["command"] != "features.raise"] == [
        ("client:api", "tokens.create"),
        ("client:alice", "workflow.submit"),
        ("client:api", "workflow.submit"),
        ("client:alice", "rates.set"),
    ]
    assert token not in str(records)


async def test_an_open_cluster_makes_no_tokens(one: Any) -> None:
    refused = await one.post("/v1/tokens", {"name": "t", "role": "admin"})
    assert (refused.status, refused.word) == (409, "conflict")
    assert (await one.get("/v1/identity")).json == {"name": "api", "role": "all", "agents": "", "labels": {}}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a b", "role": "read"},
        {"name": "api", "role": "read"},
        {"name": "t", "role": "all"},
        {"name": "t", "role": "read", "agents": "gpu-*"},
        {"name": "t", "role": "agent", "agents": "*"},
        {"name": "t", "role": "agent", "agents": "a*b"},
        {"name": "t", "role": "read", "labels": {"a": "b"}},
        {"name": "t", "role": "read", "expires_s": 0},
        {"name": "t", "role": "read", "expires_s": 1e12},
    ],
)
async def test_what_is_no_token_is_refused(serve: Any, body: Any) -> None:
    served = await serve(token=SHARED)
    refused = await served.post("/v1/tokens", body, headers=bearer(SHARED))
    assert (refused.status, refused.word) == (400, "invalid-document"), refused.body
    assert (await served.get("/v1/tokens", headers=bearer(SHARED))).json == {"tokens": []}


def test_only_reads_of_the_asked_replica_are_answered_without_the_leader() -> None:
    """A replica that follows may know a revoked token for a moment: it must not change anything by itself."""
    assert [
        operation.name
        for operation in OPERATIONS
        if operation.answered_by is AnsweredBy.ASKED_REPLICA and operation.method != "GET"
    ] == ["keep_bundle"]
