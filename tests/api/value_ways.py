"""The columns of the table of values: every way on which a value enters or leaves a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from raftflow import helpers
from raftflow.agent.executors.command import _encode as encode_inputs
from raftflow.agent.launcher.messages import CONTROL_FD, READY, FunctionCall, Returned
from raftflow.agent.workdir.folders import AttemptFolders
from raftflow.cli.terminal.output import print_items
from raftflow.client import AsyncClient, Client, Workflow
from raftflow.coordinator.uploads.document_worker import ReadRequest, answer
from raftflow.domain.contract.reportable import first_fault, judge_end
from raftflow.domain.contract.views import ReportedEnd, TaskView, WorkflowCreated
from raftflow.domain.limits import RESULT_BYTES_MAX
from raftflow.domain.tasks.checks import check_task_values
from raftflow.domain.tasks.program import PythonCall
from raftflow.domain.values import cachekeys
from raftflow.domain.values.exact import write_json
from raftflow.domain.values.results import result_problem
from raftflow.formats.documents import normalize
from raftflow.formats.files import loads
from tests.api.values import BOM, MISSING, Kind


class Shown(str):
    """What Python shows of a value."""

    __slots__ = ()


class RefusedError(Exception):
    """A way did not take a value. The text has all that was told."""


def told(problems: list[Any]) -> str:
    return "; ".join(f"{problem.path}: {problem.message}" for problem in problems)


# --- ways in: a document in each format, by file, by HTTP and by clients

Way = Callable[[Kind, Any], Any]
WAYS: dict[str, tuple[str, str, Way]] = {}
"""Name, to what the value is taken from (`json`, `toml`, `yaml`, `value`), its path, and the function."""


def way(name: str, form: str, path: str) -> Callable[[Way], Way]:
    def add(function: Way) -> Way:
        WAYS[name] = (form, path, function)
        return function

    return add


JSON_DOCUMENT = '{"name": "w", "tasks": [{"id": "a", "python": "m:f", "FIELD": VALUE}]}'
TOML_DOCUMENT = 'name = "w"\n[[tasks]]\nid = "a"\npython = "m:f"\nFIELD = VALUE\n'
YAML_DOCUMENT = "name: w\ntasks:\n- id: a\n  python: m:f\n  FIELD: VALUE\n"


def document(template: str, field: str, value: str) -> bytes:
    return template.replace("FIELD", field).replace("VALUE", value).encode()


def first_argument(spec: Any) -> Any:
    (each,) = spec.tasks
    assert check_task_values(each, "tasks[0]") == [], "the replicated core takes it as well"
    given = json.loads(each.program.args or b"[]") or list(json.loads(each.program.kwargs).values())
    return given[0]


def add_documents() -> None:
    for name, template, value in (
        ("json", JSON_DOCUMENT, "[{}]"),
        ("toml", TOML_DOCUMENT, "[{}]"),
        ("yaml", YAML_DOCUMENT, "[{}]"),
    ):
        for bom in (b"", BOM):

            def arguments(
                kind: Kind,
                _place: Any,
                *,
                form: str = name,
                text: str = template,
                list_of: str = value,
                bom: bytes = bom,
            ) -> Any:
                data = bom + document(text, "args", list_of.replace("{}", getattr(kind, form)))
                return first_argument(normalize(loads(data, form)))

            way(f"{name}-file{'-with-bom' if bom else ''}", name, "tasks[0].args[0]")(arguments)


add_documents()


@way("json-kwargs", "json", "tasks[0].kwargs.k")
def _kwargs(kind: Kind, _place: Any) -> Any:
    return first_argument(normalize(loads(document(JSON_DOCUMENT, "kwargs", f'{{"k": {kind.json}}}'), "json")))


@way("toml-kwargs", "toml", "tasks[0].kwargs.k")
def _toml_kwargs(kind: Kind, _place: Any) -> Any:
    return first_argument(normalize(loads(document(TOML_DOCUMENT, "kwargs.k", kind.toml), "toml")))


@way("large-document-by-http", "json", "tasks[0].args[0]")
def _large(kind: Kind, _place: Any) -> Any:
    """What the process does that reads large documents."""
    body = document(JSON_DOCUMENT, "args", f"[{kind.json}]")
    request = ReadRequest(body=body, request_id="r", learnt_ms={})
    fault, *_ = answer(request)
    if hasattr(fault, "problems"):
        raise RefusedError(f"{fault.message}; {told(fault.problems)}")
    spec = normalize(msgspec.json.decode(body))
    (piece,) = list(answer(request))[1:]
    assert spec.tasks[0].program.args in msgspec.msgpack.encode(piece), "the value is in the piece as it is"
    return first_argument(spec)


def sent_by(client: AsyncClient) -> list[bytes]:
    """Let a client send to nobody. Returns the bodies that it sends."""
    sent: list[bytes] = []

    async def call(call: Any, kind: Any, **_: Any) -> Any:
        sent.append(call.body)
        return WorkflowCreated(id="w")

    client._transport.call = call  # type: ignore[method-assign]
    return sent


@way("async-client", "value", "tasks[0].args[0]")
def _async_client(kind: Kind, _place: Any) -> Any:
    client = AsyncClient(["http://127.0.0.1:1"], environ={})
    sent = sent_by(client)
    asyncio.run(client.submit({"name": "w", "tasks": [{"id": "a", "python": "m:f", "args": [kind.value]}]}))
    return first_argument(normalize(loads(sent[0], "json")))


@way("client-with-the-builder", "value", "tasks[0].args[0]")
def _client(kind: Kind, _place: Any) -> Any:
    flow = Workflow("w")
    flow.task("a", python="m:f", args=[kind.value])
    with Client(["http://127.0.0.1:1"], environ={}) as client:
        sent = sent_by(client._client)
        client.submit(flow)
    return first_argument(normalize(loads(sent[0], "json")))


# --- in an agent: arguments, results, references, files


def reported(result: bytes) -> Any:
    """Report a result: the agent judges it, then the leader's door and the replicated core do."""
    end = ReportedEnd(fence=1, workflow_id="w", task_id="t", outcome="succeeded", result=msgspec.Raw(result))
    door = first_fault([msgspec.Raw(result)])
    judge_end(end)
    if end.outcome == "failed":
        assert door is not None, "the door refuses what the agent refuses"
        assert door[1] == end.error
        raise RefusedError(end.error)
    assert door is None
    assert result_problem(result) is None, "the replicated core takes it as well"
    assert bytes(msgspec.json.decode(msgspec.json.encode(end), type=ReportedEnd).result) == result
    return json.loads(result)


class WorkerProcess:
    """A real worker of an agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket, other = socket.socketpair()
        command = helpers.worker_command("raftflow.agent.worker.process")
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" {CONTROL_FD}<&{other.fileno()}', "bash", *command],
                stdout=out,
                stderr=err,
                pass_fds=[other.fileno()],
            )
        other.close()
        assert self._read(1) == READY
        self._calls = 0

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            assert part, (self.folder / "stderr").read_text()
            data += part
        return data

    def returned(self, function: str, args: str, kwargs: str = "{}", **inputs: Any) -> Returned:
        """Let a function be called."""
        self._calls += 1
        call = FunctionCall(
            fence=self._calls,
            attempt=1,
            workflow="w",
            task="t",
            function=function,
            args=args.encode(),
            kwargs=kwargs.encode(),
            env={},
            cwd=None,
            inputs=inputs.pop("inputs", {}),
            directory=str(self.folder / f"call-{self._calls}"),
            output_bytes_max=1_000,
            result_bytes_max=RESULT_BYTES_MAX,
            **inputs,
        )
        data = msgspec.msgpack.encode(call)
        self._socket.sendall(struct.pack("<I", len(data)) + data)
        (size,) = struct.unpack("<I", self._read(4))
        return msgspec.msgpack.decode(self._read(size), type=Returned)

    def call(self, function: str, args: str, kwargs: str = "{}", **inputs: Any) -> Any:
        """Let a function be called, and what it returns be reported."""
        done = self.returned(function, args, kwargs, **inputs)
        if not done.ok:
            raise RefusedError(done.error)
        return reported(done.result)


def expression(value: Any) -> str:
    """Return Python that makes a value."""
    if isinstance(value, list):
        return f"[{', '.join(map(expression, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!a}: {expression(each)}' for key, each in value.items())}}}"
    if type(value) is int:
        return hex(value)
    return f"float('{value}')" if isinstance(value, float) else ascii(value)


@dataclass(frozen=True)
class Place:
    """What the ways of an agent need."""

    worker: WorkerProcess
    folders: AttemptFolders
    files: Path


@way("python-argument", "json", "")
def _argument(kind: Kind, at: Place) -> Any:
    return Shown(at.worker.call("builtins:repr", f"[{kind.json}]"))


@way("python-keyword", "json", "")
def _keyword(kind: Kind, at: Place) -> Any:
    return at.worker.call("builtins:dict", "[]", f'{{"k": {kind.json}}}')["k"]


@way("python-result", "value", "result")
def _result(kind: Kind, at: Place) -> Any:
    return at.worker.call("builtins:eval", json.dumps([expression(kind.value)]))


@way("python-result-in-a-dataclass", "value", "result.x")
def _dataclass(kind: Kind, at: Place) -> Any:
    made = f"__import__('dataclasses').make_dataclass('D', ['x'])({expression(kind.value)})"
    return at.worker.call("builtins:eval", json.dumps([made]))["x"]


@way("result-reference", "json", "")
def _reference(kind: Kind, at: Place) -> Any:
    inputs = {"a": kind.json.encode()}
    return at.worker.call("builtins:dict", "[]", '{"k": [{"$result": "a"}]}', inputs=inputs)["k"][0]


@way("result-reference-to-a-file", "json", "")
def _file_reference(kind: Kind, at: Place) -> Any:
    data = kind.json.encode()
    (at.files / "inputs").write_bytes(b"--" + data + b"--")
    places = {"a": (2, len(data))}
    path = str(at.files / "inputs")
    return Shown(at.worker.call("builtins:repr", '[{"$result": "a"}]', inputs_path=path, inputs_places=places))


@way("task-context", "json", "")
def _context(kind: Kind, at: Place) -> Any:
    code = "__import__('raftflow').current().inputs['a']"
    return at.worker.call("builtins:eval", json.dumps([code]), inputs={"a": kind.json.encode()})


@way("command-result", "json", "result")
def _command_result(kind: Kind, at: Place) -> Any:
    folder = at.folders.begin()
    Path(folder.result).write_bytes(kind.json.encode())
    data = at.folders.end(folder, RESULT_BYTES_MAX)
    assert data is not None
    return reported(data)


@way("command-inputs", "json", "")
def _command_inputs(kind: Kind, at: Place) -> Any:
    """What a program finds in the file of RAFTFLOW_INPUTS."""
    folder = at.folders.begin(encode_inputs({"a": msgspec.Raw(kind.json.encode())}))
    try:
        return json.loads(Path(folder.inputs).read_bytes())["a"]
    finally:
        at.folders.end(folder, RESULT_BYTES_MAX)


# --- what comes out: cache keys, clients, the command line


@way("cache-key", "json", "")
def _cache_key(kind: Kind, _place: Any) -> Any:
    """As long as it may be, it holds the value itself; else the digest of it."""
    result = kind.json.encode()
    key = cachekeys.fill("k-${a.result}", lambda _: result)
    assert key == cachekeys.fill("k-${a.result}", lambda _: result)
    if key.startswith("sha256:"):
        assert key != cachekeys.fill("k-${a.result}", lambda _: result + b" ")
        return kind.value
    return json.loads(key.removeprefix("k-"))


@way("automatic-cache-key", "value", "[0]")
def _automatic_key(kind: Kind, _place: Any) -> Any:
    """The same for a value from every format, another for a value that is nearly the same."""
    forms = [
        (text, form) for text, form in ((JSON_DOCUMENT, "json"), (TOML_DOCUMENT, "toml"), (YAML_DOCUMENT, "yaml"))
    ]
    written = [(getattr(kind, form), text, form) for text, form in forms if getattr(kind, form) is not MISSING]
    sent = write_json([kind.value])
    specs = [normalize(loads(document(text, "args", f"[{value}]"), form)) for value, text, form in written]
    for spec in specs:
        assert key_of(spec.tasks[0].program.args) == key_of(sent)
    if isinstance(kind.value, int | float) and not isinstance(kind.value, bool) and abs(kind.value) < 10**300:
        near = [kind.value + 1, float(kind.value) if isinstance(kind.value, int) else int(kind.value)]
        assert all(key_of(write_json([other])) != key_of(sent) for other in near if repr(other) != repr(kind.value))
    return json.loads(sent)[0]


def key_of(args: bytes) -> str:
    return cachekeys.automatic_key((PythonCall("m:f", args), None), {}, [])


def page_of(result: str) -> bytes:
    """Return what the API says of a task with this result."""
    view = TaskView(id="t", state="succeeded", attempt=1, result=msgspec.Raw(result.encode()))
    return b'{"tasks":[%s],"next":null}' % msgspec.json.encode(view)


def answered_by(client: AsyncClient, answer: bytes) -> None:
    async def call_raw(*_: Any, **__: Any) -> bytes:
        return answer

    client._transport.call_raw = call_raw  # type: ignore[method-assign]


@way("async-client-results", "json", "")
def _async_results(kind: Kind, _place: Any) -> Any:
    client = AsyncClient(["http://127.0.0.1:1"], environ={})
    answered_by(client, page_of(kind.json))
    (view,) = asyncio.run(client.tasks("w"))
    return view.result


@way("client-results", "json", "")
def _client_results(kind: Kind, _place: Any) -> Any:
    with Client(["http://127.0.0.1:1"], environ={}) as client:
        answered_by(client._client, page_of(kind.json))
        (view,) = client.tasks("w")
        return view.result


def printed(kind: Kind, output: str) -> str:
    """Return what `task list` prints of a task with this result."""
    client = AsyncClient(["http://127.0.0.1:1"], environ={})
    answered_by(client, page_of(kind.json))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_items(output, asyncio.run(client.tasks("w")), {"RESULT": "result"})
    return out.getvalue()


@way("command-line-json", "json", "")
def _cli_json(kind: Kind, _place: Any) -> Any:
    return json.loads(printed(kind, "json"))[0]["result"]


@way("command-line-jsonl", "json", "")
def _cli_jsonl(kind: Kind, _place: Any) -> Any:
    text = printed(kind, "jsonl")
    assert text.count("\n") == 1
    return json.loads(text)["result"]
