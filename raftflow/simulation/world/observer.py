"""What the simulated cluster and its agents tell an observer. The checkers implement these protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from raftflow.machine.machine import EntryResult
    from raftflow.replication.log import Role
    from raftflow.simulation.world.host import SimHost

TaskKey = tuple[str, str]
"""Workflow and task id."""


class ClusterObserver(Protocol):
    """Is told what the replicas do."""

    def violation(self, kind: str, detail: str) -> None:
        """Something happened that must never happen."""

    def founded(self, names: tuple[str, ...]) -> None:
        """These replicas found the cluster."""

    def started(self, host: SimHost) -> None:
        """A replica serves from now on."""

    def ended(self, host: SimHost) -> None:
        """The process of a replica ended."""

    def role_changed(self, host: SimHost, role: Role, term: int) -> None:
        """A replica announced a role."""

    def applying(self, host: SimHost, index: int, entry: bytes) -> None:
        """A replica of an older version is about to apply an entry."""

    def applied(self, host: SimHost, index: int, term: int, entry: bytes, result: EntryResult) -> None:
        """A replica applied an entry."""

    def restored(self, host: SimHost) -> None:
        """A replica restored a snapshot."""

    def removal_heard(self, name: str) -> None:
        """A replica stopped because it was told that it is no longer a member."""

    def disk_replaced(self, name: str) -> None:
        """An older copy of a replica's disk was put back."""


class EffectCall(NamedTuple):
    """A call of the service by a program."""

    task: TaskKey
    fence: int
    name: str
    occurrence: int
    idempotency_key: str


class ExecutionObserver(Protocol):
    """Is told which programs the agents run."""

    def execution_started(self, agent: str, task: TaskKey, fence: int) -> None:
        """An agent started a program."""

    def inputs_given(self, task: TaskKey, fence: int, inputs: dict[str, bytes]) -> None:
        """A program was given inputs."""

    def lease_renewed(self, replica: str, term: int, sent_s: float) -> None:
        """A replica that led `term` answered a poll that its agent sent at `sent_s`."""

    def execution_ended(self, agent: str, task: TaskKey, fence: int, how: str) -> None:
        """A program ended, in any way."""

    def child_told(self, parent: TaskKey, key: str, number: int) -> None:
        """A program was told the number of a child that it has spawned."""

    def child_end_told(self, parent: TaskKey, child_id: str, state: str, result: bytes) -> None:
        """A program was told how a child ended."""

    def step_asked(self, task: TaskKey) -> int:
        """A program asks for a step. Returns the moment, for `step_ran`."""
        ...

    def step_ran(self, task: TaskKey, fence: int, key: tuple[str, int], asked: int) -> None:
        """A program runs a step, for which it asked at that moment."""

    def step_told(self, task: TaskKey, fence: int, key: tuple[str, int], result: str) -> None:
        """A program was told that a step is recorded, with this result."""

    def paid_step_ran(self, task: TaskKey, fence: int) -> None:
        """A program runs a step that will cost something."""

    def money_spent(self, task: TaskKey, amount: int) -> None:
        """A program has spent something in a step, in millionths."""

    def spending_told(self, task: TaskKey, amount: int) -> None:
        """A program was told that this is counted."""

    def wait_told(self, task: TaskKey, key: tuple[str, int], record: dict[str, Any]) -> None:
        """A program was told the answer of a wait."""

    def effect_called(self, call: EffectCall, *, again: bool) -> None:
        """A program called the service outside. With `again` that did twice what must not happen twice."""

    def effect_told(self, task: TaskKey, key: tuple[str, int], result: str | None) -> None:
        """A program was told that an effect is recorded, with this result; None if it failed."""
