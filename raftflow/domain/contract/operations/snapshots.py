"""Operations of snapshots of the whole cluster."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.cluster import SnapshotView
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param, Verb

TAKE_SNAPSHOT: Final = Operation(
    name="take_snapshot",
    method="GET",
    path="/v1/snapshot",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.ADMIN,
    summary="Write a snapshot of everything that is applied, and open it to be read",
    answer=SnapshotView,
    extra_problems=(problems.CONFLICT,),
    answer_s=120.0,  # writing a snapshot of a large state takes a while
    verb=Verb(noun="snapshot", name="save", by_hand=True),
)
READ_SNAPSHOT: Final = Operation(
    name="read_snapshot",
    method="GET",
    path="/v1/snapshots/{id}",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.ADMIN,
    summary="Read a piece of a snapshot from the replica that took it",
    answer=bytes,
    media_type="application/octet-stream",
    params=(
        Param("offset", "integer", "byte of the file to begin at", maximum=limits.BYTE_OFFSET_MAX, default=0),
        Param(
            "limit",
            "integer",
            "most bytes",
            minimum=1,
            maximum=limits.SNAPSHOT_PIECE_BYTES_MAX,
            default=limits.SNAPSHOT_PIECE_BYTES_MAX,
        ),
    ),
    answer_s=30.0,
    no_verb="it is a part of `snapshot save`",
)
