"""`/v1/openapi.json`: OpenAPI 3.1, made from the routes and from the types that validate.

Beside it the JSON Schema of workflow documents for editors, which is the body of a submission here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

import raftflow
from raftflow.api.http import problems
from raftflow.api.http.requests import KEY_CHARS_MAX, KEY_PATTERN, Access, Request, Response, Route
from raftflow.domain import limits
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
from raftflow.formats import schema

_REF = "#/components/schemas/{name}"
_PATH_PART = re.compile(r"\{(\w+)\}")
_NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": limits.NAME_CHARS_MAX}
_PATH_SCHEMAS = {"fence": {"type": "integer", "minimum": 0, "maximum": limits.NUMBER_MAX}}
"""Of parts of a path that are no names."""
_EVERYWHERE = (
    problems.INVALID_DOCUMENT,
    problems.FORBIDDEN,
    problems.URI_TOO_LONG,
    problems.UNSUPPORTED_MEDIA,
    problems.HEADERS_TOO_LARGE,
    problems.INTERNAL,
)


def route_of(others: tuple[Route, ...]) -> Route:
    """Return the route that describes the API: the other routes and itself."""
    content: list[bytes] = []

    async def document(_call: Request) -> Response:
        if not content:
            content.append(msgspec.json.encode(describe((*others, route))))
        return Response(content[0], headers={"Content-Type": "application/json"})

    route = Route("GET", "/v1/openapi.json", Access.LOCAL, document, "Describe this API", dict)
    return route


async def _workflow_schema(_call: Request) -> Response:
    """Give out the schema of workflow documents."""
    return Response(_workflow_schema_bytes(), headers={"Content-Type": "application/schema+json"})


@functools.cache
def _workflow_schema_bytes() -> bytes:
    return msgspec.json.encode(schema.workflow_schema_file())


SCHEMA_ROUTE = Route(
    "GET",
    schema.SCHEMA_PATH,
    Access.LOCAL,
    _workflow_schema,
    "Give out the JSON Schema of workflow documents",
    dict,
    media="application/schema+json",
    is_open=True,
)
"""Open to all: editors send no token, and it says nothing about the cluster."""


def describe(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    document, parts = schema.workflow_schema(_REF)
    components = {
        **_without_defaults({schema.ROOT: document, **parts}),
        **_without_defaults(_components(route.body for route in routes)),
        **_components([Problem, *(route.answer for route in routes)]),
    }
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "raftflow",
            "version": raftflow.__version__,
            "description": "Any replica answers; a follower passes writes and consistent reads on to the leader.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": {
                "Index": _header("Index of the last log entry that the answering replica has applied", "integer"),
                "Term": _header("Raft term of the answering replica", "integer"),
                "Leader": _header("Name of the leader, empty if unknown", "string"),
                "LeaderUrl": _header("URL of the leader, if another replica passed the request on to it", "string"),
                "Peers": _header("URLs of the voting members, with commas between", "string"),
                "RequestId": _header("Id of the request, the client's own if it sent one", "string"),
            },
        },
        "security": [{"token": []}],
    }


def _components(types: Iterable[Any]) -> dict[str, Any]:
    """Return the schemas of those that are structs, and of what they refer to."""
    structs = dict.fromkeys(used for used in types if isinstance(used, type) and issubclass(used, msgspec.Struct))
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    return cast("dict[str, Any]", _without_tuples(components))


def _without_defaults(components: dict[str, Any]) -> dict[str, Any]:
    """Leave out the defaults of what clients send: some generators take such a key for one that must be there."""
    return {name: _stripped(component) for name, component in components.items()}


def _stripped(component: Any) -> Any:
    """Leave out the default of each property, and the title: generators name a type by it, not by its component."""
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
    """Say of a tuple what each item may be: some tools take neither `prefixItems` nor `items: false`."""
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


def _operation(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {str(route.status): _answer(route)}
    if route.access is Access.POLL:
        responses["307"] = {
            "description": "Another replica leads",
            "headers": {"Location": _header("The same operation at the leader", "string")},
        }
    by_status: dict[int, list[problems.ProblemKind]] = {}
    for kind in problems_of(route):
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        words = "; ".join(f"`{kind.word}`: {kind.title}" for kind in kinds)
        responses[str(status)] = {
            "description": words,
            "headers": _headers(),
            "content": {problems.CONTENT_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _operation_id(route),
        "parameters": _parameters(route),
        "responses": responses,
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {"application/json": {"schema": _body_schema(route)}},
        }
    if route.is_open:
        operation["security"] = []
    return operation


def problems_of(route: Route) -> list[problems.ProblemKind]:
    """Return every kind of problem that the operation can answer with."""
    kinds = [*_EVERYWHERE, *route.problems]
    if not route.is_open:
        kinds += [problems.UNAUTHORIZED, problems.WRONG_HOST]
    if "{" in route.path:
        kinds.append(problems.NOT_FOUND)
    if route.access is not Access.LOCAL:
        kinds.append(problems.NO_LEADER)
    if route.method != "GET":
        kinds += [problems.QUEUE_FULL, problems.OUTCOME_UNKNOWN]
        if route.access is Access.WRITE:
            kinds.append(problems.REQUEST_MISMATCH)
    return list(dict.fromkeys(kinds))


def _answer(route: Route) -> dict[str, Any]:
    media = route.media or ("application/json" if route.answer is not bytes else "text/plain")
    schema = {"type": "string"} if route.answer is bytes else _schema(route.answer)
    return {"description": route.summary, "headers": _headers(), "content": {media: {"schema": schema}}}


def _headers() -> dict[str, Any]:
    return {
        HEADER_INDEX: {"$ref": "#/components/headers/Index"},
        HEADER_TERM: {"$ref": "#/components/headers/Term"},
        HEADER_LEADER: {"$ref": "#/components/headers/Leader"},
        HEADER_LEADER_URL: {"$ref": "#/components/headers/LeaderUrl"},
        HEADER_PEERS: {"$ref": "#/components/headers/Peers"},
        HEADER_REQUEST_ID: {"$ref": "#/components/headers/RequestId"},
    }


def _body_schema(route: Route) -> dict[str, Any]:
    return {"$ref": _REF.format(name=route.body_schema)} if route.body_schema else _schema(route.body)


def _schema(used: Any) -> dict[str, Any]:
    if isinstance(used, type) and issubclass(used, msgspec.Struct):
        return {"$ref": _REF.format(name=used.__name__)}
    return {"type": "object", "additionalProperties": True}


def _operation_id(route: Route) -> str:
    words = [part for part in re.split(r"[^A-Za-z]+", route.path) if part and part != "v"]
    return "_".join([route.method.lower(), *words])


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS.get(name, _NAME_SCHEMA)}
        for name in _PATH_PART.findall(route.path)
    ]
    for param in route.params:
        schema: dict[str, Any] = {"type": param.kind}
        if param.choices:
            schema["enum"] = list(param.choices)
        elif param.kind == "string":
            schema["maxLength"] = param.chars_max
        if param.pattern:
            schema["pattern"] = f"^(?:{param.pattern})$"
        if param.kind == "integer":
            schema |= {"minimum": param.least, "maximum": param.most}
        if param.default is not None:
            schema["default"] = param.default
        parameters.append({"name": param.name, "in": "query", "description": param.description, "schema": schema})
    if route.access is Access.READ:
        parameters.append(
            {
                "name": "stale",
                "in": "query",
                "description": "answer from what the asked replica has, perhaps behind the leader",
                "allowEmptyValue": True,
                "schema": {"type": "string"},
            }
        )
    if route.method != "GET" and route.access is Access.WRITE:
        parameters.append(
            {
                "name": HEADER_IDEMPOTENCY_KEY,
                "in": "header",
                "description": "a key of the client's choice: repeated requests with it are carried out once",
                "schema": {"type": "string", "pattern": KEY_PATTERN, "minLength": 1, "maxLength": KEY_CHARS_MAX},
            }
        )
    return parameters
