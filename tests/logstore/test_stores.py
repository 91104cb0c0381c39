"""The log stores: a folder and S3 do the same."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raftflow.logstore.attempts import (
    Place,
    StoredAttempt,
    StoredStream,
    encode_meta,
    read_meta,
    read_piece,
    start_since,
)
from raftflow.logstore.stores import FolderStore, LogStore, LogStoreError, S3Store, open_store

Make = Callable[[], LogStore]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """S3 as far as it is used: PUT, and GET of a range, by path."""
    objects: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200)

        def do_GET(self) -> None:
            found = objects.get(self.path)
            if found is None:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())  # type: ignore[union-attr]
            data = found[start : end + 1]
            self._answer(206, data, **{"Content-Range": f"bytes {start}-{start + len(data) - 1}/{len(found)}"})

        def _answer(self, status: int, data: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(data)),
                "ETag": '"1"',
                "Last-Modified": "Mon, 30 Nov 2026 00:00:00 GMT",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    yield objects
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    if request.param == "s3":
        pytest.importorskip("obstore")
        request.getfixturevalue("bucket")
        return open_store("s3://logs/pre/fix")
    (tmp_path / "shared").mkdir()
    return open_store(f"file://{tmp_path}/shared")


def test_what_is_put_is_got(store: LogStore) -> None:
    assert store.get("wf-1/t@x+y:z/1-7/stdout", 0, 10) is None
    store.put("wf-1/t@x+y:z/1-7/stdout", iter([b"abc", b"", b"defg"]))
    assert store.get("wf-1/t@x+y:z/1-7/stdout", 0, 100) == b"abcdefg"
    assert store.get("wf-1/t@x+y:z/1-7/stdout", 2, 3) == b"cde"
    store.put("wf-1/t@x+y:z/1-7/stdout", iter([b"new"]))
    assert store.get("wf-1/t@x+y:z/1-7/stdout", 0, 100) == b"new"


def test_an_attempt_is_read_as_its_agent_would_give_it(store: LogStore) -> None:
    place = Place("wf-1", "t", 2, 7)
    assert read_meta(store, place) is None
    stream = StoredStream(size=1_000, parts=[(0, 3), (990, 10)], times=[(0, 1_000), (500, 2_000)], changed_ms=3_000)
    store.put(place.key("stdout"), iter([b"abc", b"0123456789"]))
    meta = StoredAttempt(
        workflow_id="wf-1", task_id="t", attempt=2, fence=7, agent="a", ended_at_ms=5, streams={"stdout": stream}
    )
    store.put(place.key("meta.json"), iter([encode_meta(meta)]))
    found = read_meta(store, place)
    assert found == meta
    for offset, count, wanted in (
        (0, 100, (b"abc", 0)),
        (1, 1, (b"b", 1)),
        (3, 4, (b"0123", 990)),
        (500, 100, (b"0123456789", 990)),
        (995, 100, (b"56789", 995)),
        (1_000, 100, (b"", 1_000)),
        (2_000, 100, (b"", 2_000)),
    ):
        assert read_piece(store, place, found, "stdout", offset, count) == (*wanted, 1_000, True)
    assert read_piece(store, place, found, "stderr", 0, 10) == (b"", 0, 0, False)
    assert [start_since(meta, "stdout", ms).offset for ms in (0, 1_999, 2_000, 3_000, 3_001)] == [
        0,
        0,
        500,
        500,
        1_000,
    ]


def test_what_is_damaged_in_a_store_is_told(store: LogStore) -> None:
    place = Place("wf-1", "t", 2, 7)
    for content, word in ((b"{", "damaged"), (b"\xff", "damaged"), (b"{}", "damaged")):
        store.put(place.key("meta.json"), iter([content]))
        with pytest.raises(LogStoreError, match=word) as raised:
            read_meta(store, place)
        assert raised.value.is_damage
    meta = StoredAttempt(
        version=2, workflow_id="w", task_id="t", attempt=2, fence=7, agent="a", ended_at_ms=5, streams={}
    )
    store.put(place.key("meta.json"), iter([encode_meta(meta)]))
    with pytest.raises(LogStoreError, match="version 2"):
        read_meta(store, place)
    store.put(place.key("stdout"), iter([b"short"]))
    meta.streams["stdout"] = StoredStream(size=10, parts=[(0, 10)])
    with pytest.raises(LogStoreError, match="shorter"):
        read_piece(store, place, meta, "stdout", 0, 10)


def test_a_folder_that_is_not_there_is_no_empty_store(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "shared"))
    with pytest.raises(LogStoreError, match="No such file"):
        store.put("w/t/1-1/stdout", iter([b"x"]))
    with pytest.raises(LogStoreError, match="No such file"):
        store.get("w/t/1-1/stdout", 0, 10)
    assert not (tmp_path / "shared").exists()


def test_no_link_and_no_fifo_in_a_folder_is_opened(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "w" / "t").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    (shared / "w" / "t" / "1-1").symlink_to(tmp_path / "else")
    store = FolderStore(str(shared))
    with pytest.raises(LogStoreError):
        store.put("w/t/1-1/stdout", iter([b"x"]))
    (shared / "w" / "t" / "1-2").mkdir()
    os.mkfifo(shared / "w" / "t" / "1-2" / "stdout")
    with pytest.raises(LogStoreError, match="not a regular file"):
        store.get("w/t/1-2/stdout", 0, 10)
    assert not list((tmp_path / "else").iterdir())


def test_a_put_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(LogStoreError, match="No space"):
        FolderStore(str(tmp_path)).put("w/t/1-1/stdout", broken())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_in_a_folder_are_not_for_everybody(tmp_path: Path) -> None:
    FolderStore(str(tmp_path)).put("w/t/1-1/stdout", iter([b"x"]))
    assert (tmp_path / "w" / "t" / "1-1" / "stdout").stat().st_mode & 0o007 == 0
    assert (tmp_path / "w").stat().st_mode & 0o007 == 0


def test_an_s3_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = S3Store("logs", "", "s3://logs")
    with pytest.raises(LogStoreError, match="s3://logs does not take w/t") as raised:
        store.put("w/t/1-1/stdout", iter([b"x"]))
    assert not raised.value.is_damage


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ("logs", "not an absolute path"),
        ("file://host/logs", "names a machine"),
        ("ftp://host/logs", "not a place for logs"),
        ("s3:///logs", "names no bucket"),
        ("", "not an absolute path"),
    ],
)
def test_places_that_are_none(place: str, word: str) -> None:
    with pytest.raises(LogStoreError, match=word):
        open_store(place)


def test_names_never_leave_the_store() -> None:
    for name in ("..", ".", "", "x" * 1_000):
        with pytest.raises(LogStoreError, match="unusual name"):
            Place("wf-1", name, 1, 1).key("stdout")
    assert Place("wf-1", "a/../b", 1, 1).key("stdout") == "wf-1/a%2F..%2Fb/1-1/stdout"
