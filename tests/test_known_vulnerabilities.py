"""`scripts/known_vulnerabilities` finds what the index knows, says what it could not ask, and does not wait long."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "known_vulnerabilities"
ADVISORY = {
    "id": "PYSEC-1",
    "aliases": ["CVE-1"],
    "fixed_in": ["9.9"],
    "summary": "Bad\nthings happen.",
    "withdrawn": None,
}


@pytest.fixture
def index() -> Iterator[Callable[[Callable[[str], Any]], str]]:
    """Serve an index. What it answers for the name of a package: advisories, a status, or nothing at all."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answer: Callable[[str], Any]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answer(self.path.split("/")[2])
                if found is None:
                    time.sleep(30)
                    return
                self.send_response(found if isinstance(found, int) else 200)
                self.end_headers()
                self.wfile.write(b"" if isinstance(found, int) else json.dumps({"vulnerabilities": found}).encode())

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def run(url: str, *more: str) -> tuple[int, list[str]]:
    done = subprocess.run([SCRIPT, "--url", url, *more], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_nothing_is_known(index: Any) -> None:
    code, lines = run(index(lambda _name: []))
    assert code == 0
    assert lines[-1].endswith("packages checked, 0 vulnerabilities known") and len(lines) == 1


def test_a_vulnerability_fails_the_check_and_is_told(index: Any) -> None:
    code, lines = run(index(lambda name: [ADVISORY] if name == "aiohttp" else []))
    assert code == 1
    assert lines[0].startswith("VULNERABLE: aiohttp ")
    assert "PYSEC-1, repaired in 9.9: Bad things happen." in lines[0]


def test_a_withdrawn_advisory_does_not_count(index: Any) -> None:
    code, lines = run(index(lambda _name: [{**ADVISORY, "withdrawn": "2026-01-01T00:00:00Z"}]))
    assert (code, len(lines)) == (0, 1)


def test_an_index_without_the_data_is_asked_once_and_told_in_large_letters(index: Any) -> None:
    asked: list[str] = []

    def answer(name: str) -> int:
        asked.append(name)
        return 404

    url = index(answer)
    code, lines = run(url)
    assert (code, len(asked)) == (0, 1)
    assert lines[0].startswith("KNOWN VULNERABILITIES WERE NOT CHECKED for ")
    assert lines[-1].startswith("0 of ")
    assert run(url, "--require")[0] == 3


def test_what_has_no_answer_in_time_is_named(index: Any) -> None:
    code, lines = run(index(lambda name: None if name == "aiohttp" else []))
    assert code == 0
    assert "NOT CHECKED for 1 of" in lines[0]
    assert lines[1].startswith("not checked: aiohttp ")


def test_answers_that_are_no_answers_are_missing(index: Any) -> None:
    code, lines = run(index(lambda name: "nonsense" if name == "yarl" else []))
    assert code == 0
    assert "NOT CHECKED for 1 of" in lines[0] and "yarl" in lines[1]


def test_where_nobody_listens_it_ends_at_once() -> None:
    code, lines = run("http://127.0.0.1:9")
    assert code == 0
    assert lines[0].startswith("KNOWN VULNERABILITIES WERE NOT CHECKED")
