"""What each role may do: together with `Operation.access` this is the whole table of rights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftflow.domain.contract.operation import Access

ALL: Final = "all"
"""The role of the token of the configuration, and of everybody in a cluster without one."""

_LOOK: Final = frozenset({Access.ANY, Access.READ})
_OPERATE: Final = _LOOK | {Access.SUBMIT, Access.APPROVE, Access.OPERATE}
_ADMIN: Final = _OPERATE | {Access.ADMIN}

GRANTS: Final[Mapping[str, frozenset[Access]]] = {
    "read": _LOOK,
    "submit": _LOOK | {Access.SUBMIT},
    "approve": _LOOK | {Access.APPROVE},
    "operate": _OPERATE,
    "admin": _ADMIN,
    "agent": frozenset({Access.ANY, Access.AGENT}),
    ALL: _ADMIN | {Access.AGENT, Access.REPLICA},
}
"""By role. Operations that are open to everybody need no role. Those of replicas need a proof as well."""


def is_granted(role: str, access: Access) -> bool:
    """Tell whether a role may use operations with this access."""
    return access is Access.OPEN or access in GRANTS.get(role, frozenset())


def roles_for(access: Access) -> list[str]:
    """Return the roles that may, apart from `all`, in order."""
    return [role for role, granted in GRANTS.items() if role != ALL and access in granted]
