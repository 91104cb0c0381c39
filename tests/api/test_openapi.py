"""The description of the API says what the API does."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import msgspec

from raftflow.api.openapi import describe
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.contract.problem_kinds import ALL_KINDS
from raftflow.domain.values.ids import name_problem
from raftflow.domain.values.results import step_name_problem
from raftflow.formats.schema import workflow_schema_file


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in references(value)]
    return [ref for value in node for ref in references(value)] if isinstance(node, list) else []


async def test_every_route_is_described_and_every_reference_resolves(one: Any) -> None:
    answer = await one.get("/v1/openapi.json")
    assert answer.headers["Content-Type"].startswith("application/json")
    document = answer.json
    assert document["openapi"].startswith("3.1")
    served = {
        (route.method, route.resource.canonical)
        for route in one.server._runner.app.router.routes()
        if route.method != "HEAD"
    }
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == served
    assert len(served) == len(OPERATIONS) >= 25
    for reference in references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


async def test_every_operation_is_whole(one: Any) -> None:
    document = (await one.get("/v1/openapi.json")).json
    for path, item in document["paths"].items():
        for method, operation in item.items():
            names = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert names == set(re.findall(r"\{(\w+)\}", path)), path
            assert any(status.startswith("2") for status in operation["responses"])
            for response in operation["responses"].values():
                assert response["description"]
            if method == "get":
                assert "requestBody" not in operation
    poll = document["paths"]["/v1/agents/{id}/poll"]["post"]
    assert {"200", "307", "400", "401", "404", "409", "413", "429", "503"} <= set(poll["responses"])
    assert poll["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/PollRequest"
    }


def test_every_kind_of_problem_belongs_to_an_operation() -> None:
    used = {kind.word for operation in OPERATIONS for kind in operation.problems()}
    assert {kind.word for kind in ALL_KINDS} - used == {"method-not-allowed"}
    assert len({kind.word for kind in ALL_KINDS}) == len(ALL_KINDS)


async def test_the_body_of_a_submission_is_a_workflow_document(one: Any) -> None:
    document = (await one.get("/v1/openapi.json")).json
    body = document["paths"]["/v1/workflows"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/WorkflowDocument"}
    validator = jsonschema_rs.validator_for({**body, "components": document["components"]})
    good = {
        "name": "w",
        "tasks": [{"id": "t", "command": ["true"], "timeout": "5s", "resources": {"memory": "1GiB"}}],
    }
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "surprise": 1})
    assert not validator.is_valid({**good, "tasks": [{"id": "t", "command": "true"}]})


async def test_the_description_uses_only_what_client_generators_know(one: Any) -> None:
    """Seen: a property with a default is taken for one that must be sent, and `items: false` for no schema at all."""
    document = (await one.get("/v1/openapi.json")).json
    text = msgspec.json.encode(document).decode()
    assert '"items":false' not in text
    schemas = document["components"]["schemas"]
    sent = [schemas[name] for name in ("WorkflowDocument", "TaskDocument", "TaskDefaults", "DrainRequest")]
    assert not [each for schema in sent for each in schema["properties"].values() if "default" in each]
    assert schemas["TaskCounts"]["properties"]["failed"]["default"] == 0
    for path in ("/v1/openapi.json", "/v1/schema/workflow.json"):
        content = document["paths"][path]["get"]["responses"]["200"]["content"].values()
        assert all(each["schema"] == {"type": "object", "additionalProperties": True} for each in content)


async def test_every_replica_gives_the_schema_to_editors(trio: Any) -> None:
    cluster = await trio(token="t" * 20)
    for served in cluster.live.values():
        answer = await served.get("/v1/schema/workflow.json")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/schema+json")
        assert answer.json == workflow_schema_file()


def part(document: Any, name: str, *path: str) -> Any:
    node = document["components"]["schemas"][name]["properties"]
    for key in path:
        node = node[key]
    return node


async def test_what_is_refused_is_described_as_wrong(one: Any) -> None:
    """Seen with a fuzzer that takes the description at its word."""
    document = (await one.get("/v1/openapi.json")).json
    resources = jsonschema_rs.validator_for(part(document, "RegisterRequest", "resources"))
    body = {"name": "a1", "instance": "i" * 8}
    for wrong in ({"cpu": "many"}, {"a b": 1}, {"memory": "8 elephants"}, {"gpu": 2**53}, {"cpu": -1}):
        assert not resources.is_valid(wrong), wrong
        assert (await one.post("/v1/agents", {**body, "resources": wrong})).status == 400, wrong
    for right in ({"cpu": "1.5", "memory": "8GiB"}, {"memory": 1e-7}, {"gpu": 2}):
        assert resources.is_valid(right), right
        assert (await one.post("/v1/agents", {**body, "home": "h", "resources": right})).status == 200, right
    for field, wrong, right in (
        ("peer", "here", "10.0.0.1:7101"),
        ("peer", "a b:1", "[::1]:1"),
        ("peer", "a:99999", "a:65535"),
        ("url", "ftp://a", "http://a"),
        ("url", "http://a/path", "https://a:1/"),
    ):
        validator = jsonschema_rs.validator_for(part(document, "AddMemberRequest", field))
        assert (validator.is_valid(wrong), validator.is_valid(right)) == (False, True)
        member = {"name": "n1", "peer": "a:1", "url": "http://a", field: wrong}
        answer = await one.post("/v1/members", member)
        assert (answer.status, answer.json["errors"][0]["path"]) == (400, field)
    cursor = {"name": "cursor", "in": "query"}
    for path, wrong in (("/v1/workflows", "x"), ("/v1/workflows", "1" * 19)):
        described = next(
            each for each in document["paths"][path]["get"]["parameters"] if cursor.items() <= each.items()
        )
        assert not jsonschema_rs.validator_for(described["schema"]).is_valid(wrong)
        assert (await one.get(f"{path}?cursor={wrong}")).status == 400
    fence = document["paths"]["/v1/agents/{id}/attempts/{fence}/inputs"]["get"]["parameters"][1]
    assert fence["schema"]["type"] == "integer"
    data = jsonschema_rs.validator_for(part(document, "LogPiece", "data"))
    assert (data.is_valid("YQ=="), data.is_valid("a b")) == (True, False)


async def test_a_key_that_cannot_be_one_is_refused_by_every_write(one: Any) -> None:
    for path, body in (("/v1/members/transfer", {}), ("/v1/agents/a1/forget", None), ("/v1/workflows", {})):
        answer = await one.post(path, body, headers={"Idempotency-Key": "k" * 201})
        assert (answer.status, "Idempotency-Key" in answer.json["detail"]) == (400, True), path


async def test_tools_that_know_no_tuples_read_the_description(one: Any) -> None:
    document = (await one.get("/v1/openapi.json")).json
    structs = {name: each for name, each in document["components"]["schemas"].items() if "Document" not in name}
    del structs["TaskDefaults"]  # made by hand, as documents: only a `not` has one there
    assert "prefixItems" not in msgspec.json.encode(structs).decode()
    pair = part(document, "AuditCheck", "before_gaps", "items")
    assert (pair["items"], pair["maxItems"]) == ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 2)


def test_names_that_are_refused_do_not_fit_the_description() -> None:
    document = describe(OPERATIONS)

    def rule(path: str) -> dict[str, Any]:
        (name,) = (each for each in document["paths"][path]["post"]["parameters"] if each["name"] == "name")
        return name["schema"]

    for path, good, bad in (
        ("/v1/workflows/{id}/signals/{name}", ("go", "Müller & Co"), ("a\x1fb", "a\n", "")),
        ("/v1/limits/{name}", ("llm", "a.b:c"), ("Ï", "-x", "a b")),
    ):
        for name in good:
            assert re.search(rule(path)["pattern"], name) and step_or_limit_problem(path, name) is None
        for name in bad:
            assert not re.search(f"(?:{rule(path)['pattern']})(?!\n)", name) and step_or_limit_problem(path, name)


def step_or_limit_problem(path: str, name: str) -> str | None:
    return step_name_problem(name) if "signals" in path else name_problem(name)
