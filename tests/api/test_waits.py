"""Signals and approvals over HTTP, and the calls of attempts that wait."""

from __future__ import annotations

from typing import Any

from yarl import URL

from raftflow.domain import limits

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


async def running(one: Any) -> dict[str, Any]:
    """Run a task; returns what a call of its attempt needs."""
    incarnation = await one.register()
    await one.submit({"id": "a", "command": ["true"]})
    fence = (await one.poll(incarnation=incarnation, seq=1, wait_ms=5_000)).json["assign"][0]["fence"]
    return {"incarnation": incarnation, "fence": fence}


async def call(one: Any, who: dict[str, Any], **fields: Any) -> Any:
    body = {"incarnation": who["incarnation"], "calls": [{"call": "wait", "fence": who["fence"], **fields}]}
    answer = await one.post("/v1/agents/a1/calls", body)
    assert answer.status == 200, answer.json
    return answer.json["answers"][0]


async def workflow_id(one: Any) -> str:
    return (await one.get("/v1/workflows")).json["workflows"][0]["id"]


async def test_a_signal_is_kept_taken_and_counted_once(one: Any) -> None:
    who = await running(one)
    path = f"/v1/workflows/{await workflow_id(one)}/signals/go"
    sent = await one.call("POST", path, {"n": 1}, headers={"Idempotency-Key": "k"})
    assert (sent.status, sent.json) == (200, {"state": "kept", "task": None})
    found = await call(one, who, kind="signal", name="go", occurrence=1)
    assert found["record"] == {"outcome": "signal", "payload": {"n": 1}}
    opened = await call(one, who, kind="signal", name="go", occurrence=2, timeout="3d")
    assert opened["wait"] == 1
    delivered = await one.call("POST", path)
    assert delivered.json == {"state": "delivered", "task": "a"}
    assert (await call(one, who, kind="signal", name="go", occurrence=2))["record"]["payload"] is None


async def test_a_key_belongs_to_its_workflow(one: Any) -> None:
    for _ in range(2):
        await one.submit({"id": "a", "wait": {"signal": "go"}})
    listed = (await one.get("/v1/workflows")).json["workflows"]
    first, second = (each["id"] for each in listed)
    for workflow in (first, second, first):
        sent = await one.call("POST", f"/v1/workflows/{workflow}/signals/go", headers={"Idempotency-Key": "k"})
        assert (sent.status, sent.json["state"]) == (200, "delivered"), sent.json
    other = await one.call("POST", f"/v1/workflows/{first}/signals/go", 1, headers={"Idempotency-Key": "k"})
    assert (other.status, other.word) == (409, "request-mismatch")


async def test_the_leader_compares_with_the_schema(one: Any) -> None:
    who = await running(one)
    path = f"/v1/workflows/{await workflow_id(one)}/signals/go"
    wrong = await call(one, who, kind="signal", name="go", occurrence=1, request={"type": 7})
    assert (wrong["answer"], wrong["type"]) == ("refused", "invalid") and "not a JSON Schema" in wrong["detail"]
    wrong = await call(one, who, kind="signal", name="go", occurrence=1, request={"$ref": "http://127.0.0.1:1/x"})
    assert wrong["type"] == "invalid", "no other document is read"
    assert (await call(one, who, kind="signal", name="go", occurrence=1, request=SCHEMA))["wait"] == 1
    refused = await one.call("POST", path, {"n": "x"})
    assert (refused.status, refused.word) == (400, "invalid-document") and "n: " in refused.json["detail"]
    assert (await one.call("POST", path, {"n": 1})).json["state"] == "delivered"
    assert (await one.call("POST", path, {"n": "early"})).json["state"] == "kept"
    taken = await call(one, who, kind="signal", name="go", occurrence=2, request=SCHEMA)
    assert taken["record"]["outcome"] == "invalid" and taken["record"]["payload"] == {"n": "early"}


async def test_a_signal_that_is_sent_again_is_not_compared_with_the_schema_of_the_next_wait(one: Any) -> None:
    who = await running(one)
    path = f"/v1/workflows/{await workflow_id(one)}/signals/go"
    await call(one, who, kind="signal", name="go", occurrence=1, request=SCHEMA)
    sent = await one.call("POST", path, {"n": 1}, headers={"Idempotency-Key": "k"})
    await call(one, who, kind="signal", name="go", occurrence=2, request={"type": "string"})
    again = await one.call("POST", path, {"n": 1}, headers={"Idempotency-Key": "k"})
    assert (again.status, again.json) == (sent.status, sent.json) == (200, {"state": "delivered", "task": "a"})
    assert (await one.call("POST", path, {"n": 1}, headers={"Idempotency-Key": "other"})).status == 400


async def test_an_approval_is_listed_shown_and_decided_once(one: Any) -> None:
    who = await running(one)
    asked = {"title": "ship", "details": {"n": 1}, "choices": ["yes", "no"]}
    until = {"on_timeout": "no", "timeout": 60}
    opened = await call(one, who, kind="approval", name="ship", occurrence=1, request=asked, **until)
    assert opened["wait"] == 1
    (listed,) = (await one.get("/v1/approvals?state=open")).json["approvals"]
    assert listed == (await one.get("/v1/approvals/1")).json
    assert (listed["title"], listed["choices"], listed["on_timeout"]) == ("ship", ["yes", "no"], "no")
    wrong = await one.post("/v1/approvals/1", {"choice": "maybe"})
    assert wrong.status == 400 and "yes, no" in wrong.json["detail"]
    decided = await one.post("/v1/approvals/1", {"choice": "yes", "comment": "fine", "payload": [1]})
    assert (decided.status, decided.json["state"], decided.json["choice"]) == (200, "decided", "yes")
    second = await one.post("/v1/approvals/1", {"choice": "no"})
    assert (second.status, second.word) == (409, "conflict") and "'yes', by client:api" in second.json["detail"]
    assert (await one.get("/v1/approvals?state=open")).json == {"approvals": [], "next": None}
    for path in ("/v1/approvals/7", "/v1/approvals/x"):
        assert (await one.get(path)).status == 404
    assert (await one.get("/v1/approvals?cursor=x")).status == 400


async def test_the_payload_of_a_decision_is_a_value(one: Any) -> None:
    await one.submit({"id": "a", "wait": {"approval": "ship"}})
    odd = ("1e400", '"\\ud800"', "[" * 65 + "]" * 65, "1" * 700, '{"a":1,"a":2}', "NaN", '{"a":[1e400]}')
    for payload in (*odd, '"' + "x" * 2**20 + '"'):
        body = b'{"choice": "approve", "payload": %s}' % payload.encode()
        answer = await one.post("/v1/approvals/1", raw=body)
        assert (answer.status, answer.word) == (400, "invalid-document"), (payload[:40], answer.body)
    told = await one.post("/v1/approvals/1", raw=b'{"choice": "approve", "payload": {"a": [1, "\\ud800"]}}')
    assert told.status == 400
    assert (await one.get("/v1/approvals/1")).json["state"] == "open"


async def test_a_full_mailbox_and_odd_signals_are_refused(one: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "SIGNALS_PER_WORKFLOW_MAX", 3)
    await running(one)
    path = f"/v1/workflows/{await workflow_id(one)}/signals/go"
    for payload in (b'"' + b"x" * 2**20 + b'"', b"[" * 65 + b"]" * 65, b"1e400", b'{"a":1,"a":2}', b'"\xff"', b"1 2"):
        refused = await one.post(path, raw=payload)
        assert (refused.status, refused.word) == (400, "invalid-document") and "payload" in refused.json["detail"]
    for name in ("a%00b", "a%0Ab", "%1b[31m"):
        refused = await one.call("POST", URL(f"{path}{name}", encoded=True).raw_path)
        assert refused.status == 400 and "control characters" in refused.json["detail"]
    assert [(await one.post(path, number)).status for number in range(4)] == [200, 200, 200, 413]


async def test_titles_and_choices_show_as_one_line(one: Any) -> None:
    """A list of approvals has a line for each: nobody can write one that looks like another."""
    who = await running(one)
    for request in ({"title": "ship\n7  pay"}, {"title": "a\u0000"}, {"title": "ship", "choices": ["a", "\x1b[2J"]}):
        refused = await call(one, who, kind="approval", name="n", occurrence=1, request=request)
        assert refused["type"] == "invalid" and "control characters" in refused["detail"], refused


async def test_what_was_cancelled_is_not_decided(one: Any) -> None:
    workflow = await one.submit({"id": "a", "wait": {"approval": "ship"}})
    await one.post(f"/v1/workflows/{workflow}/cancel")
    refused = await one.post("/v1/approvals/1", {"choice": "approve"})
    assert (refused.status, refused.word) == (409, "conflict")
    assert "nobody waits for it any more" in refused.json["detail"]
    assert (await one.get("/v1/approvals/1")).json["state"] == "withdrawn"


async def test_waits_that_are_refused(one: Any) -> None:
    who = await running(one)
    for more in ({"timeout": "soon"}, {"timeout": -1}):
        refused = await call(one, who, kind="signal", name="go", occurrence=1, **more)
        assert refused["type"] == "invalid" and "timeout" in refused["detail"]
    stale = await call(one, {**who, "fence": 99}, kind="signal", name="go", occurrence=1)
    assert stale["type"] == "stale"
    assert (await one.call("POST", "/v1/workflows/none/signals/go")).status == 404
