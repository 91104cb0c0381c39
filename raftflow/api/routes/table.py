"""All routes: every operation of the contract with its handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.api.routes import (
    agents,
    bundles,
    cache,
    cluster,
    descriptions,
    host,
    inputs,
    logs,
    members,
    metrics,
    snapshots,
    workflows,
)
from raftflow.api.routes.effects import effects
from raftflow.api.routes.events import events
from raftflow.api.routes.identities import refusals, tokens
from raftflow.api.routes.spending import budgets, rates
from raftflow.api.routes.waits import waits

if TYPE_CHECKING:
    from raftflow.api.admission.gated_connection import AdmissionControl
    from raftflow.api.diagnostics.host_facts import HostFacts
    from raftflow.api.dispatch.requests import Route
    from raftflow.api.figures.refusals import RefusedRequests


def routes_of(admission: AdmissionControl, host_facts: HostFacts, refused: RefusedRequests) -> tuple[Route, ...]:
    """Return the routes of a replica."""
    return (
        *workflows.ROUTES,
        *logs.ROUTES,
        *agents.ROUTES,
        *inputs.ROUTES,
        *cluster.ROUTES,
        *events.ROUTES,
        *snapshots.ROUTES,
        *members.ROUTES,
        *cache.ROUTES,
        *bundles.ROUTES,
        *budgets.ROUTES,
        *rates.ROUTES,
        *effects.ROUTES,
        *waits.ROUTES,
        *tokens.ROUTES,
        *descriptions.ROUTES,
        metrics.route_of(admission),
        host.route_of(host_facts),
        refusals.route_of(refused),
    )
