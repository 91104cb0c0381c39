"""What is outside of the cluster in `wait_kills`: a service that is called, and people who send, decide and pay."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from wait_kills_tasks import NOBODY

from raftflow.client import Client, OutcomeUnknown, Refused, Unreachable
from raftflow.domain.contract.views import ApprovalView, BudgetView, EffectView
from raftflow.local.cluster import LocalCluster

LOOK_S = 0.03
BUSY_SHARE = 0.05
"""Share of the calls to which the service answers that it did nothing."""
SILENT_SHARE = 0.15
"""Share of the questions to which the service answers that it does not know."""
RAISE = 25
"""Calls that a budget gets more, when it is used up."""


class Service:
    """Counts calls. It recognises idempotency keys if the call asks for that, and it can refuse earlier attempts."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._refused_below: dict[str, int] = {}
        """By key: the smallest fence whose calls are still taken."""
        self.receipts: defaultdict[str, list[str]] = defaultdict(list)
        """By effect: a receipt for each time that it was done."""
        self.keys: defaultdict[str, set[str]] = defaultdict(set)
        """By effect."""
        self.callers: Counter[int] = Counter()
        """Pids of processes that call at this moment."""
        self.refused = 0
        """Calls of attempts that were over."""

    def call(self, effect: str, mode: str, key: str, fence: int) -> tuple[int, Any]:
        """Do something. Returns the status and the receipt."""
        before_s, after_s = self._rng.choice(((0.0, 0.0), (0.15, 0.0), (0.0, 0.15), (0.05, 0.05)))
        time.sleep(before_s)
        with self._lock:
            self.keys[effect].add(key)
            if fence < self._refused_below.get(key, 0):
                self.refused += 1
                return 410, "a later attempt has asked what became of this"
            if self._rng.random() < BUSY_SHARE:
                return 503, "busy"
            done = self.receipts[effect]
            if not done or mode != "key":
                done.append(f"{key}/{len(done) + 1}")
            receipt = done[-1]
        time.sleep(after_s)
        return 200, receipt

    def find(self, key: str, fence: int) -> str | None:
        """Return the receipt of a key, and take no calls for it of attempts with a smaller fence from now on."""
        with self._lock:
            self._refused_below[key] = max(fence, self._refused_below.get(key, 0))
            found = [receipt for done in self.receipts.values() for receipt in done if receipt.startswith(f"{key}/")]
            return found[0] if found else None

    def calling(self) -> list[int]:
        """Return the pids of processes that call now."""
        with self._lock:
            return sorted(pid for pid, count in self.callers.items() if count)

    def answer(self, path: str, given: dict[str, Any]) -> tuple[int, Any]:
        """Answer a request."""
        if path == "/call":
            pid = given.pop("pid")
            with self._lock:
                self.callers[pid] += 1
            try:
                return self.call(**given)
            finally:
                with self._lock:
                    self.callers[pid] -= 1
        with self._lock:
            silent = self._rng.random() < SILENT_SHARE
        return 200, "unknown" if silent else self.find(**given)

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """Listen on a free port. Yields the URL."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            """Answers over HTTP."""

            def do_POST(self) -> None:
                """Answer one request. Nobody may be there any more to hear it."""
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, told = service.answer(self.path, given)
                body = json.dumps(told).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Decision(NamedTuple):
    """What one person decided, and what they were told."""

    choice: str
    comment: str
    told: str
    """Why it was refused; empty if it counted."""
    unsure: bool
    """The request was repeated under another key, because no answer had come."""


class People:
    """What people do while a round goes on. Each kind of work has a thread, and each person a client."""

    def __init__(self, cluster: LocalCluster, seed: int) -> None:
        self._cluster = cluster
        self._seed = seed
        self._pool = ThreadPoolExecutor()
        self._pairs = ThreadPoolExecutor()
        """For what two people do at once. It ends after the others, who still ask for that while the round ends."""
        self._over = threading.Event()
        self._pair = (cluster.client(), cluster.client())
        self._clients: list[Client] = [*self._pair]
        self._lock = threading.Lock()
        self.faults: list[str] = []
        self.decisions: defaultdict[str, list[Decision]] = defaultdict(list)
        """By approval."""
        self.resolutions: defaultdict[str, list[str]] = defaultdict(list)
        """By idempotency key: those that counted."""
        self.sent = self.sent_again = self.uncertain = self.raises = 0
        self.added: defaultdict[str, int] = defaultdict(int)
        """By workflow: calls that its budget got more."""

    def begin(self, work: Callable[..., None], *args: object) -> None:
        """Let somebody do something until the round is over."""
        client = self._cluster.client()
        self._clients.append(client)
        rng = random.Random(f"{self._seed} {work.__name__} {args}")

        def run() -> None:
            try:
                work(client, rng, *args)
            except Exception as error:  # noqa: BLE001 - nobody else would see it
                self.faults.append(f"{work.__name__} {args}: {type(error).__name__}: {error}")

        self._pool.submit(run)

    def close(self) -> None:
        """End what they do."""
        self._over.set()
        self._pool.shutdown()
        self._pairs.shutdown()
        for client in self._clients:
            client.close()

    def _looks(self) -> Iterator[None]:
        while not self._over.wait(LOOK_S):
            yield

    # --- signals

    def send(
        self, client: Client, rng: random.Random, workflow: str, name: str, payloads: Sequence[int | str]
    ) -> None:
        """Send signals of a name, one after the other."""
        for payload in payloads:
            how = rng.choice(("plain", "key", "again", "lost"))
            key = f"{name}-{payload}-{rng.random()}"
            if how == "lost":
                self._send_and_leave(rng, workflow, name, payload, key)
            if how == "plain":
                self._send_plain(client, workflow, name, payload)
            else:
                client.send_signal(workflow, name, payload, key=key)
            if how == "again":
                client.send_signal(workflow, name, payload, key=key)
            with self._lock:
                self.sent += 1
                self.sent_again += how in {"again", "lost"}
            if self._over.wait(rng.choice((0.0, 0.0, 0.1, 0.4, 0.8))):
                return

    def _send_plain(self, client: Client, workflow: str, name: str, payload: object) -> None:
        try:
            client.send_signal(workflow, name, payload)
        except OutcomeUnknown as error:
            client.send_signal(workflow, name, payload, key=error.idempotency_key)

    def _send_and_leave(self, rng: random.Random, workflow: str, name: str, payload: object, key: str) -> None:
        """Send a signal to some replica, and do not wait for the answer."""
        address = urlsplit(rng.choice(self._cluster.urls))
        connection = http.client.HTTPConnection(address.netloc, timeout=1)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
            path = f"/v1/workflows/{quote(workflow)}/signals/{quote(name)}"
            connection.request("POST", path, json.dumps(payload), headers)
            time.sleep(rng.choice((0.0, 0.01)))

    # --- approvals

    def decide(self, client: Client, rng: random.Random, workflow: str) -> None:
        """Have two people decide each approval of a workflow, at the same time or one after the other."""
        seen: set[str] = set()
        for _ in self._looks():
            for approval in client.approvals():
                if approval.workflow == workflow and approval.id not in seen and approval.details != NOBODY:
                    seen.add(approval.id)
                    self._over.wait(rng.choice((0.0, 0.0, 0.3, 0.5)))
                    both = [
                        self._pairs.submit(
                            self._decide, person, approval, rng.choice(approval.choices), f"by-{number}"
                        )
                        for number, person in enumerate(self._pair)
                    ]
                    self.decisions[approval.id] += [each.result() for each in both]

    def _decide(self, client: Client, approval: ApprovalView, choice: str, comment: str) -> Decision:
        unsure = False
        while True:
            try:
                client.decide(approval.id, choice, comment=comment)
            except Refused as refused:
                return Decision(choice, comment, str(refused), unsure)
            except Unreachable:
                unsure = True
            else:
                return Decision(choice, comment, "", unsure)

    # --- effects

    def resolve(self, client: Client, rng: random.Random, workflow: str, service: Service) -> None:
        """Resolve the effects that are uncertain: by what the service knows, sometimes two people at once."""
        for _ in self._looks():
            for effect in client.effects(workflow=workflow):
                if effect.state != "uncertain":
                    continue
                self.uncertain += 1
                receipt = service.find(effect.idempotency_key, effect.fence + 1)
                ways = ["done"] if receipt else [rng.choice(("retry", "retry", "fail"))]
                if rng.random() < 0.4:
                    ways.append("done" if receipt else "retry")
                both = [
                    self._pairs.submit(self._resolve, person, effect, way, receipt)
                    for person, way in zip(self._pair, ways, strict=False)
                ]
                counted = [way for way, each in zip(ways, both, strict=True) if each.result()]
                if len(counted) != 1:
                    self.faults.append(f"effect {effect.id} was resolved {len(counted)} times at once: {ways}")
                self.resolutions[effect.idempotency_key] += counted

    def _resolve(self, client: Client, effect: EffectView, way: Any, receipt: str | None) -> bool:
        try:
            client.resolve_effect(effect.id, way, result=receipt if way == "done" else None)
        except Refused as refused:
            if f"effect {effect.id} " not in str(refused):
                self.faults.append(f"effect {effect.id} was resolved before, and a person was told: {refused}")
            return False
        return True

    # --- budgets

    def pay(self, client: Client, _rng: random.Random, workflow: str, over: int) -> None:
        """Watch the budget of a workflow, and raise it when it is used up."""
        for _ in self._looks():
            view = client.budget(workflow)
            line = next(each for each in view.budgets if each.name == "calls")
            self.faults += budget_faults(view, over)
            if line.limit is not None and line.used >= line.limit and view.state == "paused":
                client.raise_budget(workflow, add={"calls": RAISE})
                self.added[workflow] += RAISE
                self.raises += 1


def budget_faults(view: BudgetView, over: int) -> Iterator[str]:
    """Say what is wrong with a budget of calls that may be overspent by so many."""
    line = next(each for each in view.budgets if each.name == "calls")
    assert line.limit is not None
    if line.used > line.limit + over:
        yield f"{view.id}: {line.used} of {line.limit} calls are used, and at most {over} may be beyond"
    if line.used >= line.limit and view.state in {"pending", "running"}:
        yield f"{view.id}: {line.used} of {line.limit} calls are used, and it is {view.state}"
