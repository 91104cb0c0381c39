"""A load that records what was acknowledged, and the search for it afterwards.

`SubmissionLoad` and `Writer` submit small workflows, `Reporter` is an agent without processes that reports at once.
What
they list was answered by the cluster; `AuditedWork.missing` tells what of it the cluster does not know any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import msgspec

from raftflow.agent.config import AgentConfig
from raftflow.agent.exchange.leader import LeaderClient, LeaderNotFoundError, StaleIncarnationError
from raftflow.client.client import Client
from raftflow.client.errors import ClientError, Refused
from raftflow.domain.commands import SubmitWorkflow
from raftflow.domain.contract.views import AuditLine, PollRequest, RegisterRequest, ReportedEnd

_AUDIT_PAGE: Final = 1_000
_ATTEMPT_S: Final = 2.0
_SUBMIT: Final = SubmitWorkflow.__struct_config__.tag
_JOIN_S: Final = 60.0
_PAUSE_S: Final = 0.02
_PATIENCE_S: Final = 30.0


@dataclass(slots=True)
class Acknowledged:
    """What the cluster has confirmed."""

    workflows: list[str] = field(default_factory=list)
    reports: list[tuple[int, str, str]] = field(default_factory=list)
    """(fence, workflow id, task id) of successes that the leader has accepted."""

    def __len__(self) -> int:
        return len(self.workflows) + len(self.reports)


class _Thread:
    """Something that runs in a thread between `with` and its end."""

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and wait until it has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_JOIN_S)
            if self._thread.is_alive():
                raise RuntimeError(f"{self._thread.name} does not end")

    def _work(self) -> None:
        raise NotImplementedError


class SubmissionLoad(_Thread):
    """Submits workflows of `tasks` independent tasks, one after the other, until it is stopped."""

    def __init__(self, urls: Sequence[str], acknowledged: Acknowledged, *, prefix: str, tasks: int = 4) -> None:
        super().__init__(f"submissions-{prefix}")
        self._urls = list(urls)
        self._acknowledged = acknowledged
        self._prefix = prefix
        self._tasks = [{"id": f"t{n}", "command": ["true"]} for n in range(tasks)]

    def _work(self) -> None:
        with Client(self._urls, timeout_s=_ATTEMPT_S) as client:
            for number in itertools.count(1):
                if self._stop.is_set():
                    return
                try:
                    created = client.submit({"name": f"{self._prefix}-{number}", "tasks": self._tasks})
                except ClientError as error:
                    if isinstance(error, Refused) and error.lasting:
                        raise
                    time.sleep(_PAUSE_S)  # not acknowledged: nothing is promised
                    continue
                self._acknowledged.workflows.append(created.id)


@dataclass(slots=True)
class LongestWait:
    """How long a writer had to wait, at most, for an acknowledgement while something was done to the cluster."""

    longest_s: float = 0.0


class Writer(_Thread):
    """Submits one small workflow after the other, without a pause of its own, and knows when each was acknowledged.

    `urls` is asked again and again, since members may change.
    """

    def __init__(self, urls: Callable[[], Sequence[str]], acknowledged: Acknowledged, *, prefix: str) -> None:
        super().__init__(f"writer-{prefix}")
        self._urls = urls
        self._acknowledged = acknowledged
        self._prefix = prefix
        self._at_s: list[float] = []

    @contextlib.contextmanager
    def watch(self) -> Iterator[LongestWait]:
        """Measure the longest pause between two acknowledgements from here to the first one after the block.

        Raises `RuntimeError` if that takes longer than a minute.
        """
        watch = LongestWait()
        first = max(0, self._wait_for(1) - 1)
        yield watch
        last = self._wait_for(len(self._at_s) + 1)
        watch.longest_s = max(after - before for before, after in itertools.pairwise(self._at_s[first:last]))

    def _wait_for(self, count: int) -> int:
        """Wait for so many acknowledgements; returns how many there are."""
        deadline = time.monotonic() + _JOIN_S
        while len(self._at_s) < count:
            if time.monotonic() >= deadline:
                raise RuntimeError(f"nothing was acknowledged to {self._thread.name} for {_JOIN_S:g} s")
            time.sleep(0.002)
        return len(self._at_s)

    def _work(self) -> None:
        number = 0
        while not self._stop.is_set():
            urls = list(self._urls())
            with Client(urls, timeout_s=_PATIENCE_S) as client:
                while not self._stop.is_set() and list(self._urls()) == urls:
                    number += 1
                    # A client that gives up is the end of the test: nothing here takes so long.
                    created = client.submit(
                        {"name": f"{self._prefix}-{number}", "tasks": [{"id": "t", "command": ["true"]}]}
                    )
                    self._acknowledged.workflows.append(created.id)
                    self._at_s.append(time.monotonic())


class Reporter(_Thread):
    """An agent that runs nothing and reports success at once, as the contract has it.

    It survives changes of leader: what no answer has confirmed is reported again, and a new incarnation begins when
    the cluster wants one.
    """

    def __init__(self, urls: Sequence[str], acknowledged: Acknowledged, *, name: str, cpus: int = 8) -> None:
        super().__init__(f"reporter-{name}")
        self._urls = list(urls)
        self._acknowledged = acknowledged
        self._name = name
        self._cpus = cpus

    def _work(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        leader = LeaderClient(
            AgentConfig(peers=tuple(self._urls), name=self._name, poll_timeout_s=_ATTEMPT_S, connect_timeout_s=0.5)
        )
        await leader.start()
        try:
            while not self._stop.is_set():
                with contextlib.suppress(LeaderNotFoundError, StaleIncarnationError):
                    await self._incarnation(leader)
                await asyncio.sleep(_PAUSE_S)
        finally:
            await leader.close()

    async def _incarnation(self, leader: LeaderClient) -> None:
        """Register and poll until the cluster asks for a new incarnation. Raises the leader client's errors."""
        registered = await leader.register(
            RegisterRequest(
                name=self._name, instance=f"reporter-{self._name}", resources={"cpu": self._cpus}, prefetch=2
            )
        )
        held: dict[int, ReportedEnd] = {}
        seen = 0
        for seq in itertools.count(1):
            if self._stop.is_set():
                return
            poll = PollRequest(
                incarnation=registered.incarnation, seq=seq, seen=seen, ends=list(held.values()), wait_ms=100
            )
            try:
                answer = await leader.poll(registered.id, msgspec.json.encode(poll), _ATTEMPT_S)
            except LeaderNotFoundError:
                await asyncio.sleep(_PAUSE_S)
                continue
            for verdict in answer.verdicts:
                end = held.pop(verdict.fence, None)
                if end is not None and verdict.verdict in {"accepted", "duplicate"}:
                    self._acknowledged.reports.append((end.fence, end.workflow_id, end.task_id))
            for item in answer.assign:
                seen = max(seen, item.fence)
                held[item.fence] = ReportedEnd(
                    fence=item.fence, workflow_id=item.workflow_id, task_id=item.task_id, outcome="succeeded"
                )


@dataclass(slots=True)
class AuditedWork:
    """What the audits of all replicas say became of the acknowledged, read on from where the last look ended."""

    workflows: set[str] = field(default_factory=set)
    """Submitted, as some replica's audit says."""
    succeeded: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Successes by fence."""
    _next: dict[str, int] = field(default_factory=dict)

    def read(self, client: Client, url: str) -> None:
        """Read what one replica's audit has beyond the last look at it. Raises `ClientError`."""
        for record in _records(client, url, self._next.get(url, 0)):
            self._next[url] = record.index  # an entry's records may come in two looks
            if record.command == _SUBMIT and record.outcome == "ok":
                self.workflows.add(record.subject)
            for move in record.transitions:
                if move.event == "succeeded":
                    self.succeeded[move.fence] = (move.workflow_id, move.task_id)

    def missing(self, acknowledged: Acknowledged) -> list[str]:
        """Return a line for each acknowledged submission or report that no audit has."""
        lines = [f"submission of {wanted}" for wanted in acknowledged.workflows if wanted not in self.workflows]
        lines += [
            f"report of {workflow}/{task} with fence {fence}"
            for fence, workflow, task in acknowledged.reports
            if self.succeeded.get(fence) != (workflow, task)
        ]
        return lines


def _records(client: Client, url: str, start: int) -> Iterator[AuditLine]:
    following: int | None = start
    while following is not None:
        page = client.audit(url, following, _AUDIT_PAGE)
        yield from page.records
        following = page.next
