"""Code bundles in the replicated state: registered, referred to, forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import BundlesRetired, Done
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.bundles import bundle_view, unused_bundles
from raftflow.machine.read.exchange import assignments

CODE, OTHER = "a" * 64, "b" * 64


def spec(code: str = CODE, **more: Any) -> WorkflowSpec:
    tasks = tuple(TaskSpec(id=f"t{number}", program=CommandLine(("x",)), **more) for number in range(3))
    return WorkflowSpec(name="w", tasks=tasks, code=code)


def register(drive: Any, digest: str = CODE, size: int = 100) -> Any:
    return drive.do(c.RegisterBundle(at_ms=drive.now_ms, actor="client:test", digest=digest, size=size))


def retire(drive: Any, *digests: str, unused_ms: int = 0) -> tuple[str, ...]:
    reply = drive.do(c.RetireBundles(at_ms=drive.now_ms, actor="leader", digests=digests, unused_ms=unused_ms))
    assert isinstance(reply, BundlesRetired)
    return reply.digests


def test_a_workflow_needs_a_bundle_that_is_registered(drive: Any) -> None:
    refusal = drive.submit(spec())
    assert refusal.code is RejectionCode.NOT_FOUND and "send the bundle" in refusal.message
    assert register(drive) == Done()
    drive.submit(spec())
    assert queries.workflow_view(drive.machine, "wf-1").code == CODE
    assert drive.machine.state.bundles[CODE].workflows == 1


def test_the_assignment_names_the_bundle(drive: Any) -> None:
    register(drive)
    drive.submit(spec())
    drive.register(cpu=4)
    drive.place(0)
    assert [each.code for each in assignments(drive.machine, "a1", 0)] == [CODE]


def test_a_known_bundle_counts_as_used_now(drive: Any) -> None:
    register(drive)
    drive.now_ms += 5_000
    assert register(drive) == Done(changed=False)
    drive.now_ms += 3_000
    assert retire(drive, CODE, unused_ms=4_000) == ()
    assert retire(drive, CODE, unused_ms=3_000) == (CODE,)


def test_a_bundle_with_another_size_is_refused(drive: Any) -> None:
    register(drive)
    assert register(drive, size=101).code is RejectionCode.INVALID


@pytest.mark.parametrize(("digest", "size"), [("x", 1), (CODE, 0), (CODE, limits.BUNDLE_BYTES_MAX + 1)])
def test_what_is_no_bundle_is_refused(drive: Any, digest: str, size: int) -> None:
    assert register(drive, digest, size).code is RejectionCode.INVALID


def test_a_bundle_lives_as_long_as_a_workflow_that_refers_to_it(drive: Any) -> None:
    register(drive)
    register(drive, OTHER)
    drive.submit(spec())
    drive.submit(spec(), "wf-2")
    assert retire(drive, CODE, OTHER, "c" * 64) == (OTHER,)
    for workflow in ("wf-1", "wf-2"):
        drive.control("cancel", workflow)
        ended_ms = drive.now_ms
        drive.now_ms += 1_000
        assert retire(drive, CODE) == ()
    drive.do(c.RetireWorkflows(at_ms=drive.now_ms, actor="leader", before_ms=drive.now_ms))
    row = drive.machine.state.bundles[CODE]
    assert (row.workflows, row.used_ms) == (0, ended_ms)
    assert unused_bundles(drive.machine.tables.bundles, ended_ms - 1) == ()
    assert unused_bundles(drive.machine.tables.bundles, ended_ms) == (CODE,)
    assert retire(drive, CODE) == (CODE,)
    assert drive.submit(spec(), "wf-3").code is RejectionCode.NOT_FOUND


def test_an_upload_refers_to_its_bundle_from_its_beginning(drive: Any) -> None:
    begin, *rest = drive.pieces(spec())
    begin = replace(begin, code=CODE)
    assert drive.do(begin).code is RejectionCode.NOT_FOUND
    register(drive)
    drive.do(begin)
    assert retire(drive, CODE) == ()
    drive.do(c.DropUploads(at_ms=drive.now_ms, actor="leader", workflow_ids=("wf-1",)))
    assert drive.machine.state.bundles[CODE].workflows == 0
    drive.do(begin)
    for command in rest:
        drive.do(command)
    assert drive.machine.state.workflows["wf-1"].code == CODE
    assert drive.machine.state.bundles[CODE].workflows == 1


def test_a_snapshot_holds_the_bundles_and_who_refers_to_them(drive: Any) -> None:
    register(drive)
    drive.submit(spec())
    drive.do(replace(drive.pieces(spec(), "wf-2")[0], code=CODE))
    restored = Machine()
    restored.restore(drive.machine.snapshot())
    assert restored.state.bundles == drive.machine.state.bundles
    assert restored.state.workflows["wf-1"].code == CODE
    assert restored.state.uploads["wf-2"].workflow.code == CODE


def test_no_more_bundles_than_the_limits(drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BUNDLES_MAX", 2)
    monkeypatch.setattr(limits, "BUNDLES_BYTES_MAX", 250)
    register(drive)
    refusal = register(drive, OTHER, 151)
    assert (refusal.code, refusal.limit) == (RejectionCode.LIMIT, 250)
    assert register(drive, OTHER, 150) == Done()
    refusal = register(drive, "c" * 64, 1)
    assert (refusal.code, refusal.limit) == (RejectionCode.LIMIT, 2)
    assert register(drive) == Done(changed=False)


def test_a_wrong_digest_in_a_document_is_a_fault(drive: Any) -> None:
    refusal = drive.submit(spec("latest"))
    assert [problem.path for problem in refusal.problems] == ["code"]


def test_equal_tasks_of_other_code_share_no_result(drive: Any) -> None:
    register(drive)
    register(drive, OTHER)
    drive.register(cpu=8)
    drive.submit(WorkflowSpec(name="w", tasks=(spec(cache="").tasks[0],), code=CODE))
    drive.submit(WorkflowSpec(name="w", tasks=(spec(cache="").tasks[0],), code=OTHER), "wf-2")
    drive.submit(WorkflowSpec(name="w", tasks=(spec(cache="").tasks[0],)), "wf-3")
    assert len(drive.machine.state.claims) == 3


def test_what_users_see_of_a_bundle(drive: Any) -> None:
    register(drive)
    view = bundle_view(drive.machine.tables.bundles.get(CODE))
    assert (view.digest, view.size, view.workflows) == (CODE, 100, 0)
    assert view.used_at == view.registered_at
