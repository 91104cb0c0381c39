"""The table of values: every kind of value on every way in and out, exact or refused with its path.

A row is a kind, a column a way, a cell one test. A way takes the value as text of a format or as a Python object,
sends it through the code that does so in a cluster, and returns what comes out at its end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.agent.config import AgentConfigError, load_config
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.agent.workdir.folders import AttemptFolders
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError
from raftflow.api.routes.agents import _capacity as capacity_of
from raftflow.client import AsyncClient, UsageError
from raftflow.domain.contract.reportable import judge_end
from raftflow.domain.contract.views import RegisterRequest, ReportedEnd
from raftflow.domain.values.exact import ValueFault
from raftflow.formats.agents import load_agents
from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.files import FormatError, loads
from tests.api.conftest import Served, config_of, in_memory
from tests.api.value_ways import JSON_DOCUMENT, WAYS, Place, RefusedError, Shown, Way, WorkerProcess, sent_by
from tests.api.values import EXACT, MISSING, NAN, REFUSED, Kind

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
        self.waiting = ""
        self.out: dict[str, dict[str, Any]] = {name: {} for name in HTTP_WAYS}

    async def through(self) -> dict[str, dict[str, Any]]:
        self.waiting = await self.served.submit({"id": "w", "wait": {"signal": "never"}})
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
        self.out["http-signal"][name] = self._told(
            await self.served.post(f"/v1/workflows/{self.waiting}/signals/go", raw=data), kind
        )
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
    "http-signal": "the payload",
    "http-inputs": "",
    "http-results": "",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    files = tmp_path_factory.mktemp("files")
    work = WorkDirectory(tmp_path_factory.mktemp("work"))
    worker = WorkerProcess(files)
    yield Place(worker, AttemptFolders(work), files)
    worker.close()
    work.close()


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
