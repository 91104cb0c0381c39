"""Taking work back from an agent's queue while the agent stays: what waits at a busy one can run on an idle one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.tasks.states import TaskState
from raftflow.machine.rules.stopping import order_attempt
from raftflow.machine.tables.tasks import ORDER_NONE, ORDER_RELEASE, attempt_of

if TYPE_CHECKING:
    from raftflow.domain.commands import RecallAttempts
    from raftflow.machine.rules.context import ApplyContext


def recall_attempts(step: ApplyContext, command: RecallAttempts) -> Done | Rejection:
    """Ask an agent to give some of its queued attempts back. What is not, or no longer, in its queue is left alone.

    The task stays with the agent until the agent has given it back: it may have started the attempt by now. So this
    can never make a task run twice.
    """
    agent = step.state.agents.get(command.agent)
    if agent is None or agent.incarnation != command.incarnation or not agent.present:
        return Rejection(
            RejectionCode.STALE_INCARNATION,
            f"agent {command.agent[:80]!r} is not present under incarnation {command.incarnation}: it holds nothing "
            "that could be recalled",
        )
    changed = False
    for fence in command.fences:
        found = agent.live.get(fence)
        if found is None:
            continue
        workflow, task = found
        attempt = attempt_of(task, fence)
        if task.state is TaskState.QUEUED and attempt.order == ORDER_NONE:
            order_attempt(step, workflow, task, attempt, ORDER_RELEASE)
            changed = True
    return Done(changed=changed)
