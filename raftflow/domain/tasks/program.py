"""What a task runs. Each way to run something is one type, and `Program` is their union.

A task, its profile in the state machine and its assignment carry one value, `program`. Its type says what else has to
be known of it: its faults, its size, its kind, and the capability that an agent needs for it. Keys of documents are
mapped to programs in `formats/readers/programs.py`. What runs a program is found in `agent/executors/registry.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

import msgspec

from raftflow.domain.limits import COMMAND_ARGS_MAX, NAME_CHARS_MAX
from raftflow.domain.tasks.kinds import command_kind
from raftflow.domain.tasks.waits import AskedKind, wait_problem
from raftflow.domain.values.json_text import is_json_array, is_json_object

ProgramFault = tuple[str, str]
"""The key of a document that is wrong, and what is wrong with it."""

CAPABILITY_OFFERED = "yes"
"""Value of the label that says that an agent has a capability."""

CONTAINER_CAPABILITY = "executor:container"

IMAGE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}"
"""Names of container images. None begins like an option."""
_IMAGE = re.compile(IMAGE_PATTERN)
_CALLABLE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_NO_ARGS = msgspec.Raw(b"[]")
_NO_KWARGS = msgspec.Raw(b"{}")


class CommandLine(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="type", tag="command"):
    """A program of the operating system."""

    capability: ClassVar[str] = ""
    """What an agent must offer to run it, a label's name. Empty: every agent can."""

    argv: tuple[str, ...]
    """Argument list; never given to a shell."""

    def faults(self) -> Iterator[ProgramFault]:
        """Yield what is wrong with it."""
        if not self.argv or not self.argv[0]:
            yield "command", "must name a program"
        if len(self.argv) > COMMAND_ARGS_MAX:
            yield "command", f"{len(self.argv)} arguments, the limit is {COMMAND_ARGS_MAX}"
        if "\0" in "".join(self.argv):
            yield "command", "arguments cannot hold a NUL character"

    def size_bytes(self) -> int:
        """Return about how many bytes it takes."""
        return len("".join(self.argv).encode())

    def kind(self) -> str:
        """Return the kind of the tasks that run it, empty if they have none."""
        return command_kind(self.argv)


class PythonCall(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="python",
):
    """A call of a python function, in a worker process of the agent."""

    capability: ClassVar[str] = ""

    function: str
    """`package.module:function`."""
    args: bytes = b""
    """JSON array of the positional arguments; empty for none."""
    kwargs: bytes = b""
    """JSON object of the keyword arguments; empty for none."""

    def faults(self) -> Iterator[ProgramFault]:
        """Yield what is wrong with it."""
        if not _CALLABLE.fullmatch(self.function):
            yield "python", f"{self.function[:80]!r} is not of the form package.module:function"
        if self.args and not is_json_array(self.args):
            yield "args", "must be a JSON array"
        if self.kwargs and not is_json_object(self.kwargs):
            yield "kwargs", "must be a JSON object"

    def size_bytes(self) -> int:
        """Return about how many bytes it takes."""
        return len(self.function) + len(self.args) + len(self.kwargs)

    def kind(self) -> str:
        """Return the kind of the tasks that run it."""
        return self.function


class AssignedCall(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="python"):
    """A `PythonCall` as an agent gets it, in JSON: the arguments are part of the message."""

    capability: ClassVar[str] = ""

    function: str
    args: msgspec.Raw = msgspec.field(default_factory=lambda: _NO_ARGS)
    kwargs: msgspec.Raw = msgspec.field(default_factory=lambda: _NO_KWARGS)

    def size_bytes(self) -> int:
        """Return about how many bytes it takes."""
        return len(self.function) + len(self.args) + len(self.kwargs)


class ContainerRun(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="type", tag="container"
):
    """A program in a container, on an agent that has podman or docker."""

    capability: ClassVar[str] = CONTAINER_CAPABILITY

    image: str
    """As podman and docker take it: `registry/name:tag`, or with `@sha256:...`."""
    argv: tuple[str, ...] = ()
    """Argument list; empty for what the image runs by itself."""

    def faults(self) -> Iterator[ProgramFault]:
        """Yield what is wrong with it."""
        if not _IMAGE.fullmatch(self.image):
            yield "container.image", f"{self.image[:80]!r} is not the name of an image"
        if len(self.argv) > COMMAND_ARGS_MAX:
            yield "container.command", f"{len(self.argv)} arguments, the limit is {COMMAND_ARGS_MAX}"
        if "\0" in "".join(self.argv):
            yield "container.command", "arguments cannot hold a NUL character"

    def size_bytes(self) -> int:
        """Return about how many bytes it takes."""
        return len(self.image) + len("".join(self.argv).encode())

    def kind(self) -> str:
        """Return the kind of the tasks that run it."""
        return self.image.rpartition("/")[2]


class TaskWait(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="wait",
):
    """Nothing to run: the task waits for a signal to its workflow, or for a decision. No agent is needed."""

    capability: ClassVar[str] = ""

    event: AskedKind
    """What it waits for."""
    name: str
    """Of the signal; the title of an approval."""
    timeout_ms: int = 0
    """0 for none."""
    on_timeout: bytes = b""
    """JSON that counts then; empty if the task fails."""
    request: bytes = b""
    """JSON: what an approval asks; empty for a signal."""

    def faults(self) -> Iterator[ProgramFault]:
        """Yield what is wrong with it."""
        problem = wait_problem(self.event, self.name, 1, self.timeout_ms, self.on_timeout, self.request)
        if problem is not None:
            yield "wait", problem

    def size_bytes(self) -> int:
        """Return about how many bytes it takes."""
        return len(self.name) + len(self.on_timeout) + len(self.request)

    def kind(self) -> str:
        """Return that it has no kind: nothing can be learnt of it."""
        return ""


Program = CommandLine | PythonCall | ContainerRun | TaskWait
"""What a task runs, as the replicated core holds it."""

AssignedProgram = CommandLine | AssignedCall | ContainerRun
"""What a task runs, as an agent gets it."""


def assigned(program: Program) -> AssignedProgram:
    """Return a program as an agent gets it."""
    if type(program) is PythonCall:
        return AssignedCall(
            program.function,
            msgspec.Raw(program.args) if program.args else _NO_ARGS,
            msgspec.Raw(program.kwargs) if program.kwargs else _NO_KWARGS,
        )
    return program  # type: ignore[return-value]  # every other type that agents get is the same on both sides


def kind_of(kind: str, program: Program) -> str | None:
    """Return the kind of a task: the one that it names, else that of its program. None if it has none."""
    return (kind or program.kind())[:NAME_CHARS_MAX] or None


def required_labels(program: Program, labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return the labels that an agent must carry: those that the task names, and the capability of its program."""
    return {**labels, program.capability: CAPABILITY_OFFERED} if program.capability else labels
