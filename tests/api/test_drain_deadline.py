"""What agents go through while work runs: drains with a deadline."""

from __future__ import annotations

from typing import Any

import pytest

WORK = {"id": "a", "command": ["true"]}


@pytest.fixture
async def online(one: Any) -> Any:
    """A replica that leads alone."""
    return one


async def test_a_drain_with_a_deadline_moves_what_runs(online: Any) -> None:
    workflow = await online.submit(WORK)
    incarnation = await online.register()
    fence = (await online.poll(incarnation=incarnation, seq=1, wait_ms=500)).json["assign"][0]["fence"]
    drained = (await online.post("/v1/agents/a1/drain", {"deadline_s": 0.05})).json
    assert (drained["state"], drained["drain_deadline"] > "2020") == ("draining", True)
    held = {"incarnation": incarnation, "seen": fence, "running": [fence]}
    answer = await online.poll(**held, seq=2, wait_ms=1000)
    if not answer.json.get("stop"):  # told at once that it drains; the order follows
        answer = await online.poll(**held, seq=3, wait_ms=1000)
    assert answer.json["stop"] == [fence]
    end = {"fence": fence, "workflow_id": workflow, "task_id": "a", "outcome": "cancelled", "exit_code": -15}
    answer = await online.poll(incarnation=incarnation, seq=4, seen=fence, ends=[end])
    assert answer.json["verdicts"][0]["verdict"] == "accepted"
    task = (await online.get(f"/v1/workflows/{workflow}/tasks/a")).json
    assert (task["state"], task["history"][0]["outcome"]) == ("ready", "moved")
    other = await online.register("a2", instance="j" * 8)
    assigned = (await online.poll("a2", incarnation=other, seq=1, wait_ms=1000)).json["assign"]
    assert [item["attempt"] for item in assigned] == [2]
    records = (await online.get("/v1/audit?limit=100")).json["records"]
    moved = [t for record in records for t in record["transitions"] if "moved" in str(t)]
    assert len(moved) == 1


async def test_a_drain_needs_no_body(online: Any) -> None:
    await online.register()
    for body in (None, {}, {"deadline_s": None}):
        drained = (await online.post("/v1/agents/a1/drain", body)).json
        assert (drained["state"], drained["drain_deadline"]) == ("draining", None)
        assert (await online.post("/v1/agents/a1/resume")).json["state"] == "up"


@pytest.mark.parametrize("body", [{"deadline_s": 0}, {"deadline_s": "soon"}, {"deadline": 3}, {"deadline_s": 1e12}])
async def test_an_invalid_drain_is_refused(online: Any, body: Any) -> None:
    await online.register()
    answer = await online.post("/v1/agents/a1/drain", body)
    assert (answer.status, answer.word) == (400, "invalid-document")
    assert (await online.get("/v1/agents/a1")).json["state"] == "up"


async def test_the_leader_shows_what_only_it_knows_of_agents(online: Any) -> None:
    await online.register()
    leader = online.replica.leader
    leader.liveness.leases._heard_s["a1"] -= 3.0
    leader.liveness._arm_leases()
    await online.until(lambda: "a1" in leader.liveness.status.suspects)
    assert (await online.get("/v1/agents/a1")).json["state"] == "suspect"
    assert [each["state"] for each in (await online.get("/v1/agents")).json["agents"]] == ["suspect"]
    assert "raftflow_mass_losses_total 0\n" in (await online.get("/metrics")).body.decode()


async def test_an_agent_that_is_lost_repeatedly_is_quarantined_until_resumed(online: Any) -> None:
    await online.register("other")  # there is no quarantine while nobody else is up
    for number in range(3):
        await online.register(instance=f"instance-{number}")
    agent = (await online.get("/v1/agents/a1")).json
    assert (agent["state"], agent["losses"]) == ("quarantine", 2)
    assert agent["quarantine_until"] > "2020"
    resumed = (await online.post("/v1/agents/a1/resume")).json
    assert (resumed["state"], resumed["quarantine_until"]) == ("returned", None)
    records = (await online.get("/v1/audit?limit=100")).json["records"]
    (told,) = [record["detail"] for record in records if "quarantine" in record["detail"]]
    assert told.startswith("agent a1 was lost 2 times in short succession; agent a1 is in quarantine for 10 s")


async def test_a_drain_outlives_its_agent_until_it_is_resumed(online: Any) -> None:
    incarnation = await online.register()
    await online.post("/v1/agents/a1/drain")
    await online.poll(incarnation=incarnation, seq=1, goodbye=True)
    gone = (await online.get("/v1/agents/a1")).json
    assert (gone["state"], gone["drained"]) == ("left", True)
    back = await online.register("a1", instance="j" * 8)
    await online.submit(WORK)
    answer = (await online.poll(incarnation=back, seq=1, wait_ms=100)).json
    assert (answer["draining"], answer.get("assign", [])) == (True, [])
    assert (await online.post("/v1/agents/a1/resume")).json["state"] in {"up", "returned"}
    assert [
        item["task_id"] for item in (await online.poll(incarnation=back, seq=2, wait_ms=1000)).json["assign"]
    ] == ["a"]


async def test_a_second_agent_with_the_name_of_a_live_one_is_refused_with_advice(online: Any) -> None:
    incarnation = await online.register(home="home of the first")
    body = {"name": "a1", "instance": "j" * 8, "resources": {"cpu": 1}, "home": "home of another"}
    refused = await online.post("/v1/agents", body)
    assert (refused.status, refused.word) == (409, "name-in-use")
    assert "--name" in refused.json["detail"]
    view = (await online.get("/v1/agents/a1")).json
    assert (view["state"], view["incarnation"], view.get("losses", 0)) == ("up", incarnation, 0)
    again = await online.post("/v1/agents", {**body, "home": "home of the first"})
    assert (again.status, again.json["incarnation"]) == (200, incarnation + 1)


async def test_an_agent_that_is_gone_is_forgotten(online: Any) -> None:
    incarnation = await online.register()
    present = await online.post("/v1/agents/a1/forget")
    assert (present.status, present.word) == (409, "conflict")
    await online.poll(incarnation=incarnation, seq=1, goodbye=True)
    assert (await online.post("/v1/agents/a1/forget")).json == {"name": "a1"}
    assert (await online.get("/v1/agents/a1")).status == 404
    assert (await online.post("/v1/agents/a1/forget")).status == 404
