"""The agent as a process: its parts put together, signals, exit code."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final

from raftflow.agent.attempts import Attempts
from raftflow.agent.config import AgentConfig, ConfigError
from raftflow.agent.executors.command import CommandExecutor
from raftflow.agent.executors.launching import Launcher
from raftflow.agent.executors.python import PythonExecutor
from raftflow.agent.inputs import Fetcher, InputFolder
from raftflow.agent.leader import LeaderClient, RefusedError
from raftflow.agent.loop import Agent
from raftflow.agent.output import OutputStore
from raftflow.domain.contract import RegisterResponse, ReportedEnd

_log = logging.getLogger("raftflow.agent")

_HOME: Final = re.compile(b"[0-9a-f]{32}")
_HOME_BYTES_MAX: Final = 64

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4

_RENEWAL_STEP_NS = 50_000_000
"""The launcher hears of a renewal when it has moved the lease by this much: not of every one of many polls."""


async def run_agent(config: AgentConfig) -> int:
    """Run an agent until SIGTERM or SIGINT (drain; a second one: at once). Returns the exit code.

    0: left in good order. 1: the agent's own processes cannot be kept alive. 3: left while ends could not be
    reported. 4: the coordinator refuses this agent. Raises `ConfigError` if the configuration cannot be used.
    """
    with _work_folder(config.work_path()) as lock:
        return await _run(config, Path(lock.name).parent)


def run(config: AgentConfig) -> int:
    """Run `run_agent` in an event loop of its own, uvloop's where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.run(run_agent(config))
    return int(uvloop.run(run_agent(config)))


async def _run(config: AgentConfig, folder: Path) -> int:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    broken: list[BaseException] = []

    def give_up(error: BaseException) -> None:
        broken.append(error)
        if main is not None:
            main.cancel()

    def unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback failed, so an attempt may be forgotten: end loudly rather than hold its place for ever."""
        loop.default_exception_handler(context)
        if "handle" in context and isinstance(context.get("exception"), Exception):
            give_up(context["exception"])

    loop.set_exception_handler(unexpected)
    store = OutputStore(
        folder / "attempts",
        count_max=config.keep_attempts_max,
        bytes_max=config.keep_bytes_max,
        age_max_s=config.keep_age_max_s,
        output_bytes_max=config.output_bytes_max,
    )
    leader = LeaderClient(config)
    launcher = Launcher(config.instance, os.environ, give_up)
    command = CommandExecutor(launcher, store, folder / "exchange", output_bytes_max=config.output_bytes_max)
    python = PythonExecutor(
        launcher,
        store,
        folder / "workers",
        output_bytes_max=config.output_bytes_max,
        idle_max=config.workers_idle_max,
        calls_max=config.worker_calls_max,
        rss_max_mib=config.worker_rss_max_mib,
    )
    inputs = InputFolder(folder / "inputs")
    fetcher = Fetcher(leader, inputs.make, agent=config.name, bytes_max=config.inputs_bytes_max)
    renewals = _Renewals(launcher)

    def registered(registration: RegisterResponse) -> None:
        command.result_bytes_max = python.result_bytes_max = registration.result_bytes_max

    def attempts(before_end: Callable[[], None], on_end: Callable[[ReportedEnd], None]) -> Attempts:
        return Attempts(
            command, python, before_end=before_end, on_end=on_end, sample=launcher.sample, fetch=fetcher.fetch
        )

    agent = Agent(
        config, leader, attempts, store, on_lease=renewals.lease, on_registered=registered, home=_home_of(folder)
    )
    handled = _handle_signals(loop, agent)
    try:
        await leader.start()
        launcher.start()
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
        for number in handled:
            loop.remove_signal_handler(number)
        await launcher.close()
        await leader.close()
        inputs.close()


class _Renewals:
    """Passes renewals of the lease on to the launcher, in steps."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._told_ns = 0

    def lease(self, until_ns: int) -> None:
        if abs(until_ns - self._told_ns) >= _RENEWAL_STEP_NS:
            self._told_ns = until_ns
            self._launcher.lease(until_ns)


def _handle_signals(loop: asyncio.AbstractEventLoop, agent: Agent) -> list[int]:
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            agent.hurry()
        else:
            agent.leave()
        asked = True

    handled = [signal.SIGTERM, signal.SIGINT]
    for number in handled:
        loop.add_signal_handler(number, stop)
    return [int(number) for number in handled]


def _work_folder(folder: Path) -> IO[bytes]:
    """Make the work directory and lock it. Returns the locked file. Raises `ConfigError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid():
            raise ConfigError(f"work_dir: {folder} belongs to another user")
        lock = (folder / "lock").open("ab")
    except OSError as error:
        raise ConfigError(f"work_dir: {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigError(f"work_dir: {folder} is in use by another agent; give each its own") from error
    return lock


def _home_of(folder: Path) -> str:
    """Return what identifies a work directory, which must be locked. Raises `ConfigError`.

    The host's name is part of it: a copy of the machine's disk, started elsewhere, is another home.
    """
    file = folder / "home"
    kept = _read_home(file)
    if not _HOME.fullmatch(kept):
        kept = secrets.token_hex(16).encode()
        try:
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as fresh:
                fresh.write(kept)
            Path(fresh.name).replace(file)
        except OSError as error:
            raise ConfigError(f"work_dir: {file} cannot be written: {error.strerror}") from error
    return blake2b(kept + socket.gethostname().encode(), digest_size=16).hexdigest()


def _read_home(file: Path) -> bytes:
    """Read what a former process left, or whatever a task put in its place: empty if that is no file."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(handle, _HOME_BYTES_MAX)
    except OSError:
        return b""
    finally:
        os.close(handle)


def main() -> None:
    """Run an agent configured by the environment and an optional file: `python -m raftflow.agent.main [FILE]`."""
    from raftflow.agent.config import load_config  # noqa: PLC0415 - only here

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        sys.exit(run(load_config(Path(sys.argv[1]) if len(sys.argv) > 1 else None, os.environ, {})))
    except ConfigError as error:
        print(f"raftflow agent: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
