"""Which executor runs which program, and where an executor needs something that not every machine has.

`EXECUTORS` has one line for each type of program (`raftflow.domain.tasks.program`). A program that not every agent
can run names a capability. An agent that can run it registers with that capability as a label, and the coordinator
places tasks with the program on such agents only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from raftflow.agent.calls.channel import Channel
from raftflow.agent.config import AgentConfig
from raftflow.agent.executors.base import Ended, ExecutionEnd, Executor, WatchTarget
from raftflow.agent.executors.command import CommandExecutor
from raftflow.agent.executors.container import ContainerExecutor, is_rootless_podman, why_missing
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.agent.executors.python import PythonExecutor
from raftflow.agent.executors.workers import WorkerLimits
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.agent.workdir.inputs import FetchedInputs
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import CAPABILITY_OFFERED, AssignedCall, AssignedProgram, CommandLine, ContainerRun

_log = logging.getLogger("raftflow.agent.executors")

Executors = Mapping[type[AssignedProgram], Executor]
"""The executor of each type of program."""


class ExecutorContext(NamedTuple):
    """What executors are made of."""

    config: AgentConfig
    launcher: LauncherClient
    store: OutputStore
    work: WorkDirectory
    channel: Channel


def _always(_config: AgentConfig) -> str:
    return ""


class ExecutorEntry(NamedTuple):
    """How programs of one type are run."""

    program: type[AssignedProgram]
    make: Callable[[ExecutorContext], Executor]
    why_missing: Callable[[AgentConfig], str] = _always
    """Says why this agent cannot run such programs, empty if it can."""


def _make_command_executor(context: ExecutorContext) -> Executor:
    config = context.config
    return CommandExecutor(
        context.launcher,
        context.store,
        context.work,
        context.channel,
        output_bytes_max=config.output_bytes_max,
        own_folder=config.own_folder,
    )


def _make_python_executor(context: ExecutorContext) -> Executor:
    config = context.config
    _log.info("modules of python tasks are looked for in %s", ", ".join(config.python_path) or "no folder")
    return PythonExecutor(
        context.launcher,
        context.store,
        context.work,
        context.channel,
        output_bytes_max=config.output_bytes_max,
        limits=WorkerLimits(
            calls_max=config.worker_calls_max,
            rss_max_mib=config.worker_rss_max_mib,
            idle_max_s=config.worker_idle_max_s,
            idle_max=config.workers_idle_max,
            idle_max_mib=config.workers_idle_max_mib,
        ),
        python_path=config.python_path,
        own_folder=config.own_folder,
    )


def _make_container_executor(context: ExecutorContext) -> Executor:
    limit = context.config.output_bytes_max
    return ContainerExecutor(
        context.launcher,
        context.store,
        context.work,
        context.channel,
        output_bytes_max=limit,
        niceness=context.config.task_niceness,
        new_privileges=context.config.task_new_privileges,
    )


EXECUTORS: Sequence[ExecutorEntry] = (
    ExecutorEntry(CommandLine, _make_command_executor),
    ExecutorEntry(AssignedCall, _make_python_executor),
    ExecutorEntry(ContainerRun, _make_container_executor, lambda config: why_missing(config.work_path())),
)


def make_executors(context: ExecutorContext, entries: Sequence[ExecutorEntry] = EXECUTORS) -> Executors:
    """Make the executor of each program. One that this agent cannot run fails with the reason."""
    made: dict[type[AssignedProgram], Executor] = {}
    for entry in entries:
        why = entry.why_missing(context.config)
        if why:
            _log.info("this agent does not offer %s: %s", entry.program.capability, why)
        made[entry.program] = MissingExecutor(why) if why else entry.make(context)
    return made


def needs_new_privileges(config: AgentConfig) -> bool:
    """Tell whether programs of this agent must be able to get new rights: podman without root calls newuidmap."""
    return is_rootless_podman() and not why_missing(config.work_path())


def capability_labels(executors: Executors) -> dict[str, str]:
    """Return the labels that say what not every agent can run and this one can."""
    return {
        program.capability: CAPABILITY_OFFERED
        for program, executor in executors.items()
        if program.capability and not isinstance(executor, MissingExecutor)
    }


class MissingExecutor:
    """An `Executor` of programs that this agent cannot run: every attempt fails with the reason."""

    def __init__(self, why: str) -> None:
        self._why = why
        self.result_bytes_max = 0

    def start(
        self, assignment: Assignment, ended: Ended, _inputs: FetchedInputs | None = None, _code: str = ""
    ) -> None:
        """Let the attempt fail."""
        how = ExecutionEnd(ok=False, error=f"this agent cannot run it: {self._why}", by_itself=True)
        asyncio.get_running_loop().call_soon(ended, assignment.fence, how)

    def signal(self, fence: int, number: int) -> None:
        """Do nothing: nothing runs."""

    def watched(self, _fence: int) -> WatchTarget | None:
        """Return None: nothing runs."""
        return None

    async def probe(self) -> str:
        """Return that nothing is wrong: the agent has never offered it."""
        return ""
