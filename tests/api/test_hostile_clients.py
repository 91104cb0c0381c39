"""Clients that mean harm, with tokens of other roles or with none: tables of what they try, each with its refusal.

`tests/cluster/test_hostile_clients.py` sends floods; here each request is one of its kind.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.api.forwarding.proof import ForwardingProof
from raftflow.domain.contract.identities.grants import is_granted
from raftflow.domain.contract.operation import Access
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.contract.views import HEADER_FORWARDED, HEADER_FORWARDED_PROOF, HEADER_REQUEST_ID
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle
from raftflow.domain.values.roles import ROLES
from tests.api.conftest import SECRET
from tests.api.test_tokens import DOCUMENT, SHARED, bearer, make

ANSWER_S = 30.0
WORK = b'{"name":"w","tasks":[{"id":"t","command":["true"]}]}'


async def send(served: Any, data: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; return the status, 0 if the connection was closed, and the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    answer = b""
    try:
        writer.write(data)
        async with asyncio.timeout(ANSWER_S):
            while b"\r\n\r\n" not in answer:
                piece = await reader.read(65_536)
                if not piece:
                    break
                answer += piece
    except ConnectionError:
        pass
    finally:
        writer.close()
    return (int(answer.split(b" ", 2)[1]) if answer else 0), answer


def get(target: str, who: str = "read", more: str = "") -> str:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {{{who}}}\r\n{more}\r\n"


def post(target: str, who: str = "read", more: str = "", body: str = "") -> str:
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {{{who}}}\r\n"
    size = len(body.replace("{{", "{").replace("}}", "}"))  # braces are written twice
    return f"{head}Content-Type: application/json\r\n{more}Content-Length: {size}\r\n\r\n{body}"


RAW: dict[str, tuple[str, int]] = {
    # --- another way to say who asks
    "no token": ("GET /v1/workflows HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
    "a token in the query": (get("/v1/workflows?access_token={admin}", "none"), 401),
    "a token in a cookie": (
        get("/v1/tokens", "none", "Cookie: token={admin}; Authorization=Bearer {admin}\r\n"),
        401,
    ),
    "a token as a password": (get("http://x:{admin}@localhost/v1/tokens", "none"), 400),
    "another scheme": (
        "GET /v1/tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {admin}\r\n\r\n",
        401,
    ),
    "a token with more behind it": (get("/v1/tokens", "admin").replace("{admin}", "{admin}x"), 401),
    "a token without its end": (get("/v1/tokens", "cut"), 401),
    "two tokens, the strong one last": (get("/v1/tokens", more="Authorization: Bearer {admin}\r\n"), 400),
    "two tokens, the strong one first": (get("/v1/tokens", "admin", "Authorization: Bearer {read}\r\n"), 400),
    "two tokens in one": (get("/v1/tokens", more="").replace("{read}", "{read}, Bearer {admin}"), 401),
    "a token that a proxy should drop": (
        get("/v1/tokens", more="Connection: authorization\r\nProxy-Authorization: Bearer {admin}\r\n"),
        403,
    ),
    # --- another way to say what is asked for
    "another method in a header": (post("/v1/tokens", more="X-HTTP-Method-Override: GET\r\n"), 403),
    "another method in the query": (get("/v1/workflows/{workflow}/cancel?_method=POST"), 405),
    "another path in a header": (
        get("/v1/tokens", more="X-Original-URL: /healthz\r\nX-Rewrite-URL: /healthz\r\n"),
        403,
    ),
    "a path that climbs": (get("/v1/workflows/../tokens"), 404),
    "a path that climbs, encoded": (get("/v1/workflows/%2e%2e/tokens"), 404),
    "an open path that climbs": (get("/healthz/../v1/tokens"), 404),
    "an open path that climbs, without a token": (
        "GET /healthz/../v1/tokens HTTP/1.1\r\nHost: localhost\r\n\r\n",
        401,
    ),
    "a path with an encoded letter": (get("/v1/%74okens"), 403),
    "a path with two slashes": (get("//v1/tokens"), 404),
    "a path with a parameter": (get("/v1/tokens;a=b"), 404),
    "a path in capitals": (get("/V1/TOKENS"), 404),
    "a path with a slash at its end": (get("/v1/tokens/"), 404),
    "a path with a backslash": (get("/v1\\tokens"), 404),
    "TRACE": (get("/v1/workflows").replace("GET", "TRACE"), 405),
    "PUT": (get("/v1/workflows").replace("GET", "PUT"), 405),
    "PATCH of a token": (get("/v1/tokens/read").replace("GET", "PATCH"), 405),
    "HEAD of what is not granted": (get("/v1/tokens").replace("GET", "HEAD"), 403),
    "CONNECT": ("CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: 10.0.0.1:22\r\n\r\n", 405),
    "another server": (get("http://10.0.0.1:22/v1/workflows"), 400),
    # --- ids and names that lead elsewhere
    "a NUL in an id": (get("/v1/workflows/{workflow}%00"), 404),
    "an id that is a path": (get("/v1/workflows/..%2f..%2fetc%2fpasswd"), 404),
    "a task that is a path": (get("/v1/workflows/{workflow}/tasks/..%2f..%2fsecret/logs"), 404),
    "a stream that is a path": (get("/v1/workflows/{workflow}/tasks/t/logs?stream=../../secret"), 400),
    "an attempt that is none": (get("/v1/workflows/{workflow}/tasks/t/logs?attempt=-1"), 400),
    "a snapshot that is a path": (get("/v1/snapshots/..%2f..%2fsecret", "admin"), 404),
    "a bundle that is a path": (get("/v1/bundles/..%2f..%2fsecret"), 400),
    "a lone byte that is no UTF-8": (get("/v1/workflows/%ff%fe"), 404),
    "a line feed in an id": (get("/v1/workflows/a%0d%0aX-Evil:%20yes"), 404),
    "a cursor of somebody else": (get("/v1/workflows?cursor=%00%ff"), 400),
    "a parameter twice": (get("/v1/workflows?limit=1&limit=1000"), 400),
    "a parameter that nobody knows": (get("/v1/workflows?admin=1"), 400),
    "a number without end": (get("/v1/workflows?limit=" + "9" * 4_000), 400),
    # --- sizes and forms
    "a target of 20,000 bytes": (get("/v1/workflows?cursor=" + "x" * 20_000), 414),
    "a header of 20,000 bytes": (get("/v1/workflows", more="X: " + "y" * 20_000 + "\r\n"), 431),
    "500 headers": (get("/v1/workflows", more="".join(f"X-{n}: y\r\n" for n in range(500))), 431),
    "HTTP/0.9": ("GET /v1/workflows\r\n\r\n", 400),
    "HTTP/2 without TLS": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a body that is compressed": (post("/v1/workflows", "submit", "Content-Encoding: gzip\r\n", "x"), 415),
    "a body with br": (post("/v1/workflows", "submit", "Content-Encoding: br\r\n", "x"), 415),
    "chunks that are compressed": (
        post("/v1/workflows", "submit", "Transfer-Encoding: gzip, chunked\r\n").replace("Content-Length: 0\r\n", ""),
        415,
    ),
    "length and chunks": (post("/v1/workflows", "submit", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
    "a bare line feed": (get("/v1/workflows").replace("localhost\r\n", "localhost\n"), 400),
    "a folded header": (get("/v1/workflows", more="X: a\r\n b\r\n"), 400),
    "a key twice": (post("/v1/workflows", "submit", body='{{"name":"a","name":"b","tasks":[]}}'), 400),
    "a long number before what is no JSON": (
        post("/v1/workflows/{workflow}/signals/go", "submit", body='{{"a":' + "9" * 5_000 + "}} x"),
        400,
    ),
    "100,000 levels": (post("/v1/workflows", "submit", body="[" * 100_000), 400),
    "a body that is announced and not allowed": (
        post("/v1/workflows", more="Expect: 100-continue\r\n").replace("Content-Length: 0", "Content-Length: 500"),
        403,
    ),
}


@pytest.fixture
async def tokens(serve: Any) -> tuple[Any, dict[str, str]]:
    """A replica with a workflow, and a token for each role."""
    served = await serve(token=SHARED)
    values = {role: await make(served, role, role) for role in ROLES}
    values["cut"] = values["admin"][:-1]
    values["none"] = "rft-" + "A" * 43
    made = await served.post("/v1/workflows", DOCUMENT, headers=bearer(SHARED))
    return served, {**values, "workflow": made.json["id"]}


def state_of(served: Any) -> Any:
    """Return what no refused request may change."""
    state = served.replica.machine.state
    return (
        {name: (each.state, each.priority) for name, each in state.workflows.items()},
        sorted(row.name for row in state.tokens.rows()),
        sorted(state.agents),
        sorted(state.rates.present),
        served.replica.status().term,
    )


async def test_each_attempt_has_its_refusal(tokens: Any) -> None:
    served, values = tokens
    before = state_of(served)
    wrong = []
    for name, (template, expected) in RAW.items():
        data = template.format(**values).encode("latin-1")
        try:
            status, answer = await send(served, data)
        except TimeoutError:
            status, answer = -1, b"nothing"
        if status != expected:
            wrong.append(f"{name}: {status}, not {expected}: {answer[:200]!r}")
        assert b"X-Evil" not in answer.partition(b"\r\n\r\n")[0], name
        assert values["admin"].encode() not in answer, name
    assert wrong == []
    assert state_of(served) == before
    assert (await served.get("/v1/ledger/verify", headers=bearer(SHARED))).json["problems"] == []


async def test_each_request_of_a_connection_is_judged_by_its_own_token(tokens: Any) -> None:
    """What was let in before on the same connection gives nothing to what follows, on either path."""
    served, values = tokens
    poll = '{{"incarnation":9,"seq":1}}'
    sent = [
        (get("/v1/tokens", "admin"), 200),
        ("GET /v1/tokens HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
        (post("/v1/agents/a1/poll", "agent", body=poll), 404),
        (post("/v1/agents/a1/poll", "read", body=poll), 403),
        (post("/v1/agents/a1/poll", "none", body=poll), 401),
        (get("/v1/leader?term=0&wait_ms=1", "read"), 200),
        (get("/v1/leader?term=0&wait_ms=1", "none"), 401),
        (get("/v1/tokens", "read"), 403),
        (get("/v1/tokens", "admin"), 200),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write("".join(template for template, _ in sent).format(**values).encode())
    statuses = []
    async with asyncio.timeout(ANSWER_S):
        for _ in sent:
            head = await reader.readuntil(b"\r\n\r\n")
            statuses.append(int(head.split(b" ", 2)[1]))
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()
    assert statuses == [status for _, status in sent]


BODIES: dict[str, Any] = {
    "submit_workflow": DOCUMENT,
    "prioritize_workflow": {"priority": 100},
    "raise_budget": {"usd": "+=10"},
    "set_limit": {"rate": "1/s"},
    "resolve_effect": {"resolution": "done"},
    "decide_approval": {"choice": "approve"},
    "create_token": {"name": "mine", "role": "admin"},
    "add_member": {"name": "n9", "peer": "10.0.0.9:7101", "url": "http://10.0.0.9:7001"},
    "transfer_leadership": {},
    "register_agent": {"name": "a1", "instance": "i" * 8, "resources": {"cpu": 1}},
    "poll": {"incarnation": 1, "seq": 1},
    "send_calls": {"incarnation": 1, "calls": []},
}


async def test_no_role_does_what_another_one_may(tokens: Any) -> None:
    """With bodies that would do it, under names that exist."""
    served, values = tokens
    before = state_of(served)
    parts = {"id": values["workflow"], "task": "t", "name": "read", "digest": "0" * 64, "fence": "1"}
    for role in ROLES:
        for operation in OPERATIONS:
            if is_granted(role, operation.access) or operation.access is Access.OPEN:
                continue
            target = operation.path.format(**parts)
            answer = await served.call(
                operation.method, target, BODIES.get(operation.name), headers=bearer(values[role])
            )
            assert (answer.status, answer.word) == (403, "forbidden"), (role, operation.name, answer.body)
    assert state_of(served) == before


# --- what only replicas may say


CLAIMS = {
    "X-Forwarded-For": "127.0.0.1",
    "Forwarded": "for=127.0.0.1;by=n1",
    "X-Real-IP": "127.0.0.1",
    "X-Forwarded-User": "admin",
    "X-Raftflow-Identity": "admin",
    "X-Raftflow-Role": "all",
    HEADER_FORWARDED: "n1",
    HEADER_FORWARDED_PROOF: f"{10**9}.{'0' * 64}",
}


async def test_headers_of_replicas_and_proxies_give_nothing(tokens: Any) -> None:
    served, values = tokens
    for who in ("read", "none"):
        for claims in (*({name: value} for name, value in CLAIMS.items()), CLAIMS):
            answer = await served.post(
                "/v1/tokens", BODIES["create_token"], headers={**bearer(values[who]), **claims}
            )
            assert answer.status == (401 if who == "none" else 403), (claims, answer.body)
    made = await served.post("/v1/workflows", DOCUMENT, headers={**bearer(values["submit"]), **CLAIMS})
    assert made.status == 201
    (last,) = (await served.get("/v1/audit?from=0&limit=1000", headers=bearer(SHARED))).json["records"][-1:]
    assert (last["actor"], last["command"]) == ("client:submit", "workflow.submit")


async def test_a_proof_is_of_use_for_its_request_and_its_sender_only(tokens: Any) -> None:
    """It was seen on the wire. Its thief has a token of each role, and the time in which the proof is fresh."""
    served, values = tokens
    bundle, other = (make_bundle([BundleFile("a.py", text)]) for text in (b"1", b"2"))
    target = f"/v1/bundles/{digest_of(bundle)}/copy"
    seen = {
        HEADER_FORWARDED: "n2",
        HEADER_REQUEST_ID: "r1",
        HEADER_FORWARDED_PROOF: ForwardingProof(lambda: (SECRET,)).make("n2", "POST", target, "r1"),
        "Content-Type": "application/octet-stream",
    }

    async def replay(token: str, path: str, body: bytes, **changed: str) -> int:
        return int((await served.post(path, raw=body, headers={**bearer(token), **seen, **changed})).status)

    for who in (*ROLES, "none"):
        assert await replay(values[who], target, bundle) == (401 if who == "none" else 403), who
    elsewhere = f"/v1/bundles/{digest_of(other)}/copy"
    assert await replay(SHARED, elsewhere, other) == 403
    assert await replay(SHARED, f"{target}?x=1", bundle) in {400, 403}
    assert await replay(SHARED, target, bundle, **{HEADER_REQUEST_ID: "r2"}) == 403
    assert await replay(SHARED, target, bundle, **{HEADER_FORWARDED: "n3"}) == 403
    assert await replay(SHARED, target, other) == 400, "a bundle has the digest of its bytes"
    assert await replay(SHARED, target, bundle) == 200, "what the proof was made for"


async def test_the_key_of_another_request_gives_out_nothing(tokens: Any) -> None:
    """The answer to a repeated request is remembered under its key: not for another request, nor for another role."""
    served, values = tokens
    keyed = {"Idempotency-Key": "k1"}
    made = await served.post("/v1/tokens", BODIES["create_token"], headers={**bearer(values["admin"]), **keyed})
    assert made.status == 201
    for role, path, body, status in (
        ("submit", "/v1/workflows", DOCUMENT, 409),
        ("operate", "/v1/limits/x", {"rate": "1/s"}, 409),
        ("submit", "/v1/tokens", BODIES["create_token"], 403),
        ("read", "/v1/tokens", BODIES["create_token"], 403),
    ):
        answer = await served.post(path, body, headers={**bearer(values[role]), **keyed})
        assert answer.status == status, (role, path, answer.body)
        assert made.json["token"].encode() not in answer.body


async def test_no_secret_is_in_what_others_may_read(tokens: Any) -> None:
    served, values = tokens
    state = served.replica.machine.state
    secrets = [SHARED.encode(), SECRET, *(values[role].encode() for role in ROLES)]
    secrets += [each for row in state.tokens.rows() for each in (row.digest, row.digest.hex().encode())]
    for operation in OPERATIONS:
        if operation.method != "GET" or operation.name in {"show_leader", "read_snapshot"} or operation.path_names:
            continue
        for role in ("operate", "admin", "agent"):
            answer = await served.get(operation.path, headers=bearer(values[role]))
            assert not [each for each in secrets if each in answer.body], (operation.name, role)


# --- pages of the Web, on a replica without a token

BROWSERS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "a picture": ("GET", "/v1/workflows", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    "a script of an app on another port": ("GET", "/v1/agents", {"Sec-Fetch-Site": "same-site"}, 403),
    "a link": ("GET", "/v1/snapshot", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
    "figures": ("GET", "/metrics", {"Sec-Fetch-Site": "cross-site"}, 403),
    "a form": (
        *("POST", "/v1/workflows"),
        {"Origin": "http://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
        403,
    ),
    "a form that looks like JSON": (
        *("POST", "/v1/workflows"),
        {"Origin": "http://evil.example", "Content-Type": "text/plain"},
        403,
    ),
    "a form of a page without an origin": ("POST", "/v1/workflows", {"Origin": "null"}, 403),
    "an old browser that says no origin": ("POST", "/v1/workflows", {"Content-Type": "text/plain"}, 415),
    "a request without a body": ("POST", "/v1/workflows/w/cancel", {"Origin": "http://evil.example"}, 403),
    "an app on another port": ("POST", "/v1/workflows", {"Origin": "http://localhost:3000"}, 403),
    "a web socket": (
        *("GET", "/v1/workflows"),
        {"Origin": "http://evil.example", "Upgrade": "websocket", "Connection": "Upgrade"},
        403,
    ),
    "a name that points here": ("GET", "/v1/workflows", {"Host": "evil.example"}, 421),
    "an address that a person types": ("GET", "/v1/workflows", {"Sec-Fetch-Site": "none"}, 200),
    "health for everybody": ("GET", "/healthz", {"Sec-Fetch-Site": "cross-site"}, 200),
}


@pytest.mark.parametrize("name", BROWSERS)
async def test_a_page_of_another_site_gets_nothing_and_does_nothing(one: Any, name: str) -> None:
    method, path, headers, status = BROWSERS[name]
    answer = await one.call(method, path, raw=WORK if method == "POST" else None, headers=headers)
    assert answer.status == status, answer.body
    assert not [each for each in answer.headers if each.lower().startswith("access-control-")]
    assert not one.replica.machine.state.workflows


async def test_no_page_may_ask_whether_it_may(one: Any) -> None:
    """The question before a request of another site (CORS) is answered without a permission."""
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = await one.call("OPTIONS", "/v1/workflows", headers=asked)
    assert answer.status in {204, 403}
    assert not [each for each in answer.headers if each.lower().startswith("access-control-")]
