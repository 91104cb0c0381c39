"""A fake replica in a thread, and a way to run the command line against it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from click.testing import CliRunner, Result

from raftflow.cli.main import root


@dataclass
class Fake:
    """Answers by `(method, path)`: JSON, `(status, JSON)`, a list to be used up, or a function of the query.

    A path `//localhost/...` counts for requests to that name: a second replica.
    """

    routes: dict[tuple[str, str], Any] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], dict[str, str], Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, query: dict[str, str]) -> tuple[int, Any]:
        found = self.routes.get((method, path))
        if callable(found):
            found = found(query)
        if isinstance(found, list) and (method, path) in self.routes:
            found = found.pop(0) if len(found) > 1 else found[0]
        if found is None:
            return 404, problem("not-found", 404, detail=f"there is no {path}")
        return found if isinstance(found, tuple) else (200, found)


def problem(word: str, status: int, **more: Any) -> dict[str, Any]:
    title = word.replace("-", " ")
    return {"type": f"https://raftflow.invalid/problems/{word}", "title": title, "status": status, **more}


@pytest.fixture
def fake() -> Iterator[Fake]:
    replica = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), dict(parse_qsl(parts.query))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = json.loads(body) if body else None
            replica.requests.append((self.command, path, query, dict(self.headers), content))
            by_name = "//localhost" + path if self.headers["Host"].startswith("localhost") else ""
            known = (self.command, by_name) in replica.routes
            status, value = replica.answer(self.command, by_name if known else path, query)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            # A client that was interrupted is no error; all else shows in the client's own result.
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    replica.url = f"http://127.0.0.1:{server.server_port}"
    yield replica
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Settings of whoever runs the tests must not leak in, and nothing is left in that user's cache."""
    import os

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

    for name in [name for name in os.environ if name.startswith("RAFTFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command line with the fake replica as the cluster."""

    def invoke(*arguments: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
        settings = {"RAFTFLOW_PEERS": fake.url, "RAFTFLOW_REQUEST_TIMEOUT": "2s"} if env is None else env
        result = CliRunner().invoke(root, list(arguments), env=settings, input=stdin, prog_name="raftflow")
        # A traceback is never an answer.
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.fixture
def make_problem() -> Callable[..., dict[str, Any]]:
    return problem


@pytest.fixture
def flow(tmp_path: Path) -> str:
    file = tmp_path / "flow.json"
    file.write_text('{"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}')
    return str(file)
