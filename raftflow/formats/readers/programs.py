"""From the keys of a document to the program of a task (`raftflow.domain.tasks.program`).

Each program has one key that chooses it, and perhaps further keys that belong to it. A key's reader puts the value
into `fields`, with notes beside it: `_KEY_bytes` is its size, `_KEY_refs` the references to results that it holds.
`take_program` makes the program of them. `PROGRAMS` is the one place that maps keys to programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from raftflow.domain import limits
from raftflow.domain.tasks.program import IMAGE_PATTERN, CommandLine, ContainerRun, Program, PythonCall
from raftflow.domain.values.exact import write_json
from raftflow.formats.faults import shown
from raftflow.formats.readers.part import NO_NUL_PATTERN, DocumentPart, Reader, clean_bytes, read_strings
from raftflow.formats.readers.values import RESULT_KEY, check_value
from raftflow.formats.readers.waits import read_wait

Schema = dict[str, Any]

_CALLABLE_PATTERN = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_CALLABLE_CHARS_MAX = 512
_CALLABLE = re.compile(_CALLABLE_PATTERN, re.ASCII)
_IMAGE = re.compile(IMAGE_PATTERN)
PLACEHOLDER = CommandLine(("-",))
"""Stands for the program of a task that has a fault."""


def _command(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    command = read_strings(part, "command", value)
    if command is None:
        return
    if not command or not command[0]:
        part.fault("command", "must begin with the name of a program")
    elif len(command) > limits.COMMAND_ARGS_MAX:
        limit = limits.COMMAND_ARGS_MAX
        part.fault("command", f"{len(command)} arguments, the limit is {limit}", limit)
    elif (size := clean_bytes(part, "command", command)) is not None:
        fields["command"] = command
        fields["_command_bytes"] = size


def _python(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, str):
        part.fault("python", 'must be a string "package.module:function"')
    elif value not in part.callables_seen and (len(value) > _CALLABLE_CHARS_MAX or not _CALLABLE.fullmatch(value)):
        part.fault("python", f'{shown(value)} is not a callable: write "package.module:function"')
    else:
        part.callables_seen.add(value)
        fields["python"] = value
        fields["_python_bytes"] = len(value)


def _args(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, list):
        part.fault("args", "must be a list")
    else:
        _json(part, "args", value, fields)


def _kwargs(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        part.fault("kwargs", "must be a table")
    elif RESULT_KEY in value:
        part.fault("kwargs", "is the table of the arguments: put a $result reference under an argument's name")
    else:
        _json(part, "kwargs", value, fields)


def _json(part: DocumentPart, field: str, value: Any, fields: dict[str, Any]) -> None:
    """Keep a value as JSON, with the references to results in it."""
    if not value:
        return
    wrong, refs = check_value(value, field)
    for path, message in wrong:
        part.fault(path, message)
    if wrong:
        return
    data = write_json(value)
    fields[field] = data
    fields[f"_{field}_bytes"] = len(data)
    if refs:
        fields[f"_{field}_refs"] = refs


def _container(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        part.fault("container", 'must be a table: { image = "...", command = [...] }')
        return
    for key in value:
        if key not in ("image", "command"):
            part.fault(f"container.{key}", "is unknown; there are `image` and `command`")
    image = value.get("image")
    if not isinstance(image, str) or not _IMAGE.fullmatch(image):
        part.fault("container.image", "must be the name of an image, as podman and docker take it")
        return
    command = read_strings(part, "container.command", value.get("command", []))
    if command is None:
        return
    size = clean_bytes(part, "container.command", command)
    if size is None:
        return
    if len(command) > limits.COMMAND_ARGS_MAX:
        limit = limits.COMMAND_ARGS_MAX
        part.fault("container.command", f"{len(command)} arguments, the limit is {limit}", limit)
        return
    fields["container"] = (image, command)
    fields["_container_bytes"] = len(image) + size


def _wait(part: DocumentPart, value: object, fields: dict[str, Any]) -> None:
    wait = read_wait(part, value)
    if wait is not None:
        fields["wait"] = wait
        fields["_wait_bytes"] = wait.size_bytes()


class ProgramKeys(NamedTuple):
    """How a document says that a task runs a program of one type."""

    key: str
    """Chooses the program."""
    options: tuple[str, ...]
    """Further keys that belong to it."""
    readers: dict[str, Reader]
    """Of all these keys, in the order of the schema."""
    make: Callable[[dict[str, Any]], Program]
    """Makes the program of `fields`, and takes its keys out of them."""
    schema: dict[str, Schema]
    """JSON Schema of each key."""
    what: str
    """What the chooser's value is, for the error about a task without a program."""


PROGRAMS = (
    ProgramKeys(
        key="command",
        options=(),
        readers={"command": _command},
        make=lambda fields: CommandLine(fields.pop("command")),
        schema={
            "command": {
                "description": "The program and its arguments, one string each; never given to a shell.",
                "type": "array",
                "items": {"type": "string", "pattern": NO_NUL_PATTERN},
                "minItems": 1,
                "maxItems": limits.COMMAND_ARGS_MAX,
                "not": {"type": "array", "minItems": 1, "prefixItems": [{"type": "string", "maxLength": 0}]},
            },
        },
        what="list",
    ),
    ProgramKeys(
        key="python",
        options=("args", "kwargs"),
        readers={"python": _python, "args": _args, "kwargs": _kwargs},
        make=lambda fields: PythonCall(fields.pop("python"), fields.pop("args", b""), fields.pop("kwargs", b"")),
        schema={
            "python": {
                "description": '"package.module:function", called in a worker process of the agent.',
                "type": "string",
                "maxLength": _CALLABLE_CHARS_MAX,
                "pattern": "^(?:" + _CALLABLE_PATTERN.replace(r"\w", "[A-Za-z0-9_]") + ")$",
            },
            "args": {
                "description": "Positional arguments of `python`, any JSON. "
                f'{{"{RESULT_KEY}": ID}} stands for the result of the task ID, which must be in `needs`.',
                "type": "array",
                "items": {},
            },
            "kwargs": {
                "description": "Arguments of `python` by name, any JSON; references as in `args`.",
                "type": "object",
                "propertyNames": {"not": {"const": RESULT_KEY}},
                "additionalProperties": True,
            },
        },
        what='callable "package.module:function"',
    ),
    ProgramKeys(
        key="container",
        options=(),
        readers={"container": _container},
        make=lambda fields: ContainerRun(*fields.pop("container")),
        schema={
            "container": {
                "description": "A program in a container, on an agent that has podman or docker.",
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {
                    "image": {"type": "string", "pattern": "^(?:" + IMAGE_PATTERN + ")$"},
                    "command": {
                        "description": "Argument list; without it the image runs what it runs by itself.",
                        "type": "array",
                        "items": {"type": "string", "pattern": NO_NUL_PATTERN},
                        "maxItems": limits.COMMAND_ARGS_MAX,
                    },
                },
            },
        },
        what="table",
    ),
    ProgramKeys(
        key="wait",
        options=(),
        readers={"wait": _wait},
        make=lambda fields: fields.pop("wait"),
        schema={"wait": {}},  # has durations: `formats/schema.py` makes it
        what="table",
    ),
)

PROGRAM_READERS: dict[str, Reader] = {key: read for each in PROGRAMS for key, read in each.readers.items()}
PROGRAM_SCHEMAS: dict[str, Schema] = {key: schema for each in PROGRAMS for key, schema in each.schema.items()}
CHOOSERS = tuple(each.key for each in PROGRAMS)
CHOICE = " or ".join(f"`{key}`" for key in CHOOSERS)
"""The keys of which a task has one, in words."""

_ONE_ONLY = f"a task must have one of {CHOICE}"
_MISSING = "is required: " + " or ".join(f"a `{each.key}` {each.what}" for each in PROGRAMS)
_NOTED = {key: (key, f"_{key}_bytes", f"_{key}_refs") for key in PROGRAM_READERS}
"""For each key what its reader may put into `fields`."""
_DROPPED = {
    chosen.key: tuple(
        field for other in PROGRAMS if other is not chosen for key in other.readers for field in _NOTED[key]
    )
    for chosen in PROGRAMS
}
"""For each chooser what the defaults say of other programs: a task that has the chooser does not inherit it."""
_CHOSEN = {
    chosen.key: (
        chosen.make,
        tuple(_NOTED[key] for key in chosen.readers),
        tuple((key, other.key) for other in PROGRAMS if other is not chosen for key in other.options),
    )
    for chosen in PROGRAMS
}
"""For each chooser how its program is made, what its readers note, and the options of other programs, each with the
chooser to which it belongs. A document has up to 100,000 tasks, so nothing of this is looked up for each."""


def check_choice(part: DocumentPart, fields: Collection[str]) -> None:
    """Note the fault of a part that chooses two programs."""
    if len([key for key in CHOOSERS if key in fields]) > 1:
        part.fault(CHOOSERS[0], _ONE_ONLY)


def drop_inherited(fields: dict[str, Any], merged: dict[str, Any]) -> None:
    """Take out of `merged` what the defaults say of other programs than the one that a task's own `fields` choose."""
    for chosen, dropped in _DROPPED.items():
        if chosen in fields:
            for field in dropped:
                if field not in fields:
                    merged.pop(field, None)


def take_program(part: DocumentPart, fields: dict[str, Any], raw: Collection[str], other_bytes: int) -> Program:
    """Take the program of a task out of `fields`, defaults included, with its notes, and return it.

    `raw` are the keys that the task has in the document: one that is there but could not be read has its fault
    already. `other_bytes` is the size of what else the task brings to an agent.
    """
    chosen = ""
    for key in CHOOSERS:
        if key in fields:
            if chosen:
                part.fault(CHOOSERS[0], _ONE_ONLY)
                return _drop_all(part, fields)
            chosen = key
    if not chosen:
        if not any(key in raw for key in CHOOSERS):
            part.fault(CHOOSERS[0], _MISSING)
        return _drop_all(part, fields)
    make, notes, foreign = _CHOSEN[chosen]
    size = other_bytes
    for key, bytes_note, refs_note in notes:
        if key in fields:
            size += fields.pop(bytes_note)
            refs = fields.pop(refs_note, None)
            if refs:
                _check_references(part, refs, fields.get("needs", ()))
    if size > limits.SPEC_BYTES_MAX:
        limit = limits.SPEC_BYTES_MAX
        field = next((*each.options, each.key)[0] for each in PROGRAMS if each.key == chosen)
        part.fault(field, f"command, arguments and environment take {size} bytes, the limit is {limit}", limit)
    program = make(fields)
    for key, owner in foreign:
        if key in fields:
            part.fault(key, f"belongs to `{owner}`, not to `{chosen}`")
            _drop_all(part, fields)
            break
    return program


def _check_references(part: DocumentPart, refs: Collection[tuple[str, str]], needs: Collection[str]) -> None:
    """Note the references to results of tasks that are not in `needs`."""
    known = set(needs)
    for path, task_id in refs:
        if task_id not in known:
            part.fault(path, f"the result of {shown(task_id)} is used, so it must be in `needs`")


def _drop_all(part: DocumentPart, fields: dict[str, Any]) -> Program:
    """Take every program out of `fields`, of a task that has a fault. Note what is wrong with its references too."""
    for key, bytes_note, refs_note in _NOTED.values():
        fields.pop(key, None)
        fields.pop(bytes_note, None)
        _check_references(part, fields.pop(refs_note, ()), fields.get("needs", ()))
    return PLACEHOLDER
