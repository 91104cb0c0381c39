"""What an attempt asks when it waits for a signal or for a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from raftflow.agent.calls.requests import AskApproval, AskSignal, accept, refuse
from raftflow.domain.contract.views import KnownStep, RefusedCall, StartWait, WaitAnswered
from raftflow.domain.tasks.waits import FUNCTIONS, ApprovalRequest, AskedKind

if TYPE_CHECKING:
    from raftflow.agent.calls.channel import Channel, Write
    from raftflow.domain.contract.views import AnyAnswer

    FindStep = Callable[[Any, str, Write, Callable[[int, KnownStep | None], None]], None]
    """Begins a step and looks for its record (`CallingAttempt.find_step`)."""


class WaitRequests:
    """Answers requests of one attempt about waits."""

    def __init__(
        self, fence: int, channel: Channel, find_step: FindStep, fail: Callable[[tuple[str, int]], bool]
    ) -> None:
        self._fence = fence
        self._channel = channel
        self._find_step = find_step
        self._fail = fail
        self.open: list[int] = []
        """Waits that the attempt was told are open."""
        self.handlers: dict[type[Any], Callable[[Any, Write], None]] = {
            AskSignal: self._ask_signal,
            AskApproval: self._ask_approval,
        }

    def _ask_signal(self, request: AskSignal, write: Write) -> None:
        self._begin(request, "signal", request.schema, request.on_timeout, write)

    def _ask_approval(self, request: AskApproval, write: Write) -> None:
        name = request.name or request.title
        asked = ApprovalRequest(request.title, request.details, request.choices)
        on_timeout: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        if request.on_timeout is not None:
            on_timeout = msgspec.Raw(msgspec.json.encode(request.on_timeout))
        named = msgspec.structs.replace(request, name=name)
        self._begin(named, "approval", msgspec.Raw(msgspec.json.encode(asked)), on_timeout, write)

    def _begin(
        self,
        request: AskSignal | AskApproval,
        kind: AskedKind,
        asked: msgspec.Raw | msgspec.UnsetType,
        on_timeout: msgspec.Raw | msgspec.UnsetType,
        write: Write,
    ) -> None:
        def found(occurrence: int, known: KnownStep | None) -> None:
            if known is not None:
                write(accept(request.id, {"record": known.result}))
                return
            call = StartWait(
                fence=self._fence,
                kind=kind,
                name=request.name,
                occurrence=occurrence,
                timeout=request.timeout,
                on_timeout=on_timeout,
                request=asked,
            )

            def told(answer: AnyAnswer) -> None:
                if isinstance(answer, WaitAnswered) and answer.wait:
                    self.open.append(answer.wait)
                    write(accept(request.id, {"wait": answer.wait}))
                elif isinstance(answer, WaitAnswered):
                    write(accept(request.id, {"record": answer.record}))
                else:
                    assert isinstance(answer, RefusedCall)  # noqa: S101 - the contract
                    self._fail((request.name, occurrence))
                    write(refuse(request.id, answer.type, answer.detail))

            self._channel.send(call, told)

        self._find_step(request, FUNCTIONS[kind], write, found)
