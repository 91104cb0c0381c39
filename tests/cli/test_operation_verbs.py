"""Verbs of the command line and operations of the API: every operation has its verb, and the verb sends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import msgspec
import pytest
from click.testing import Result

from raftflow.cli.cluster_commands.operation_verbs import command_of, help_of
from raftflow.cli.main import root
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param, UsedBy, Verb
from raftflow.domain.contract.operations import OPERATIONS

Run = Callable[..., Result]

WITHOUT_OPERATION = {
    "workflow validate": "checks a file without a cluster",
    "workflow plan": "plans a file, with or without a cluster",
    "workflow wait": "asks `show_workflow` until the workflow has ended",
    "workflow watch": "the same, with each change",
    "agent run": "is the agent",
    "cluster up": "starts processes on this machine",
    "cluster down": "stops them",
    "audit export": "asks `list_audit` for every page",
    "audit replay": "reads files",
    "snapshot inspect": "reads a file",
    "snapshot verify": "reads a file",
    "approval deny": "`decide_approval` with another choice than `approval approve`",
}
"""Verbs of the nouns below that stand for no operation, and why."""
NOUNS = (
    "workflow",
    "workflow budget",
    "task",
    "agent",
    "member",
    "cache",
    "bundle",
    "effect",
    "signal",
    "approval",
    "limit",
    "token",
    "ledger",
    "audit",
    "cluster",
    "snapshot",
)


def verbs_of(noun: str) -> dict[str, click.Command]:
    """Return the verbs of a noun."""
    context = click.Context(root, info_name="raftflow")
    first, *rest = noun.split()
    group = root.get_command(context, first)
    for name in rest:
        assert isinstance(group, click.Group)
        group = group.get_command(context, name)
    assert isinstance(group, click.Group)
    return {
        f"{noun} {name}": command for name, command in group.commands.items() if not isinstance(command, click.Group)
    }


COMMANDS = {name: command for noun in NOUNS for name, command in verbs_of(noun).items()}
DECLARED = {f"{each.verb.noun} {each.verb.name}": each for each in OPERATIONS if each.verb is not None}
PLAIN = [name for name, each in DECLARED.items() if not each.verb.by_hand]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_an_operation_of_the_client_has_a_verb_or_a_reason(operation: Operation[Any]) -> None:
    if operation.used_by is UsedBy.CLIENT:
        assert (operation.verb is None) == bool(operation.no_verb), (
            "declare `verb`, or say in `no_verb` why it has none"
        )
    else:
        assert operation.verb is None


def test_every_declared_verb_is_a_command_and_every_command_is_declared() -> None:
    assert set(DECLARED) - set(COMMANDS) == set()
    assert set(COMMANDS) - set(DECLARED) == set(WITHOUT_OPERATION), "of each noun of `NOUNS`"
    assert len(DECLARED) == sum(each.verb is not None for each in OPERATIONS)


@pytest.mark.parametrize("name", PLAIN)
def test_the_help_of_a_verb_is_what_the_operation_says(run: Run, name: str) -> None:
    shown = " ".join(run(*name.split(), "--help").stdout.split())
    assert " ".join(help_of(DECLARED[name]).split()) in shown


@pytest.mark.parametrize("name", DECLARED)
def test_what_a_verb_names_exists(name: str) -> None:
    operation = DECLARED[name]
    verb = operation.verb
    fields = getattr(operation.body, "__struct_fields__", ())
    assert set(verb.given) <= {*fields, *(param.name for param in operation.params)}
    assert len(verb.parts or operation.path_names) == len(operation.path_names)
    assert not verb.stale or operation.answered_by is AnsweredBy.LEADER_READ
    keys = set(operation.answer.__struct_fields__)
    if verb.line:
        verb.line.format_map(dict.fromkeys(keys, ""))
    assert bool(verb.columns) <= bool(operation.items)


def example(kind: Any) -> Any:
    """Return a value of a type of the contract."""
    described = kind if isinstance(kind, msgspec.inspect.Type) else msgspec.inspect.type_info(kind)
    if isinstance(described, msgspec.inspect.StructType):
        return {field.encode_name: example(field.type) for field in described.fields}
    if isinstance(described, msgspec.inspect.Metadata):
        return example(described.type)
    if isinstance(described, msgspec.inspect.UnionType):
        return example(next(each for each in described.types if not isinstance(each, msgspec.inspect.NoneType)))
    if isinstance(described, msgspec.inspect.ListType):
        return [example(described.item_type)]
    if isinstance(described, msgspec.inspect.DictType):
        return {}
    if isinstance(described, msgspec.inspect.LiteralType):
        return described.values[0]
    simple = {msgspec.inspect.BoolType: True, msgspec.inspect.IntType: 7, msgspec.inspect.FloatType: 0.5}
    return simple.get(type(described), "word")


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
@pytest.mark.parametrize("name", PLAIN)
def test_a_verb_sends_its_request_and_prints_the_answer(run: Run, fake: Any, name: str, form: str) -> None:
    operation = DECLARED[name]
    verb, answer = operation.verb, example(operation.answer)
    if operation.is_paged:
        answer["next"] = None
    parts = ["part"] * len(operation.path_names)
    fake.routes[operation.method, operation.target(*parts)] = answer
    fields = msgspec.structs.fields(operation.body) if operation.body else ()
    ways = [verb.given[field.encode_name] for field in fields if field.required]
    words = [word for way in ways for word in ([way.split()[0], "7"] if way.startswith("--") else ["7"])]
    result = run(*name.split(), *parts, *words, "-o", form)
    assert result.exit_code == 0, result.output
    assert [request[:2] for request in fake.requests] == [(operation.method, operation.target(*parts))]
    if form == "table":
        assert all(title in result.stdout for title in verb.columns)
        assert "-" not in result.stdout.split(), "every column finds its value"
    elif form == "json":
        assert json.loads(result.stdout) == (
            answer[operation.items] if operation.items and not verb.whole else answer
        )
    else:
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert lines == (answer[operation.items] if operation.items else [answer])


class Answer(msgspec.Struct):
    """What an operation answers."""

    id: str
    size: int


class Body(msgspec.Struct, omit_defaults=True):
    """What an operation is given."""

    name: str
    share: float = 0.5
    pause_s: float | None = None
    color: str = "red"


def test_a_verb_of_any_declaration(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query and body, arguments and options, durations: all from the declaration."""
    verb = Verb(
        noun="thing",
        name="make",
        given={"name": "NAME", "share": "--share", "pause_s": "--pause", "depth": "--depth", "way": "--way WAY"},
    )
    operation = Operation(
        name="make_thing",
        method="POST",
        path="/v1/things/{id}",
        answered_by=AnsweredBy.LEADER_WRITE,
        access=Access.SUBMIT,
        summary="Make a thing",
        answer=Answer,
        body=Body,
        params=(Param("depth", "integer", "how deep", minimum=1, maximum=9), Param("way", "string", "which way")),
        verb=verb,
    )
    fake.routes["POST", "/v1/things/a"] = {"id": "a", "size": 3}
    command = command_of(operation, verb)
    monkeypatch.setenv("RAFTFLOW_PEERS", fake.url)
    invoke = click.testing.CliRunner().invoke
    shown = invoke(command, ["a", "thing", "--share", "0.25", "--pause", "1m", "--depth", "2", "-o", "json"])
    assert json.loads(shown.stdout) == {"id": "a", "size": 3}
    assert fake.requests[-1][2] == {"depth": "2"}
    assert fake.requests[-1][4] == {"name": "thing", "share": 0.25, "pause_s": 60.0}
    assert invoke(command, ["a", "thing"]).stdout.split() == ["id", "a", "size", "3"]
    assert fake.requests[-1][4] == {"name": "thing"}
    assert invoke(command, ["a", "thing", "--depth", "10"]).exit_code == 2
    assert invoke(command, ["a"]).exit_code == 2
