"""Programs in containers. A stand-in for podman asks a "daemon" in this process to run them, outside of the agent."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.executors import container
from raftflow.domain.tasks.program import ContainerRun
from raftflow.formats.documents import DocumentError, normalize

CLIENT = """#!{python} -S
import json, os, signal, socket, sys
def ask(**request):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect({socket!r})
        link.sendall(json.dumps(request).encode())
        link.shutdown(socket.SHUT_WR)
        return json.loads(link.makefile().read())
argv = sys.argv[1:]
verb, name = argv[0], None
if verb == "run":
    name = argv[argv.index("--name") + 1]
    signal.signal(signal.SIGTERM, lambda *_: ask(verb="kill", name=name))
answer = ask(verb=verb, argv=argv[1:], name=name, pid=os.getpid(), environ=dict(os.environ))
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.exit(answer["code"])
"""
ONE_VALUE = ("--name", "--label", "--security-opt", "--volume", "--env", "--workdir", "--cpu-shares")


class Daemon:
    """Runs "containers" as processes of its own. They are not descendants of the agent, so it cannot kill them."""

    def __init__(self, folder: Path) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.calls: list[list[str]] = []
        self.labels: dict[str, str] = {}
        self.fault = ""
        self.refusals = 0
        """So many removals are refused."""
        self._link = socket.socket(socket.AF_UNIX)
        self._link.bind(str(folder / "socket"))
        self._link.listen()
        program = folder / "podman"
        program.write_text(CLIENT.format(python=sys.executable, socket=str(folder / "socket")))
        program.chmod(0o755)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
        self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._link.accept()
                threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            request = json.loads(link.makefile().read())
            self.calls.append([request["verb"], *request.get("argv", ())])
            link.sendall(json.dumps(getattr(self, f"do_{request['verb']}")(request)).encode())

    def do_ps(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.fault:
            return {"code": 1, "err": self.fault}
        asked = [word.removeprefix("label=") for word in request["argv"] if word.startswith("label=")]
        names = [name for name, label in self.labels.items() if not asked or label == asked[0]]
        return {"code": 0, "out": "".join(f"{name}\n" for name in names)}

    def do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        argv, options = request["argv"], []
        while argv[0].startswith("--"):
            taken = 2 if argv[0] in ONE_VALUE else 1
            options.append(argv[:taken])
            argv = argv[taken:]
        values = {key: [rest[0] for name, *rest in options if name == key] for key in ONE_VALUE}
        mounts = [value.split(":")[:2] for value in values["--volume"]]
        env = {}
        for variable in values["--env"]:
            name, given, value = variable.partition("=")
            if name.endswith("*") and not given:  # as podman has it
                env |= {key: value for key, value in request["environ"].items() if key.startswith(name[:-1])}
                continue
            env[name] = value if given else request["environ"][name]
            for real, inside in mounts:
                env[name] = real if env[name] == inside else env[name].replace(f"{inside}/", f"{real}/")
        streams = [open(f"/proc/{request['pid']}/fd/{fd}", "wb") for fd in (1, 2)]  # noqa: PTH123, SIM115
        cwd = next(iter(values["--workdir"]), None)
        process = subprocess.Popen(argv[1:], env=env, cwd=cwd, stdout=streams[0], stderr=streams[1])
        for stream in streams:
            stream.close()
        self.labels[request["name"]] = values["--label"][0]
        self.running[request["name"]] = process
        code = process.wait()
        self.labels.pop(request["name"], None)
        return {"code": code if code >= 0 else 128 - code}

    def do_kill(self, request: dict[str, Any]) -> dict[str, Any]:
        self.running[request["name"]].terminate()
        return {"code": 0}

    def do_rm(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.refusals:
            self.refusals -= 1
            return {"code": 125, "err": "busy"}
        for name in request["argv"]:
            self.labels.pop(name, None)
            if name in self.running:
                self.running[name].kill()
                self.running[name].wait()
        return {"code": 0}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Daemon(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield made
    made.close()


def run(*argv: str) -> dict[str, Any]:
    return {"container": {"image": "example.org/image:1", "command": list(argv)}}


async def started(leader: Any, fifo: Path, **task: Any) -> tuple[int, int]:
    """Start a container that never ends. Return its fence and the process in it."""
    os.mkfifo(fifo)
    (fence,) = await leader.assign({**run("sh", "-c", f"trap '' TERM; echo $$ >{fifo}; sleep 300; true"), **task})
    return fence, int(await asyncio.to_thread(fifo.read_text))


async def test_a_container_gets_inputs_and_environment_and_gives_a_result(
    leader: Any, start_agent: Any, daemon: Daemon
) -> None:
    start_agent()
    script = (
        'printf \'{"got": %s, "x": "%s", "d": "%s"}\' "$(cat $RAFTFLOW_INPUTS)" "$X" "$DOCKER_HOST" >$RAFTFLOW_RESULT'
    )
    env = {"X": "secret", "DOCKER_HOST": "of the task"}
    end = await leader.run(**run("sh", "-c", script), env=env, inputs={"before": [1, 2]})
    assert (end.outcome, end.exit_code, end.error) == ("succeeded", 0, "")
    assert json.loads(bytes(end.result)) == {"got": {"before": [1, 2]}, "x": "secret", "d": "of the task"}
    assert leader.registrations[-1].labels["executor:container"] == "yes"
    (call,) = [call for call in daemon.calls if call[0] == "run"]
    assert "secret" not in " ".join(call), "values are not in the list of processes"
    assert call[-4:] == ["example.org/image:1", "sh", "-c", script]


@pytest.mark.parametrize("allowed", [False, True])
async def test_programs_of_a_container_get_no_new_privileges_unless_the_agent_says_so(
    leader: Any, start_agent: Any, daemon: Daemon, allowed: Any
) -> None:
    start_agent(task_new_privileges=allowed)
    assert (await leader.run(**run("true"))).outcome == "succeeded"
    (call,) = [call for call in daemon.calls if call[0] == "run"]
    assert ("no-new-privileges" in call) == (not allowed)


async def test_inputs_that_were_fetched_are_in_the_container(leader: Any, start_agent: Any, daemon: Daemon) -> None:
    start_agent()
    fence = await leader.assign_apart({"a": [1] * 9}, **run("sh", "-c", "cat $RAFTFLOW_INPUTS >$RAFTFLOW_RESULT"))
    assert json.loads(bytes((await leader.end_of(fence)).result)) == {"a": [1] * 9}


async def test_a_variable_with_a_star_brings_no_others_along(
    leader: Any, start_agent: Any, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_PASSWORD", "of the agent")
    start_agent()
    end = await leader.run(
        **run("/usr/bin/env"), env={"*": "all", "CLOUD_*": "some", "STORAGE_DRIVER": "of the task"}
    )
    assert end.outcome == "succeeded"
    given = (await leader.log_of(end.fence, "stdout")).data.decode().splitlines()
    assert {"*=all", "CLOUD_*=some", "STORAGE_DRIVER=of the task"} <= set(given)
    assert "CLOUD_PASSWORD=of the agent" not in given
    (call,) = [call for call in daemon.calls if call[0] == "run"]
    assert "STORAGE_DRIVER=of the task" in call, "the client itself must not read it"


@pytest.mark.parametrize("work_dir", ["with:colon", "with,comma and space"])
async def test_a_work_directory_that_cannot_be_mounted_offers_no_containers(
    leader: Any, start_agent: Any, daemon: Daemon, tmp_path: Path, work_dir: str
) -> None:
    start_agent(work_dir=str(tmp_path / work_dir))
    end = await leader.run(**run("true"))
    offered = "executor:container" in leader.registrations[-1].labels
    assert offered == (":" not in work_dir) == (end.outcome == "succeeded")
    assert offered or "cannot be mounted into a container, since it has a colon in it" in end.error


def client_that(folder: Path, script: str) -> None:
    """Put a client that does something odd in the place of podman."""
    program = folder / "bin" / "podman"
    program.rename(folder / "bin" / "real")
    program.write_text(f'#!/bin/sh\nif [ "$1" = ps ]; then\n{script}\nfi\nexec {folder}/bin/real "$@"\n')
    program.chmod(0o755)


GARBAGE = r"printf '\377\376 --all\n/etc -a\nraftflow-0-1\nraftflow-01234567-8\n'; exit 0"


async def test_a_list_of_containers_that_is_garbage_removes_nothing_else(
    leader: Any, start_agent: Any, daemon: Daemon, tmp_path: Path
) -> None:
    client_that(tmp_path, GARBAGE)
    start_agent()
    assert (await leader.run(**run("true"))).outcome == "succeeded"
    assert daemon.calls[0] == ["rm", "--force", "raftflow-01234567-8"]


@pytest.mark.usefixtures("daemon")
async def test_a_client_that_leaves_a_daemon_with_its_streams_behind_is_used(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    """A first call of a rootless podman may leave one."""
    client_that(tmp_path, f"sleep 30 & echo $! >>{tmp_path}/daemons; exit 0")
    start_agent()
    try:
        assert (await asyncio.wait_for(leader.run(**run("true")), 5)).outcome == "succeeded"
    finally:
        for pid in (tmp_path / "daemons").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


async def test_a_failure_carries_exit_code_and_the_end_of_stderr(
    leader: Any, start_agent: Any, daemon: Daemon
) -> None:
    start_agent()
    end = await leader.run(**run("sh", "-c", "echo why >&2; exit 7"))
    assert (end.outcome, end.exit_code, end.error) == ("failed", 7, "exit code 7: why")


async def test_a_container_that_is_stopped_is_gone_when_its_end_is_told(
    leader: Any, start_agent: Any, daemon: Daemon, tmp_path: Path
) -> None:
    start_agent()
    fence, pid = await started(leader, tmp_path / "fifo", grace_ms=100)
    leader.stop.append(fence)
    await leader.notify()
    assert (await leader.end_of(fence)).outcome == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not daemon.labels


async def test_a_container_that_cannot_be_removed_at_once_is_removed_later(
    leader: Any, agent_process: Any, daemon: Daemon, tmp_path: Path, gone: Any
) -> None:
    """The runtime refuses, or hangs, when the client has been killed."""
    agent_process(resources={"cpu": 1})
    fence, pid = await started(leader, tmp_path / "fifo", grace_ms=0)
    daemon.refusals = 2
    leader.stop.append(fence)
    await leader.notify()
    assert (await leader.end_of(fence)).outcome == "cancelled"
    await gone(pid)
    assert [call[0] for call in daemon.calls].count("rm") == 3


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.usefixtures("daemon")
async def test_no_container_outlives_the_right_to_run(
    leader: Any, agent_process: Any, tmp_path: Path, gone: Any, number: int
) -> None:
    leader.lease_ms = 1_500
    agent = agent_process(resources={"cpu": 1})
    _, pid = await started(leader, tmp_path / "fifo")
    agent.signal(number)
    await gone(pid)
    agent.signal(signal.SIGCONT)


async def test_containers_that_were_left_behind_are_removed_at_the_start(
    leader: Any, agent_process: Any, daemon: Daemon, tmp_path: Path, gone: Any
) -> None:
    agent = agent_process(resources={"cpu": 1})
    _, pid = await started(leader, tmp_path / "fifo")
    (launcher,) = agent.children()
    agent.signal(signal.SIGSTOP)
    os.kill(launcher, signal.SIGKILL)
    agent.signal(signal.SIGKILL)
    await agent.wait()
    os.kill(pid, 0)
    agent_process(resources={"cpu": 1})
    await gone(pid)


async def test_a_killed_launcher_leaves_no_container(
    leader: Any, agent_process: Any, daemon: Daemon, tmp_path: Path
) -> None:
    agent = agent_process(resources={"cpu": 1})
    fence, pid = await started(leader, tmp_path / "fifo")
    (launcher,) = agent.children()
    os.kill(launcher, signal.SIGKILL)
    assert (await leader.end_of(fence)).outcome == "agent_fault"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_killed_launcher_leaves_no_container_though_it_cannot_be_removed_at_once(
    leader: Any, agent_process: Any, daemon: Daemon, tmp_path: Path, gone: Any
) -> None:
    agent = agent_process(resources={"cpu": 1})
    fence, pid = await started(leader, tmp_path / "fifo")
    daemon.refusals = 2
    (launcher,) = agent.children()
    os.kill(launcher, signal.SIGKILL)
    assert (await leader.end_of(fence)).outcome == "agent_fault"
    await gone(pid)


async def test_an_agent_without_a_runtime_refuses_clearly(
    leader: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "RUNTIMES", ("no-podman", "no-docker"))
    start_agent()
    end = await leader.run(**run("true"))
    assert end.outcome == "failed"
    assert end.error == "this agent cannot run it: neither no-podman nor no-docker is on PATH"
    assert "executor:container" not in leader.registrations[-1].labels


async def test_a_runtime_that_does_not_work_is_not_offered(leader: Any, start_agent: Any, daemon: Daemon) -> None:
    daemon.fault = "Cannot connect to the daemon"
    start_agent()
    end = await leader.run(**run("true"))
    assert end.error.endswith("podman cannot be used: Cannot connect to the daemon")
    assert "executor:container" not in leader.registrations[-1].labels


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ("alpine", "tasks[0].container", "must be a table"),
        ({"command": ["x"]}, "tasks[0].container.image", "must be the name of an image"),
        ({"image": "--privileged"}, "tasks[0].container.image", "must be the name of an image"),
        ({"image": "a", "command": "x"}, "tasks[0].container.command", "must be a list of strings"),
        ({"image": "a", "command": ["x\0"]}, "tasks[0].container.command[0]", "must not contain a NUL"),
        ({"image": "a", "command": ["x"] * 1001}, "tasks[0].container.command", "1001 arguments"),
        ({"image": "a", "volumes": []}, "tasks[0].container.volumes", "is unknown"),
    ],
)
def test_faults_of_a_document_are_told_with_their_path(value: Any, path: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        normalize({"name": "w", "tasks": [{"id": "a", "container": value}]})
    assert [(fault.path, message in fault.message) for fault in caught.value.problems] == [(path, True)]


def test_a_document_makes_a_container() -> None:
    document = {"name": "w", "tasks": [{"id": "a", "container": {"image": "r/a:1", "command": ["b", "c"]}}]}
    program = normalize(document).tasks[0].program
    assert program == ContainerRun("r/a:1", ("b", "c"))
    assert (program.kind(), list(program.faults()), program.size_bytes()) == ("a:1", [], 7)


@pytest.mark.parametrize(
    ("runtime", "user", "niceness", "options"),
    [
        ("/usr/bin/podman", 0, 5, ("--cpu-shares", "336")),
        ("/usr/bin/podman", 1000, 5, ()),  # it may not start the container with it
        ("/usr/bin/docker", 1000, 19, ("--cpu-shares", "15")),
        ("/usr/bin/docker", 0, 0, ()),
    ],
)
def test_containers_get_the_cpu_time_of_nice_tasks(
    monkeypatch: pytest.MonkeyPatch, runtime: str, user: int, niceness: int, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert container.cpu_options(runtime, niceness) == options
