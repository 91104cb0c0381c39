"""Code bundles."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.values.code_bundle import is_digest
from raftflow.machine.schema.declaration import Limit, Reason, Table, saved_rows
from raftflow.machine.tables.bundles import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow


def _add(state: State, bundle: Bundle) -> None:
    state.bundles.add(bundle)


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    uploads = [upload.workflow for upload in state.uploads.values()]
    referred = Counter(workflow.code for workflow in (*state.workflows.values(), *uploads))
    for digest, bundle in state.bundles.items():
        if bundle.digest != digest or not is_digest(digest) or not 0 < bundle.size <= limits.BUNDLE_BYTES_MAX:
            yield f"code bundle {digest!r} makes no sense"
        if max(bundle.registered_ms, bundle.used_ms) > clock_ms:
            yield f"code bundle {digest} was used in the future"
        if bundle.workflows != (count := referred[digest]):
            yield f"code bundle {digest}: {bundle.workflows} workflows counted that refer to it, there are {count}"
    for digest in referred:
        if digest and digest not in state.bundles:
            yield f"a workflow refers to the code bundle {digest}, which is not known"
    if state.bundles.size > limits.BUNDLES_BYTES_MAX:
        yield f"code bundles of {state.bundles.size} bytes, the limit is {limits.BUNDLES_BYTES_MAX}"


def _retire(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        state.bundles.release(workflow.code, workflow.finished_ms)


BUNDLES = Table(
    name="bundles",
    about="code bundles by digest, in the order in which they were registered",
    saved=saved_rows(field=19, kind=b"B", row=Bundle, rows=lambda state: state.bundles.values(), add=_add),
    derive=Reason("nothing of it follows from other tables"),
    problems=_problems,
    limit=Limit(name="BUNDLES_MAX", rows=lambda state: len(state.bundles)),
    retire=_retire,
    parts=lambda state: (state.bundles,),
)
