"""Routes of code bundles."""

from __future__ import annotations

from raftflow.api.dispatch.requests import Cost, Request, Response, Route, require_accepted, require_found
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError, from_rejection
from raftflow.coordinator.bundles.store import BundleMissingError
from raftflow.domain.contract import operations
from raftflow.domain.contract.operations.bundles import READ_BUNDLE
from raftflow.domain.contract.workflows import BundleKept, BundleList, BundleView
from raftflow.domain.limits import BUNDLE_BYTES_MAX
from raftflow.domain.values.code_bundle import is_digest
from raftflow.machine.read.bundles import bundle_view

_CURE = (
    f"a code bundle has at most {BUNDLE_BYTES_MAX} bytes: leave out what is not code, or put data where agents "
    "can read it"
)


async def send_bundle(call: Request) -> Response:
    """Keep a bundle on a majority of the replicas, and register it."""
    digest, replica = _digest(call), call.replica
    try:
        reply = await replica.bundles.receive(
            digest, call.body, call.actor, lambda command: replica.propose(command, call.client)
        )
    except OSError as error:
        raise ProblemError(
            problems.INTERNAL, f"the disk of this replica does not take the bundle: {error}"
        ) from error
    require_accepted(reply)
    return Response(_view(call, digest))


async def list_bundles(call: Request) -> Response:
    """List the bundles."""
    return Response(BundleList(bundles=[bundle_view(each) for each in call.replica.machine.tables.bundles.values()]))


async def show_bundle(call: Request) -> Response:
    """Show a bundle."""
    return Response(_view(call, _digest(call)))


async def read_bundle(call: Request) -> Response:
    """Return a piece of a bundle that is on the disk of this replica."""
    digest, offset, limit = _digest(call), call.require_number("offset"), call.require_number("limit")
    try:
        piece = await call.replica.bundles.read(digest, offset, limit)
    except BundleMissingError:
        raise ProblemError(
            problems.BEHIND, f"this replica does not have the code bundle {digest}; ask another one, or try again"
        ) from None
    except OSError as error:
        raise ProblemError(problems.INTERNAL, f"the code bundle cannot be read: {error}") from error
    return Response(piece, headers={"Content-Type": READ_BUNDLE.media_type})


async def keep_bundle(call: Request) -> Response:
    """Keep a copy of a bundle for the leader."""
    digest = _digest(call)
    try:
        refusal = await call.replica.bundles.keep(digest, call.body)
    except OSError as error:
        raise ProblemError(problems.INTERNAL, f"the disk does not take the bundle: {error}") from error
    if refusal is not None:
        raise from_rejection(refusal)
    return Response(BundleKept(digest=digest))


def _digest(call: Request) -> str:
    digest = call.path("digest")
    if not is_digest(digest):
        raise ProblemError(
            problems.INVALID_DOCUMENT, f"{digest[:80]!r} is not a digest: 64 hexadecimal digits in lower case"
        )
    return digest


def _view(call: Request, digest: str) -> BundleView:
    bundle = require_found(call.replica.machine.tables.bundles.get(digest), f"code bundle {digest}")
    return bundle_view(bundle)


ROUTES: tuple[Route, ...] = (
    Route(operations.bundles.SEND_BUNDLE, send_bundle, cost=Cost.LARGE, cure=_CURE),
    Route(operations.bundles.LIST_BUNDLES, list_bundles, cost=Cost.LARGE),
    Route(operations.bundles.SHOW_BUNDLE, show_bundle),
    Route(READ_BUNDLE, read_bundle),
    Route(operations.bundles.KEEP_BUNDLE, keep_bundle, cure=_CURE),
)
