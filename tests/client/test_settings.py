"""Where a client looks for what it is not given: the environment and the file, as the command line does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from raftflow.cli.terminal.options import resolve as resolve_flags
from raftflow.client import AsyncClient, Client, Refused, UsageError
from raftflow.client.settings import ENVIRONMENT, resolve

AGENTS = ("GET", "/v1/agents")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT.values(), "RAFTFLOW_CONFIG"):
        monkeypatch.delenv(name, raising=False)


async def test_a_client_without_arguments_takes_the_environment(
    replicas: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas[1].routes[AGENTS] = {"agents": []}
    monkeypatch.setenv("RAFTFLOW_PEERS", f" {replicas[1].url}/ ,, {replicas[2].url}")
    monkeypatch.setenv("RAFTFLOW_TOKEN", "of-the-environment")
    monkeypatch.setenv("RAFTFLOW_REQUEST_TIMEOUT", "1500ms")
    async with AsyncClient() as client:
        assert client.peers == [replicas[1].url, replicas[2].url]
        assert client._transport.timeout_s == 1.5
        await client.agents()
    async with AsyncClient([replicas[1].url], token="given", timeout_s=7) as client:
        assert client._transport.timeout_s == 7
        await client.agents()
    async with AsyncClient([replicas[1].url]) as client:
        await client.agents()
    async with AsyncClient([replicas[1].url], environ={}) as client:
        await client.agents()
    tokens = [seen.headers.get("Authorization") for seen in replicas[1].seen]
    assert tokens == ["Bearer of-the-environment", "Bearer given", "Bearer of-the-environment", None]
    with Client() as blocking:
        assert blocking.peers == [replicas[1].url, replicas[2].url]


def test_certificates_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAFTFLOW_CACERT", str(tmp_path / "none.pem"))
    with pytest.raises(UsageError, match=r"none\.pem"):
        Client("https://127.0.0.1:1")


@pytest.mark.parametrize("empty", [{}, {"RAFTFLOW_PEERS": ""}])
def test_without_peers_it_says_what_to_set(empty: dict[str, str]) -> None:
    for kind in (AsyncClient, Client):
        with pytest.raises(UsageError, match="RAFTFLOW_PEERS"):
            kind(environ=empty)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RAFTFLOW_REQUEST_TIMEOUT": "soon"}, "time-out"),
        ({"RAFTFLOW_REQUEST_TIMEOUT": "0s"}, "above 0"),
        ({"RAFTFLOW_PEERS": ","}, "0 peers"),
        ({"RAFTFLOW_PEERS": "ftp://a"}, "not a peer"),
        ({"RAFTFLOW_TOKEN": "two words"}, "token"),
        ({"RAFTFLOW_CONFIG": "/does/not/exist"}, "cannot be read"),
        ({"RAFTFLOW_CONFIG": "/"}, "cannot be read"),
        ({"RAFTFLOW_CLIENT_KEY": "k.pem"}, "client certificate"),
    ],
)
def test_wrong_settings_are_usage_errors(environ: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Client(environ={"RAFTFLOW_PEERS": "http://127.0.0.1:1", **environ})


@pytest.mark.parametrize("given", [{"token": ""}, {"peers": []}, {"peers": [5]}, {"peers": ["a" * 300]}])
def test_wrong_arguments_are_usage_errors(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Client(**{"peers": ["http://127.0.0.1:1"], **given}, environ={})


def test_programs_and_the_command_line_find_the_same(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.touch(mode=0o600)
    file.write_text(
        '[client]\npeers = ["http://file:1"]\ntoken = "file"\nrequest_timeout = "3s"\ncacert = "ca.pem"\n'
    )
    environs: list[dict[str, str]] = [
        {"RAFTFLOW_CONFIG": str(file)},
        {"RAFTFLOW_CONFIG": str(file), "RAFTFLOW_TOKEN": "env"},
        {"RAFTFLOW_CONFIG": str(file), "RAFTFLOW_PEERS": "http://env:1,http://env:2"},
        {"RAFTFLOW_PEERS": "http://env:1", "RAFTFLOW_CLIENT_CERT": "c", "RAFTFLOW_CLIENT_KEY": "k"},
    ]
    for environ in environs:
        assert resolve({}, environ) == resolve_flags({}, environ)
    assert resolve({}, environs[0]) == {
        "peers": ["http://file:1"],
        "token": "file",
        "request_timeout": 3.0,
        "cacert": str(tmp_path / "ca.pem"),
    }


async def test_a_token_in_a_file_is_read_again_when_it_is_refused(replicas: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text("old")
    valid = ["Bearer old"]

    def agents(request: web.Request) -> Any:
        if request.headers.get("Authorization") in valid:
            return {"agents": []}
        return web.json_response({"type": "x", "title": "no", "status": 401}, status=401)

    replicas[0].routes[AGENTS] = agents
    async with AsyncClient([replicas[0].url], token_file=file, environ={}) as client:
        await client.agents()
        file.write_text("new")
        valid[:] = ["Bearer new"]
        await client.agents()
        valid[:] = []
        with pytest.raises(Refused):
            await client.agents()
    assert [seen.headers["Authorization"] for seen in replicas[0].seen] == [
        f"Bearer {token}" for token in ("old", "old", "new", "new")
    ]
