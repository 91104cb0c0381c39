"""What an attempt asks about children: spawn some, look at some, cancel some, and park until some have ended.

Parking is between the attempt and its agent: the agent notes what the attempt waits for, and reports that when the
attempt has ended with success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from raftflow.agent.calls.requests import AddChildren, DropChildren, LookAtChildren, Park, accept, refuse
from raftflow.domain.contract.views import (
    ChildrenFound,
    ChildrenSpawned,
    FindChildren,
    RefusedCall,
    SpawnChildren,
    StopChildren,
)
from raftflow.domain.tasks.children import ParkCondition, read_condition

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.agent.calls.channel import Channel, Write
    from raftflow.domain.contract.views import AnyAnswer

ChildRequest = AddChildren | LookAtChildren | Park | DropChildren


class ChildRequests:
    """Answers requests of one attempt about children."""

    def __init__(self, fence: int, channel: Channel) -> None:
        self._fence = fence
        self._channel = channel
        self.parked = b""
        """What the attempt waits for, as JSON, once it has asked to park."""
        self.handlers: dict[type[Any], Callable[[Any, Write], None]] = {
            AddChildren: self._spawn,
            LookAtChildren: self._look,
            Park: self._park,
            DropChildren: self._cancel,
        }

    def _spawn(self, request: AddChildren, write: Write) -> None:
        call = SpawnChildren(fence=self._fence, tasks=request.tasks, defaults=request.defaults)

        def told(answer: AnyAnswer) -> None:
            if isinstance(answer, ChildrenSpawned):
                write(accept(request.id, {"children": answer.children}))
            else:
                _refuse(request, answer, write)

        self._channel.send(call, told)

    def _look(self, request: LookAtChildren, write: Write) -> None:
        call = FindChildren(
            fence=self._fence,
            keys=request.keys,
            children=request.children,
            ends=request.ends,
            begin=request.begin,
        )
        self._find(call, request, write, lambda found: write(accept(request.id, msgspec.structs.asdict(found))))

    def _park(self, request: Park, write: Write) -> None:
        def park(ranges: list[tuple[int, int]]) -> None:
            wanted = ParkCondition(mode=request.mode, children=tuple(ranges), waits=tuple(request.waits))
            self.parked = msgspec.json.encode(_merged(read_condition(self.parked), wanted) if self.parked else wanted)
            write(accept(request.id, {}))

        self._with_numbers(request, write, park)

    def _cancel(self, request: DropChildren, write: Write) -> None:
        if not (request.keys or request.children):
            write(refuse(request.id, "invalid", "name the children to cancel, by `keys` or by ranges of `children`"))
            return

        def told(answer: AnyAnswer) -> None:
            if isinstance(answer, RefusedCall):
                _refuse(request, answer, write)
            else:
                write(accept(request.id, {}))

        def cancel(ranges: list[tuple[int, int]]) -> None:
            self._channel.send(StopChildren(fence=self._fence, children=ranges), told)

        self._with_numbers(request, write, cancel)

    def _with_numbers(
        self, request: Park | DropChildren, write: Write, done: Callable[[list[tuple[int, int]]], None]
    ) -> None:
        """Call `done` with the ranges of a request, those of its keys included."""
        if not request.keys:
            done(request.children)
            return
        call = FindChildren(fence=self._fence, keys=request.keys)
        self._find(
            call, request, write, lambda found: done([*request.children, *[(each, each) for each in found.numbers]])
        )

    def _find(
        self, call: FindChildren, request: ChildRequest, write: Write, done: Callable[[ChildrenFound], None]
    ) -> None:
        def told(answer: AnyAnswer) -> None:
            if isinstance(answer, ChildrenFound):
                done(answer)
            else:
                _refuse(request, answer, write)

        self._channel.send(call, told)


def with_open_waits(parked: bytes, numbers: list[int]) -> bytes:
    """Return a condition on waits that every open wait of the attempt fulfils, as JSON.

    A program that waits in several places at once may have ended before the last of them has asked to park.
    """
    found = read_condition(parked)
    if not found.waits:
        return parked
    return msgspec.json.encode(_merged(found, ParkCondition(waits=tuple(numbers))) if numbers else found)


def _merged(first: ParkCondition, more: ParkCondition) -> ParkCondition:
    """Return a condition that holds when one of two does: several parts of a program park at the same time."""
    waits = (*first.waits, *[number for number in more.waits if number not in first.waits])
    of_children = [each for each in (first, more) if each.children or not each.waits]
    if not of_children:
        return ParkCondition(waits=waits)
    if len(of_children) == 1 or of_children[0] == of_children[1]:
        return msgspec.structs.replace(of_children[0], waits=waits)
    ranges = () if any(not each.children for each in of_children) else (*first.children, *more.children)
    return ParkCondition("any", ranges, waits)


def _refuse(request: ChildRequest, answer: AnyAnswer, write: Write) -> None:
    assert isinstance(answer, RefusedCall)  # noqa: S101 - the contract
    write(refuse(request.id, answer.type, answer.detail))
