"""On a terminal there is a progress bar; what programs read stays clean all the same."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from typing import Any

RUNNING = {
    "id": "wf-1",
    "name": "census",
    "state": "running",
    "tasks": {"total": 4, "succeeded": 1, "running": 1},
    "submitted_at": "2026-01-01T00:00:00Z",
}
ENDED = {
    **RUNNING,
    "state": "succeeded",
    "finished_at": "2026-01-01T00:00:09Z",
    "tasks": {"total": 4, "succeeded": 4},
}


def test_progress_goes_to_the_terminal_and_json_to_the_pipe(fake: Any) -> None:
    fake.routes["GET", "/v1/workflows/wf-1"] = [*[RUNNING] * 8, ENDED]
    master, slave = pty.openpty()
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            seen.extend(piece)

    argv = [sys.executable, "-m", "raftflow", "--peers", fake.url, "workflow", "wait", "wf-1", "-o", "json"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    reader = threading.Thread(target=read)
    reader.start()
    out, _ = process.communicate(timeout=60)
    reader.join(timeout=10)
    os.close(master)
    assert process.returncode == 0
    assert json.loads(out)["state"] == "succeeded"
    shown = seen.decode()
    assert "census: running, 1/4 succeeded, 1 running" in shown
    assert "━" in shown
