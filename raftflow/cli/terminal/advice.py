"""What to do about a task that waits or failed, for each reason that a coordinator gives."""

from __future__ import annotations

from raftflow.domain.contract.views import TaskExplanation, WaitingKind

_ADVICE: dict[WaitingKind, str] = {
    "needs": "look at what it needs: `raftflow task explain {workflow} {first}`",
    "equal-task": "nothing; without `cache` in its document it would run by itself",
    "back-off": "nothing; `retry_delay` and `retry_delay_max` in the document set the pause between attempts",
    "paused": "`raftflow workflow resume {workflow}`",
    "no-agent": "start an agent: `raftflow agent run`",
    "never-fits": (
        "compare the demand of the task with `raftflow agent list`; then start an agent that offers it (`raftflow "
        "agent run` "
        "with --resource and --label), or submit the workflow with a smaller demand"
    ),
    "agents-away": (
        "see their states with `raftflow agent list`; `raftflow agent resume NAME` ends a drain, a quarantine ends "
        "by itself"
    ),
    "max-parallel": "nothing; `max_parallel` in the document sets how many of its tasks run at once",
    "exclusive": "wait until an agent is empty, or start another one; `constraints.exclusive` in the document asks "
    "for it",
    "reserved": "nothing; an agent is kept free, so that small tasks do not overtake a large one for ever",
    "avoids": "wait for an agent that is busy now, or start another one that can run it",
    "no-room": "wait until running tasks end, start another agent, or give its workflow a higher `priority`",
    "next": "nothing; if this does not change within seconds, `raftflow cluster status` shows whether there is a "
    "leader",
    "queued": "nothing; it starts when those before it have ended",
    "budget": "`raftflow workflow budget show {workflow}`, then `raftflow workflow budget raise {workflow} "
    "NAME=AMOUNT`",
    "effect": "find out whether it has happened, then `raftflow effect resolve ID --done RESULT`, or `--retry`, or "
    "`--fail`",
    "rate": "nothing, if the limit is set; `raftflow limit list` shows the limits, `raftflow limit set` changes one",
    "signal": "send it: `raftflow signal send {workflow} NAME [JSON]`",
    "approval": "decide it: `raftflow approval list`, then `raftflow approval approve ID` or `deny ID`",
    "children": "look at what it waits for: `raftflow task explain {workflow} {first}`",
}
_FAILED = (
    "read `raftflow task logs {workflow} {task} --stderr`, correct the cause, then `raftflow workflow retry "
    "{workflow}` runs "
    "it again"
)


def advice_for(explanation: TaskExplanation, workflow_id: str) -> str:
    """Return what somebody can do, empty if there is nothing to be done."""
    told = _FAILED if explanation.state == "failed" else _ADVICE.get(explanation.waiting, "")
    first = explanation.waits_for[0] if explanation.waits_for else "TASK"
    return told.format(workflow=workflow_id, task=explanation.id, first=first)
