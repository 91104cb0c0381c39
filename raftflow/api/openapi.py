"""The OpenAPI 3.1 document, made from the declared operations and from the types that validate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

import raftflow
from raftflow.api.http import problems
from raftflow.domain import limits
from raftflow.domain.contract.operation import (
    IDEMPOTENCY_KEY_CHARS_MAX,
    IDEMPOTENCY_KEY_PATTERN,
    STALE,
    Access,
    AnsweredBy,
    Operation,
)
from raftflow.domain.contract.views import (
    HEADER_IDEMPOTENCY_KEY,
    HEADER_INDEX,
    HEADER_LEADER,
    HEADER_LEADER_URL,
    HEADER_PEERS,
    HEADER_REQUEST_ID,
    HEADER_TERM,
    Problem,
)
from raftflow.domain.values.code_bundle import DIGEST_PATTERN
from raftflow.formats import schema

_REF = "#/components/schemas/{name}"
_NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": limits.NAME_CHARS_MAX}
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_PATH_SCHEMAS: dict[str, dict[str, Any]] = {
    "fence": {"type": "integer", "minimum": 0, "maximum": limits.NUMBER_MAX},
    "digest": {"type": "string", "pattern": f"^{DIGEST_PATTERN}$"},
}
"""Of parts of a path that are not names."""


def describe(operations: tuple[Operation[Any], ...]) -> dict[str, Any]:
    """Return the OpenAPI document of these operations."""
    document, parts = schema.workflow_schema(_REF)
    components = {
        **_without_defaults({schema.ROOT: document, **parts}),
        **_without_defaults(_components(operation.body for operation in operations)),
        **_components([Problem, *(operation.answer for operation in operations)]),
    }
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe_operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "raftflow",
            "version": raftflow.__version__,
            "description": "Any replica answers; a follower forwards writes and consistent reads to the leader.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": {
                "Index": _header("Index of the last log entry that the answering replica has applied", "integer"),
                "Term": _header("Raft term of the answering replica", "integer"),
                "Leader": _header("Name of the leader, empty if unknown", "string"),
                "LeaderUrl": _header("URL of the leader, if another replica forwarded the request to it", "string"),
                "Peers": _header("URLs of the voting members, separated by commas", "string"),
                "RequestId": _header("Id of the request, the client's own if it sent one", "string"),
            },
        },
        "security": [{"token": []}],
    }


def _components(types: Iterable[Any]) -> dict[str, Any]:
    """Return the schemas of those types that are structs, and of the types that they refer to."""
    structs = dict.fromkeys(used for used in types if isinstance(used, type) and issubclass(used, msgspec.Struct))
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    return cast("dict[str, Any]", _without_tuples(components))


def _without_defaults(components: dict[str, Any]) -> dict[str, Any]:
    """Leave out the defaults of what clients send: some generators take a key with a default for a required one."""
    return {name: _stripped(component) for name, component in components.items()}


def _stripped(component: Any) -> Any:
    """Leave out defaults and titles. Generators would name a type by its title and not by its component."""
    if isinstance(component, list):
        return [_stripped(each) for each in component]
    if not isinstance(component, dict):
        return component
    stripped = {
        key: _stripped(each) for key, each in component.items() if key not in {"default", "title", "properties"}
    }
    if "properties" in component:
        stripped["properties"] = {name: _stripped(each) for name, each in component["properties"].items()}
    return stripped


def _without_tuples(node: Any) -> Any:
    """Describe a tuple as a list of its types: some tools know neither `prefixItems` nor `items: false`."""
    if isinstance(node, list):
        return [_without_tuples(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _without_tuples(each) for key, each in node.items() if key != "prefixItems"}
    if "prefixItems" in node:
        plain["items"] = {"anyOf": _without_tuples(node["prefixItems"])}
    return plain


def _header(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


def _describe_operation(operation: Operation[Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {str(operation.status): _answer(operation)}
    if operation.answered_by is AnsweredBy.LEADER_POLL:
        responses["307"] = {
            "description": "Another replica leads",
            "headers": {"Location": _header("The same operation at the leader", "string")},
        }
    by_status: dict[int, list[problems.ProblemKind]] = {}
    for kind in operation.problems():
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        words = "; ".join(f"`{kind.word}`: {kind.title}" for kind in kinds)
        responses[str(status)] = {
            "description": words,
            "headers": _headers(),
            "content": {problems.CONTENT_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
    described: dict[str, Any] = {
        "summary": operation.summary,
        **({"description": operation.details} if operation.details else {}),
        "operationId": operation.name,
        "parameters": _parameters(operation),
        "responses": responses,
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {operation.body_media_type: {"schema": _body_schema(operation)}},
        }
    if operation.access is Access.OPEN:
        described["security"] = []
    return described


def _answer(operation: Operation[Any]) -> dict[str, Any]:
    schema = _schema(operation.answer)
    if operation.answer is bytes:
        schema = {"type": "string"} if operation.media_type.startswith("text/") else _BINARY
    return {
        "description": operation.summary,
        "headers": _headers(),
        "content": {operation.media_type: {"schema": schema}},
    }


def _headers() -> dict[str, Any]:
    return {
        HEADER_INDEX: {"$ref": "#/components/headers/Index"},
        HEADER_TERM: {"$ref": "#/components/headers/Term"},
        HEADER_LEADER: {"$ref": "#/components/headers/Leader"},
        HEADER_LEADER_URL: {"$ref": "#/components/headers/LeaderUrl"},
        HEADER_PEERS: {"$ref": "#/components/headers/Peers"},
        HEADER_REQUEST_ID: {"$ref": "#/components/headers/RequestId"},
    }


def _body_schema(operation: Operation[Any]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=operation.body_schema)} if operation.body_schema else _schema(operation.body)


def _schema(used: Any) -> dict[str, Any]:
    if used is bytes:
        return _BINARY
    if isinstance(used, type) and issubclass(used, msgspec.Struct):
        return {"$ref": _REF.format(name=used.__name__)}
    if used is msgspec.Raw:
        return {}
    return {"type": "object", "additionalProperties": True}


def _parameters(operation: Operation[Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {**_PATH_SCHEMAS.get(name, _NAME_SCHEMA), **operation.path_rules.get(name, {})},
        }
        for name in operation.path_names
    ]
    for param in operation.params:
        schema: dict[str, Any] = {"type": param.kind}
        if param.choices:
            schema["enum"] = list(param.choices)
        elif param.kind == "string":
            schema["maxLength"] = param.chars_max
        if param.pattern:
            schema["pattern"] = f"^(?:{param.pattern})$"
        if param.kind == "integer":
            schema |= {"minimum": param.minimum, "maximum": param.maximum}
        if param.default is not None:
            schema["default"] = param.default
        parameters.append({"name": param.name, "in": "query", "description": param.description, "schema": schema})
    if operation.answered_by is AnsweredBy.LEADER_READ:
        parameters.append(
            {
                "name": STALE.name,
                "in": "query",
                "description": STALE.description,
                "allowEmptyValue": True,
                "schema": {"type": STALE.kind},
            }
        )
    if operation.method != "GET" and operation.answered_by is AnsweredBy.LEADER_WRITE:
        parameters.append(
            {
                "name": HEADER_IDEMPOTENCY_KEY,
                "in": "header",
                "description": "a key of the client's choice: repeated requests with it are carried out once",
                "schema": {
                    "type": "string",
                    "pattern": IDEMPOTENCY_KEY_PATTERN,
                    "minLength": 1,
                    "maxLength": IDEMPOTENCY_KEY_CHARS_MAX,
                },
            }
        )
    return parameters
