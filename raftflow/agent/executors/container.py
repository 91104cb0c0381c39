"""Runs programs in containers, through podman or docker.

The program that the launcher starts is the client of the runtime (`podman run ...`). The container is not a
descendant of the launcher. So every container has a name, and its removal is the cleanup of its program: the launcher
removes it when the client has ended for any reason, when the lease is over, and when the agent is gone. A launcher
that was killed too may leave containers behind. They are found by their label when an agent starts on the same work
directory.

The folder of the attempt is mounted at `/raftflow`, its code bundle, if it has one, at `/raftflow-code`. What the
container uses is not measured.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import re
import secrets
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

from raftflow.agent.calls.channel import Channel
from raftflow.agent.executors.command import CODE_VARIABLE, CommandExecutor, Launch
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.agent.launcher.messages import Exited
from raftflow.agent.other_user import child_user
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import EXCHANGE, WorkDirectory
from raftflow.agent.workdir.folders import INPUTS, PROGRESS, RESULT, SOCKET, AttemptFolder
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import ContainerRun

_log = logging.getLogger("raftflow.agent.container")

RUNTIMES: Final = ("podman", "docker")
"""The first one that is on PATH is used."""
LABEL: Final = "raftflow.work"
"""A container carries it with a digest of the work directory of its agent."""
_CPU_SHARES: Final = 1024
"""The usual weight of a container."""
_CPU_STEP: Final = 1.25
"""So many times as much CPU time the kernel gives to a process for each step of niceness."""
_MOUNT: Final = "/raftflow"
_FETCHED: Final = "/raftflow-inputs.json"
_CODE: Final = "/raftflow-code"
_ANSWER_MAX_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 1 << 20
_LOOK_EVERY_S: Final = 0.05
_REMOVE_AGAIN_S: Final = 0.5
_REMOVE_AGAIN_MAX_S: Final = 60.0
_NAME: Final = re.compile(r"raftflow-[0-9a-f]{8}-[0-9]+")
_OF_THE_CLIENT: Final = ("DBUS_SESSION_BUS_ADDRESS", "HOME", "NOTIFY_SOCKET", "PATH", "TMPDIR", "USER")
_OF_THE_CLIENT_BEGIN: Final = (
    "BUILDAH_", "CONTAINER", "DOCKER_", "GO", "LD_", "LISTEN_", "PODMAN_", "REGISTRY_", "SSL_CERT_", "STORAGE_",
    "XDG_", "_CONTAINERS_",
)  # fmt: skip
"""Variables that the client reads itself. A task's value of such a one is meant for the container alone."""


class Runtime(NamedTuple):
    """podman or docker on this machine."""

    path: str
    why_missing: str
    """Empty if it can be used."""


@functools.cache
def _ask(path: str) -> str:
    """Return why a runtime cannot be used, empty if it can."""
    try:
        code, answer = _call([path, "ps", "--quiet"], "stderr")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} cannot be asked: {error}"
    if code == 0:
        return ""
    said = answer.strip().splitlines() or [f"exit code {code}"]
    return f"{path} cannot be used: {said[-1][:300]}"


def _call(argv: list[str], stream: Literal["stdout", "stderr"]) -> tuple[int, str]:
    """Run the client. Returns its exit code, and the beginning of what it wrote to one of its streams.

    A program that the client leaves behind may hold the stream open: the answer ends with the client.
    Raises `OSError`, `subprocess.TimeoutExpired`.
    """
    out, err = (subprocess.PIPE if name == stream else subprocess.DEVNULL for name in ("stdout", "stderr"))
    until_s = time.monotonic() + _ANSWER_MAX_S
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **child_user()) as client:
        pipe = client.stdout or client.stderr
        assert pipe is not None  # noqa: S101 - one of them was asked for
        answer = b""
        try:
            while time.monotonic() < until_s:
                has_ended = client.poll() is not None
                if select.select([pipe], [], [], 0.0 if has_ended else _LOOK_EVERY_S)[0]:
                    piece = os.read(pipe.fileno(), 1 << 16)
                    answer = (answer + piece)[:_ANSWER_BYTES_MAX]
                    has_ended = not piece
                if has_ended:
                    return client.wait(max(until_s - time.monotonic(), 0.0)), answer.decode(errors="replace")
            raise subprocess.TimeoutExpired(argv, _ANSWER_MAX_S)
        finally:
            client.kill()


def find_runtime() -> Runtime:
    """Return the runtime of this machine. One that does not answer is not used, and no other is tried."""
    for name in RUNTIMES:
        path = shutil.which(name)
        if path is not None:
            return Runtime(path, _ask(path))
    return Runtime("", f"neither {' nor '.join(RUNTIMES)} is on PATH")


def why_missing(work_dir: Path) -> str:
    """Say why an agent with this work directory cannot run containers, empty if it can."""
    if ":" in str(work_dir):
        return f"work_dir: {work_dir} cannot be mounted into a container, since it has a colon in it"
    return find_runtime().why_missing


def is_rootless_podman() -> bool:
    """Tell whether the runtime of this machine would be podman, run by a user other than root."""
    return os.geteuid() != 0 and os.path.basename(find_runtime().path) == "podman"  # noqa: PTH119 - a name


def cpu_options(runtime: str, niceness: int) -> tuple[str, ...]:
    """Return the options that give a container the share of CPU time of a process with this niceness.

    A container has a control group of its own, and no niceness counts outside of it. Without root's rights podman
    may not be able to set the weight of that group, and would not start the container: then it keeps the usual one.
    """
    if niceness == 0 or (os.path.basename(runtime) != "docker" and os.geteuid() != 0):  # noqa: PTH119 - a name
        return ()
    return ("--cpu-shares", str(round(_CPU_SHARES / _CPU_STEP**niceness)))


class ContainerExecutor(CommandExecutor):
    """The `Executor` of `ContainerRun`."""

    def __init__(
        self,
        launcher: LauncherClient,
        store: OutputStore,
        work: WorkDirectory,
        channel: Channel,
        *,
        output_bytes_max: int,
        niceness: int = 0,
        new_privileges: bool = False,
    ) -> None:
        super().__init__(launcher, store, work, channel, output_bytes_max=output_bytes_max)
        self._runtime = find_runtime().path
        self._weight = cpu_options(self._runtime, niceness)
        self._rights = () if new_privileges else ("--security-opt", "no-new-privileges")
        self._label = f"{LABEL}={hashlib.sha256(work.path.encode()).hexdigest()[:16]}"
        self._prefix = f"raftflow-{secrets.token_hex(4)}"
        self._remove_left()

    def launch_of(self, assignment: Assignment, folder: AttemptFolder, env: dict[str, str]) -> Launch:
        """Return the call of the runtime's client for an attempt, and the removal of its container."""
        program = assignment.program
        if not isinstance(program, ContainerRun):
            raise TypeError(program)
        mounts = ["--volume", f"{folder.path}:{_MOUNT}"]
        inputs = f"{_MOUNT}/{INPUTS}"
        if env["RAFTFLOW_INPUTS"] != folder.inputs:  # they were fetched into a file of their own
            mounts += ["--volume", f"{env['RAFTFLOW_INPUTS']}:{_FETCHED}:ro"]
            inputs = _FETCHED
        if CODE_VARIABLE in env:
            mounts += ["--volume", f"{env[CODE_VARIABLE]}:{_CODE}:ro"]
            env[CODE_VARIABLE] = _CODE
        env |= {
            "RAFTFLOW_INPUTS": inputs,
            "RAFTFLOW_RESULT": f"{_MOUNT}/{RESULT}",
            "RAFTFLOW_PROGRESS": f"{_MOUNT}/{PROGRESS}",
            "RAFTFLOW_SOCKET": f"{_MOUNT}/{SOCKET}",
        }
        variables: list[str] = []
        for name, value in env.items():
            # By name the client takes the value out of its own environment: it is in no list of processes then.
            # But a name with a star at its end means all variables that begin like it.
            variables += ["--env", f"{name}={value}" if _is_of_the_client(name) or name.endswith("*") else name]
        cwd = [] if assignment.cwd is None else ["--workdir", assignment.cwd]
        name = self._name_of(assignment.fence)
        argv = (
            *(self._runtime, "run", "--rm", "--name", name, "--label", self._label),
            *("--security-opt", "label=disable", *self._rights, *self._weight, *mounts, *variables, *cwd),
            *(program.image, *program.argv),
        )
        passed = {key: value for key, value in env.items() if not _is_of_the_client(key)}
        own = _environment_of_the_client()
        return Launch(argv, {**own, **passed}, None, self._removal_of(assignment.fence), own)

    def _name_of(self, fence: int) -> str:
        return f"{self._prefix}-{fence}"

    def _removal_of(self, fence: int) -> tuple[str, ...]:
        return (self._runtime, "rm", "--force", self._name_of(fence))

    def _exited(self, fence: int, exited: Exited) -> None:
        if exited.code is not None or not exited.lease_over:
            super()._exited(fence, exited)
            # A client that ended by itself has removed its container. Some clients then fail to remove it again.
            if exited.uncleaned and (exited.signalled or exited.code is None or exited.code < 0):
                _log.error("the container %s cannot be removed, and may still run", self._name_of(fence))
                self._remove_later(fence, _REMOVE_AGAIN_S)
            return
        # The launcher was killed, and ran no cleanup: the attempt has not ended before its container is gone.
        end_attempt = super()._exited

        def removed(removal: Exited) -> None:
            end_attempt(fence, exited)
            if removal.code != 0:
                _log.error("the container %s cannot be removed, and may still run", self._name_of(fence))
                self._remove_later(fence, _REMOVE_AGAIN_S)

        self._remove(fence, removed)

    def _remove(self, fence: int, on_exit: Callable[[Exited], None]) -> None:
        folder = f"{self._work.part(EXCHANGE)}/cleanup"
        argv, env = self._removal_of(fence), _environment_of_the_client()
        self._launcher.spawn(argv, env, on_exit, cwd=None, folder=folder, bytes_max=1)

    def _remove_later(self, fence: int, after_s: float) -> None:
        """Try again and again to remove a container, less and less often. The next agent here tries it too."""

        def removed(exited: Exited) -> None:
            if exited.code != 0:
                self._remove_later(fence, min(2 * after_s, _REMOVE_AGAIN_MAX_S))
            else:
                _log.info("the container %s is removed", self._name_of(fence))

        asyncio.get_running_loop().call_later(after_s, self._remove, fence, removed)

    def _remove_left(self) -> None:
        """Remove containers that an earlier agent on this work directory left behind."""
        listed = self._run("ps", "--all", "--filter", f"label={self._label}", "--format", "{{.Names}}").split()
        names = [name for name in listed if _NAME.fullmatch(name)]
        if len(names) < len(listed):
            _log.error("%s ps lists what is not a container of an agent; it is left alone", self._runtime)
        if names:
            _log.warning("containers that an earlier agent left behind are removed: %s", " ".join(names))
            self._run("rm", "--force", *names)

    def _run(self, *arguments: str) -> str:
        try:
            return _call([self._runtime, *arguments], "stdout")[1]
        except (OSError, subprocess.TimeoutExpired) as error:
            _log.error("%s %s: %s", self._runtime, arguments[0], error)
            return ""


def _environment_of_the_client() -> dict[str, str]:
    """Return what the client finds in the agent's environment, of which other programs do not get all."""
    return {name: value for name, value in os.environ.items() if _is_of_the_client(name)}


def _is_of_the_client(name: str) -> bool:
    return name in _OF_THE_CLIENT or name.startswith(_OF_THE_CLIENT_BEGIN)
