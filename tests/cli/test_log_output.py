"""Standard error that stands still holds up nobody: a terminal after Ctrl-S, a pipe that nobody reads."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftflow import helpers
from raftflow.client.client import Client
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

PIPE_BYTES = 4096
_SET_PIPE_SIZE = 1031


@pytest.fixture
def stuck() -> Iterator[tuple[int, int]]:
    """A pipe that is full: its two ends."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, _SET_PIPE_SIZE, PIPE_BYTES)
    os.write(writer, b"x" * (PIPE_BYTES - 1) + b"\n")
    yield reader, writer
    os.close(reader)


def read_all(reader: int) -> list[str]:
    with os.fdopen(os.dup(reader), "rb") as stream:
        return stream.read().decode().splitlines()


LOGGER = """
import logging, sys
from raftflow.log_output import LINES_MAX, start_logging
start_logging("info")
for number in range(LINES_MAX + 500):
    logging.getLogger("raftflow.x").info("line %d", number)
print("logged", flush=True)
sys.stdin.read()
logging.getLogger("raftflow.x").info("the last line")
"""


def test_lines_that_nobody_takes_are_counted(stuck: tuple[int, int]) -> None:
    reader, writer = stuck
    child = subprocess.Popen(
        [sys.executable, "-c", LOGGER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer, text=True
    )
    os.close(writer)
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "logged\n"  # though not a line was taken
    taken = os.read(reader, PIPE_BYTES)
    assert taken == b"x" * (PIPE_BYTES - 1) + b"\n"
    child.stdin.close()
    lines = read_all(reader)
    child.wait(30)
    dropped = [int(found[1]) for line in lines if (found := re.search(r"(\d+) log lines were dropped here", line))]
    assert dropped
    assert sum(dropped) + len(lines) - len(dropped) == 10_501
    assert any(line.endswith("raftflow.x: line 0") for line in lines[:2])


FORGER = r"""
import logging
from raftflow.log_output import start_logging
start_logging("info")
log = logging.getLogger("raftflow.x")
log.warning("agent %s is unfit: %s", "a1", "full\nCRITICAL forged\r\x1b[2J\x9b\u2028\u202e\udcff é")
try:
    raise ValueError("first\nsecond\x1b[2J")
except ValueError:
    log.exception("failed")
"""


def test_no_text_of_others_makes_a_line_of_its_own_or_moves_the_cursor() -> None:
    done = subprocess.run([sys.executable, "-c", FORGER], capture_output=True, check=True)
    text = done.stderr.decode()
    first, second, *trace = text.split("\n")
    assert first.endswith(
        r"WARNING raftflow.x: agent a1 is unfit: full\nCRITICAL forged\r\x1b[2J\x9b\u2028\u202e\udcff é"
    )
    assert second.endswith("ERROR raftflow.x: failed")
    assert trace[0].startswith("Traceback") and r"\x1b[2J" in text
    assert not any(ord(each) < 32 and each != "\n" for each in text)


def test_the_end_waits_for_nobody(stuck: tuple[int, int]) -> None:
    _reader, writer = stuck
    child = subprocess.Popen(
        [sys.executable, "-c", LOGGER], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer
    )
    os.close(writer)
    assert child.wait(30) == 0


def test_a_replica_serves_and_stops(stuck: tuple[int, int], tmp_path: Path) -> None:
    _reader, writer = stuck
    cluster = LocalCluster.create(tmp_path / "c", ClusterOptions(nodes=1, agents=0))
    command = helpers.command("raftflow", "coordinator", "run", "--config", str(cluster.config_file("n1")))
    replica = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        with Client(cluster.urls, timeout_s=30) as client:
            assert client.submit({"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}).id
        replica.send_signal(signal.SIGTERM)
        assert replica.wait(30) == 0
    finally:
        replica.kill()
        replica.wait()


CLOSED = """
import logging, os, sys, tempfile
for number in range(3):
    os.close(number)
from raftflow.log_output import start_logging
start_logging("info")
with tempfile.TemporaryFile() as file:
    logging.getLogger("raftflow.x").info("a line")
    import atexit
    atexit._run_exitfuncs()
    assert file.fileno() > 2, file.fileno()
    assert os.pread(file.fileno(), 9, 0) == b""
"""


def test_lines_never_go_into_a_file_that_took_the_number_of_standard_error() -> None:
    assert subprocess.run([sys.executable, "-c", CLOSED], check=False).returncode == 0


@pytest.mark.parametrize("close", [True, False])
def test_lines_come_in_order_and_whole(close: bool) -> None:  # noqa: FBT001
    program = LOGGER.replace("LINES_MAX + 500", "200").replace('"line %d", number', '"line %d é", number')
    if close:
        program = program.replace("start_logging(", "import os; os.close(2); start_logging(", 1)
    child = subprocess.run([sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    words = [line.partition("raftflow.x: ")[2] for line in child.stderr.decode().splitlines()]
    assert words == ([] if close else [*(f"line {number} é" for number in range(200)), "the last line"])
