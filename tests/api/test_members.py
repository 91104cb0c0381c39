"""The replicas of a cluster over the API: who they are, and leadership that is handed over on request."""

from __future__ import annotations

from typing import Any


async def test_members_are_listed_with_addresses_and_lag(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    answer = await follower.get("/v1/members")
    assert answer.status == 200
    listed = answer.json
    assert listed["replica"] == listed["leader"] == leader.config.name
    assert [member["name"] for member in listed["members"]] == ["n1", "n2", "n3"]
    assert [member["url"] for member in listed["members"]] == [member.url for member in leader.config.members]
    assert all(member["voting"] for member in listed["members"])
    assert [member["name"] for member in listed["members"] if member["leader"]] == [leader.config.name]
    assert (await follower.get("/v1/members?stale")).json["replica"] == follower.config.name


async def test_leadership_goes_to_the_named_replica(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    follower, other = cluster.followers()
    answer = await other.post("/v1/members/transfer", {"to": follower.config.name})
    assert answer.status == 200, answer.body
    assert (await cluster.leader()) is follower
    again = await other.post("/v1/members/transfer", {"to": follower.config.name})
    assert again.status == 200
    assert (await follower.post("/v1/members/transfer", {})).status == 200
    assert (await cluster.leader(other_than=follower.config.name)) is not follower
    assert leader.replica.status().role in {"leader", "follower"}


async def test_transfers_that_cannot_be(trio: Any, one: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    assert (await leader.post("/v1/members/transfer", {"to": "n9"})).word == "not-found"
    gone = cluster.followers()[0].config.name
    await cluster.stop(gone)
    answer = await leader.post("/v1/members/transfer", {"to": gone})
    assert answer.status == 409
    assert gone in answer.json["detail"]
    assert leader.replica.leader.leading
    assert (await one.post("/v1/members/transfer", {})).word == "conflict"
