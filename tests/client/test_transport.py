"""Retries, peers, deadlines and what each failure becomes."""

from __future__ import annotations

import gzip
import time
from typing import Any

import msgspec
import pytest
from aiohttp import web

from raftflow.client import (
    AsyncClient,
    BadAnswer,
    ClientError,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Refused,
    Unreachable,
    UsageError,
)
from raftflow.client.http import responses as responses_module
from raftflow.client.http.calls import ApiCall
from raftflow.client.transport import Transport

DOCUMENT = {"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}
CREATED = {"id": "wf-1", "warnings": ["w"], "new_field": 1}


def urls(replicas: list[Any]) -> list[str]:
    return [replica.url for replica in replicas]


async def test_one_idempotency_key_through_every_retry(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.problem("no-leader", 503), make.drop, make.answer(CREATED, 201)]
    replicas[1].script = [make.problem("outcome-unknown", 503), make.problem("queue-full", 429)]
    replicas[2].script = [make.drop, make.problem("no-leader", 503)]
    async with AsyncClient(urls(replicas), timeout_s=10) as client:
        created = await client.submit(DOCUMENT)
    assert (created.id, created.warnings) == ("wf-1", ["w"])
    seen = [request for replica in replicas for request in replica.seen]
    assert len(seen) == 7
    assert len({request.headers["Idempotency-Key"] for request in seen}) == 1
    assert {msgspec.json.decode(request.body)["name"] for request in seen} == {"w"}


async def test_two_calls_have_two_keys_and_a_given_key_is_taken(replicas: list[Any], make: Any) -> None:
    replicas[0].routes["POST", "/v1/workflows"] = CREATED
    async with AsyncClient(urls(replicas)) as client:
        await client.submit(DOCUMENT)
        await client.submit(DOCUMENT)
        await client.submit(DOCUMENT, idempotency_key="mine")
    first, second, third = (request.headers["Idempotency-Key"] for request in replicas[0].seen)
    assert first != second
    assert third == "mine"


async def test_the_peers_follow_the_members(replicas: list[Any], make: Any, dead_url: str) -> None:
    one, two, three = replicas
    agents = {"agents": []}
    told = {"X-Raftflow-Peers": ",".join(urls(replicas))}
    one.routes["GET", "/v1/agents"] = lambda _request: make.answer(agents, **told)
    two.routes["GET", "/v1/agents"] = lambda _request: make.answer(agents, **told)
    async with AsyncClient([dead_url, one.url], timeout_s=5) as client:
        assert await client.agents() == []
        assert client.peers == urls(replicas)
        await one.stop()
        assert await client.agents() == []
        assert (len(two.seen), three.seen) == (1, [])


async def test_what_was_given_is_asked_when_no_member_answers(replicas: list[Any], make: Any, dead_url: str) -> None:
    one, two, _three = replicas
    told = {"X-Raftflow-Peers": f"{one.url},{dead_url}"}
    one.routes["GET", "/v1/agents"] = lambda _request: make.answer({"agents": []}, **told)
    two.routes["GET", "/v1/agents"] = {"agents": []}
    async with AsyncClient([one.url, two.url], timeout_s=5) as client:
        assert await client.agents() == []
        await one.stop()
        assert await client.agents() == []
        assert len(two.seen) == 1


async def test_a_list_of_other_addresses_is_not_followed(replicas: list[Any], make: Any, dead_url: str) -> None:
    one = replicas[0]
    one.routes["GET", "/v1/agents"] = lambda _request: make.answer({"agents": []}, **{"X-Raftflow-Peers": dead_url})
    async with AsyncClient([one.url]) as client:
        assert await client.agents() == []
        assert client.peers == [one.url]


async def test_the_peer_that_answered_is_asked_again(replicas: list[Any], dead_url: str) -> None:
    replicas[1].routes["GET", "/v1/agents"] = {"agents": []}
    async with AsyncClient([dead_url, replicas[1].url, replicas[2].url]) as client:
        for _ in range(3):
            assert await client.agents() == []
    assert len(replicas[1].seen) == 3
    assert replicas[2].seen == []


async def test_the_leader_is_asked_once_a_follower_has_told_where_it_is(replicas: list[Any], make: Any) -> None:
    one, two, three = replicas
    one.script = [make.answer({"agents": []}, **{"X-Raftflow-Leader-Url": three.url}) for _ in range(2)]
    three.routes["GET", "/v1/agents"] = {"agents": []}
    async with AsyncClient([one.url, three.url]) as client:
        for _ in range(3):
            assert await client.agents() == []
        assert [len(replica.seen) for replica in replicas] == [1, 0, 2]
    async with AsyncClient([one.url, two.url]) as client:
        two.routes["GET", "/v1/agents"] = {"agents": []}
        one.routes["GET", "/v1/agents"] = {"agents": []}
        for _ in range(2):
            assert await client.agents() == []
        assert [len(replica.seen) for replica in replicas] == [3, 0, 2], (
            "an address that is no peer's is not followed"
        )


async def test_a_peer_that_hangs_costs_one_attempt(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.hang]
    replicas[1].routes["GET", "/x"] = {}
    transport = Transport(urls(replicas), timeout_s=10)
    started = time.monotonic()
    await transport.call_raw(ApiCall("GET", "/x", attempt_s=0.2))
    assert 0.2 <= time.monotonic() - started < 8
    await transport.close()


async def test_nobody_there(dead_url: str) -> None:
    async with AsyncClient([dead_url], timeout_s=0.3) as client:
        started = time.monotonic()
        with pytest.raises(Unreachable, match=dead_url) as caught:
            await client.agents()
        assert not isinstance(caught.value, NoLeader)
        assert 0.3 <= time.monotonic() - started < 5
        with pytest.raises(Unreachable) as submitted:
            await client.submit(DOCUMENT)
        # Nothing was ever sent, so there is no doubt about the outcome.
        assert not isinstance(submitted.value, OutcomeUnknown)


async def test_no_leader_until_the_deadline(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.problem("no-leader", 503, detail="an election goes on") for _ in range(100)]
    async with AsyncClient([replicas[0].url], timeout_s=0.3) as client:
        with pytest.raises(NoLeader, match="an election goes on"):
            await client.agents()
    assert len(replicas[0].seen) > 1


async def test_a_write_whose_answer_never_came_is_of_unknown_outcome(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.drop for _ in range(100)]
    async with AsyncClient([replicas[0].url], timeout_s=0.3) as client:
        with pytest.raises(OutcomeUnknown, match="idempotency key") as caught:
            await client.submit(DOCUMENT)
    assert replicas[0].seen[0].headers["Idempotency-Key"] == caught.value.idempotency_key


async def test_an_overloaded_replica_is_left_alone_as_long_as_it_asks(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.problem("queue-full", 429), make.answer({"agents": []})]
    async with AsyncClient([replicas[0].url]) as client:
        started = time.monotonic()
        await client.agents()
        assert time.monotonic() - started >= 1.0


async def test_a_full_queue_is_a_refusal_in_the_end(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.problem("queue-full", 429, detail="too many") for _ in range(100)]
    async with AsyncClient([replicas[0].url], timeout_s=0.2) as client:
        with pytest.raises(Refused, match="too many") as caught:
            await client.agents()
    assert caught.value.kind == "queue-full"


@pytest.mark.parametrize(
    ("status", "word", "error"),
    [(404, "not-found", NotFound), (409, "conflict", Refused), (401, "unauthorized", Refused)],
)
async def test_refusals_are_not_retried(replicas: list[Any], make: Any, status: int, word: str, error: Any) -> None:
    replicas[0].script = [make.problem(word, status, detail="because", errors=[{"path": "a.b", "message": "wrong"}])]
    async with AsyncClient(urls(replicas)) as client:
        with pytest.raises(error) as caught:
            await client.workflow("wf-1")
    assert str(caught.value) == f"{word.replace('-', ' ')}: because\n  a.b: wrong"
    assert caught.value.problem.status == status
    assert sum(len(replica.seen) for replica in replicas) == 1


async def test_something_else_answers(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.answer({"hello": "world"}), make.answer("x" * 10, 418)]
    async with AsyncClient([replicas[0].url]) as client:
        with pytest.raises(BadAnswer, match="not understood"):
            await client.agents()
        with pytest.raises(Refused, match="is it a raftflow replica"):
            await client.agents()


async def test_a_call_to_one_replica_goes_to_no_other(replicas: list[Any], dead_url: str) -> None:
    check = {"ok": True, "index": 3, "problems": [], "replica": "n2"}
    replicas[1].routes["GET", "/v1/ledger/verify"] = check
    async with AsyncClient(urls(replicas)) as client:
        assert (await client.ledger_verify(replicas[1].url)).replica == "n2"
        started = time.monotonic()
        with pytest.raises(Unreachable):
            await client.status(dead_url)
        assert time.monotonic() - started < 8
    assert [len(replica.seen) for replica in replicas] == [0, 1, 0]


async def test_the_token_goes_along(replicas: list[Any]) -> None:
    replicas[0].routes["GET", "/v1/agents"] = {"agents": []}
    async with AsyncClient([replicas[0].url], token="secret-word") as client:
        await client.agents()
    assert replicas[0].seen[0].headers["Authorization"] == "Bearer secret-word"


async def test_redirects_are_not_followed(replicas: list[Any], make: Any) -> None:
    """They could carry the token to whoever is named there."""
    replicas[0].script = [make.answer({}, 307, Location=replicas[1].url)]
    async with AsyncClient([replicas[0].url]) as client:
        with pytest.raises(ClientError):
            await client.agents()
    assert replicas[1].seen == []


@pytest.mark.parametrize(
    "peers",
    [[], [""], ["127.0.0.1:7001"], ["ftp://x"], ["http://x/path"], ["http://"], ["http://x:99999"], ["http://u@x"]],
)
def test_bad_peers(peers: list[str]) -> None:
    with pytest.raises(UsageError):
        AsyncClient(peers)


def test_other_bad_settings(tmp_path: Any) -> None:
    peers = ["http://127.0.0.1:1"]
    with pytest.raises(UsageError, match="token"):
        AsyncClient(peers, token="two words")
    with pytest.raises(UsageError, match="timeout_s"):
        AsyncClient(peers, timeout_s=0)
    with pytest.raises(UsageError, match="cannot be read"):
        AsyncClient(peers, cacert=tmp_path / "none.pem")
    with pytest.raises(UsageError, match="needs its client certificate"):
        AsyncClient(peers, client_key=tmp_path / "none.pem")
    assert AsyncClient(["http://a:1/", " http://b:2"]).peers == ["http://a:1", "http://b:2"]


async def test_an_answer_is_never_inflated(replicas: list[Any], make: Any) -> None:
    one = replicas[0]
    bomb = gzip.compress(bytes(8 << 20))
    one.routes["GET", "/v1/agents"] = lambda _request: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
    async with AsyncClient([one.url]) as client:
        with pytest.raises(BadAnswer, match="Content-Encoding: gzip"):
            await client.agents()
    assert one.seen[0].headers["Accept-Encoding"] == "identity"


async def test_a_problem_is_small(replicas: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_module, "PROBLEM_BYTES_MAX", 1_000)
    one = replicas[0]
    one.routes["GET", "/v1/agents"] = lambda _request: web.Response(status=400, body=b" " * 1_001)
    async with AsyncClient([one.url]) as client:
        with pytest.raises(BadAnswer, match="more than 1000 bytes"):
            await client.agents()
