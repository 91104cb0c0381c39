"""The connections of threads to the agent: a bounded number, each with one request at a time."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from raftflow.sdk import attempt_socket
from raftflow.sdk.attempt_socket import AttemptSocket, CallRefused, RunningStep

WAIT_S = 20.0


class Agent:
    """Answers every line with what it is told to, from a thread for each connection."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes]) -> None:
        self.path = str(path)
        self.connections = 0
        self._answer = answer
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(accepted,), daemon=True).start()

    def _talk(self, accepted: socket.socket) -> None:
        with accepted, accepted.makefile("rb") as lines:
            for line in lines:
                answer = self._answer(line)
                if not answer:
                    return
                accepted.sendall(answer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Callable[[bytes], bytes]], Agent]]:
    agents: list[Agent] = []

    def start(answer: Callable[[bytes], bytes]) -> Agent:
        agents.append(Agent(tmp_path / f"agent{len(agents)}", answer))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


def tell(value: object) -> bytes:
    return msgspec.json.encode({"id": 0, "ok": value}) + b"\n"


def test_requests_one_after_the_other_share_a_connection(serve: Callable[..., Agent]) -> None:
    agent = serve(lambda line: tell({"said": msgspec.json.decode(line)["text"]}))
    ours = AttemptSocket(agent.path)
    long = "long " * 50_000  # comes in several pieces
    assert [msgspec.json.decode(ours.call("say", {"text": each})) for each in ("a", long)] == [
        {"said": "a"},
        {"said": long},
    ]
    assert agent.connections == 1
    ours.close()


def test_a_record_is_one_line_whatever_its_texts_hold(serve: Callable[..., Agent]) -> None:
    lines: list[bytes] = []

    def answer(line: bytes) -> bytes:
        lines.append(line)
        return tell({})

    ours = AttemptSocket(serve(answer).path)
    assert ours.record(RunningStep('a "name"\n%b', "m:f\u00fc"), b'{"x":[1]}') == b"{}"
    told = {"id": 0, "call": "record", "name": 'a "name"\n%b', "function": "m:f\u00fc", "result": {"x": [1]}}
    assert msgspec.json.decode(lines[0]) == told
    ours.close()


def test_more_threads_than_connections_wait_for_one(serve: Callable[..., Agent]) -> None:
    threads_max = attempt_socket._THREADS_MAX
    go, asking = threading.Event(), threading.Semaphore(0)

    def answer(_: bytes) -> bytes:
        asking.release()
        assert go.wait(WAIT_S)
        return tell({})

    agent = serve(answer)
    ours = AttemptSocket(agent.path)
    with ThreadPoolExecutor(3 * threads_max) as pool:
        found = [pool.submit(ours.call, "x", {}) for _ in range(3 * threads_max)]
        for _ in range(threads_max):
            assert asking.acquire(timeout=WAIT_S)
        assert not asking.acquire(blocking=False)
        go.set()
        assert [each.result(WAIT_S) for each in found] == [b"{}"] * (3 * threads_max)
    assert agent.connections == threads_max
    ours.close()


def test_a_connection_that_broke_is_not_used_again_and_its_place_is_free(serve: Callable[..., Agent]) -> None:
    answers = {"gone": b"", "good": tell({"here": 1})}
    agent = serve(lambda line: answers[msgspec.json.decode(line)["call"]])
    ours = AttemptSocket(agent.path)
    for _ in range(2 * attempt_socket._THREADS_MAX):
        with pytest.raises(ConnectionResetError, match="the agent closed the connection"):
            ours.call("gone", {})
    assert ours.call("good", {}) == b'{"here":1}'
    ours.close()
    with pytest.raises(RuntimeError, match="the task is over"):
        ours.call("good", {})


def test_a_refusal_keeps_the_connection(serve: Callable[..., Agent]) -> None:
    refusal = b'{"id":0,"error":{"type":"limit","detail":"too many"}}\n'
    agent = serve(lambda line: refusal if b"wrong" in line else tell({}))
    ours = AttemptSocket(agent.path)
    with pytest.raises(CallRefused, match="too many"):
        ours.call("wrong", {})
    assert ours.call("right", {}) == b"{}"
    assert agent.connections == 1
    ours.close()


def test_a_forked_process_has_connections_of_its_own(serve: Callable[..., Agent], tmp_path: Path) -> None:
    agent = serve(lambda line: tell(msgspec.json.decode(line)["by"]))
    ours = AttemptSocket(agent.path)
    assert ours.call("x", {"by": "parent"}) == b'"parent"'
    pid = os.fork()
    if pid == 0:
        try:
            (tmp_path / "child").write_bytes(ours.call("x", {"by": "child"}))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / "child").read_bytes() == b'"child"'
    assert agent.connections == 2
    assert ours.call("x", {"by": "parent again"}) == b'"parent again"'
    assert agent.connections == 2
    ours.close()
