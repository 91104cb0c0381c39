"""The table of values: every kind of value on every way in and out, exact or refused with its path.

A row is a kind, a column a way, a cell one test. A way takes the value as text of a format or as a Python object,
sends it through the code that does so in a cluster, and returns what comes out at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow import helpers
from raftflow.agent.config import AgentConfigError, load_config
from raftflow.agent.executors.command import _encode as encode_inputs
from raftflow.agent.launcher.messages import CONTROL_FD, READY, FunctionCall, Returned
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.agent.workdir.folders import AttemptFolders
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError
from raftflow.api.routes.agents import _capacity as capacity_of
from raftflow.cli.terminal.output import print_items
from raftflow.client import AsyncClient, Client, UsageError, Workflow
from raftflow.coordinator.uploads.document_worker import ReadRequest, answer
from raftflow.domain.contract.reportable import first_fault, judge_end
from raftflow.domain.contract.views import RegisterRequest, ReportedEnd, TaskView, WorkflowCreated
from raftflow.domain.limits import INTEGER_DIGITS_MAX, RESULT_BYTES_MAX
from raftflow.domain.tasks.checks import check_task_values, result_problem
from raftflow.domain.tasks.program import PythonCall
from raftflow.domain.values import cachekeys
from raftflow.domain.values.exact import ValueFault, write_json
from raftflow.formats.agents import load_agents
from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.files import FormatError, loads
from tests.api.conftest import Served, config_of, in_memory

BOM = b"\xef\xbb\xbf"
NAN, INF = math.nan, math.inf
MISSING = object()
"""A format, or Python, has no such value."""


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    name: str
    value: Any
    json: Any
    toml: Any
    yaml: Any
    refused: tuple[str, ...] = ()
    """Words of which one is told; none if the value is exact."""
    inner: str = ""
    """Path inside of the value."""


def toml_of(value: Any) -> Any:
    """Return a value as TOML, which has no null."""
    if value is None:
        return MISSING
    if isinstance(value, list | dict):
        parts = [toml_of(each) for each in (value.values() if isinstance(value, dict) else value)]
        if MISSING in parts:
            return MISSING
        if isinstance(value, list):
            return f"[{', '.join(parts)}]"
        return f"{{{', '.join(f'{text_of(key)} = {part}' for key, part in zip(value, parts, strict=True))}}}"
    return text_of(value)


def text_of(value: Any) -> str:
    """Return JSON that is TOML and YAML as well; lists and tables are no TOML."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(f"\\u{ord(char):04x}" if char in "\ufeff\u2028\u0085\u007f" else char for char in text)


def exact(name: str, value: Any, **texts: Any) -> Kind:
    text = text_of(value)
    return Kind(
        name,
        value,
        *(texts.get(form, default) for form, default in {"json": text, "toml": toml_of(value), "yaml": text}.items()),
    )


def refused(
    name: str, value: Any, json_text: Any, toml: Any, yaml: Any, *words: str, inner: str = "", table: bool = False
) -> Kind:
    """Return a kind that no way takes; `table` if the value is that of the key `x` in a list's second place."""
    if table:
        inner = f"[1].x{inner}"
        value = value if value is MISSING else [True, {"x": value}]
        json_text = json_text if json_text is MISSING else f'[true, {{"x": {json_text}}}]'
        toml = toml if toml is MISSING else f"[true, {{ x = {toml} }}]"
        yaml = yaml if yaml is MISSING else f"[true, {{x: {yaml}}}]"
        name += "-inside"
    return Kind(name, value, json_text, toml, yaml, words, inner)


NINES = 10**INTEGER_DIGITS_MAX - 1
EXACT = [
    *(
        exact(f"integer-{name}", value)
        for name, value in {
            "0": 0,
            "minus-1": -1,
            "2**31": 2**31,
            "2**53": 2**53,
            "2**53+1": 2**53 + 1,
            "minus-2**53-1": -(2**53) - 1,
            "2**63-1": 2**63 - 1,
            "2**63": 2**63,
            "minus-2**63": -(2**63),
            "minus-2**63-1": -(2**63) - 1,
            "2**64-1": 2**64 - 1,
            "2**64": 2**64,
            "2**64+1": 2**64 + 1,
            "30-digits": 123456789012345678901234567890,
            "10**400": 10**400,
            "640-digits": NINES,
            "minus-640-digits": -NINES,
            "in-a-table": {"n": [2**70, -(2**70)]},
        }.items()
    ),
    *(
        exact(f"float-{name}", value)
        for name, value in {
            "0": 0.0,
            "minus-0": -0.0,
            "1": 1.0,
            "tenth": 0.1,
            "sum": 0.1 + 0.2,
            "1e16": 1e16,
            "1e22": 1e22,
            "1e23": 1e23,
            "2**64": float(2**64),
            "least": 5e-324,
            "most": 1.7976931348623157e308,
            "beside-a-long-integer": [1e22, 2**64],
        }.items()
    ),
    *(
        exact(f"text-{name}", value)
        for name, value in {
            "empty": "",
            "plain": "a",
            "latin": "\xe9\xfc",
            "chinese": "\u5de5\u4f5c\u6d41",
            "emoji": "\U0001f600",
            "combining": "e\u0301",
            "bom": "\ufeffa",
            "nul": "a\0b",
            "controls": "\x01\x1f\x7f\t\r\n",
            "lines": "a\u2028b\u0085",
            "quotes": "\"'\\/",
            "yes": "yes",
            "no": "No",
            "null": "null",
            "tilde": "~",
            "hexadecimal": "0x10",
            "digits": "1_000",
            "float": "1e3",
            "date": "2024-01-01",
            "nan": "NaN",
            "spaces": "  a  ",
            "colon": "a: b",
            "comment": "a # b",
            "long-number": "1" * 700,
            "placeholder": "${a.result}",
        }.items()
    ),
    *(
        exact(name, value)
        for name, value in {
            "true": True,
            "false": False,
            "null": None,
            "list": [],
            "table": {},
            "lists": [[], [[1, 1.0, "1", True]]],
            "tables": {"a": {"a": {"A": 1}}},
            "odd-keys": {"": 1, "a b": 2, "a.b": 3, "\u5de5": 4, "1": 5, "__proto__": 6},
            "deep": json.loads("[" * 60 + "]" * 60),
        }.items()
    ),
]

LONG_WORDS = (f"{INTEGER_DIGITS_MAX} digits",)
FINITE_WORDS = ("finite", "too large for floating point")
TWICE_WORDS = ("the key is there twice", "a key twice")
SURROGATE_WORDS = ("lone surrogate", "Unicode scalar value", "Unicode character escape code")
DIGITS = {"641": "1" * 641, "4301": "1" * 4_301, "20000": "1" * 20_000}
REFUSED = [
    *(
        refused(
            f"integer-{name}-digits",
            int(digits) if len(digits) < 4_300 else 10 ** (len(digits) - 1),
            digits,
            digits,
            digits,
            *LONG_WORDS,
            table=table,
        )
        for name, digits in DIGITS.items()
        for table in (False, True)
    ),
    refused(
        "integer-minus-641-digits", -(10**640), "-1" + "0" * 640, "-1" + "0" * 640, "-1" + "0" * 640, *LONG_WORDS
    ),
    refused("integer-hexadecimal", MISSING, MISSING, "0x" + "f" * 600, "0x" + "f" * 600, *LONG_WORDS),
    *(
        refused(name, value, *texts, *FINITE_WORDS, table=table)
        for table in (False, True)
        for name, value, texts in (
            ("nan", NAN, ("NaN", "nan", ".nan")),
            ("infinity", INF, ("Infinity", "inf", ".inf")),
            ("minus-infinity", -INF, ("-Infinity", "-inf", "-.INF")),
            ("1e400", MISSING, ("1e400", "1e400", "1e400")),
            ("-1e400", MISSING, ("-1e400", "-1e400", "-1e400")),
        )
    ),
    *(
        refused(name, value, *texts, *SURROGATE_WORDS, table=table)
        for table in (False, True)
        for name, value, texts in (
            ("surrogate", "\ud800", (r'"\ud800"',) * 3),
            ("surrogate-low", "a\udcff", (r'"a\udcff"',) * 3),
        )
    ),
    refused(
        "surrogate-in-a-key", {"\udc00": 1}, r'{"\udc00": 1}', r'{"\udc00" = 1}', r'{"\udc00": 1}', *SURROGATE_WORDS
    ),
    *(
        refused(
            "twice",
            MISSING,
            '{"a": 1, "a": 2}',
            "{a = 1, a = 2}",
            "{a: 1, a: 2}",
            *TWICE_WORDS,
            inner=".a",
            table=table,
        )
        for table in (False, True)
    ),
    refused(
        "twice-escaped",
        MISSING,
        r'{"a": 1, "\u0061": 1}',
        r'{"a" = 1, "\u0061" = 1}',
        r'{"a": 1, "\u0061": 1}',
        *TWICE_WORDS,
        inner=".a",
    ),
    refused("too-deep", json.loads("[" * 70 + "]" * 70), *("[" * 70 + "]" * 70,) * 3, "levels"),
    *(
        refused(f"python-{type(value).__name__}", value, MISSING, MISSING, MISSING, "no JSON value", table=table)
        for value in ({1}, b"x", 1j, range(2))
        for table in (False, True)
    ),
    refused("python-integer-key", {1: 2}, MISSING, MISSING, MISSING, "is no text"),
]


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    files = tmp_path_factory.mktemp("files")
    work = WorkDirectory(tmp_path_factory.mktemp("work"))
    worker = WorkerProcess(files)
    yield Place(worker, AttemptFolders(work), files)
    worker.close()
    work.close()


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
    code = "__import__('raftflow.task').task.current().inputs['a']"
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


# --- a replica, by HTTP: documents in, assignments out, reports in, answers out


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Send every kind through a replica. Returns what came out, by way and kind."""

    async def through() -> dict[str, dict[str, Any]]:
        served = Served(config_of(tmp_path_factory.mktemp("replica")), in_memory)
        await served.start()
        try:
            return await Passage(served).through()
        finally:
            await served.stop()

    return asyncio.run(through())


class Passage:
    """All kinds on their way through one replica."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.incarnation = 0
        self.seq = 0
        self.seen = 0
        self.out: dict[str, dict[str, Any]] = {name: {} for name in HTTP_WAYS}

    async def through(self) -> dict[str, dict[str, Any]]:
        self.incarnation = await self.served.register(cpu=10_000)
        ids = {f"a{number}": kind for number, kind in enumerate(EXACT)}
        tasks = [f'{{"id": "{each}", "python": "m:f", "args": [{kind.json}]}}' for each, kind in ids.items()]
        tasks += [f'{{"id": "j{each}", "python": "m:f", "needs": ["{each}"]}}' for each in ids]
        created = await self._submit(f'{{"name": "w", "tasks": [{", ".join(tasks)}]}}'.encode())
        assert created.status == 201, created.body
        workflow = created.json["id"]
        assigned = await self._assigned(len(ids))
        for each in assigned:
            self.out["http-assignment"][ids[each["task_id"]].name] = each["program"]["args"][0]
        ends = [
            f'{{"fence": {each["fence"]}, "workflow_id": "{workflow}", "task_id": "{each["task_id"]}", '
            f'"outcome": "succeeded", "result": {ids[each["task_id"]].json}}}'
            for each in assigned
        ]
        joined = await self._assigned(len(ids), f"[{', '.join(ends)}]")
        for each in joined:
            (inputs,) = each["inputs"].values()
            self.out["http-inputs"][ids[each["task_id"][1:]].name] = inputs
        page = json.loads((await self.served.get(f"/v1/workflows/{workflow}/tasks?limit=1000")).body)
        for view in page["tasks"]:
            if view["id"] in ids:
                self.out["http-results"][ids[view["id"]].name] = view["result"]
        for kind in (*REFUSED, *EXACT):
            if kind.json is not MISSING:
                await self._refusals(kind)
        return self.out

    async def _refusals(self, kind: Kind) -> None:
        name, data = kind.name, kind.json.encode()
        document = JSON_DOCUMENT.replace("FIELD", "args").encode().replace(b"VALUE", b"[%s]" % data)
        self.out["http-document"][name] = self._told(await self._submit(document), kind)
        end = b'{"fence": 1, "workflow_id": "w", "task_id": "t", "outcome": "succeeded", "result": %s}' % data
        self.seq += 1
        poll = b'{"incarnation": %d, "seq": %d, "seen": %d, "ends": [%s]}' % (
            self.incarnation,
            self.seq,
            self.seen,
            end,
        )
        answer = await self.served.post("/v1/agents/a1/poll", raw=poll)
        self.out["http-report"][name] = self._told(answer, kind)
        register = b'{"name": "a2", "instance": "iiiiiiii", "resources": {"cpu": 1}, "offers": [%s]}' % end
        self.out["http-offer"][name] = self._told(await self.served.post("/v1/agents", raw=register), kind)

    @staticmethod
    def _told(answer: Any, kind: Kind) -> Any:
        if answer.status < 300:
            return kind.value
        assert answer.status == 400, answer.body
        problem = answer.json
        errors = "; ".join(f"{each['path']}: {each['message']}" for each in problem.get("errors", []))
        return RefusedError(f"{errors}; {problem['detail']}")

    async def _submit(self, body: bytes) -> Any:
        return await self.served.post("/v1/workflows", raw=body)

    async def _assigned(self, count: int, ends: str = "[]") -> list[dict[str, Any]]:
        """Poll, as an agent, until so many attempts have come."""
        assigned: list[dict[str, Any]] = []
        while len(assigned) < count:
            self.seq += 1
            running = [each["fence"] for each in assigned]
            body = (
                f'{{"incarnation": {self.incarnation}, "seq": {self.seq}, "seen": {self.seen}, "ends": {ends}, '
                f'"running": {running}, "wait_ms": 500}}'
            )
            answer = await self.served.post("/v1/agents/a1/poll", raw=body.encode())
            assert answer.status == 200, answer.body
            assigned += json.loads(answer.body).get("assign", [])
            self.seen = max([self.seen, *(each["fence"] for each in assigned)])
            ends = "[]"
        return assigned


HTTP_WAYS = {
    "http-document": "tasks[0].args[0]",
    "http-assignment": "",
    "http-report": "ends[0].result",
    "http-offer": "offers[0].result",
    "http-inputs": "",
    "http-results": "",
}


# --- the cells


def cells(kinds: list[Kind], *, refusing: bool) -> list[Any]:
    return [
        pytest.param(kind, path, function, id=f"{kind.name}-{name}")
        for kind in kinds
        for name, (form, path, function) in WAYS.items()
        if getattr(kind, form) is not MISSING and (path or not refusing)
    ]


def http_cells(kinds: list[Kind], *, refusing: bool) -> list[Any]:
    return [
        pytest.param(kind, name, id=f"{kind.name}-{name}")
        for kind in kinds
        for name, path in HTTP_WAYS.items()
        if kind.json is not MISSING and (path or not refusing)
    ]


def assert_exact(out: Any, kind: Kind) -> None:
    if isinstance(out, Shown):
        assert str(out) == repr(kind.value)
    else:
        assert repr(out) == repr(kind.value), "True is no 1, 1 is no 1.0, -0.0 is no 0.0"


def assert_told(text: str, kind: Kind, path: str) -> None:
    text.encode()
    assert any(word in text for word in kind.refused), text
    if kind.refused != ("levels",):
        # TOML's and YAML's parsers tell the line of what is no text and of what is no number.
        assert (path in text and kind.inner in text) or "line " in text, text


@pytest.mark.parametrize(("kind", "path", "function"), cells(EXACT, refusing=False))
def test_a_value_comes_out_exactly(kind: Kind, path: str, function: Way, place: Place) -> None:
    assert_exact(function(kind, place), kind)


@pytest.mark.parametrize(("kind", "path", "function"), cells(REFUSED, refusing=True))
def test_an_invalid_value_is_refused_with_its_path(kind: Kind, path: str, function: Way, place: Place) -> None:
    with pytest.raises((RefusedError, DocumentError, FormatError, UsageError, ValueFault)) as caught:
        function(kind, place)
    assert_told(str(caught.value), kind, path)


@pytest.mark.parametrize(("kind", "name"), http_cells(EXACT, refusing=False))
def test_a_value_comes_exactly_through_a_replica(kind: Kind, name: str, replica: dict[str, dict[str, Any]]) -> None:
    assert_exact(replica[name][kind.name], kind)


@pytest.mark.parametrize(("kind", "name"), http_cells(REFUSED, refusing=True))
def test_a_replica_refuses_an_invalid_value_with_its_path(
    kind: Kind, name: str, replica: dict[str, dict[str, Any]]
) -> None:
    out = replica[name][kind.name]
    assert isinstance(out, RefusedError), out
    assert_told(str(out), kind, HTTP_WAYS[name])


def test_the_table_of_values_has_the_stated_size() -> None:
    count = sum(
        len(each(kinds, refusing=refusing))
        for each in (cells, http_cells)
        for kinds, refusing in ((EXACT, False), (REFUSED, True))
    )
    assert count >= 1_000


# --- texts of errors, and amounts of resources


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('lost \\ud800 half')", "ValueError: lost \\ud800 half"),
        ("raise type('\\u5de5', (Exception,), {})('\\udcff')", "\\udcff"),
        ("raise ValueError({'k\\ud800': 1})", "ValueError: {'k\\ud800': 1}"),
        ("raise SystemExit('\\ud800 stop')", "\\ud800 stop"),
        ("raise ExceptionGroup('\\ud800', [ValueError('\\udfff')])", "\\udfff"),
        ("open('/no/\\udcff/such')", "FileNotFoundError"),
    ],
)
def test_a_lone_surrogate_does_not_hide_the_error_of_a_task(code: str, words: str, place: Place) -> None:
    done = place.worker.returned("builtins:exec", json.dumps([code]))
    assert not done.ok
    done.error.encode()
    assert words in done.error
    end = ReportedEnd(fence=1, workflow_id="w", task_id="t", outcome="failed", error=done.error)
    judge_end(end)
    assert words in msgspec.json.decode(msgspec.json.encode(end), type=ReportedEnd).error


AMOUNTS = {
    "1e999999": ('"1e999999"', '"1e999999"'),
    "nan-text": ('"nan"', '"nan"'),
    "infinity-text": ('"Infinity"', '"Infinity"'),
    "underscores": ('"1_000"', '"1_000"'),
    "negative": ("-1", "-1"),
    "long-text": (f'"{"9" * 5_000}"', f'"{"9" * 5_000}"'),
    "long-number": ("1" * 400, "1" * 400),
    "longer-number": ("1" * 5_000, "1" * 5_000),
    "1e400": ("1e400", "1e400"),
    "nan": ("NaN", "nan"),
    "infinity": ("Infinity", "inf"),
    "true": ("true", "true"),
}


@pytest.mark.parametrize("name", AMOUNTS)
@pytest.mark.parametrize("resource", ["cpu", "memory", "gpu"])
def test_an_amount_that_no_machine_has_is_refused_with_its_field(name: str, resource: str, tmp_path: Path) -> None:
    in_json, in_toml = AMOUNTS[name]
    file = tmp_path / "file.toml"
    file.write_text(f'[[agents]]\nname = "a"\nresources = {{ {resource} = {in_toml} }}\n')
    with pytest.raises((DocumentError, FormatError), match=rf"agents\[0\]\.resources\.{resource}: "):
        load_agents(file)
    file.write_text(f'[agent]\npeers = ["http://127.0.0.1:1"]\nresources = {{ {resource} = {in_toml} }}\n')
    with pytest.raises(AgentConfigError, match=r"resources|file\.toml"):
        load_config(file, {}, {})
    if in_toml.startswith('"'):
        with pytest.raises(AgentConfigError, match=r"resources \(flag\): "):
            load_config(None, {"RAFTFLOW_PEERS": "http://127.0.0.1:1"}, {"resources": {resource: in_toml.strip('"')}})
    text = f'{{"name": "w", "tasks": [{{"id": "a", "command": ["x"], "resources": {{"{resource}": {in_json}}}}}]}}'
    with pytest.raises((DocumentError, FormatError), match=rf"tasks\[0\]\.resources\.{resource}: "):
        normalize(loads(text.encode(), "json"))
    register = f'{{"name": "a", "instance": "iiiiiiii", "resources": {{"{resource}": {in_json}}}}}'
    with pytest.raises(ProblemError) as caught:
        capacity_of(decode(register.encode(), RegisterRequest))
    assert "resources" in str(caught.value.problem)


async def test_a_client_never_sends_null_for_a_number_that_is_not_finite() -> None:
    client = AsyncClient(["http://127.0.0.1:1"], environ={})
    sent = sent_by(client)
    with pytest.raises(UsageError, match="deadline_s: must be a finite number"):
        await client.drain("a1", NAN)
    assert sent == []
