"""The agent as a process: its parts put together, signals, exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from raftflow.agent.allow_list import AllowLists
from raftflow.agent.attempts.fetching import AttemptFetcher
from raftflow.agent.attempts.fitness import MachineProbe
from raftflow.agent.attempts.runner import AttemptRunner
from raftflow.agent.config import AgentConfig, AgentConfigError, default_start_folder
from raftflow.agent.exchange.call_channel import CallChannel
from raftflow.agent.exchange.leader import LeaderClient, RefusedError
from raftflow.agent.executors.launcher_client import LauncherClient, kill_by_environment
from raftflow.agent.executors.registry import ExecutorContext, capability_labels, make_executors, needs_new_privileges
from raftflow.agent.launcher.hardening import (
    adopt_orphans,
    attempts_max,
    erase_environment,
    hide_memory,
    ignore_signals,
    raise_files_limit,
)
from raftflow.agent.launcher.program_limits import ProgramLimits
from raftflow.agent.loop import AgentLoop
from raftflow.agent.other_user import become_user
from raftflow.agent.output.output_uploads import OutputUploads
from raftflow.agent.output.store import OutputStore
from raftflow.agent.task_environment import is_secret, task_environment
from raftflow.agent.workdir.code import CodeCache
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.agent.workdir.inputs import InputFolder, InputsFetcher
from raftflow.domain.contract.views import RegisterResponse, ReportedEnd
from raftflow.log_output import start_logging
from raftflow.logstore.stores import open_store
from raftflow.service_manager import ServiceManager

_log = logging.getLogger("raftflow.agent")
_FILES_MIN = 64

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4

_HEARD = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGPIPE, signal.SIGXFSZ}
    | {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    | {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP}
)
"""Signals that do to an agent what they do to any program; the others are ignored."""
_RENEWAL_STEP_NS = 50_000_000
"""The launcher hears of a renewal when it has moved the lease by this much: not of every one of many polls."""


_GC_THRESHOLDS = (5_000, 10, 10)
"""Nearly all objects of an agent are freed without the collector, and few stay: a full collection is short."""


async def run_agent(config: AgentConfig, *, files_limit: int = -1, owns_process: bool = False) -> int:
    """Run an agent until SIGTERM or SIGINT (drain; a second one: at once). Returns the exit code.

    `files_limit` is the soft limit of open files of programs, -1 for the one of this process. `owns_process` says
    that this process has no children but the agent's, and adopts orphans.

    0: left in good order. 1: the agent's own processes cannot be kept alive. 3: left while ends could not be
    reported. 4: the coordinator refuses this agent. Raises `AgentConfigError` if the configuration cannot be used.
    """
    work = WorkDirectory(config.work_path())
    try:
        return await _run(config, work, files_limit, owns_process=owns_process)
    finally:
        work.close()


def run(config: AgentConfig) -> int:
    """Run `run_agent` as the whole of this process, in an event loop of its own, uvloop's where there is one."""
    erase_environment(is_secret)
    hide_memory()
    adopt_orphans()
    ignore_signals(_HEARD)
    files_limit = raise_files_limit()
    raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= raised < _FILES_MIN:
        raise AgentConfigError(
            f"the limit of open files is {raised}, and an agent needs at least {_FILES_MIN}: raise it (ulimit -n, or "
            f"LimitNOFILE= of its service)"
        )
    if config.run_as and (lack := become_user(config.run_as)):
        raise AgentConfigError(f"run_as: {lack}")
    life = run_agent(config, files_limit=files_limit, owns_process=True)
    gc.freeze()  # modules stay, so no collection looks at them again
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.run(life)
    return int(uvloop.run(life))


async def _run(config: AgentConfig, work: WorkDirectory, files_limit: int, *, owns_process: bool) -> int:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    broken: list[BaseException] = []
    service = _Service()

    def give_up(error: BaseException) -> None:
        broken.append(error)
        if main is not None:
            main.cancel()

    _give_up_after_failed_callbacks(loop, give_up)
    store = OutputStore(
        work,
        count_max=config.keep_attempts_max,
        bytes_max=config.keep_bytes_max,
        age_max_s=config.keep_age_max_s,
        output_bytes_max=config.output_bytes_max,
    )
    uploads = None if not config.log_store else OutputUploads(open_store(config.log_store), store, config.name)
    leader = LeaderClient(config)
    mark = work.mark()
    if killed := kill_by_environment(mark, spare_launchers=True):
        _log.warning("killed %d processes of an earlier agent that was killed together with its launcher", killed)
    launcher = LauncherClient(
        mark,
        task_environment(os.environ, config.pass_env),
        give_up,
        limits=program_limits(config, files_limit),
        adopts=owns_process,
    )
    channel = CallChannel(lambda agent, body: leader.calls(agent, body, config.poll_timeout_s))
    executors = make_executors(ExecutorContext(config, launcher, store, work, channel))
    config = msgspec.structs.replace(config, labels={**config.labels, **capability_labels(executors)})
    inputs = InputFolder(work)
    code = CodeCache(leader, work, bytes_max=config.code_bytes_max)
    fetcher = AttemptFetcher(
        InputsFetcher(leader, inputs.make, agent=config.name, bytes_max=config.inputs_bytes_max), code
    )
    allowed = AllowLists(
        config.allow_commands,
        config.allow_callables,
        config.allow_images,
        search_path=os.environ.get("PATH", os.defpath),
        start_folder="" if config.own_folder else default_start_folder() or "/",
    )
    renewals = _LeaseRenewals(launcher)

    def registered(registration: RegisterResponse) -> None:
        service.is_registered = True
        channel.begin(registration.id, registration.incarnation)
        for executor in executors.values():
            executor.result_bytes_max = registration.result_bytes_max

    def attempts(
        before_end: Callable[[], None], on_end: Callable[[ReportedEnd], None], shortage_since: Callable[[int], str]
    ) -> AttemptRunner:
        return AttemptRunner(
            executors,
            before_end=before_end,
            on_end=on_end,
            sample=launcher.sample,
            fetcher=fetcher,
            shortage_since=shortage_since,
            refusal=allowed.refusal,
        )

    agent = AgentLoop(
        config,
        leader,
        attempts,
        store,
        on_lease=renewals.lease,
        kill_overdue=launcher.kill_overdue,
        attempts_max=attempts_max(),
        on_registered=registered,
        home=work.home(),
        probe=MachineProbe(work, executors.values()),
    )
    handled = _handle_signals(loop, agent, leader, service)
    watching: asyncio.Task[None] | None = None
    try:
        await leader.start()
        watching = loop.create_task(leader.certificates.watch())
        launcher.start()
        service.begin()
        return await agent.run()
    except RefusedError as error:
        _log.error("the coordinator refuses this agent: %s", error)
        return EXIT_REFUSED
    except asyncio.CancelledError:
        if not broken:
            raise
        _log.error("giving up: %s", broken[0])
        return EXIT_FAILED
    finally:
        loop.set_exception_handler(None)
        if watching is not None:
            watching.cancel()
        for number in handled:
            loop.remove_signal_handler(number)
        await launcher.close()
        await channel.close()
        await leader.close()
        inputs.close()
        code.close()
        if uploads is not None:
            await uploads.close(0.0 if agent.is_stopping_now else config.goodbye_timeout_s)
        store.close()
        service.close()


def _give_up_after_failed_callbacks(loop: asyncio.AbstractEventLoop, give_up: Callable[[Exception], None]) -> None:
    def unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback failed, so an attempt may be forgotten: end loudly rather than hold its place for ever."""
        loop.default_exception_handler(context)
        if "handle" in context and isinstance(context.get("exception"), Exception):
            give_up(context["exception"])

    loop.set_exception_handler(unexpected)


def program_limits(config: AgentConfig, files_limit: int) -> ProgramLimits:
    """Return what programs begin with; `files_limit` as in `run_agent`."""
    return ProgramLimits(
        files=files_limit,
        files_max=config.task_files_max,
        file_bytes_max=config.task_file_mib_max << 20,
        processes_max=config.task_processes_max,
        niceness=config.task_niceness,
        new_privileges=config.task_new_privileges or needs_new_privileges(config),
    )


class _Service(ServiceManager):
    """An agent as a service: it is ready when the cluster knows it."""

    is_registered = False

    def begin(self) -> None:
        """Say from now on how the agent is."""
        self.start(lambda: self.is_registered)


class _LeaseRenewals:
    """Passes renewals of the lease on to the launcher, in steps."""

    def __init__(self, launcher: LauncherClient) -> None:
        self._launcher = launcher
        self._sent_until_ns = 0

    def lease(self, until_ns: int) -> None:
        if abs(until_ns - self._sent_until_ns) >= _RENEWAL_STEP_NS:
            self._sent_until_ns = until_ns
            self._launcher.lease(until_ns)


def _handle_signals(
    loop: asyncio.AbstractEventLoop, agent: AgentLoop, leader: LeaderClient, service: _Service
) -> list[int]:
    asked = False

    def stop() -> None:
        nonlocal asked
        service.stopping()
        if asked:
            agent.stop_now()
        else:
            agent.leave()
        asked = True

    handled = [signal.SIGTERM, signal.SIGINT]
    for number in handled:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, leader.certificates.reload)
    return [int(number) for number in (*handled, signal.SIGHUP)]


def main() -> None:
    """Run an agent configured by the environment and an optional file: `python -m raftflow.agent.main [FILE]`."""
    from raftflow.agent.config import load_config  # noqa: PLC0415 - only here

    start_logging("info")
    try:
        sys.exit(run(load_config(Path(sys.argv[1]) if len(sys.argv) > 1 else None, os.environ, {})))
    except AgentConfigError as error:
        print(f"raftflow agent: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
