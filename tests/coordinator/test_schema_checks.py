"""Schemas of signals: a hostile one holds nobody up, and an ordinary one is compared at once."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from raftflow.coordinator.calls import schema_checks
from raftflow.coordinator.calls.schema_checks import TOO_LONG, SchemaChecks
from raftflow.coordinator.calls.schema_cost import STEPS_MAX, schema_cost
from raftflow.coordinator.commit.submitter import BusyError


def written(schema: Any) -> bytes:
    return json.dumps(schema, separators=(",", ":")).encode()


def doubling(levels: int, keyword: str = "anyOf") -> bytes:
    """A schema whose last level is looked at 2^levels times."""
    both = {f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return written({"$ref": "#/$defs/a0", "$defs": {**both, f"a{levels}": {"type": "integer"}}})


ORDINARY: Any = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "a review",
    "type": "object",
    "required": ["stars", "at"],
    "properties": {
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "at": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "by": {"$ref": "#/$defs/person"},
        "labels": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 9},
        "more": {"anyOf": [{"type": "null"}, {"not": {"const": 7}}]},
    },
    "additionalProperties": False,
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}}}},
}
REVIEW: Any = {"stars": 5, "at": "2026-11-30", "by": {"name": "ann"}, "labels": ["a"]}
HOSTILE = {
    "references that double": doubling(20),
    "references that double and fit": doubling(40, "allOf"),
    "references in a circle": written({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
    "references to the whole": written({"items": {"$ref": "#"}}),
    "references elsewhere": written({"$ref": "#/properties/x"}),
    "names that are not there": written({"$ref": "#/$defs/x", "$defs": []}),
    "other keywords": written({"unevaluatedProperties": False}),
    "depth": written(json.loads('{"not":' * 70 + "{}" + "}" * 70)),
    "a keyword of another type": written({"allOf": {}}),
    "not a schema": b'"x"',
    "not JSON": b"{",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_may_take_long_has_no_small_bound(name: str) -> None:
    assert schema_cost(HOSTILE[name]) > STEPS_MAX


def test_what_is_ordinary_has_a_small_bound() -> None:
    assert schema_cost(written(ORDINARY)) * 300 < STEPS_MAX
    assert schema_cost(b"true") == 1 and schema_cost(written({"pattern": "ab"})) == 3
    assert schema_cost(written({"pattern": "(a{1,1000}){1,1000}"})) > STEPS_MAX
    assert schema_cost(written({"$ref": "#/$defs/x"})) == math.inf


async def test_an_ordinary_schema_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_checks, "_run", None)
    checks, schema = SchemaChecks(), written(ORDINARY)
    assert await checks.problem(schema) is None and await checks.fault(schema, written(REVIEW)) is None
    told = await checks.fault(schema, written({**REVIEW, "stars": 6}))
    assert told == "stars: 6 is greater than the maximum of 5"
    told = await checks.fault(schema, written({**REVIEW, "more": 7}))
    assert told is not None and told.startswith("more: ")


async def test_a_schema_without_a_bound_is_compared_by_a_process() -> None:
    tree = written({"type": "object", "properties": {"left": {"$ref": "#"}}, "additionalProperties": False})
    checks = SchemaChecks()
    assert await checks.problem(tree) is None
    assert await checks.fault(tree, b'{"left":{"left":{}}}') is None
    assert await checks.fault(tree, b'{"left":{"left":1}}') == 'left/left: 1 is not of type "object"'
    told = await checks.problem(b'{"type":7,"$ref":"#"}')
    assert told is not None and told.startswith("not a JSON Schema")
    assert (await checks.problem(b"[" * 20_000) or "").startswith("the schema has 20000 bytes")


@pytest.mark.slow
async def test_a_process_that_takes_too_long_is_ended_and_its_schema_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = SchemaChecks()
    assert await checks.fault(doubling(25), b'"x"') == TOO_LONG
    assert await checks.fault(doubling(1, "allOf"), b"1") is None, "others are compared"
    monkeypatch.setattr(schema_checks, "_run", None)
    assert await checks.fault(doubling(25), b'"y"') == TOO_LONG, "nobody tries again"


async def test_few_refused_schemas_are_remembered_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[bytes] = []

    async def killed(request: bytes) -> None:
        ran.append(request[4:-1])

    monkeypatch.setattr(schema_checks, "_run", killed)
    monkeypatch.setattr(schema_checks, "_REFUSED_MAX", 1)
    checks = SchemaChecks()
    schemas = [written({"unevaluatedItems": n}) for n in (1, 1, 2, 1)]
    assert {await checks.fault(each, b"1") for each in schemas} == {TOO_LONG}
    assert ran == [schemas[0], schemas[2], schemas[3]]
    short = SchemaChecks(refused_s=0)
    assert [await short.fault(schemas[0], b"1") for _ in range(2)] == [TOO_LONG] * 2
    assert len(ran) == 5


async def test_without_a_process_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BusyError, match="too busy to compare"):
        await SchemaChecks(wait_s=0).fault(HOSTILE["other keywords"], b"1")

    async def no_room(_: bytes) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(schema_checks, "_run", no_room)
    with pytest.raises(BusyError, match="too busy to compare"):
        await SchemaChecks().fault(HOSTILE["other keywords"], b"1")
