"""What commands about the cluster print and send: status, members, ledger, audit, cache, kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from tests.cli.answers import AGENT, status

Run = Callable[..., Result]


def test_cluster_status(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "/v1/agents"] = {"agents": [AGENT]}
    found = json.loads(run("cluster", "status", "-o", "json").stdout)
    assert (found["leader"], found["term"], found["index"]) == ("n1", 3, 7)
    (replica,) = found["replicas"]
    expected = {"name": "n1", "url": fake.url, "pid": 99, "role": "leader", "applied": 7, "digest": "ab" * 32}
    assert expected.items() <= replica.items()
    assert found["agents"] == [{"name": "a1", "pid": 12, "state": "up"}]
    assert run("cluster", "status").stdout.startswith("leader n1, term 3, index 7\n")


def test_cluster_status_without_a_leader_is_printed_and_fails(run: Run, fake: Any, make_problem: Any) -> None:
    fake.routes["GET", "/v1/status"] = {**status(role="candidate"), "leader": None, "ready": False}
    fake.routes["GET", "/v1/agents"] = (503, make_problem("no-leader", 503))
    result = run("cluster", "status", "-o", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["leader"] is None


def test_members(run: Run, fake: Any) -> None:
    line = {"name": "n1", "peer": "127.0.0.1:7101", "url": "http://127.0.0.1:7001", "leader": True, "connected": True}
    listed = {"replica": "n1", "leader": "n1", "term": 3, "members": [line]}
    fake.routes["GET", "/v1/members"] = listed
    fake.routes["POST", "/v1/members/transfer"] = listed
    assert json.loads(run("member", "list", "-o", "json").stdout)["members"][0]["name"] == "n1"
    assert run("member", "list").stdout.splitlines()[1].split() == [
        "n1",
        "127.0.0.1:7101",
        "http://127.0.0.1:7001",
        "yes",
        "yes",
        "yes",
        "-",
    ]
    fake.routes["POST", "/v1/members"] = listed
    fake.routes["POST", "/v1/members/n1/remove"] = listed
    new = {"name": "n4", "peer": "10.0.0.4:7101", "url": "http://10.0.0.4:7001"}
    run("member", "add", "n4", "--peer", new["peer"], "--url", new["url"])
    assert fake.requests[-1][4] == new
    run("member", "remove", "n1")
    run("member", "transfer", "n1")
    assert fake.requests[-1][4] == {"to": "n1"}
    run("member", "transfer")
    assert fake.requests[-1][4] == {}


def test_ledger(run: Run, fake: Any) -> None:
    line = {"name": "a1", "capacity": {"cpu": 4.0}, "allocated": {"cpu": 1.5}}
    fake.routes["GET", "/v1/ledger"] = {"index": 9, "agents": [line]}
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "/v1/ledger/verify"] = {"ok": True, "index": 9, "problems": [], "replica": "n1"}
    assert json.loads(run("ledger", "show", "-o", "json").stdout) == {"index": 9, "agents": [line]}
    assert [json.loads(text) for text in run("ledger", "show", "-o", "jsonl").stdout.splitlines()] == [line]
    assert run("ledger", "show").stdout.splitlines()[2].split() == ["a1", "cpu", "1.5", "4"]
    run("ledger", "show", "--stale")
    assert fake.requests[-1][2] == {"stale": "1"}
    found = json.loads(run("ledger", "verify", "-o", "json").stdout)
    assert {"ok": True, "index": 9, "problems": []}.items() <= found.items()
    assert run("ledger", "verify").exit_code == 0


def record(index: int, chain: str = "c") -> dict[str, Any]:
    words = {"at": "2026-01-01T00:00:00Z", "actor": "client:api", "command": "workflow.submit", "subject": "wf-1"}
    more = {"request_id": "r", "outcome": "ok", "detail": "", "transitions": []}
    return {"index": index, "position": 0, "term": 1, **words, **more, "chain": chain}


def test_audit_list_follows_pages(run: Run, fake: Any) -> None:
    def page(query: dict[str, str]) -> dict[str, Any]:
        first = int(query["from"])
        indexes = range(first, min(first + 2, 6))
        return {
            "records": [record(i) for i in indexes],
            "next": first + 2 if first + 2 < 6 else None,
            "replica": "n1",
        }

    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "/v1/agents"] = {"agents": []}
    fake.routes["GET", "/v1/audit"] = page
    assert [r["index"] for r in json.loads(run("audit", "list", "--all", "-o", "json").stdout)] == [0, 1, 2, 3, 4, 5]
    limited = run("audit", "list", "--from", "1", "--limit", "2", "--replica", "n1")
    assert len(limited.stdout.splitlines()) == 3
    assert limited.stderr == "more: --from 3\n"
    assert len(run("audit", "list", "-o", "jsonl", "--replica", fake.url, "--limit", "3").stdout.splitlines()) == 4


AHEAD = {"last_index": 8, "chain": "c8"}


@pytest.mark.parametrize(
    "replica_two",
    [
        (AHEAD, [record(5, "c5")], 0, "2 replicas agree up to index 5"),
        (AHEAD, [record(5, "cX")], 1, "chains differ at index 5: n1 c5, n2 cX"),
        (AHEAD, [record(6, "c6")], 1, "chains differ at index 5: n1 c5, n2 no record"),
        ({**AHEAD, "gaps": [[2, 6]]}, [], 0, "2 replicas agree up to index 5"),
        ({"last_index": 5, "chain": "c5"}, [], 0, "2 replicas agree up to index 5"),
        ({"last_index": 5, "chain": "cX"}, [], 1, "chains differ"),
        ({**AHEAD, "ok": False, "problems": ["record 3 is broken"]}, [record(5, "c5")], 1, "n2: record 3 is broken"),
    ],
)
def test_audit_verify_compares_at_the_last_common_index(run: Run, fake: Any, replica_two: Any) -> None:
    """The one fake stands for two replicas that are asked in turn; n1 ends at index 5."""
    ahead, records, code, said = replica_two
    base = {"ok": True, "records": 5, "first_index": 1, "gaps": [], "problems": []}
    behind = {**base, "replica": "n1", "last_index": 5, "chain": "c5"}
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "//localhost/v1/status"] = status("n2", "follower")
    fake.routes["GET", "/v1/audit/verify"] = [behind, {**base, "replica": "n2", **ahead}]
    fake.routes["GET", "/v1/audit"] = {"records": records, "next": None, "replica": "n2"}
    result = run("audit", "verify", "--peers", f"{fake.url},{fake.url.replace('127.0.0.1', 'localhost')}")
    assert result.exit_code == code, result.output
    assert said in result.stdout


@pytest.mark.parametrize(
    ("records", "code", "said"),
    [
        ([record(3, "c3")], 0, "2 replicas agree up to index 5"),
        ([record(3, "cX")], 1, "chains differ at index 3, before n2's gap from 4 to 5: n1 cX, n2 c3"),
        ([record(4, "c4")], 1, "chains differ at index 3, before n2's gap from 4 to 5: n1 no record, n2 c3"),
    ],
)
def test_audit_verify_compares_before_every_gap(run: Run, fake: Any, records: Any, code: int, said: str) -> None:
    base = {"ok": True, "records": 5, "first_index": 1, "problems": [], "last_index": 5, "chain": "c5"}
    whole = {**base, "replica": "n1", "gaps": [[1, 2]]}
    gap = {**base, "replica": "n2", "gaps": [[4, 5]], "before_gaps": [[3, "c3"]]}
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "//localhost/v1/status"] = status("n2", "follower")
    fake.routes["GET", "/v1/audit/verify"] = [whole, gap]
    fake.routes["GET", "/v1/audit"] = {"records": records, "next": None, "replica": "n1"}
    result = run("audit", "verify", "--peers", f"{fake.url},{fake.url.replace('127.0.0.1', 'localhost')}")
    assert result.exit_code == code, result.output
    assert said in result.stdout


CACHED = {
    "key": "fit-1",
    "size": 7,
    "workflow_id": "wf-1",
    "task_id": "a",
    "made_at": "2026-01-01T00:00:00Z",
    "used_at": "2026-01-01T00:00:01Z",
    "hits": 3,
}


def test_cached_results_are_listed_page_by_page(run: Run, fake: Any) -> None:
    pages = {None: ([CACHED], "fit-1"), "fit-1": ([{**CACHED, "key": "fit-2"}], None)}

    def answer(query: dict[str, str]) -> Any:
        assert query["prefix"] == "fit"
        entries, following = pages[query.get("cursor")]
        return {"entries": entries, "total": 2, "bytes": 600, "next": following}

    fake.routes["GET", "/v1/cache"] = answer
    shown = run("cache", "list", "--prefix", "fit")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["KEY", "fit-1", "fit-2"]
    assert json.loads(run("cache", "list", "--prefix", "fit", "-o", "json", "--limit", "1").stdout) == [CACHED]


EFFECT = {
    "id": 3,
    "workflow": "wf-1",
    "task": "pay",
    "name": "charge",
    "occurrence": 1,
    "function": "shop:charge",
    "state": "uncertain",
    "idempotency_key": "wf-1/pay/charge/1",
    "fence": 7,
    "begun_at": "2026-01-01T00:00:00Z",
    "changed_at": "2026-01-01T00:00:01Z",
}


def test_effects_are_listed_shown_and_resolved(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/effects"] = {"effects": [EFFECT]}
    shown = run("effect", "list").stdout.splitlines()
    assert shown[0].split() == ["ID", "STATE", "WORKFLOW", "TASK", "NAME", "KEY", "SINCE"]
    assert shown[1].split()[:3] == ["3", "uncertain", "wf-1"]
    assert json.loads(run("effect", "list", "--all", "--workflow", "wf-1", "-o", "json").stdout)[0]["id"] == 3
    query = fake.requests[-1][2]
    assert (query["show"], query["workflow"]) == ("all", "wf-1")
    fake.routes["GET", "/v1/effects/3"] = EFFECT
    assert json.loads(run("effect", "show", "3", "-o", "json").stdout)["state"] == "uncertain"
    fake.routes["POST", "/v1/effects/3"] = {**EFFECT, "state": "done"}
    assert run("effect", "resolve", "3", "--done", '{"id": 7}').stdout == "3 done\n"
    assert fake.requests[-1][4] == {"resolution": "done", "result": {"id": 7}}
    assert json.loads(run("effect", "resolve", "3", "--retry", "-o", "json").stdout)["state"] == "done"
    run("effect", "resolve", "3", "--fail", "--reason", "refunded")
    assert fake.requests[-1][4] == {"resolution": "fail", "result": None, "detail": "refunded"}
    for wrong in ([], ["--retry", "--fail"], ["--done", "id-7"]):
        assert run("effect", "resolve", "3", *wrong).exit_code == 2
    assert "a text has quotes" in run("effect", "resolve", "3", "--done", "id-7").stderr


def test_rate_limits_are_set_listed_and_removed(run: Run, fake: Any) -> None:
    limit = {"name": "llm", "rate": "100/min", "burst": 20, "available": 7, "full_in_s": 7.8}
    fake.routes["POST", "/v1/limits/llm"] = limit
    assert run("limit", "set", "llm", "--rate", "100/min", "--burst", "20").stdout == "llm 100/min burst 20\n"
    assert fake.requests[-1][-1] == {"rate": "100/min", "burst": 20}
    fake.routes["GET", "/v1/limits"] = {"limits": [limit]}
    shown = run("limit", "list").stdout.splitlines()
    assert [shown[0].split()[:4], shown[1].split()] == [
        ["NAME", "RATE", "BURST", "AVAILABLE"],
        ["llm", "100/min", "20", "7", "7.8"],
    ]
    fake.routes["DELETE", "/v1/limits/llm"] = {"name": "llm"}
    assert run("limit", "remove", "llm").stdout == "llm removed\n"
    assert run("limit", "set", "llm").exit_code == 2


def test_budgets_are_shown_and_raised(run: Run, fake: Any) -> None:
    view = {
        "id": "wf-1",
        "state": "paused",
        "pause_reason": "budget used up: 20.50 usd of 20.00 usd",
        "budgets": [
            {"name": "usd", "used": 20.5, "limit": 20, "soft": 16},
            {"name": "words", "used": 3, "limit": None, "soft": None},
        ],
        "tasks": [{"id": "t", "spent": {"usd": 20.5}}],
        "more_tasks": 2,
    }
    fake.routes["GET", "/v1/workflows/wf-1/budget"] = view
    assert run("workflow", "budget", "show", "wf-1").stdout.splitlines() == [
        "wf-1 paused: budget used up: 20.50 usd of 20.00 usd",
        "  usd: 20.5 of 20, soft limit 16",
        "  words: 3 no limit",
        "  task t: 20.5 usd",
        "  and 2 more tasks",
    ]
    fake.routes["POST", "/v1/workflows/wf-1/budget"] = view
    shown = run("workflow", "budget", "raise", "wf-1", "usd=30", "tokens+=5.5", "-o", "json")
    assert json.loads(shown.stdout) == view
    assert fake.requests[-1][-1] == {"limits": {"usd": "30"}, "add": {"tokens": "5.5"}}
    assert run("workflow", "budget", "raise", "wf-1", "usd").exit_code == 2
    assert run("workflow", "budget", "raise", "wf-1").exit_code == 2


def test_the_cache_is_cleared_by_key_by_prefix_or_whole(run: Run, fake: Any) -> None:
    fake.routes["DELETE", "/v1/cache"] = {"cleared": 1}
    assert run("cache", "clear", "--key", "fit-1").stdout == "1 cached result forgotten\n"
    assert json.loads(run("cache", "clear", "--prefix", "fit", "-o", "json").stdout) == {"cleared": 1}
    assert run("cache", "clear", "--all").exit_code == 0
    assert [query for _, _, query, _, _ in fake.requests] == [{"key": "fit-1"}, {"prefix": "fit"}, {}]
    assert all("Idempotency-Key" in headers for _, _, _, headers, _ in fake.requests)
    for arguments in ((), ("--all", "--key", "x")):
        assert run("cache", "clear", *arguments).exit_code == 2


def test_kinds_are_listed(run: Run, fake: Any) -> None:
    kind = {
        "kind": "fit.py",
        "count": 3,
        "mean_s": 1.5,
        "deviation_s": 0.5,
        "span_s": 2.5,
        "learnt_at": "2026-01-01T00:00:00Z",
    }
    fake.routes["GET", "/v1/kinds"] = {"kinds": [kind]}
    shown = run("task", "kinds").stdout.splitlines()
    assert shown[1].split() == ["fit.py", "3", "1.5", "0.5", "2.5", "-", "-", "2026-01-01"]


def test_a_signal_is_sent(run: Run, fake: Any) -> None:
    fake.routes["POST", "/v1/workflows/wf-1/signals/go"] = {"state": "delivered", "task": "a"}
    assert run("signal", "send", "wf-1", "go", '{"n": 1}').stdout == "delivered to a\n"
    assert fake.requests[-1][-1] == {"n": 1}
    fake.routes["POST", "/v1/workflows/wf-1/signals/go"] = {"state": "kept", "task": None}
    assert run("signal", "send", "wf-1", "go", "--key", "k").stdout == "kept: no task waits for it yet\n"
    assert run("signal", "send", "wf-1", "go", "-o", "json").stdout.startswith("{")
    assert run("signal", "send", "wf-1", "go", "{").exit_code == 2


def test_approvals_are_listed_and_decided(run: Run, fake: Any) -> None:
    view = {"id": "7", "workflow": "wf-1", "task": "a", "title": "ship", "details": {"n": 1}, "state": "open"}
    view |= {"choices": ["approve", "deny"], "asked_at": "2026-01-01T00:00:00.000Z", "expires_at": None}
    view |= {"on_timeout": None, "choice": None, "comment": "", "payload": None, "by": None, "ended_at": None}
    fake.routes["GET", "/v1/approvals"] = {"approvals": [view], "next": None}
    assert run("approval", "list").stdout.splitlines()[1].split()[:4] == ["7", "wf-1", "a", "ship"]
    fake.routes["GET", "/v1/approvals/7"] = view
    assert "ship" in run("approval", "show", "7").stdout
    fake.routes["POST", "/v1/approvals/7"] = {**view, "state": "decided", "choice": "deny"}
    assert run("approval", "deny", "7", "--comment", "no", "--payload", "[1]").stdout == "7 deny: ship\n"
    assert fake.requests[-1][-1] == {"choice": "deny", "comment": "no", "payload": [1]}
    assert run("approval", "approve", "7", "-o", "json").exit_code == 0
    assert fake.requests[-1][-1]["choice"] == "approve"


def test_a_token_is_made_shown_once_rotated_and_revoked(run: Run, fake: Any) -> None:
    made = {"name": "gpu", "role": "agent", "token": "rft-abc", "expires_at": None}
    fake.routes["POST", "/v1/tokens"] = made
    given = ("--agents", "gpu-*", "--label", "zone=a", "--expires", "90d")
    assert run("token", "create", "gpu", "--role", "agent", *given).stdout == "rft-abc\n"
    assert fake.requests[-1][-1] == {
        "name": "gpu",
        "role": "agent",
        "expires_s": 90 * 86_400.0,
        "agents": "gpu-*",
        "labels": {"zone": "a"},
    }
    assert json.loads(run("token", "create", "gpu", "--role", "agent", "-o", "json").stdout) == made
    fake.routes["POST", "/v1/tokens/gpu/rotate"] = made
    assert run("token", "rotate", "gpu", "--overlap", "10m").stdout == "rft-abc\n"
    assert fake.requests[-1][-1] == {"overlap_s": 600.0}
    fake.routes["DELETE", "/v1/tokens/gpu"] = {"name": "gpu"}
    assert run("token", "revoke", "gpu").stdout == "gpu revoked\n"
    fake.routes["GET", "/v1/identity"] = {"name": "alice", "role": "submit", "agents": "", "labels": {}}
    assert run("token", "whoami").stdout == "alice submit\n"
    assert run("token", "create", "x").exit_code == 2
    assert run("token", "create", "x", "--role", "king").exit_code == 2
    assert run("token", "create", "x", "--role", "agent", "--label", "zone").exit_code == 2


def test_audit_list_refused_shows_what_each_replica_has_refused(run: Run, fake: Any) -> None:
    def page(replica: str, actor: str | None, last: str) -> dict[str, Any]:
        row = {
            "actor": actor,
            "address": "10.0.0.9",
            "operation": "submit_workflow",
            "status": 403 if actor else 401,
            "count": 3,
            "first_at": "2026-12-01T00:00:00Z",
            "last_at": last,
            "request_id": "r7",
        }
        return {"replica": replica, "since": last, "total": 5, "forgotten": 2, "refusals": [row]}

    pages = [page("n1", None, "2026-12-01T01:00:00Z"), page("n2", "client:alice", "2026-12-01T02:00:00Z")]
    fake.routes["GET", "/v1/status"] = status()
    fake.routes["GET", "//localhost/v1/status"] = status("n2", "follower")
    fake.routes["GET", "/v1/refusals"] = list(pages)
    peers = ("--peers", f"{fake.url},{fake.url.replace('127.0.0.1', 'localhost')}")
    shown = run("audit", "list", "--refused", *peers)
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [line[line.index("ago") + 1 :][:3] for line in lines[1:]] == [
        ["n2", "client:alice", "10.0.0.9"],
        ["n1", "-", "10.0.0.9"],
    ]
    assert "4 refusals" in shown.stderr
    fake.routes["GET", "/v1/refusals"] = pages[0]
    one = json.loads(run("audit", "list", "--refused", "--replica", "n1", "-o", "json").stdout)
    assert one == [{"replica": "n1", **pages[0]["refusals"][0]}]
