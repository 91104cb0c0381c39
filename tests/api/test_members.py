"""The replicas of a cluster over the API: who they are, and leadership that is handed over on request."""

from __future__ import annotations

from typing import Any

import msgspec

from raftflow.replication.members.membership import MemberInfo, Membership


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


async def test_the_named_replica_gets_it_though_another_one_was_faster(trio: Any, monkeypatch: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    target, other = cluster.followers()
    transfer = leader.replica.log.transfer_leadership

    async def overtaken(_to: str, timeout_s: float) -> bool:
        assert await transfer(other.config.name, timeout_s)
        return False

    monkeypatch.setattr(leader.replica.log, "transfer_leadership", overtaken)
    answer = await leader.post("/v1/members/transfer", {"to": target.config.name})
    assert answer.status == 200, answer.body
    assert (await cluster.leader()) is target


async def test_impossible_transfers_are_refused(trio: Any, one: Any) -> None:
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


async def test_the_answer_after_a_change_names_the_new_member(trio: Any, monkeypatch: Any) -> None:
    """A client that hears of a change too late may know nobody who is left after two quick ones."""
    cluster = await trio()
    leader = await cluster.leader()
    before = (await leader.get("/v1/leader")).headers["X-Raftflow-Peers"]
    assert before == ",".join(member.url for member in leader.config.members)
    log = leader.replica.log
    old = log.status().members
    grown = Membership((*old.voters, MemberInfo("n4", "127.0.0.1:1", "http://127.0.0.1:2")))
    status, stamp = log.status, log.stamp
    monkeypatch.setattr(log, "status", lambda: msgspec.structs.replace(status(), members=grown))
    monkeypatch.setattr(log, "stamp", lambda: stamp()._replace(members=grown))
    for path in ("/v1/leader", "/v1/cluster"):
        assert (await leader.get(path)).headers["X-Raftflow-Peers"] == f"{before},http://127.0.0.1:2", path
    workflow = await leader.post("/v1/workflows", {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]})
    assert workflow.headers["X-Raftflow-Peers"] == f"{before},http://127.0.0.1:2"


async def test_impossible_member_changes_are_refused(trio: Any, one: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    new = {"name": "n4", "peer": "127.0.0.1:1", "url": "http://127.0.0.1:2"}
    for wrong in ({"name": "no/name"}, {"peer": "nowhere"}, {"url": "127.0.0.1"}, {"more": 1}):
        assert (await follower.post("/v1/members", {**new, **wrong})).word == "invalid-document", wrong
    for key, value in (
        ("peer", "169.254.169.254:80"),
        ("url", "http://169.254.169.254"),
        ("url", "http://[fe80::1]:2"),
    ):
        refused = await follower.post("/v1/members", {**new, key: value})
        assert (refused.word, refused.json["errors"][0]["path"]) == ("invalid-document", key)
    long = await follower.post("/v1/members", {**new, "url": f"http://{'x' * 3000}:1"})
    assert (long.status, long.json["errors"][0]["path"]) == (400, "url")
    known = {**new, "name": "n1"}
    assert "already" in (await follower.post("/v1/members", known)).json["detail"]
    for name in ("n9", leader.config.name, follower.config.name):
        answer = await follower.post(f"/v1/members/{name}/remove")
        assert answer.word == "conflict", answer.body
    assert leader.replica.leader.leading
    assert (await one.post("/v1/members", new)).word == "conflict"
    assert [member["name"] for member in (await one.get("/v1/members")).json["members"]] == ["n1"]


async def test_a_replica_that_never_starts_stays_a_learner_and_can_be_removed(trio: Any, monkeypatch: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    monkeypatch.setattr("raftflow.coordinator.membership_admin.CHANGE_S", 0.5)
    answer = await leader.post("/v1/members", {"name": "n4", "peer": "127.0.0.1:1", "url": "http://127.0.0.1:2"})
    assert answer.word == "outcome-unknown"
    assert "cannot be reached" in answer.json["detail"]
    listed = (await leader.get("/v1/members")).json["members"]
    assert [(member["name"], member["voting"]) for member in listed][-1] == ("n4", False)
    await leader.submit({"id": "a", "command": ["true"]})
    answer = await cluster.followers()[0].post("/v1/members/n4/remove")
    assert answer.status == 200
    assert answer.json["removed"] == ["n4"]
    assert (await leader.post("/v1/members/n4/remove")).status == 200
