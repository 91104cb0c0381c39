"""Names of scheduling policies on the command line. The registry is read only when a command needs it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click


class PolicyName(click.ParamType[str]):
    """The name of a registered policy; with `placement`, of one that can place ready tasks."""

    name = "policy"

    def __init__(self, *, placement: bool = False) -> None:
        self._placement = placement

    def names(self) -> list[str]:
        """Return the names that are accepted, in the order of the registry."""
        from raftflow.scheduler.policies import PLACEMENT_RULES, POLICIES  # noqa: PLC0415 - heavy

        return list(PLACEMENT_RULES if self._placement else POLICIES)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the names for the help text."""
        del param, ctx
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Fails for a policy that is not registered."""
        return click.Choice(self.names()).convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Complete a name."""
        return click.Choice(self.names()).shell_complete(ctx, param, incomplete)


def policy_rows() -> Iterable[tuple[str, str]]:
    """Yield the name of each policy and what it does, for `raftflow help policies`."""
    from raftflow.scheduler.policies import POLICIES  # noqa: PLC0415 - heavy

    for policy in POLICIES.values():
        yield policy.name, f"{policy.help}. {_weighs(policy.weighs)}"


def _weighs(weighs: str | None) -> str:
    return "For plans only." if weighs is None else f"Weighs {weighs}."
