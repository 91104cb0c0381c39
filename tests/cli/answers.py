"""Answers of a replica, as the commands print them."""

from __future__ import annotations

from typing import Any

VIEW = {
    "id": "wf-1",
    "name": "w",
    "state": "succeeded",
    "tasks": {
        **dict.fromkeys(("failed", "running", "ready", "waiting", "cancelled", "cached", "parked"), 0),
        "total": 2,
        "succeeded": 2,
    },
    "submitted_at": "2026-01-01T00:00:00Z",
    "finished_at": "2026-01-01T00:00:09Z",
    "priority": 50,
    "warnings": [],
    "code": None,
    "pause_reason": None,
    "levels": 2,
    "critical_path": ["s", "t"],
    "critical_path_s": 3.5,
}
TASK = {
    "id": "t",
    "state": "succeeded",
    "attempt": 2,
    "agent": "a1",
    "started_at": "2026-01-01T00:00:00Z",
    "finished_at": "2026-01-01T00:00:01Z",
    "result": {"x": [1]},
    "detail": "",
    "needs": ["s"],
    "history": [],
}
AGENT = {
    "id": "a1",
    "name": "a1",
    "state": "up",
    "incarnation": 3,
    "resources": {"cpu": 4.0, "memory": 8192.0},
    "allocated": {"cpu": 1.5, "memory": 0.0},
    "pid": 12,
}


def status(name: str = "n1", role: str = "leader", applied: int = 7) -> dict[str, Any]:
    indexes = ("last_index", "durable_index", "commit_index", "applied_index", "snapshot_index", "digest_index")
    words = {"cluster": "c", "leader": "n1", "leader_url": None, "digest": "ab" * 32, "version": "0"}
    more = {"term": 3, "ready": True, "pid": 99, "uptime_s": 1.0, "peers": []}
    return {"name": name, "role": role, **dict.fromkeys(indexes, applied), **words, **more}
