"""What a task runs: sizes, labels, and how an agent gets it."""

from typing import ClassVar

import msgspec
import pytest

from raftflow.domain.tasks.program import (
    AssignedCall,
    CommandLine,
    ContainerRun,
    Program,
    PythonCall,
    TaskWait,
    assigned,
    required_labels,
)
from raftflow.domain.tasks.workflow import TaskSpec


class Unusual(msgspec.Struct, frozen=True):
    """A program that not every agent can run."""

    capability: ClassVar[str] = "executor:unusual"


@pytest.mark.parametrize(
    "program", [CommandLine(("true", "ä")), PythonCall("m:f"), PythonCall("m:f", b"[1]", b'{"a":2}')]
)
def test_a_task_is_the_same_after_the_log(program: Program) -> None:
    task = TaskSpec(id="t", program=program)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=TaskSpec) == task


@pytest.mark.parametrize(
    "program", [{"type": "other"}, {"type": "command"}, {"type": "command", "argv": [], "x": 1}, {}]
)
def test_a_program_of_an_unknown_form_is_refused(program: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"id": "t", "program": program}, TaskSpec)


def test_an_agent_gets_arguments_as_part_of_the_message() -> None:
    command = CommandLine(("true",))
    assert assigned(command) is command
    encode = msgspec.json.encode
    assert encode(command) == b'{"type":"command","argv":["true"]}'
    assert encode(assigned(PythonCall("m:f"))) == b'{"type":"python","function":"m:f","args":[],"kwargs":{}}'
    both = assigned(PythonCall("m:f", b"[1]", b'{"a":2}'))
    assert encode(both) == b'{"type":"python","function":"m:f","args":[1],"kwargs":{"a":2}}'


def test_sizes() -> None:
    assert CommandLine(("true", "ä")).size_bytes() == 6
    assert PythonCall("m:f", b"[1]", b"{}").size_bytes() == 8
    assert AssignedCall("m:f", msgspec.Raw(b"[1]"), msgspec.Raw(b"{}")).size_bytes() == 8


def test_a_container_has_faults_a_size_and_the_kind_of_its_image() -> None:
    container = ContainerRun("r/a:1", ("b", "ä"))
    assert (container.kind(), container.size_bytes(), list(container.faults())) == ("a:1", 8, [])
    wrong = ContainerRun("-v", ("\0",) * 1_001)
    assert [path for path, _ in wrong.faults()] == ["container.image", "container.command", "container.command"]


def test_a_capability_is_one_more_label() -> None:
    labels = {"zone": "a"}
    assert required_labels(CommandLine(("true",)), labels) is labels
    unusual: Program = Unusual()  # type: ignore[assignment]
    assert required_labels(unusual, labels) == {"zone": "a", "executor:unusual": "yes"}


def test_a_wait_has_faults_a_size_and_no_kind() -> None:
    wait = TaskWait("signal", "go", 1_000, b"1")
    assert (wait.kind(), wait.size_bytes(), list(wait.faults())) == ("", 3, [])
    (fault,) = TaskWait("approval", "Publish?").faults()
    assert fault[0] == "wait" and fault[1].startswith("what an approval asks: ")
