"""What is no longer used is freed a little at a time: freeing a million tasks at once takes two seconds."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from raftflow.machine.tables.uploads import Upload
from raftflow.machine.tables.workflows import Workflow

if TYPE_CHECKING:
    from collections.abc import Iterable


class Discarded:
    """Things that are no longer used. They must not be used once `sweep` was called."""

    def __init__(self) -> None:
        self._things: deque[Any] = deque()

    def __len__(self) -> int:
        """Count them, each as one however large it is."""
        return len(self._things)

    def put(self, *things: Workflow | Upload | list[Any] | dict[Any, Any]) -> None:
        """Take things over."""
        self._things.extend(things)

    def sweep(self, count: int) -> None:
        """Free up to `count` parts."""
        things = self._things
        while things and count > 0:
            thing = things[0]
            parts = _parts_of(thing)
            if parts is not None:
                things.popleft()
                things.extendleft(parts)
                count -= 1
                continue
            taken = min(count, len(thing))
            if isinstance(thing, dict):
                for _ in range(taken):
                    thing.popitem()
            elif taken:
                del thing[-taken:]
            if not thing:
                things.popleft()
            count -= max(1, taken)


def _parts_of(thing: object) -> Iterable[Any] | None:
    """Return what is large in a thing; None for a plain list or dict."""
    if isinstance(thing, Workflow):
        thing.profiles, thing.dependents, thing.tasks = (
            list(thing.profiles),
            list(thing.dependents),
            list(thing.tasks),
        )
        parts = [thing.profiles, thing.dependents, thing.by_id, thing.tasks]
        if thing.steps is not None:
            parts += [thing.steps.rows, thing.steps.places, thing.steps.by_task]
        if thing.effects is not None:
            parts += [thing.effects.rows, thing.effects.numbers, thing.effects.by_task, thing.effects.unrecorded]
        if thing.waits is not None:
            parts += [thing.waits.rows, *thing.waits.listening.values()]
        if thing.signals is not None:
            parts += [thing.signals.keys, thing.signals.kept]
        return parts
    if isinstance(thing, Upload):
        return (thing.workflow, thing.pieces, thing.dependents, thing.tasks)
    return None
