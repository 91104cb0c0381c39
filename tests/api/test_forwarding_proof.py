"""Whom a request is passed on for is believed from replicas of the cluster alone."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.api.forwarding import proof as forwarding_proof
from raftflow.api.forwarding.proof import ForwardingProof
from raftflow.domain.contract.views import HEADER_FORWARDED, HEADER_FORWARDED_PROOF, HEADER_REQUEST_ID

DOCUMENT = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}
REQUEST = ("10.0.0.9", "POST", "/v1/workflows?a=b", "r1")
SECRET = b"s" * 32


def test_a_proof_is_valid_for_its_request_only() -> None:
    proof = ForwardingProof(lambda: (SECRET,))
    made = proof.make(*REQUEST)
    assert proof.is_valid(made, *REQUEST)
    for place in range(len(REQUEST)):
        other = [*REQUEST]
        other[place] += "x"
        assert not proof.is_valid(made, *other), other
    moved = (REQUEST[0] + REQUEST[1], "", *REQUEST[2:])
    assert not proof.is_valid(made, *moved), "parts cannot flow into each other"


@pytest.mark.parametrize("wrong", ["", ".", "1", "x.y", "-5.abc", "٣.abc", "9" * 90 + ".a", "1" * 5000 + ".a"])
def test_malformed_proofs_are_invalid(wrong: str) -> None:
    assert not ForwardingProof(lambda: (SECRET,)).is_valid(wrong, *REQUEST)


def test_a_proof_of_another_secret_or_time_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    proof = ForwardingProof(lambda: (SECRET,))
    assert not proof.is_valid(ForwardingProof(lambda: (b"t" * 32,)).make(*REQUEST), *REQUEST)
    now = 1_700_000_000.0
    monkeypatch.setattr(forwarding_proof.time, "time", lambda: now)
    made = proof.make(*REQUEST)
    for later, good in (
        (forwarding_proof.FRESH_S - 1, True),
        (forwarding_proof.FRESH_S + 1, False),
        (-forwarding_proof.FRESH_S - 1, False),
    ):
        monkeypatch.setattr(forwarding_proof.time, "time", lambda later=later: now + later)
        assert proof.is_valid(made, *REQUEST) is good
    stale = made.replace(made[:10], str(int(made[:10]) + 100))
    assert not proof.is_valid(stale, *REQUEST), "the time is covered as well"


def clients_of(served: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note for whom commands are proposed from now on."""
    clients: list[str] = []
    propose = served.replica.propose

    async def noting(command: Any, client: str = "", *more: Any) -> Any:
        clients.append(client)
        return await propose(command, client, *more)

    monkeypatch.setattr(served.replica, "propose", noting)
    return clients


async def test_many_forged_names_are_one_client(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = clients_of(one, monkeypatch)
    for number in range(3):
        forged = {HEADER_FORWARDED: f"10.0.0.{number}", HEADER_REQUEST_ID: "r1"}
        assert (await one.post("/v1/workflows", DOCUMENT, headers=forged)).status == 201
        forged[HEADER_FORWARDED_PROOF] = ForwardingProof(lambda: (b"guessed" * 5,)).make(
            forged[HEADER_FORWARDED], "POST", "/v1/workflows", "r1"
        )
        assert (await one.post("/v1/workflows", DOCUMENT, headers=forged)).status == 201
    assert set(clients) == {"127.0.0.1"}


async def test_a_replica_proves_the_client_of_a_forwarded_request(trio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    clients = clients_of(leader, monkeypatch)
    good = ForwardingProof(lambda: leader.config.secrets)
    proof = good.make("10.1.2.3", "POST", "/v1/workflows", "r1")
    headers = {HEADER_FORWARDED: "10.1.2.3", HEADER_FORWARDED_PROOF: proof, HEADER_REQUEST_ID: "r1"}
    assert (await leader.post("/v1/workflows", DOCUMENT, headers=headers)).status == 201
    follower = cluster.followers()[0]
    monkeypatch.setattr("aiohttp.web.BaseRequest.remote", property(lambda _: "10.7.7.7"))
    passed_on = await follower.post("/v1/workflows", DOCUMENT)
    assert passed_on.status == 201, passed_on.body
    assert clients == ["10.1.2.3", "10.7.7.7"]


def test_a_proof_of_either_secret_is_valid_while_one_replaces_the_other() -> None:
    old, new = b"o" * 32, b"n" * 32
    accepted = [(old,)]
    proof = ForwardingProof(lambda: accepted[0])
    of_old, of_new = (ForwardingProof(lambda secret=secret: (secret,)).make(*REQUEST) for secret in (old, new))
    assert (proof.is_valid(of_old, *REQUEST), proof.is_valid(of_new, *REQUEST)) == (True, False)
    accepted[0] = (new, old)
    assert (proof.is_valid(of_old, *REQUEST), proof.is_valid(of_new, *REQUEST)) == (True, True)
    assert ForwardingProof(lambda: (new,)).is_valid(proof.make(*REQUEST), *REQUEST)
    accepted[0] = (new,)
    assert (proof.is_valid(of_old, *REQUEST), proof.is_valid(of_new, *REQUEST)) == (False, True)
