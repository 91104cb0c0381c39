"""Runs programs in containers, through podman or docker.

The program that the launcher starts is the client of the runtime (`podman run ...`). The container is not a
descendant of the launcher. So every container has a name, and its removal is the cleanup of its program: the launcher
removes it when the client has ended for any reason, when the lease is over, and when the agent is gone. A launcher
that was killed too may leave containers behind. They are found by their label when an agent starts on the same work
directory.

The folder of the attempt is mounted at `/raftflow`. What the container uses is not measured.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import secrets
import shutil
import subprocess
from typing import Final, NamedTuple

from raftflow.agent.executors.command import CommandExecutor, Launch
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.agent.launcher.messages import Exited
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import EXCHANGE, WorkDirectory
from raftflow.agent.workdir.folders import INPUTS, PROGRESS, RESULT, AttemptFolder
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import ContainerRun

_log = logging.getLogger("raftflow.agent.container")

RUNTIMES: Final = ("podman", "docker")
"""The first one that is on PATH is used."""
LABEL: Final = "raftflow.work"
"""A container carries it with a digest of the work directory of its agent."""
_MOUNT: Final = "/raftflow"
_FETCHED: Final = "/raftflow-inputs.json"
_ANSWER_MAX_S: Final = 10.0
_OF_THE_CLIENT: Final = ("PATH", "HOME", "TMPDIR", "USER")
_OF_THE_CLIENT_BEGIN: Final = ("BUILDAH_", "CONTAINER", "DOCKER_", "LD_", "PODMAN_", "REGISTRY_", "XDG_")
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
        asked = subprocess.run(
            [path, "ps", "--quiet"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_MAX_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} cannot be asked: {error}"
    if asked.returncode == 0:
        return ""
    said = asked.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {asked.returncode}"]
    return f"{path} cannot be used: {said[-1][:300]}"


def find_runtime() -> Runtime:
    """Return the runtime of this machine. One that does not answer is not used, and no other is tried."""
    for name in RUNTIMES:
        path = shutil.which(name)
        if path is not None:
            return Runtime(path, _ask(path))
    return Runtime("", f"neither {' nor '.join(RUNTIMES)} is on PATH")


class ContainerExecutor(CommandExecutor):
    """The `Executor` of `ContainerRun`."""

    def __init__(
        self, launcher: LauncherClient, store: OutputStore, work: WorkDirectory, *, output_bytes_max: int
    ) -> None:
        super().__init__(launcher, store, work, output_bytes_max=output_bytes_max)
        self._runtime = find_runtime().path
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
        env |= {
            "RAFTFLOW_INPUTS": inputs,
            "RAFTFLOW_RESULT": f"{_MOUNT}/{RESULT}",
            "RAFTFLOW_PROGRESS": f"{_MOUNT}/{PROGRESS}",
        }
        variables: list[str] = []
        for name, value in env.items():
            # By name the client takes the value out of its own environment: it is in no list of processes then.
            variables += ["--env", f"{name}={value}" if _is_of_the_client(name) else name]
        cwd = [] if assignment.cwd is None else ["--workdir", assignment.cwd]
        name = self._name_of(assignment.fence)
        argv = (
            *(self._runtime, "run", "--rm", "--name", name, "--label", self._label),
            *("--security-opt", "label=disable", *mounts, *variables, *cwd),
            *(program.image, *program.argv),
        )
        passed = {key: value for key, value in env.items() if not _is_of_the_client(key)}
        return Launch(argv, passed, None, self._removal_of(assignment.fence))

    def _name_of(self, fence: int) -> str:
        return f"{self._prefix}-{fence}"

    def _removal_of(self, fence: int) -> tuple[str, ...]:
        return (self._runtime, "rm", "--force", self._name_of(fence))

    def _exited(self, fence: int, exited: Exited) -> None:
        if exited.code is not None or not exited.lease_over:
            super()._exited(fence, exited)
            return
        # The launcher was killed, and ran no cleanup: the attempt has not ended before its container is gone.
        folder = f"{self._work.part(EXCHANGE)}/cleanup"
        removed = super()._exited
        self._launcher.spawn(
            self._removal_of(fence), {}, lambda _: removed(fence, exited), cwd=None, folder=folder, bytes_max=1
        )

    def _remove_left(self) -> None:
        """Remove containers that an earlier agent on this work directory left behind."""
        listed = self._run("ps", "--all", "--quiet", "--filter", f"label={self._label}").split()
        if listed:
            _log.warning("containers that an earlier agent left behind are removed: %s", " ".join(listed))
            self._run("rm", "--force", *listed)

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._runtime, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ANSWER_MAX_S,
                check=False,
                text=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            _log.error("%s %s: %s", self._runtime, arguments[0], error)
            return ""
        return done.stdout


def _is_of_the_client(name: str) -> bool:
    return name in _OF_THE_CLIENT or name.startswith(_OF_THE_CLIENT_BEGIN)
