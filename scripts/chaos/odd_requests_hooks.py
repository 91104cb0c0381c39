"""Hooks for the fuzzer: rules that the API description cannot express, and protection for the cluster under test.

JSON Schema cannot express graphs, sums, digests and the notation of numbers: the needs of tasks have no cycle, a
duration that is written as a string is below a year, a whole number is written without a fraction. A case that
should fit the description is changed so that it fits these rules too, or left out if it is refused because of them.
"""

import ipaddress
from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode

from raftflow.domain.tasks.resources import parse_amount
from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.schema import BEYOND

HELD_MS_MAX = 20
"""Answers that may be held are held no longer: the fuzzer would wait for most of its time."""
HOLDABLE_MS_MAX = {"GET /v1/leader": 60_000, "GET /v1/workflows/{id}": 10_000, "GET /v1/events": 20_000}
"""What the operations allow; more stays as it is, and is refused."""
MEMBERS = frozenset({"n1", "n2", "n3"})
TOKEN_CHANGES = ("DELETE /v1/tokens/", "POST /v1/tokens/")
WHOLE_MAX = 2**53


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Prepare a case; False if it is not to be sent."""
    del context
    operation = case.operation.label
    if operation == "POST /v1/members/{name}/remove" and case.path_parameters.get("name") in MEMBERS:
        case.path_parameters["name"] = "n9"  # or it would be carried out
    if operation.startswith(TOKEN_CHANGES) and str(case.path_parameters.get("name")).startswith("fuzzer-"):
        case.path_parameters["name"] = "nobody"  # or the fuzzer would lose its own token
    if isinstance(case.query, dict):
        _hold_briefly(operation, case.query)
    if operation == "POST /v1/members" and isinstance(case.body, dict) and isinstance(case.body.get("name"), str):
        case.body["name"] = "n1"  # a new one would be waited for, 20 seconds each, also where only a header is odd
    fits = case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
    return _fit(operation, case) if fits else True


def _fit(operation: str, case: Any) -> bool:
    query, body = case.query or {}, case.body
    if operation == "DELETE /v1/cache" and isinstance(query, dict) and {"key", "prefix"} <= query.keys():
        del query["prefix"]  # one of the two, or none
    if operation == "POST /v1/bundles/{digest}":
        return False  # no made-up bytes are a bundle with the digest in the path
    if operation == "POST /v1/approvals/{id}":
        return False  # no made-up choice is one of those of the approval
    if not isinstance(body, dict):
        return True
    body = case.body = _whole(body)
    if operation == "POST /v1/agents/{id}/poll":
        body["wait_ms"] = min(body.get("wait_ms", 0), HELD_MS_MAX)
    elif operation == "POST /v1/members":
        return _is_address(body["peer"]) and _is_address(body["url"])
    elif operation == "POST /v1/workflows/{id}/budget":
        for amounts in (body.get("limits", {}), body.get("add", {})):
            amounts.update({name: round(amount, 6) for name, amount in amounts.items() if isinstance(amount, float)})
        return bool(body.get("limits") or body.get("add"))  # one of the two, or both
    elif operation == "POST /v1/tokens":
        if body.get("agents") or body.get("labels"):
            body["role"] = "agent"  # only such a token is for certain agents
    elif operation == "POST /v1/agents":
        return all(_is_amount(name, amount) for name, amount in body["resources"].items())
    elif operation == "POST /v1/workflows":
        _make_graph(body)
        try:
            normalize(body)
        except DocumentError as error:
            return not any(BEYOND.search(problem.message) for problem in error.problems)
    return True


def _hold_briefly(operation: str, query: dict[str, Any]) -> None:
    wait_ms = str(query.get("wait_ms", ""))
    if wait_ms.isdecimal() and HELD_MS_MAX < int(wait_ms) <= HOLDABLE_MS_MAX.get(operation, 0):
        query["wait_ms"] = HELD_MS_MAX


def _whole(value: Any) -> Any:
    """Write whole numbers without a fraction: 2.0 is one to JSON Schema, and none to most readers of JSON."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= WHOLE_MAX:
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {key: _whole(each) for key, each in value.items()} if isinstance(value, dict) else value


def _make_graph(document: dict[str, Any]) -> None:
    """Have every task need some of those before it, and refer to no result."""
    before: list[str] = []
    for number, task in enumerate(document["tasks"]):
        task["id"] = f"{task['id'][:100]}-{number}"
        if "needs" in task:
            task["needs"] = before[-len(task["needs"]) :] if task["needs"] else []
        before.append(task["id"])


def _is_amount(name: str, amount: Any) -> bool:
    try:
        parse_amount(name, amount)
    except ValueError:
        return False  # larger than any machine
    return True


def _is_address(text: str) -> bool:
    """Tell whether what stands in brackets, if anything does, is an IPv6 address."""
    if "[" not in text:
        return True
    try:
        ipaddress.IPv6Address(text.partition("[")[2].partition("]")[0])
    except ValueError:
        return False
    return True
