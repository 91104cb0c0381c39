"""All that comes from outside is bounded before it reaches the log: a walk over types, and what is refused."""

import json
import os
import time
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from raftflow.domain import limits
from raftflow.domain.commands import AnyCommand, SubmitWorkflow
from raftflow.domain.contract.operation import Access
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.contract.views import (
    AddMemberRequest,
    BudgetRequest,
    CallsRequest,
    DecisionRequest,
    DrainRequest,
    EffectDecision,
    PollRequest,
    PriorityRequest,
    RateLimitRequest,
    RegisterRequest,
    RotateRequest,
    TokenRequest,
    TransferRequest,
)
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.formats.documents import DocumentError, normalize

REGISTRATION = {"name": "a1", "instance": "i" * 8, "resources": {"cpu": 1}}
OFFER = {"fence": 1, "workflow_id": "w", "task_id": "t", "outcome": "succeeded"}


# --- a walk over the types of bodies

JUDGED_ELSEWHERE = {
    "ReportedEnd.result": "domain.reportable looks at it, and the body's size bounds it",
    "RecordStep.result": "domain.reportable looks at it, and the body's size bounds it",
    "CloseEffect.result": "domain.reportable looks at it, and the body's size bounds it",
    "StartWait.timeout": "the leader looks at it: a call that is refused takes no other call with it",
    "StartWait.on_timeout": "wait_problem looks at it, and the body's size bounds it",
    "StartWait.request": "wait_problem looks at it, and the body's size bounds it",
    "DecisionRequest.payload": "domain.reportable looks at it, and the body's size bounds it",
    "EffectDecision.result": "domain.reportable looks at it, and the body's size bounds it",
    "SpawnChildren.tasks[]": "formats.documents looks at it, and the body's size bounds it",
    "SpawnChildren.defaults": "formats.documents looks at it, and the body's size bounds it",
}


def unbounded(kind: inspect.Type, where: str) -> list[str]:
    """Return the paths below a type that a client could fill without end."""
    if isinstance(kind, inspect.StructType):
        assert kind.cls.__struct_config__.forbid_unknown_fields, f"{where} takes fields that nobody knows"
        name = kind.cls.__name__
        fields = [(f"{name}.{field.encode_name}", field.type) for field in kind.fields]
        return [path for at, type_ in fields if at not in JUDGED_ELSEWHERE for path in unbounded(type_, at)]
    if isinstance(kind, inspect.Metadata):
        return unbounded(kind.type, where)
    if isinstance(kind, inspect.UnionType | inspect.TupleType):
        inside = kind.types if isinstance(kind, inspect.UnionType) else kind.item_types
        return [path for one in inside for path in unbounded(one, where)]
    if isinstance(kind, inspect.DictType):
        inner = [*unbounded(kind.key_type, f"{where}{{key}}"), *unbounded(kind.value_type, f"{where}{{value}}")]
        return [where] * (kind.max_length is None) + inner
    if isinstance(kind, inspect.ListType):
        return [where] * (kind.max_length is None) + unbounded(kind.item_type, f"{where}[]")
    if isinstance(kind, inspect.StrType | inspect.BytesType):
        return [where] * (kind.max_length is None)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return [where] * ((kind.ge is None and kind.gt is None) or (kind.le is None and kind.lt is None))
    if isinstance(kind, inspect.BoolType | inspect.NoneType | inspect.LiteralType) or where in JUDGED_ELSEWHERE:
        return []
    return [f"{where} is {kind}"]


def test_every_field_of_every_body_has_a_bound() -> None:
    bodies = {operation.body for operation in OPERATIONS if operation.body is not None}
    assert bodies == {
        dict,
        bytes,  # a code bundle: `body_bytes` of the replica, and `read_bundle`
        msgspec.Raw,  # the payload of a signal: JSON of a bounded size
        RegisterRequest,
        PollRequest,
        CallsRequest,
        DrainRequest,
        DecisionRequest,
        RateLimitRequest,
        BudgetRequest,
        EffectDecision,
        PriorityRequest,
        AddMemberRequest,
        TransferRequest,
        RotateRequest,
        TokenRequest,
    }
    found = [
        path
        for body in bodies - {dict, bytes, msgspec.Raw}
        for path in unbounded(inspect.type_info(body), body.__name__)
    ]
    assert found == []


def test_the_walk_finds_what_has_no_bound() -> None:
    class Inner(msgspec.Struct, forbid_unknown_fields=True):
        text: str
        whole: int

    class Loose(msgspec.Struct, forbid_unknown_fields=True):
        listed: list[Inner]
        data: bytes | None = None
        table: dict[str, float] = {}
        any: Any = None

    found = unbounded(inspect.type_info(Loose), "Loose")
    assert found[:-1] == [
        "Loose.listed",
        "Inner.text",
        "Inner.whole",
        "Loose.data",
        "Loose.table",
        "Loose.table{key}",
        "Loose.table{value}",
    ]
    assert found[-1].startswith("Loose.any is")


def test_the_api_description_shows_the_bounds() -> None:
    _, schemas = msgspec.json.schema_components([RegisterRequest, PollRequest])
    register = schemas["RegisterRequest"]["properties"]
    assert register["labels"]["maxProperties"] == limits.LABELS_MAX
    assert register["version"]["maxLength"] == limits.VERSION_CHARS_MAX
    assert schemas["PollRequest"]["properties"]["seq"]["maximum"] == limits.NUMBER_MAX


# --- documents

_LONG = "x" * (limits.SPEC_BYTES_MAX + 1)
TASK_BEYOND: dict[str, dict[str, Any]] = {
    "id": {"id": "x" * 201},
    "needs": {"needs": [f"n{number}" for number in range(limits.NEEDS_PER_TASK_MAX + 1)]},
    "command": {"command": [_LONG]},
    "python": {"command": None, "python": f"m:{_LONG}"},
    "args": {"command": None, "python": "m:f", "args": [_LONG]},
    "kwargs": {"command": None, "python": "m:f", "kwargs": {"k": _LONG}},
    "env": {"env": {"E": _LONG}},
    "cwd": {"cwd": _LONG},
    "resources": {"resources": {f"r{number}": 1 for number in range(17)}},
    "retries": {"retries": limits.RETRIES_MAX + 1},
    "retry_delay_ms": {"retry_delay": "400d"},
    "retry_delay_max_ms": {"retry_delay_max": "400d"},
    "timeout_ms": {"timeout": "400d"},
    "grace_ms": {"grace": "400d"},
    "expected_ms": {"expected": "400d"},
    "labels": {"labels": {f"l{number}": "" for number in range(65)}},
    "kind": {"kind": "x" * 201},
    "cache": {"cache": "x" * (limits.CACHE_KEY_CHARS_MAX + 1)},
    "rates": {"rates": {f"r{number}": 1 for number in range(limits.RATES_PER_TASK_MAX + 1)}},
    "memory_max_mib": {"resources": {"memory": 1}, "memory_max": 2**60},
}
WORKFLOW_BEYOND: dict[str, dict[str, Any]] = {
    "name": {"name": "x" * 201},
    "tasks": {"tasks": [{"id": f"t{n}", "command": ["true"]} for n in range(limits.TASKS_PER_WORKFLOW_MAX + 1)]},
    "priority": {"priority": limits.PRIORITY_MAX + 1},
    "max_parallel": {"max_parallel": limits.TASKS_PER_WORKFLOW_MAX + 1},
    "code": {"code": "a" * 65},
    "budgets": {"budgets": {f"b{number}": 1 for number in range(limits.BUDGETS_PER_WORKFLOW_MAX + 1)}},
}
PROGRAM_KEYS = {"command", "python", "args", "kwargs"}
"""Keys of a task's document that are in its program."""
SMALL_ANYWAY = {"TaskSpec.backup", "TaskSpec.exclusive", "WorkflowSpec.on_failure"}


@pytest.mark.parametrize("field", TASK_BEYOND)
def test_a_task_beyond_a_bound_is_refused_when_the_document_is_read(field: str) -> None:
    task = {"id": "t", "command": ["true"], **TASK_BEYOND[field]}
    with pytest.raises(DocumentError) as caught:
        normalize({"name": "w", "tasks": [{key: value for key, value in task.items() if value is not None}]})
    assert caught.value.problems


@pytest.mark.parametrize("field", WORKFLOW_BEYOND)
def test_a_workflow_beyond_a_bound_is_refused_when_the_document_is_read(field: str) -> None:
    with pytest.raises(DocumentError):
        normalize({"name": "w", "tasks": [{"id": "t", "command": ["true"]}], **WORKFLOW_BEYOND[field]})


def test_no_field_of_a_document_is_forgotten() -> None:
    keys = {"program" if key in PROGRAM_KEYS else key for key in TASK_BEYOND}
    known = {f"TaskSpec.{key}" for key in keys} | {f"WorkflowSpec.{field}" for field in WORKFLOW_BEYOND}
    fields = {f"{kind.__name__}.{name}" for kind in (TaskSpec, WorkflowSpec) for name in kind.__struct_fields__}
    assert fields == known | SMALL_ANYWAY


# --- commands

MADE = "the leader or the log makes it"
KEY = "an idempotency key: at most 200 characters"
PATH = "a part of a path: `Call.path`"
QUERY = "a query parameter: `Param.chars_max`"
REGISTER = "a field of RegisterRequest"
POLL = "a field of PollRequest, or of an offer"
DRAIN = "a field of DrainRequest"
CALLS = "a field of CallsRequest"
DOCUMENT = "a document: see above"
COMMON = {"at_ms": MADE, "actor": REGISTER, "request_id": KEY}
"""An actor is `agent:` and a name at most."""
FROM: dict[str, dict[str, str]] = {
    "SubmitWorkflow": {"workflow_id": MADE, "spec": DOCUMENT},
    "BeginWorkflow": {
        **dict.fromkeys(("workflow_id", "tasks", "needs"), MADE),
        **dict.fromkeys(("name", "priority", "on_failure", "max_parallel", "code", "budgets"), DOCUMENT),
    },
    "AddTasks": {"workflow_id": MADE, "number": MADE, "profiles": DOCUMENT, "tasks": DOCUMENT},
    "FinishWorkflow": dict.fromkeys(("workflow_id", "fingerprint", "path"), MADE),
    "DropUploads": {"workflow_ids": MADE},
    "ControlWorkflow": {"workflow_id": PATH, "action": MADE},
    "SetPriority": {"workflow_id": PATH, "priority": "a field of PriorityRequest"},
    "RegisterAgent": dict.fromkeys(("name", "instance", "capacity", "labels", "prefetch", "home"), REGISTER),
    "ResumeAgent": {"name": PATH},
    "ForgetAgent": {"name": PATH},
    "DrainAgent": {"name": PATH, "deadline_ms": DRAIN, "leaving": MADE},
    "RemoveAgent": {"name": PATH, "incarnation": POLL, "reason": MADE},
    "CommitPlacements": {"placements": MADE},
    "CommitBackups": {"placements": MADE},
    "ReportAttempts": {"agent": PATH, "incarnation": POLL, "ends": POLL, "missing": MADE},
    "OfferEnds": {"agent": REGISTER, "incarnation": MADE, "ends": POLL},
    "RecallAttempts": dict.fromkeys(("agent", "incarnation", "fences"), MADE),
    "RecordSteps": {"agent": PATH, "incarnation": CALLS, "steps": CALLS},
    "SpawnTasks": {"agent": PATH, **dict.fromkeys(("incarnation", "fence", "profiles", "children"), CALLS)},
    "CancelChildren": {"agent": PATH, **dict.fromkeys(("incarnation", "fence", "children"), CALLS)},
    "BeginEffect": {
        "agent": PATH,
        **dict.fromkeys(("incarnation", "fence", "begin", "name", "occurrence", "function"), CALLS),
    },
    "EndEffect": {
        "agent": PATH,
        **dict.fromkeys(
            ("incarnation", "fence", "begin", "name", "occurrence", "outcome", "result", "detail"), CALLS
        ),
    },
    "ResolveEffect": {"number": PATH, **dict.fromkeys(("resolution", "result", "detail"), "EffectDecision")},
    "BeginWait": {
        "agent": PATH,
        **dict.fromkeys(
            ("incarnation", "fence", "kind", "name", "occurrence", "timeout_ms", "on_timeout", "request"), CALLS
        ),
        **dict.fromkeys(("checked", "fault"), MADE),
    },
    "SendSignal": {"workflow_id": PATH, "name": PATH, "payload": "the size of a body", "key": KEY, "checked": MADE},
    "DecideApproval": {"number": PATH, **dict.fromkeys(("choice", "comment", "payload"), "DecisionRequest")},
    "SetRateLimit": {"name": PATH, **dict.fromkeys(("amount", "period_ms", "burst"), "RateLimitRequest")},
    "RemoveRateLimit": {"name": PATH},
    "CreateToken": {
        "digest": MADE,
        **dict.fromkeys(("name", "role", "lifetime_ms", "agents", "labels"), "TokenRequest"),
    },
    "RotateToken": {"name": PATH, "digest": MADE, "overlap_ms": "RotateRequest"},
    "RevokeToken": {"name": PATH},
    "TakeRates": {"agent": PATH, "incarnation": CALLS, "takes": CALLS},
    "RaiseBudget": {"workflow_id": PATH, "raises": "BudgetRequest"},
    "FireTimers": {},
    "ContinueAgenda": {},
    "RetireWorkflows": {"before_ms": MADE, "count_max": MADE},
    "RegisterBundle": {"digest": PATH, "size": "the size of a body"},
    "RetireBundles": {"digests": MADE, "unused_ms": MADE},
    "ClearCache": {"key": QUERY, "prefix": QUERY},
    "RaiseFeatureLevel": {"level": MADE, "supported": MADE},
}


def test_every_field_of_a_command_has_a_known_bound() -> None:
    """A new field belongs into the table, and what bounds it into this file."""
    fields = {kind.__name__: {*kind.__struct_fields__} for kind in get_args(AnyCommand)}
    assert fields == {name: {*COMMON, *known} for name, known in FROM.items()}
    assert SubmitWorkflow.__name__ in fields


async def test_names_in_paths_and_texts_in_queries_are_bounded(one: Any) -> None:
    """Whatever has them; and nothing of it reaches the log."""
    index = one.replica.log.stamp().applied_index
    for operation in OPERATIONS:
        if "{" in operation.path:
            path = "/".join("x" * 300 if part.startswith("{") else part for part in operation.path.split("/"))
            body = {"incarnation": 1, "seq": 1} if operation.body is PollRequest else None
            body = {"incarnation": 1, "calls": []} if operation.body is CallsRequest else body
            body = {"add": {"usd": 1}} if operation.body is BudgetRequest else body
            body = {"rate": "1/s"} if operation.body is RateLimitRequest else body
            body = {"resolution": "retry"} if operation.body is EffectDecision else body
            body = {"choice": "approve"} if operation.body is DecisionRequest else body
            if operation.body is not None and body is None:
                body = {}
            headers = {} if operation.body is None else {"Content-Type": operation.body_media_type}
            answer = await one.call(operation.method, path, body, headers=headers)
            expected = (403, "forbidden") if operation.access is Access.REPLICA else (404, "not-found")
            assert (answer.status, answer.word) == expected, path
        for param in operation.params:
            if param.kind == "string" and "{" not in operation.path:
                answer = await one.call(operation.method, f"{operation.path}?{param.name}={'x' * 3_000}")
                assert answer.status == 400, (operation.path, param.name, answer.body)
    assert one.replica.log.stamp().applied_index == index


# --- registrations

BEYOND: dict[str, Any] = {
    "name": "n" * 201,
    "instance": "i" * 65,
    "resources": {f"r{number}": 1 for number in range(17)},
    "labels": {f"l{number}": "" for number in range(65)},
    "prefetch": limits.PREFETCH_MAX + 1,
    "pid": 2**63,
    "version": "v" * 101,
    "offers": [OFFER] * (limits.OFFERS_MAX + 1),
}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        *(({name: value}, name) for name, value in BEYOND.items()),
        ({"labels": {"k": "v" * 201}}, "labels"),
        ({"labels": {"k" * 201: "v"}}, "labels"),
        ({"resources": {"cpu": "1" * 65}}, "resources"),
        ({"resources": {"cpu": "1e999999"}}, "resources"),
        ({"resources": {"r" * 201: 1}}, "resources"),
        ({"offers": [{**OFFER, "workflow_id": "w" * 201}]}, "offers"),
        ({"offers": [{**OFFER, "exit_code": 2**40}]}, "offers"),
        ({"offers": [{**OFFER, "error": "e" * (limits.ERROR_CHARS_MAX + 1)}]}, "offers"),
        ({"offers": [OFFER, {**OFFER, "result": json.loads("[" * 65 + "]" * 65)}]}, "offers[1].result"),
        ({"offers": [{**OFFER, "result": 10**640}]}, "offers[0].result"),
    ],
)
async def test_a_registration_beyond_a_bound_is_refused_with_the_field_and_reaches_no_log(
    one: Any, fields: dict[str, Any], path: str
) -> None:
    index = one.replica.log.stamp().applied_index
    answer = await one.post("/v1/agents", raw=json.dumps({**REGISTRATION, **fields}).encode())
    assert (answer.status, answer.word) == (400, "invalid-document")
    assert path in answer.json["errors"][0]["path"]
    assert one.replica.log.stamp().applied_index == index


async def test_huge_registrations_cost_the_loop_little(one: Any) -> None:
    """They are refused by their size before they are read, or by their type before they are walked."""
    huge = [
        {"labels": {f"label-{number}": "" for number in range(300_000)}},
        {"version": "v" * (15 << 20)},
        {"offers": [{**OFFER, "result": "x" * 60_000}] * 200},
        {"labels": {f"label-{number}": "" for number in range(50_000)}},
        {"version": "v" * 1_000_000},
        {"resources": {f"r{number}": 1 for number in range(80_000)}},
        {"offers": [OFFER] * 10_000},
    ]
    bodies = [json.dumps({**REGISTRATION, **fields}).encode() for fields in huge]
    index = one.replica.log.stamp().applied_index
    for fields, body in zip(huge, bodies, strict=True):
        began_s = time.thread_time()
        answer = await one.post("/v1/agents", raw=body)
        assert answer.status in (400, 413)
        assert next(iter(fields)) in answer.json["detail"]
        if answer.status == 400:  # what the client's side of this loop needs for larger bodies is not the replica's
            assert time.thread_time() - began_s < 0.05
    assert one.replica.log.stamp().applied_index == index


@pytest.mark.parametrize(
    "fields",
    [
        {"running": [1] * (limits.FENCES_PER_POLL_MAX + 1)},
        {"queued": [2**63]},
        {"ends": [{**OFFER, "outcome": "failed"}] * (limits.ENDS_PER_POLL_MAX + 1)},
        {"ends": [{**OFFER, "result": {"a": 1.0, "b": 10**640}}]},
        {"ends": [{**OFFER, "cpu_ms": -1}]},
        {"logs": [{"request": "r" * 65, "data": "", "size": 0, "truncated": False, "complete": True}]},
        {"logs": [{"request": "r", "data": "", "size": -1, "truncated": False, "complete": True}]},
        {"logs": [{"request": "r", "data": "A" * 360_000, "size": 0, "truncated": False, "complete": True}]},
        {"usage": [{"fence": 1, "progress": 1.5}]},
        {"load": {"load_1m": -1.0}},
        {"load": {"cpu_count": 2**60}},
    ],
)
async def test_polls_beyond_a_bound_are_refused(one: Any, fields: dict[str, Any]) -> None:
    incarnation = await one.register()
    index = one.replica.log.stamp().applied_index
    answer = await one.post(
        "/v1/agents/a1/poll", raw=json.dumps({"incarnation": incarnation, "seq": 1, **fields}).encode()
    )
    assert (answer.status, answer.word) == (400, "invalid-document")
    assert answer.json["errors"][0]["path"].startswith(next(iter(fields)))
    assert one.replica.log.stamp().applied_index == index


def test_a_file_can_be_read_at_every_offset_that_a_request_may_name(tmp_path: Path) -> None:
    """pread fails with EINVAL near 2^63, and the answer was an error of the replica."""
    offsets = [param for operation in OPERATIONS for param in operation.params if param.name == "offset"]
    assert len(offsets) == 3
    (tmp_path / "file").write_bytes(b"x")
    with (tmp_path / "file").open("rb") as file:
        for param in offsets:
            assert os.pread(file.fileno(), limits.NAME_CHARS_MAX, param.maximum) == b""
