"""Operations of code bundles."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param, UsedBy, Verb
from raftflow.domain.contract.workflows import BundleKept, BundleList, BundleView

_BINARY: Final = "application/octet-stream"

SEND_BUNDLE: Final = Operation(
    name="send_bundle",
    method="POST",
    path="/v1/bundles/{digest}",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.SUBMIT,
    summary="Send a code bundle, to which workflows can refer then",
    details="It is on the disks of a majority of the replicas when the answer comes.",
    answer=BundleView,
    body=bytes,
    body_media_type=_BINARY,
    extra_problems=(problems.TOO_LARGE,),
    answer_s=30.0,
    verb=Verb(noun="bundle", name="send", by_hand=True),
)
LIST_BUNDLES: Final = Operation(
    name="list_bundles",
    method="GET",
    path="/v1/bundles",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List the code bundles that the cluster keeps",
    answer=BundleList,
    items="bundles",
    verb=Verb(
        noun="bundle",
        name="list",
        columns={
            "DIGEST": "digest",
            "BYTES": "size",
            "WORKFLOWS": "workflows",
            "REGISTERED": "registered_at",
            "USED": "used_at",
        },
    ),
)
SHOW_BUNDLE: Final = Operation(
    name="show_bundle",
    method="GET",
    path="/v1/bundles/{digest}",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show a code bundle",
    answer=BundleView,
    verb=Verb(noun="bundle", name="show"),
)
READ_BUNDLE: Final = Operation(
    name="read_bundle",
    method="GET",
    path="/v1/bundles/{digest}/content",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.AGENT,
    summary="Read a piece of a code bundle",
    details="A replica that does not have the bundle yet says so with 503.",
    answer=bytes,
    media_type=_BINARY,
    used_by=UsedBy.AGENT,
    params=(
        Param("offset", "integer", "byte of the bundle to begin at", maximum=limits.BYTE_OFFSET_MAX, default=0),
        Param(
            "limit",
            "integer",
            "most bytes",
            minimum=1,
            maximum=limits.BUNDLE_PIECE_BYTES_MAX,
            default=limits.BUNDLE_PIECE_BYTES_MAX,
        ),
    ),
    extra_problems=(problems.BEHIND,),
)
KEEP_BUNDLE: Final = Operation(
    name="keep_bundle",
    method="POST",
    path="/v1/bundles/{digest}/copy",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Keep a copy of a code bundle on the disk of this replica",
    details="Replicas send it to each other, and prove with the secret of the cluster that they are replicas.",
    answer=BundleKept,
    access=Access.REPLICA,
    used_by=UsedBy.REPLICA,
    body=bytes,
    body_media_type=_BINARY,
    extra_problems=(problems.TOO_LARGE,),
)
