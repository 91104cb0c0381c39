"""The feature level: raising it, and refusing what needs a higher one."""

from __future__ import annotations

from raftflow.domain.commands import RaiseFeatureLevel
from raftflow.domain.features import FeatureLevelError
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.machine.rules.context import ApplyContext


def raise_level(step: ApplyContext, command: RaiseFeatureLevel) -> Done | Rejection:
    """Raise the cluster's level. Raises `FeatureLevelError` on a replica that does not understand it."""
    state = step.state
    behind = [told.member for told in command.supported if told.level < command.level]
    if not command.supported:
        return Rejection(RejectionCode.INVALID, "nobody is said to understand the feature level")
    if behind:
        return Rejection(
            RejectionCode.CONFLICT,
            f"feature level {command.level} is not understood by {', '.join(behind)}; upgrade them first",
        )
    if command.level <= state.feature_level:
        return Done(changed=False)
    if command.level > step.level_max:
        raise FeatureLevelError(command.level, step.level_max)
    state.feature_level = command.level
    return Done()


def refusal(tag: str, needed: int, level: int) -> Rejection:
    """Return the refusal of a command that needs a higher level."""
    return Rejection(
        RejectionCode.FEATURE_LEVEL,
        f"{tag} needs feature level {needed}, and the cluster is on {level}: not all of its replicas understand it "
        f"yet. Upgrade the others first",
    )
