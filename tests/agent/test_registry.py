"""Executors are found by the type of a program; what an agent cannot run, it does not offer and refuses clearly."""

import asyncio
from types import SimpleNamespace
from typing import Any, ClassVar, get_args

import msgspec

from raftflow.agent.attempts.runner import AttemptRunner
from raftflow.agent.config import AgentConfig
from raftflow.agent.executors.registry import (
    EXECUTORS,
    ExecutorContext,
    ExecutorEntry,
    MissingExecutor,
    capability_labels,
    make_executors,
)
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import AssignedProgram, CommandLine


class Unusual(msgspec.Struct, frozen=True, tag_field="type", tag="unusual"):
    """A program that not every agent can run."""

    capability: ClassVar[str] = "executor:unusual"


def made(why: str) -> Any:
    nothing: Any = None
    context = ExecutorContext(AgentConfig(peers=("http://a",)), nothing, nothing, nothing, nothing)
    executor: Any = SimpleNamespace(name="unusual")
    entry: Any = ExecutorEntry(Unusual, lambda _context: executor, lambda _config: why)  # type: ignore[arg-type]
    return make_executors(context, [entry])


def test_every_program_has_an_executor() -> None:
    assert [entry.program for entry in EXECUTORS] == list(get_args(AssignedProgram))


def test_an_agent_offers_what_it_can_run() -> None:
    executors = made("")
    assert executors[Unusual].name == "unusual"
    assert capability_labels(executors) == {"executor:unusual": "yes"}


def test_what_every_agent_can_run_needs_no_label() -> None:
    assert capability_labels({CommandLine: made("")[Unusual]}) == {}


async def test_an_agent_refuses_what_it_cannot_run() -> None:
    executors = made("there is no program for it")
    assert capability_labels(executors) == {}
    ends: list[Any] = []
    attempts = AttemptRunner(executors, before_end=lambda: None, on_end=ends.append)
    program: Any = Unusual()
    attempts.start(
        Assignment(fence=1, workflow_id="w", workflow_name="w", task_id="t", attempt=1, resources={}, program=program)
    )
    await attempts.wait_idle()
    assert [(end.outcome, end.error) for end in ends] == [
        ("failed", "this agent cannot run it: there is no program for it")
    ]


async def test_what_is_missing_does_not_make_an_agent_unfit() -> None:
    executor = MissingExecutor("there is no program for it")
    assert await asyncio.wait_for(executor.probe(), 30) == ""
    executor.signal(1, 15)
    assert executor.watched(1) is None
