"""What comes before workflows: those that come in pieces, and the code bundles that they refer to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.values.code_bundle import is_digest
from raftflow.machine.schema.declaration import (
    Frozen,
    Limit,
    Reason,
    Restoring,
    Saved,
    SnapshotError,
    Table,
    saved_rows,
)
from raftflow.machine.tables.bundles import Bundle
from raftflow.machine.tables.uploads import Upload, UploadRecord, decode_piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.machine.schema.declaration import Frame
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow

_UPLOAD, _PIECE = b"U", b"I"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UploadRecord)


def _freeze(state: State, _: CopyOnWrite) -> Frozen:
    # Pieces are only ever added, and never change.
    uploads = [(upload.record(), list(upload.pieces)) for upload in state.uploads.values()]

    def frames() -> Iterator[Frame]:
        for record, pieces in uploads:
            yield _UPLOAD, _encoder.encode(record)
            for piece in pieces:
                yield _PIECE, piece

    return Frozen(len(uploads), frames())


class UploadReader:
    """Reads uploads, each followed by its pieces, which are added again."""

    def __init__(self, restoring: Restoring) -> None:
        self._state = restoring.state
        self._upload: Upload | None = None
        """The one whose pieces come now."""
        self._pieces = 0
        """How many it has."""

    def take(self, kind: bytes, payload: bytes) -> None:
        """Read an upload or a piece."""
        if kind == _UPLOAD:
            self.finish()
            self._begin(_decoder.decode(payload))
        else:
            self._add(payload)

    def _begin(self, record: UploadRecord) -> None:
        if not (
            0 <= record.tasks <= limits.TASKS_PER_WORKFLOW_MAX
            and 0 <= record.needs <= limits.EDGES_PER_WORKFLOW_MAX
            and len(self._state.uploads) < limits.UPLOADS_MAX
        ):
            raise SnapshotError(
                f"{record.id}: an upload of {record.tasks} tasks and {record.needs} needs makes no sense"
            )
        self._upload = self._state.uploads[record.id] = Upload(
            record.id,
            record.name,
            priority=record.priority,
            on_failure=record.on_failure,
            max_parallel=record.max_parallel,
            tasks=record.tasks,
            needs=record.needs,
            code=record.code,
            budgets=record.budgets,
        )
        self._pieces = record.pieces

    def _add(self, payload: bytes) -> None:
        upload = self._upload
        if upload is None:
            raise SnapshotError("a piece without an upload")
        profiles, tasks = decode_piece(payload)
        problems = upload.problems(profiles, tasks)
        if problems:
            raise SnapshotError(f"{upload.workflow.id}: {problems[0].path}: {problems[0].message}")
        upload.add(self._state.shape, profiles, tasks)

    def finish(self) -> None:
        """Check that the present upload is complete."""
        upload = self._upload
        if upload is not None and len(upload.pieces) != self._pieces:
            raise SnapshotError(f"{upload.workflow.id}: some of its pieces are missing")


def _problems(state: State, _: int) -> Iterator[str]:
    for name, upload in state.uploads.items():
        for problem in _upload_problems(name, upload):
            yield f"upload {name}: {problem}"


def _upload_problems(name: str, upload: Upload) -> Iterator[str]:
    """An upload is what its pieces give."""
    workflow = upload.workflow
    if workflow.id != name or workflow.number or workflow.tasks or workflow.placed:
        yield "is in the table under another name, or is a workflow already"
    tasks = [task for task in upload.tasks if task is not None]
    if len(tasks) != upload.arrived or {task.id: task for task in tasks} != workflow.by_id:
        yield f"{upload.arrived} tasks have come, there are {len(tasks)}"
    if sum(len(task.needs) for task in tasks) != upload.needs_arrived or upload.needs_arrived > upload.needs:
        yield f"{upload.needs_arrived} of {upload.needs} needs have come"
    below: list[list[int]] = [[] for _ in upload.tasks]
    for task in tasks:
        for need in task.waited:
            below[need].append(task.position)
        if any(upload.tasks[need] is None for need in task.needs) or task.open_needs != len(task.waited):
            yield f"the task {task.id} came before what it needs"
    if [tuple(positions) for positions in below] != [tuple(positions) for positions in upload.dependents]:
        yield "the table of dependents does not match its tasks"
    counts = [sum(task.state is state for task in tasks) for state in TaskState]
    if counts != workflow.counts or workflow.open != len(tasks):
        yield f"counts {workflow.counts}, its tasks give {counts}"


UPLOADS = Table(
    name="uploads",
    about="workflows that come in pieces, in the order in which they were begun",
    saved=Saved(field=16, kinds=(_UPLOAD, _PIECE), freeze=_freeze, reader=UploadReader),
    derive=Reason("the pieces are added again while they are read"),
    problems=_problems,
    limit=Limit(name="UPLOADS_MAX", rows=lambda state: len(state.uploads)),
    retire=Reason("an upload is not a workflow yet"),
    parts=lambda state: (state.uploads, *state.uploads.values()),
)


def _derive_tasks(restoring: Restoring) -> None:
    state = restoring.state
    state.upload_tasks = sum(len(upload.tasks) for upload in state.uploads.values())


def _task_problems(state: State, _: int) -> Iterator[str]:
    upload_tasks = sum(len(upload.tasks) for upload in state.uploads.values())
    if state.upload_tasks != upload_tasks:
        yield f"{state.upload_tasks} tasks of {len(state.uploads)} uploads counted, there are {upload_tasks}"


UPLOAD_TASKS = Table(
    name="upload_tasks",
    about="number of tasks that the uploads will have",
    saved=Reason("the uploads tell it"),
    derive=_derive_tasks,
    problems=_task_problems,
    limit=Limit(name="LIVE_TASKS_MAX", rows=lambda state: state.live_tasks + state.upload_tasks),
    retire=Reason("an upload is not a workflow yet"),
    parts=Reason("a number"),
)


# --- code bundles


def _add_bundle(state: State, bundle: Bundle) -> None:
    state.bundles.add(bundle)


def _bundle_problems(state: State, clock_ms: int) -> Iterator[str]:
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


def _release(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        state.bundles.release(workflow.code, workflow.finished_ms)


BUNDLES = Table(
    name="bundles",
    about="code bundles by digest, in the order in which they were registered",
    saved=saved_rows(field=19, kind=b"B", row=Bundle, rows=lambda state: state.bundles.values(), add=_add_bundle),
    derive=Reason("nothing of it follows from other tables"),
    problems=_bundle_problems,
    limit=Limit(name="BUNDLES_MAX", rows=lambda state: len(state.bundles)),
    retire=_release,
    parts=lambda state: (state.bundles,),
)
