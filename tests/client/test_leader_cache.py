"""What is remembered between processes: a hint for the order of the peers, harmless whatever the file holds."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from raftflow.client import AsyncClient
from raftflow.client.http.leader_cache import LeaderCache, default_folder

PEERS = ["http://a:1", "http://b:2", "http://c:3"]
AGENTS = ("GET", "/v1/agents")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "raftflow"


def test_what_one_process_writes_the_next_one_reads(folder: Path) -> None:
    LeaderCache(folder, PEERS).write("http://b:2")
    assert LeaderCache(folder, PEERS).read() == "http://b:2"
    assert LeaderCache(folder, PEERS[::-1]).read() == "http://b:2", "the order of the peers does not matter"
    assert LeaderCache(folder, PEERS[:2]).read() is None, "another list is another cluster"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_only_peers_that_were_given_are_read_or_written(folder: Path) -> None:
    cache = LeaderCache(folder, PEERS)
    cache.write("http://elsewhere:9")
    assert not folder.exists()
    cache.write("http://a:1")
    (file,) = folder.iterdir()
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: "http://evil.example:1"}))
    assert LeaderCache(folder, PEERS).read() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b'{"a": 1}', b'{"a": null}', b"[" * 100_000, b"{" + b" " * 70_000 + b"}", b'"x"', b"{"],
)
def test_content_of_another_form_is_no_content(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "leaders.json").write_bytes(content)
    cache = LeaderCache(folder, PEERS)
    assert cache.read() is None
    cache.write("http://a:1")
    assert LeaderCache(folder, PEERS).read() == "http://a:1"


def test_what_is_no_file_is_left_alone(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    file = folder / "leaders.json"
    os.mkfifo(file)
    assert LeaderCache(folder, PEERS).read() is None
    file.unlink()
    secret = tmp_path / "secret"
    LeaderCache(tmp_path / "other", PEERS).write("http://a:1")
    (tmp_path / "other" / "leaders.json").rename(secret)
    file.symlink_to(secret)
    assert LeaderCache(folder, PEERS).read() is None, "links are not followed"
    before = secret.read_bytes()
    LeaderCache(folder, PEERS).write("http://b:2")
    assert secret.read_bytes() == before
    assert LeaderCache(folder, PEERS).read() == "http://b:2"


@pytest.mark.parametrize("kind", ["a file stands there", "its parent is missing", "a directory stands there"])
def test_a_folder_that_cannot_be_used_is_passed_over(folder: Path, kind: str) -> None:
    if kind == "a file stands there":
        folder.write_text("x")
    elif kind == "its parent is missing":
        folder = folder / "no" / "such"
    else:
        (folder / "leaders.json").mkdir(parents=True)
    cache = LeaderCache(folder, PEERS)
    assert cache.read() is None
    cache.write("http://a:1")
    assert cache.read() is None
    assert list(folder.glob(".leaders*")) == [] if folder.is_dir() else True


def test_the_file_is_bounded_and_forgets_the_oldest(folder: Path) -> None:
    lists = [[f"http://h{number}:1"] for number in range(100)]
    for peers in lists:
        LeaderCache(folder, peers).write(peers[0])
    assert [LeaderCache(folder, peers).read() for peers in lists] == [None] * 36 + [peers[0] for peers in lists[36:]]


def test_writers_at_once_never_leave_half_a_file(folder: Path) -> None:
    def write(number: int) -> None:
        for turn in range(20):
            LeaderCache(folder, PEERS).write(PEERS[(number + turn) % 3])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (folder / "leaders.json").exists():
            assert len(json.loads((folder / "leaders.json").read_bytes())) == 1
    assert LeaderCache(folder, PEERS).read() in PEERS
    assert [path.name for path in folder.iterdir()] == ["leaders.json"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/raftflow"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/raftflow"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/raftflow"),
        ({"HOME": "h"}, None),
        ({}, None),
    ],
)
def test_where_the_folder_is(environ: dict[str, str], expected: str | None) -> None:
    assert default_folder(environ) == (None if expected is None else Path(expected))


async def test_the_peer_that_answered_is_asked_first_by_the_next_client(
    replicas: list[Any], make: Any, folder: Path, dead_url: str
) -> None:
    one, two, three = replicas
    for replica in replicas:
        replica.routes[AGENTS] = lambda _request: make.answer({"agents": []}, **{"X-Raftflow-Leader-Url": three.url})
    peers = [dead_url, one.url, two.url, three.url]
    for _ in range(3):
        async with AsyncClient(peers, cache_folder=folder, token="secret-token") as client:
            await client.agents()
    assert [len(replica.seen) for replica in replicas] == [1, 0, 2]
    assert b"secret-token" not in (folder / "leaders.json").read_bytes()
    await three.stop()
    async with AsyncClient(peers, cache_folder=folder) as client:
        assert await client.agents() == [], "a leader that is gone costs a look elsewhere"


async def test_a_hostile_entry_gets_no_request(replicas: list[Any], folder: Path) -> None:
    one, evil, _ = replicas
    one.routes[AGENTS] = {"agents": []}
    LeaderCache(folder, [one.url]).write(one.url)
    file = folder / "leaders.json"
    file.write_text(file.read_text().replace(one.url, evil.url))
    async with AsyncClient([one.url], cache_folder=folder, token="secret-token") as client:
        assert await client.agents() == []
    assert evil.seen == []


async def test_a_member_that_was_not_given_is_not_remembered(replicas: list[Any], make: Any, folder: Path) -> None:
    one, two, _ = replicas
    headers = {"X-Raftflow-Peers": f"{one.url},{two.url}", "X-Raftflow-Leader-Url": two.url}
    one.routes[AGENTS] = two.routes[AGENTS] = lambda _request: make.answer({"agents": []}, **headers)
    async with AsyncClient([one.url], cache_folder=folder) as client:
        await client.agents()
        await client.agents()
    assert [len(one.seen), len(two.seen)] == [1, 1]
    assert LeaderCache(folder, [one.url]).read() in (None, one.url)
