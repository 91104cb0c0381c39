"""What roles grant."""

from __future__ import annotations

from raftflow.domain.contract.identities.grants import ALL, GRANTS, is_granted, roles_for
from raftflow.domain.contract.operation import Access
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.values.roles import ROLES


def test_each_role_has_its_grants_and_no_more() -> None:
    assert [*GRANTS] == [*ROLES, ALL]
    assert roles_for(Access.READ) == ["read", "submit", "approve", "operate", "admin"]
    assert roles_for(Access.SUBMIT) == ["submit", "operate", "admin"]
    assert roles_for(Access.APPROVE) == ["approve", "operate", "admin"]
    assert roles_for(Access.OPERATE) == ["operate", "admin"]
    assert roles_for(Access.ADMIN) == ["admin"] and roles_for(Access.AGENT) == ["agent"]
    assert roles_for(Access.REPLICA) == [], "replicas come with the token of the configuration"
    assert all(is_granted(role, Access.OPEN) for role in ("nobody", *GRANTS))
    assert not any(is_granted("nobody", access) for access in Access if access is not Access.OPEN)
    assert all(is_granted(ALL, access) for access in Access)


def test_an_agent_may_do_what_agents_do_and_nothing_else() -> None:
    assert [operation.name for operation in OPERATIONS if is_granted("agent", operation.access)] == [
        "register_agent",
        "poll",
        "send_calls",
        "fetch_inputs",
        "show_leader",
        "check_health",
        "check_readiness",
        "read_bundle",
        "show_identity",
        "show_workflow_schema",
        "describe_api",
    ]


def test_who_has_no_token_may_ask_for_health_and_for_the_schema_of_documents_alone() -> None:
    """Figures and the description of the API tell of the cluster, so they need a token."""
    open_to_all = {operation.name for operation in OPERATIONS if operation.access is Access.OPEN}
    assert open_to_all == {"check_health", "check_readiness", "show_workflow_schema"}
    (figures,) = [operation for operation in OPERATIONS if operation.path == "/metrics"]
    assert figures.access is Access.READ
