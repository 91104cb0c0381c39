"""Verbs that are made of declared operations (`domain.contract.operations`): help, parameters, request, output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import click
import msgspec

from raftflow.cli.terminal.options import Duration, connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, plain, print_items, print_json, print_one
from raftflow.cli.terminal.streams import safe
from raftflow.domain.contract.operation import STALE, Operation, Verb
from raftflow.domain.contract.operations import OPERATIONS

_LIMIT = "limit"
_LIMIT_HELP = "At most so many; all by default."
_STALE_HELP = "Take any replica's own view, also without a leader."


class _Value(NamedTuple):
    """A query parameter or a field of the body."""

    kind: click.ParamType[Any] | type
    about: str
    required: bool


def add_verbs(group: click.Group) -> None:
    """Add to a noun every verb of an operation that needs no code of its own."""
    for operation in OPERATIONS:
        verb = operation.verb
        if verb is not None and verb.noun == group.name and not verb.by_hand:
            group.add_command(command_of(operation, verb))


def command_of(operation: Operation[Any], verb: Verb) -> click.Command:
    """Return the command that sends an operation's request and prints the answer."""
    parts = verb.parts or tuple(name.upper() for name in operation.path_names)
    query, body = _query_values(operation), _body_values(operation)
    values = {name: value for name, value in {**query, **body}.items() if name in verb.given}

    def run(output: str, **given: Any) -> None:
        path = [given.pop(name) for name in operation.path_names]
        limit = given.pop(_LIMIT, None)
        params: dict[str, Any] = {name: value for name, value in given.items() if name in query and value is not None}
        if given.pop(STALE.name, False):
            params[STALE.name] = "1"
        fields = {name: value for name, value in given.items() if name in body and value is not None}
        with connect() as client:
            if operation.items and not verb.whole:
                print_items(output, client.entries(operation, *path, params=params, limit=limit), verb.columns)
            else:
                _print(client.call(operation, *path, params=params, body=_body(operation, fields)), operation, output)

    command = output_option(connection_options(run))
    arguments = [click.Argument([name], metavar=part) for name, part in zip(operation.path_names, parts, strict=True)]
    params = [*arguments, *[_parameter(name, verb.given[name], value) for name, value in values.items()]]
    if operation.is_paged:
        params.append(click.Option([f"--{_LIMIT}"], type=click.IntRange(min=1), help=_LIMIT_HELP))
    if verb.stale:
        params.append(click.Option([f"--{STALE.name}"], is_flag=True, help=_STALE_HELP))
    return click.command(verb.name, params=params, help=help_of(operation))(command)


def help_of(operation: Operation[Any]) -> str:
    """Return what the help says of an operation."""
    return "\n\n".join([f"{operation.summary}.", operation.details]).rstrip()


def _print(answer: Any, operation: Operation[Any], output: str) -> None:
    verb = operation.verb
    assert verb is not None  # noqa: S101 - the command is made of it
    if operation.items and output != "json":
        print_items(output, getattr(answer, operation.items), verb.columns)
    elif verb.line and output == "table":
        echo(safe(verb.line.format_map(plain(answer))))
    elif verb.line or operation.items:
        print_json(answer, indent=output == "json")
    else:
        print_one(output, answer)


def _body(operation: Operation[Any], fields: Mapping[str, Any]) -> Any:
    """Return the body of the request, None for none."""
    if operation.body is None or not (fields or operation.body_required):
        return None
    return operation.body(**fields)


def _parameter(name: str, how: str, value: _Value) -> click.Parameter:
    """Return an option for `--flag` or `--flag WORD`, an argument for `WORD`."""
    flag, _, word = how.partition(" ")
    if not flag.startswith("--"):
        word = flag if value.required else f"[{flag}]"
        return click.Argument([name], type=value.kind, metavar=word, required=value.required)
    about = f"{value.about[:1].upper()}{value.about[1:]}."
    return click.Option([flag, name], type=value.kind, metavar=word or None, help=about, required=value.required)


def _query_values(operation: Operation[Any]) -> dict[str, _Value]:
    values = {}
    for param in operation.params:
        kind: click.ParamType[Any] | type = str
        if param.choices:
            kind = click.Choice([str(choice) for choice in param.choices])
        elif param.kind == "integer":
            kind = click.IntRange(param.minimum, param.maximum)
        values[param.name] = _Value(kind, param.description, required=False)
    return values


def _body_values(operation: Operation[Any]) -> dict[str, _Value]:
    if not (isinstance(operation.body, type) and issubclass(operation.body, msgspec.Struct)):
        return {}
    described = msgspec.inspect.type_info(operation.body)
    assert isinstance(described, msgspec.inspect.StructType)  # noqa: S101 - it is a struct
    return {field.encode_name: _field_value(field) for field in described.fields}


def _field_value(field: msgspec.inspect.Field) -> _Value:
    about = ""
    kind: click.ParamType[Any] | type = str
    for part in _parts_of(field.type):
        if isinstance(part, msgspec.inspect.Metadata):
            about = about or (part.extra_json_schema or {}).get("description", "")
        elif isinstance(part, msgspec.inspect.IntType):
            kind = click.IntRange(part.ge, part.le)
        elif isinstance(part, msgspec.inspect.FloatType):
            kind = Duration() if field.name.endswith("_s") else click.FloatRange(part.ge, part.le)
        elif isinstance(part, msgspec.inspect.LiteralType):
            kind = click.Choice([str(value) for value in part.values])
    return _Value(kind, about, field.required)


def _parts_of(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Yield a type and what it consists of."""
    yield kind
    if isinstance(kind, msgspec.inspect.Metadata):
        yield from _parts_of(kind.type)
    elif isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from _parts_of(each)
