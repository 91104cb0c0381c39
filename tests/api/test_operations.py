"""Operations are declared once: nothing that belongs to one can be forgotten."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from pathlib import Path
from typing import Any, cast

import pytest

import raftflow.api
from raftflow.api.admission.gated_connection import AdmissionControl
from raftflow.api.admission.load_shedder import LoadShedder
from raftflow.api.figures.request_counts import RequestCounts
from raftflow.api.openapi import describe
from raftflow.api.routes.table import routes_of
from raftflow.client import AsyncClient, Client
from raftflow.client.operation_calls import OperationCalls
from raftflow.domain.contract import operations, problem_kinds
from raftflow.domain.contract.identities.grants import GRANTS
from raftflow.domain.contract.operation import Access, Operation, UsedBy
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.contract.views import TransferRequest
from raftflow.formats import schema


def declared() -> dict[str, Operation[Any]]:
    """Return the declared operations by the names of their constants."""
    constants = [constant for noun in operations.NOUNS for constant in vars(noun).items()]
    return {name: value for name, value in constants if isinstance(value, Operation)}


def test_every_module_of_a_noun_counts() -> None:
    modules = {noun.__name__.rpartition(".")[2] for noun in operations.NOUNS}
    assert modules == {found.name for found in pkgutil.iter_modules(operations.__path__)}


def test_every_operation_is_declared_once_under_its_own_name() -> None:
    assert len(set(OPERATIONS)) == len(OPERATIONS) == len(declared())
    assert [name for name, operation in declared().items() if operation.name != name.lower()] == []
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


def test_a_listing_names_the_field_of_its_entries() -> None:
    pages = [each for each in OPERATIONS if "cursor" in {param.name for param in each.params}]
    assert [each.name for each in pages if not each.items] == []
    listings = [each for each in OPERATIONS if each.items]
    assert [each.name for each in listings if each.items not in each.answer.__struct_fields__] == []


def test_every_operation_has_one_handler() -> None:
    admission = AdmissionControl(LoadShedder(), RequestCounts(), lambda: None, 1)  # type: ignore[arg-type,return-value]
    served = [route.operation for route in routes_of(admission, cast("Any", None), cast("Any", None))]
    assert [operation.name for operation in OPERATIONS if served.count(operation) != 1] == []
    assert len(served) == len(OPERATIONS)


def test_every_operation_is_in_the_description_of_the_api() -> None:
    described = describe(OPERATIONS)["paths"]
    ids = {item["operationId"] for path in described.values() for item in path.values()}
    assert ids == {operation.name for operation in OPERATIONS}


def test_the_body_of_a_submission_is_the_document_of_the_formats() -> None:
    assert operations.workflows.SUBMIT_WORKFLOW.body_schema == schema.ROOT
    assert operations.descriptions.SHOW_WORKFLOW_SCHEMA.path == schema.SCHEMA_PATH


CALLERS = {
    UsedBy.CLIENT: (
        "client/aio.py",
        "client/bundle_calls.py",
        "client/snapshots.py",
        "client/signal_calls.py",
        "client/status_calls.py",
        "client/http/hedge.py",
        "client/workflow_calls.py",
    ),
    UsedBy.AGENT: ("agent/exchange/leader.py",),
    UsedBy.REPLICA: ("api/forwarding/bundle_peers.py",),
}


def names_used_in(files: tuple[str, ...]) -> set[str]:
    """Return the names of operations that files of the product mention, as constants of the module or imported."""
    package = Path(raftflow.__file__).parent
    trees = [ast.parse((package / file).read_text()) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in nodes if isinstance(node, ast.Name)}


@pytest.mark.parametrize("used_by", CALLERS, ids=lambda used_by: used_by.value)
def test_every_operation_has_a_caller_in_the_client_or_the_agent(used_by: UsedBy) -> None:
    called = names_used_in(CALLERS[used_by])
    expected = {name for name, operation in declared().items() if operation.used_by is used_by}
    assert expected - called == set()


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}

    assert methods(AsyncClient) - methods(Client) == {"workflows_page", "tasks_page", "cache_page"}, "of one page"
    assert methods(Client) - methods(AsyncClient) == {"executor"}, "of threads"


async def test_a_call_refuses_a_body_of_another_operation() -> None:
    calls = OperationCalls(cast("Any", None))
    with pytest.raises(TypeError, match="add_member takes a AddMemberRequest"):
        await calls.call(operations.members.ADD_MEMBER, body=TransferRequest(to="n1"))


def test_every_operation_can_be_refused_while_too_many_requests_wait() -> None:
    """Every request waits for a turn of the event loop, and its queue may be full."""
    assert [operation.name for operation in OPERATIONS if problem_kinds.QUEUE_FULL not in operation.problems()] == []


def test_a_target_has_the_parts_in_order() -> None:
    assert operations.tasks.SHOW_TASK.target("w1", "a%2Fb") == "/v1/workflows/w1/tasks/a%2Fb"
    assert operations.tasks.SHOW_TASK.path_names == ("id", "task")


HEAD = """# Operations of the HTTP API

This page is made from `raftflow/domain/contract/operations/`. This command writes it again:
`scripts/test tests/api/test_operations.py --regenerate-transcripts`. The types of bodies and answers are in
`/v1/openapi.json` of a replica.

*Answered by* says which replica answers: the one that was asked, or the leader, to which other replicas forward the
request. *Who* is what the role of a token must grant; the roles are below. Problems that every operation can answer
with, such as `invalid-document`, are not repeated here. The last column has the verb of the command line.

| operation | request | answered by | who | problems of its own | `raftflow` |
| --- | --- | --- | --- | --- | --- |
"""


def render_page() -> str:
    """Return the page that lists the operations."""
    lines = HEAD.splitlines()
    for operation in OPERATIONS:
        params = [param.name for param in operation.params]
        query = f"`?{'&'.join(params)}`" if params else ""
        lines.append(
            f"| `{operation.name}`: {operation.summary} | `{operation.method} {operation.path}` {query} "
            f"| {operation.answered_by.value} | {operation.access.value} "
            f"| {' '.join(f'`{kind.word}`' for kind in operation.extra_problems)} "
            f"| {'' if operation.verb is None else f'`{operation.verb.noun} {operation.verb.name}`'} |"
        )
    lines += ROLES_HEAD.splitlines()
    for role, granted in GRANTS.items():
        words = ", ".join(access.value for access in Access if access in granted)
        lines.append(f"| `{role}` | {words} |")
    return "\n".join(lines) + "\n"


ROLES_HEAD = """
## Roles

`raftflow token create NAME --role ROLE` makes a token with a role. The token of the configuration
(`replica.token_file`) has the role `all`, and so has everybody in a cluster without one. An agent acts only under the
names that its token allows (`--agents`).

| role | may use operations of |
| --- | --- |
"""


def test_the_page_of_operations_is_up_to_date(*, regenerate_transcripts: bool) -> None:
    page = Path(raftflow.api.__file__).parent / "OPERATIONS.md"
    if regenerate_transcripts:
        page.write_text(render_page())
    assert page.read_text() == render_page(), "run this test with --regenerate-transcripts"
