"""What must hold of effects. A model that knows nothing of the machine's tables follows commands, programs and calls.

doubled effect             the service did twice what must not happen twice
call without intent        a program called although its attempt had no intent in the log
other key                  two calls for one effect had different keys
effect of a dead attempt   an intent or an outcome came from an attempt that was not live, or did not hold the intent
effect recorded twice      an effect has two outcomes, or two persons resolved it
wrong effect               a program was told another result than the one that the service gave and the log has
effect lost                an outcome of which a program was told is not in the state at the end
not reported               a task succeeded, and one of its effects has neither an outcome nor is uncertain
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.commands import BeginEffect, EndEffect, ResolveEffect
from raftflow.domain.replies import Done, EffectBegun, EffectEnded
from raftflow.machine.read.effects import list_effects
from raftflow.machine.read.steps import recorded_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine
    from raftflow.simulation.checkers.attempt_checks import AttemptModel
    from raftflow.simulation.world.observer import EffectCall, TaskKey

Effect = tuple["TaskKey", str, int]
"""Task, name, occurrence."""


class EffectChecks:
    """Follows the effects of all tasks.

    Args:
        violation: told what must never happen.
        attempts: the model of attempts, which has followed the same command before.
    """

    def __init__(self, violation: Callable[[str, str], None], attempts: AttemptModel) -> None:
        self._violation = violation
        self._attempts = attempts
        self._holder: dict[Effect, tuple[int, int]] = {}
        """The attempt whose intent is in the log: its fence, and which of its beginnings that is."""
        self._uncertain: dict[Effect, None] = {}
        """Effects that wait for a decision."""
        self._numbers: dict[int, Effect] = {}
        self._recorded: dict[Effect, bytes | None] = {}
        """Results that are in the log, None for what a person resolved as failed."""
        self._keys: dict[Effect, str] = {}
        self._told: dict[Effect, None] = {}
        self.called = 0
        self.reported = 0
        """Effects that were reported as uncertain."""

    # --- the log

    def follow(self, command: AnyCommand, reply: AnyReply) -> None:
        """Follow a command that is applied for the first time."""
        if isinstance(command, BeginEffect) and isinstance(reply, EffectBegun):
            self._begin(command, reply)
        elif isinstance(command, EndEffect) and isinstance(reply, EffectEnded) and reply.changed:
            self._end(command)
        elif isinstance(command, ResolveEffect) and isinstance(reply, Done):
            self._resolve(command)

    def _effect_of(self, command: BeginEffect | EndEffect) -> Effect | None:
        live = self._attempts.live.get(command.fence)
        if live is None or live[1] != command.agent:
            told = f"{command.name} {command.occurrence} of fence {command.fence} on {command.agent}; {live} is live"
            self._violation("effect of a dead attempt", told)
            return None
        return live[0], command.name, command.occurrence

    def _begin(self, command: BeginEffect, reply: EffectBegun) -> None:
        effect = self._effect_of(command)
        if effect is None:
            return
        self._numbers[reply.number] = effect
        if reply.status in {"begun", "open"}:
            held, _ = self._holder.get(effect, (command.fence, 0))
            if held != command.fence and held in self._attempts.live:
                self._violation("effect of a dead attempt", f"{effect} of fence {held} is taken by {command.fence}")
            self._holder[effect] = command.fence, command.begin

    def _end(self, command: EndEffect) -> None:
        effect = self._effect_of(command)
        if effect is None:
            return
        if self._holder.get(effect) != (command.fence, command.begin):
            self._violation("effect of a dead attempt", f"{effect} is held by {self._holder.get(effect)}: {command}")
        if command.outcome == "done":
            self._record(effect, command.result)
        else:
            self._holder.pop(effect, None)
            if command.outcome == "uncertain":
                self._uncertain[effect] = None
                self.reported += 1

    def _resolve(self, command: ResolveEffect) -> None:
        effect = self._numbers[command.number]
        if effect not in self._uncertain:
            self._violation("effect recorded twice", f"{effect} was resolved before {command}")
        self._uncertain.pop(effect, None)
        if command.resolution != "retry":
            self._record(effect, command.result if command.resolution == "done" else None)

    def _record(self, effect: Effect, result: bytes | None) -> None:
        if effect in self._recorded:
            self._violation("effect recorded twice", f"{effect}: {self._recorded[effect]!r}, then {result!r}")
        self._recorded[effect] = result

    # --- programs

    def effect_called(self, call: EffectCall, *, again: bool) -> None:
        """A program called the service outside."""
        self.called += 1
        effect = call.task, call.name, call.occurrence
        if again:
            self._violation("doubled effect", f"fence {call.fence} calls again for {effect}")
        held, _ = self._holder.get(effect, (None, 0))
        if held != call.fence:
            self._violation("call without intent", f"fence {call.fence} calls for {effect}; {held} holds the intent")
        if self._keys.setdefault(effect, call.idempotency_key) != call.idempotency_key:
            self._violation("other key", f"{effect} has {self._keys[effect]} and {call.idempotency_key}")

    def effect_told(self, task: TaskKey, key: tuple[str, int], result: str | None) -> None:
        """A program was told that an effect is recorded."""
        effect = (task, *key)
        self._told[effect] = None
        expected = None if result is None else b'"%s"' % result.encode()
        if effect not in self._recorded or self._recorded[effect] != expected:
            self._violation(
                "wrong effect", f"{effect} is told as {result}: {self._recorded.get(effect, 'nothing')!r}"
            )

    # --- the end

    def check_end(self, name: str, machine: Machine) -> None:
        """What programs were told is in the state of a replica, and no success leaves an effect open."""
        for (workflow_id, task_id), *key in self._told:
            keys = recorded_keys(machine, workflow_id, task_id)
            if keys is not None and tuple(key) not in keys:
                self._violation("effect lost", f"{name} lacks {key} of {workflow_id}/{task_id}")
        for effect in list_effects(machine, unresolved=True):
            if self._attempts.states.get((effect.workflow, effect.task)) == "succeeded":
                self._violation("not reported", f"{effect.workflow}/{effect.task} succeeded: {effect}")
