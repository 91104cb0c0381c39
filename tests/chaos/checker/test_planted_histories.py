"""Planted histories: each violation is found with its kind, and a near twin that is right passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded_histories import History, ended, shown, task

from raftflow.chaos.checker.findings import KINDS
from raftflow.chaos.checker.judgement import judge

DONE = ended((1, 10, "succeeded"))
CANCELLED = ended((1, 10, "cancelled"), state="cancelled")
BACKUP = [task(backup=True)]


def ran() -> History:
    """A workflow of one task that was submitted at 1 and ran from 2 to 3."""
    return History().submit(1, 1.1).ran(2, 3)


def cancelled(at: float = 10.0) -> History:
    """A workflow that was cancelled while its task ran."""
    return History(cancel_s=5.0).submit(1, 1.1).started(2).control("cancel", at, at + 0.1)


def moved(**bounds: Any) -> History:
    """A task whose first attempt was lost, and whose second one succeeded."""
    return (
        History(**{"overlap_s": 1.0, **bounds}).submit(1, 1.1, tasks=BACKUP).started(2).ran(20, 22, 2, 11, agent="a2")
    )


def two() -> dict[str, Any]:
    """The final state of two workflows."""
    return {
        "W1": {"state": "succeeded", "tasks": {"a": DONE}},
        "W2": {"state": "succeeded", "tasks": {"a": ended((1, 12, "succeeded"))}},
    }


def exact() -> History:
    """The same, told to a collector that hears everything at once."""
    history = moved(overlap="never")
    history.lines[0]["collector"] = "local"
    del history.lines[0]["bounds"]["overlap_s"]
    return history


def stepped(attempt: int, fence: int, event: str, **more: Any) -> History:
    """A step that is known to attempt 2, and one more message of it."""
    history = History(overlap_s=1.0).submit(1, 1.1).started(2).step(2.1, "ran").started(4, 2, 12)
    history.step(4.1, "ran", 2, 12).step(4.2, "known", 2, 12, value="12-s0")
    return (
        history.step(4.6, event, attempt, fence, **more)
        .ran(5, 6, 3, 14)
        .one_final(a=ended((1, 10, "lost"), (2, 12, "failed"), (3, 14, "succeeded")))
    )


FAMILY = [task(), task("a:c", parent="a", expect=7)]
PARENT_DONE = ended((1, 10, "parked"), (2, 12, "succeeded"))
CHILD_DONE = ended((1, 11, "succeeded"), result=7)


def family(*, given: float = 6.5, **more: Any) -> History:
    """A parent that parked, and was given the result of its child in its second attempt."""
    history = History(overlap_s=0.2).submit(1, 1.1, tasks=FAMILY).started(2).stopped(2.5, why="closed")
    history.ran(3, 5, 1, 11, "a:c").ran(6, 7, 2, 12)
    return history.child(given, **more)


def unjudged(second: int) -> History:
    """A child of which the history does not say what its result must be, given to its parent twice."""
    history = (
        History().submit(1, 1.1, tasks=[task(), task("a:c", parent="a")]).ran(3, 5, 1, 11, "a:c").ran(6, 7, 2, 12)
    )
    return history.child(6.5).child(6.6, value=second).one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE})


MOVED = ended((1, 10, "lost"), (2, 11, "succeeded"))
REGISTER = {"key": "k"}


def written(answer: Any, **at: Any) -> History:
    """A register that is written twice and read."""
    history = History("etcd").operation("write", (1, 2), {"key": "k", "value": 1})
    history.operation("write", (3, 4), {"key": "k", "value": 2})
    return history.operation("get", at.get("get", (5, 6)), REGISTER, "ok", {"key": "k", "value": answer}).line(
        "end", 9
    )


def compared(first: int, outcome: str) -> History:
    """A register that is written, compared and set, and read."""
    history = History("etcd").operation("write", (1, 2), {"key": "k", "value": 1})
    history.operation("cas", (3, 4), {"key": "k", "from": first, "to": 7}, outcome)
    return history.operation("get", (5, 6), REGISTER, "ok", {"key": "k", "value": 7}).line("end", 9)


def tried(until: float, fault: tuple[float, float] = (1.0, 2.0)) -> History:
    """Submissions that have no answer, and one at the end that has."""
    history = History("etcd", recovery_s=5.0).fault(*fault)
    for t in range(3, int(until)):
        history.operation("write", (t, t + 0.5), {"key": "k", "value": t}, "unknown")
    return history.operation("write", (until, until + 0.1), {"key": "k", "value": 0}).line("end", 99)


CASES: dict[str, tuple[str, Callable[[], History], Callable[[], History]]] = {
    "acknowledged workflow is not in the final state": (
        "lost",
        lambda: ran().final(),
        lambda: ran().one_final(a=DONE),
    ),
    "acknowledged workflow is not in a list": (
        "lost",
        lambda: ran().operation("list", (4, 5), {}, "ok", {"workflows": []}).one_final(a=DONE),
        lambda: ran().operation("list", (1, 5), {}, "ok", {"workflows": []}).one_final(a=DONE),
    ),
    "request sent again makes another workflow": (
        "duplicate",
        lambda: ran().submit(1.2, 1.3, workflow="W2").final(workflows=two()),
        lambda: ran().submit(1.2, 1.3).one_final(a=DONE),
    ),
    "lost reply made a workflow, and so did the second sending": (
        "duplicate",
        lambda: (
            History()
            .submit(0.5, 0.9, outcome="unknown")
            .submit(1, 1.1)
            .ran(2, 3)
            .final(
                workflows={
                    "W1": {"state": "succeeded", "name": "name-r1", "tasks": {"a": DONE}},
                    "W9": {"state": "succeeded", "name": "name-r1", "tasks": {"a": ended((1, 12, "succeeded"))}},
                }
            )
        ),
        lambda: History().submit(0.5, 0.9, outcome="unknown").submit(1, 1.1).ran(2, 3).one_final(a=DONE),
    ),
    "two requests made one workflow": (
        "duplicate",
        lambda: ran().submit(1.2, 1.3, request="r2").one_final(a=DONE),
        lambda: (
            ran()
            .submit(1.2, 1.3, request="r2", workflow="W2")
            .final(
                workflows={
                    "W1": {"state": "succeeded", "tasks": {"a": DONE}},
                    "W2": {"state": "succeeded", "tasks": {"a": ended((1, 12, "succeeded"))}},
                }
            )
        ),
    ),
    "failed submission exists": (
        "phantom",
        lambda: History().submit(1, 1.1, outcome="fail").ran(2, 3).one_final(a=DONE),
        lambda: History().submit(1, 1.1, outcome="unknown").ran(2, 3).one_final(a=DONE),
    ),
    "failed submission exists, and has no name": (
        "phantom",
        lambda: History().submit(1, 1.1, outcome="fail").ran(2, 3).line("final", 9, workflows={}).line("end", 9),
        lambda: History().submit(1, None).ran(2, 3).line("final", 9, workflows={}).line("end", 9),
    ),
    "workflow that nobody submitted": (
        "phantom",
        lambda: History().submit(1, 1.1, outcome="unknown").one_final(name="name-x", a=DONE),
        lambda: History().submit(1, 1.1, outcome="unknown").one_final(a=DONE),
    ),
    "task that nobody submitted": (
        "phantom",
        lambda: ran().read(4, 5, tasks={"x": shown("waiting", 0, 0)}).one_final(a=DONE),
        lambda: ran().read(4, 5, tasks={"a": shown("running")}).one_final(a=DONE),
    ),
    "workflow has not ended": (
        "unfinished",
        lambda: ran().one_final("running", a=ended((1, 10, "running"), state="running")),
        lambda: ran().one_final(a=DONE),
    ),
    "task has not ended": (
        "unfinished",
        lambda: ran().one_final(a=ended((1, 10, "lost"), state="ready")),
        lambda: ran().control("pause", 1.5, 1.6).one_final("paused", a=ended((1, 10, "lost"), state="ready")),
    ),
    "workflow failed": (
        "wrong-end",
        lambda: ran().one_final("failed", a=ended((1, 10, "failed"), state="failed")),
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(ends="failed")])
            .ran(2, 3)
            .one_final("failed", a=ended((1, 10, "failed"), state="failed"))
        ),
    ),
    "task succeeded that must fail": (
        "wrong-end",
        lambda: History().submit(1, 1.1, tasks=[task(ends="failed")]).ran(2, 3).one_final(a=DONE),
        lambda: History().submit(1, 1.1, tasks=[task(ends="any")]).ran(2, 3).one_final(a=DONE),
    ),
    "workflow was cancelled by nobody": (
        "wrong-end",
        lambda: History().submit(1, 1.1).started(2).one_final("cancelled", a=CANCELLED),
        lambda: cancelled().one_final("cancelled", a=CANCELLED),
    ),
    "acknowledged cancel did nothing": (
        "wrong-end",
        lambda: cancelled().stopped(11).one_final(a=DONE),
        lambda: cancelled().control("retry", 20, 20.1).stopped(11).one_final(a=DONE),
    ),
    "failed cancel took effect": (
        "not-linearizable",
        lambda: ran().control("cancel", 2.1, 2.2, outcome="fail").read(4, 5, state="cancelled").one_final(a=DONE),
        lambda: (
            ran()
            .control("cancel", 2.1, 2.2, outcome="unknown")
            .read(4, 5, state="cancelled")
            .one_final("cancelled", a=ended((1, 10, "succeeded")))
        ),
    ),
    "task succeeded without what it needs": (
        "wrong-end",
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(), task("b", ("a",))])
            .ran(2, 3)
            .one_final("failed", a=ended(state="failed"), b=ended(state="succeeded"))
        ),
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(), task("b", ("a",))])
            .ran(2, 3)
            .ran(4, 5, 1, 11, "b")
            .one_final(a=DONE, b=ended((1, 11, "succeeded")))
        ),
    ),
    "wrong result at the end": (
        "wrong-result",
        lambda: History().submit(1, 1.1, tasks=[task(expect=42)]).ran(2, 3).one_final(a={**DONE, "result": 42.0}),
        lambda: History().submit(1, 1.1, tasks=[task(expect=42)]).ran(2, 3).one_final(a={**DONE, "result": 42}),
    ),
    "wrong result in a read": (
        "wrong-result",
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(expect=[1, {"x": "é" * 99}])])
            .ran(2, 3)
            .read(4, 5, tasks={"a": shown("succeeded", result=[1, {"x": "é" * 98}])})
            .one_final(a=DONE)
        ),
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(expect=[1, {"x": "é" * 99}])])
            .ran(2, 3)
            .read(4, 5, tasks={"a": shown("succeeded", result=[1, {"x": "é" * 99}])})
            .one_final(a=DONE)
        ),
    ),
    "two reads at the same time show two results": (
        "wrong-result",
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("succeeded", result=1)})
            .read(4, 5, tasks={"a": shown("succeeded", result=2)})
            .one_final(a=DONE)
        ),
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("succeeded", result=1)})
            .read(4, 5, tasks={"a": shown("succeeded", result_hash="abc")})
            .one_final(a=DONE)
        ),
    ),
    "two attempts succeeded": (
        "two-ends",
        lambda: moved().stopped(10).one_final(a=ended((1, 10, "succeeded"), (2, 11, "succeeded"))),
        lambda: moved().stopped(10).one_final(a=MOVED),
    ),
    "stale attempt was accepted": (
        "accepted-end",
        lambda: (
            History()
            .submit(1, 1.1)
            .ran(2, 19)
            .started(20, 2, 11, agent="a2")
            .one_final(a=ended((1, 10, "lost"), (2, 11, "succeeded")))
        ),
        lambda: moved().one_final(a=MOVED),
    ),
    "attempt was shown as succeeded before its end": (
        "accepted-end",
        lambda: History().submit(1, 1.1).ran(2, 30).read(4, 5, tasks={"a": shown("succeeded")}).one_final(a=DONE),
        lambda: ran().read(4, 5, tasks={"a": shown("succeeded")}).one_final(a=DONE),
    ),
    "acknowledged workflow is not found": (
        "not-linearizable",
        lambda: ran().read(4, 5, state=None).one_final(a=DONE),
        lambda: ran().read(1.05, 5, state=None).one_final(a=DONE),
    ),
    "workflow was found before it was submitted": (
        "not-linearizable",
        lambda: ran().read(0.2, 0.3, state="pending").one_final(a=DONE),
        lambda: ran().read(0.2, 1.05, state="pending").one_final(a=DONE),
    ),
    "workflow runs after it had ended": (
        "not-linearizable",
        lambda: ran().read(4, 5, state="failed").read(6, 7).one_final(a=DONE),
        lambda: ran().read(4, 5, state="failed").control("retry", 5, 6.5).read(6, 7).one_final(a=DONE),
    ),
    "workflow that succeeded runs after a retry": (
        "not-linearizable",
        lambda: ran().read(4, 5, state="succeeded").control("retry", 5, None).read(6, 7).one_final(a=DONE),
        lambda: (
            ran()
            .read(4, 5, state="succeeded")
            .control("retry", 5, None)
            .read(6, 7, state="succeeded")
            .one_final(a=DONE)
        ),
    ),
    "workflow that failed while it was paused runs after it had ended": (
        "not-linearizable",
        lambda: ran().control("pause", 2, 2.1).read(4, 5, state="failed").read(6, 7).one_final(a=DONE),
        lambda: (
            ran()
            .control("pause", 2, 2.1)
            .read(4, 5, state="failed")
            .control("retry", 5, 5.5)
            .read(6, 7)
            .one_final(a=DONE)
        ),
    ),
    "paused workflow runs": (
        "not-linearizable",
        lambda: ran().control("pause", 2, 2.1).read(4, 5).one_final(a=DONE),
        lambda: ran().control("pause", 2, 2.1).control("resume", 3, None).read(4, 5).one_final(a=DONE),
    ),
    "pause that was sent again takes effect twice": (
        "not-linearizable",
        lambda: (
            ran()
            .control("pause", 2, 2.1, request="p")
            .control("resume", 2.2, 2.3, request="q")
            .control("pause", 2.4, 2.5, request="p")
            .read(4, 5, state="paused")
            .one_final(a=DONE)
        ),
        lambda: (
            ran()
            .control("pause", 2, 2.1, request="p")
            .control("resume", 2.2, 2.3, request="q")
            .control("pause", 2.4, 2.5, request="p")
            .read(4, 5)
            .one_final(a=DONE)
        ),
    ),
    "register shows an old value": ("not-linearizable", lambda: written(1), lambda: written(2)),
    "register shows a value that is not yet written": (
        "not-linearizable",
        lambda: written(2, get=(1.5, 2.5)),
        lambda: written(2, get=(1.5, 3.5)),
    ),
    "register was set though the comparison must fail": (
        "not-linearizable",
        lambda: compared(5, "ok"),
        lambda: compared(1, "ok"),
    ),
    "failed comparison took effect": (
        "not-linearizable",
        lambda: compared(1, "fail"),
        lambda: compared(1, "unknown"),
    ),
    "attempt goes back": (
        "went-back",
        lambda: (
            moved()
            .read(23, 24, tasks={"a": shown("running", 2, 11)})
            .read(25, 26, tasks={"a": shown("running")})
            .one_final(a=MOVED)
        ),
        lambda: (
            moved()
            .read(23, 26, tasks={"a": shown("running", 2, 11)})
            .read(25, 26, tasks={"a": shown("running")})
            .one_final(a=MOVED)
        ),
    ),
    "task that had succeeded runs": (
        "went-back",
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("succeeded")})
            .read(6, 7, tasks={"a": shown("running")})
            .one_final(a=DONE)
        ),
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("running")})
            .read(6, 7, tasks={"a": shown("succeeded")})
            .one_final(a=DONE)
        ),
    ),
    "task that had failed waits without a retry": (
        "went-back",
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("failed")})
            .read(6, 7, tasks={"a": shown("waiting")})
            .stopped(9)
            .one_final(a=DONE)
        ),
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("failed")})
            .control("retry", 4, None)
            .read(6, 7, tasks={"a": shown("waiting")})
            .stopped(9)
            .one_final(a=DONE)
        ),
    ),
    "task that had succeeded has no success at the end": (
        "went-back",
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("succeeded")})
            .control("cancel", 4, None)
            .one_final("cancelled", a=ended((1, 10, "cancelled"), state="cancelled"))
        ),
        lambda: (
            ran()
            .read(4, 5, tasks={"a": shown("succeeded")})
            .control("cancel", 4, None)
            .one_final("cancelled", a=DONE)
        ),
    ),
    "index goes back": (
        "went-back",
        lambda: ran().read(4, 5, index=50).read(6, 7, index=49).one_final(a=DONE),
        lambda: ran().read(4, 6, index=50).read(5, 7, index=49).one_final(a=DONE),
    ),
    "attempt starts after a cancel": (
        "cancel",
        lambda: cancelled().started(16, 2, 11).one_final("cancelled", a=CANCELLED),
        lambda: cancelled().started(14, 2, 11).one_final("cancelled", a=CANCELLED),
    ),
    "attempt starts after a cancel and a retry": (
        "cancel",
        lambda: cancelled().control("retry", 18, 19).started(16, 2, 11).one_final("cancelled", a=CANCELLED),
        lambda: cancelled().control("retry", 15, 19).started(16, 2, 11).one_final("cancelled", a=CANCELLED),
    ),
    "task succeeds long after a cancel": (
        "cancel",
        lambda: cancelled().stopped(16).one_final("cancelled", a=DONE),
        lambda: cancelled().stopped(14).one_final("cancelled", a=DONE),
    ),
    "task waits after a cancel": (
        "cancel",
        lambda: cancelled().read(11, 12, tasks={"a": shown("waiting")}).one_final("cancelled", a=CANCELLED),
        lambda: cancelled().read(10, 12, tasks={"a": shown("waiting")}).one_final("cancelled", a=CANCELLED),
    ),
    "fence of an accepted effect goes down": (
        "effect",
        lambda: moved(overlap_s=5.0).effect(21, 2, 11).effect(21.5).one_final(a=MOVED),
        lambda: moved().effect(21, 2, 11).effect(20.5, accepted=False).effect(19).one_final(a=MOVED),
    ),
    "effect was refused without a reason": (
        "effect",
        lambda: moved().effect(21, 2, 11, accepted=False).one_final(a=MOVED),
        lambda: moved().effect(20.5, accepted=False).one_final(a=MOVED),
    ),
    "last effect is not that of the accepted attempt": (
        "effect",
        lambda: (
            moved().stopped(10).effect(9).effect(21, 2, 11).one_final(a=ended((1, 10, "succeeded"), (2, 11, "lost")))
        ),
        lambda: (
            moved(overlap="backups")
            .stopped(10)
            .effect(9)
            .effect(21, 2, 11)
            .one_final(a=ended((1, 10, "succeeded"), (2, 11, "superseded")))
        ),
    ),
    "fence of two tasks": (
        "fence",
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(), task("b")])
            .ran(2, 3)
            .ran(2, 3, name="b")
            .one_final(a=DONE, b=DONE)
        ),
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(), task("b")])
            .ran(2, 3)
            .ran(2, 3, 1, 11, "b")
            .one_final(a=DONE, b=ended((1, 11, "succeeded")))
        ),
    ),
    "fence does not grow": (
        "fence",
        lambda: moved().one_final(a=ended((1, 10, "lost"), (2, 11, "succeeded"), (3, 9, "lost"))),
        lambda: moved().one_final(a=ended((1, 10, "lost"), (2, 11, "succeeded"), (3, 12, "lost"))),
    ),
    "one fence is started twice": (
        "fence",
        lambda: ran().started(4).one_final(a=DONE),
        lambda: ran().started(2.1).one_final(a=DONE),
    ),
    "fence is used again by a restored cluster": (
        "fence",
        lambda: History().submit(1, 1.1).started(2).line("restored", 5, index=9).ran(6, 7).one_final(a=DONE),
        lambda: (
            History()
            .submit(1, 1.1)
            .started(2)
            .line("restored", 5, index=9)
            .ran(6, 7, 1, 99)
            .one_final(a=ended((1, 99, "succeeded")))
        ),
    ),
    "restored cluster lacks what its snapshot has": (
        "lost",
        lambda: ran().line("restored", 5, index=5).final(),
        lambda: ran().line("restored", 5, index=4).final(),
    ),
    "restored cluster takes a request again": (
        "lost",
        lambda: ran().line("restored", 5, index=4).submit(6, 7, workflow="W2").final(),
        lambda: (
            ran()
            .line("restored", 5, index=4)
            .submit(6, 7, workflow="W2")
            .final(workflows={"W2": {"state": "succeeded", "tasks": {"a": ended((1, 90, "succeeded"))}}})
        ),
    ),
    "older attempt goes on beside a newer one": (
        "overlap",
        lambda: moved().effect(21.5, accepted=False).one_final(a=MOVED),
        lambda: moved(overlap="backups").effect(21.5, accepted=False).one_final(a=MOVED),
    ),
    "older attempt goes on though it was frozen": (
        "overlap",
        lambda: moved().fault(3, 20, "pause-agent", "a1").effect(21.5, accepted=False, sent=21.5).one_final(a=MOVED),
        lambda: moved().fault(3, 21, "pause-agent", "a1").effect(21.5, accepted=False, sent=21.5).one_final(a=MOVED),
    ),
    "older attempt went on while its agent was cut off": (
        "overlap",
        lambda: moved().fault(3, 21, "cut-agent", "a1").effect(21.5, accepted=False, sent=21.4).one_final(a=MOVED),
        lambda: moved().fault(3, 21, "cut-agent", "a1").effect(21.5, accepted=False, sent=5.0).one_final(a=MOVED),
    ),
    "older attempt was heard late, and no fault explains it": (
        "overlap",
        lambda: moved().fault(3, 21, "cut-agent", "a2").effect(21.5, accepted=False).one_final(a=MOVED),
        lambda: moved().fault(3, 21, "cut-agent", "a1").effect(21.5, accepted=False).one_final(a=MOVED),
    ),
    "older attempt goes on after it was thawed": (
        "overlap",
        lambda: (
            exact().stopped(5, why="frozen").started(21, why="thawed").stopped(23, why="closed").one_final(a=MOVED)
        ),
        lambda: exact().stopped(5, why="frozen").one_final(a=MOVED),
    ),
    "older attempt is killed late": (
        "overlap",
        lambda: exact().fault(3, 30, "cut-agent", "a1").stopped(20.3, why="closed").one_final(a=MOVED),
        lambda: exact().fault(3, 30, "cut-agent", "a1").stopped(20.1, why="closed").one_final(a=MOVED),
    ),
    "accepted attempt was killed": (
        "accepted-end",
        lambda: History().submit(1, 1.1).started(2).stopped(3, why="closed").one_final(a=DONE),
        lambda: History().submit(1, 1.1).started(2).stopped(3, why="told").one_final(a=DONE),
    ),
    "accepted attempt has a number alone, and never ended": (
        "accepted-end",
        lambda: moved().one_final(a={"state": "succeeded", "attempt": 1}),
        lambda: moved().one_final(a={"state": "succeeded", "attempt": 2}),
    ),
    "read shows an accepted attempt by its number before its end": (
        "accepted-end",
        lambda: (
            moved()
            .read(21, 21.1, state="", tasks={"a": {"state": "succeeded", "attempt": 1}})
            .one_final(a={"state": "succeeded", "attempt": 1})
        ),
        lambda: (
            moved()
            .read(21, 23.1, state="", tasks={"a": {"state": "succeeded", "attempt": 2}})
            .one_final(a={"state": "succeeded", "attempt": 2})
        ),
    ),
    "read of tasks finds a workflow that was not submitted yet": (
        "not-linearizable",
        lambda: ran().read(0.2, 0.3, state="").one_final(a=DONE),
        lambda: ran().read(0.2, 1.3, state="").one_final(a=DONE),
    ),
    "task started before what it needs": (
        "order",
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(), task("b", ("a",))])
            .ran(2, 9)
            .ran(4, 10, 1, 11, "b")
            .one_final(a=DONE, b=ended((1, 11, "succeeded")))
        ),
        lambda: (
            History()
            .submit(1, 1.1, tasks=[task(), task("b", ("a",))])
            .ran(2, 4.5)
            .ran(4, 10, 1, 11, "b")
            .one_final(a=DONE, b=ended((1, 11, "succeeded")))
        ),
    ),
    "step with a record runs again in a later attempt": (
        "step",
        lambda: stepped(3, 14, "ran"),
        lambda: stepped(1, 10, "ran"),
    ),
    "step with a record runs again in the same attempt": (
        "step",
        lambda: stepped(2, 12, "ran"),
        lambda: stepped(3, 14, "ran", step="s1"),
    ),
    "step has another result for a later attempt": (
        "step",
        lambda: stepped(3, 14, "known", value="14-s0"),
        lambda: stepped(3, 14, "known", value="12-s0"),
    ),
    "child runs again after its parent had its result": (
        "child",
        lambda: family().ran(8, 9, 2, 15, "a:c").one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
        lambda: family().ran(5.5, 5.9, 2, 15, "a:c").one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
    ),
    "parent has the result of a child that has not ended": (
        "child",
        lambda: family(given=4.5).one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
        lambda: family(given=5.5).one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
    ),
    "child is given to another task": (
        "child",
        lambda: family(name="b", fence=20).one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
        lambda: family().one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
    ),
    "parent is given two results of a child": (
        "child",
        lambda: unjudged(8),
        lambda: unjudged(7),
    ),
    "parent is given a wrong result": (
        "wrong-result",
        lambda: family(value=8).one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
        lambda: family(value=7).one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
    ),
    "child of a parent that succeeded is gone": (
        "wrong-end",
        lambda: family().one_final(a=PARENT_DONE),
        lambda: (
            History(cancel_s=5.0)
            .submit(1, 1.1, tasks=FAMILY)
            .started(2)
            .control("cancel", 3, 3.1)
            .stopped(3.5, why="closed")
            .one_final("cancelled", a=CANCELLED)
        ),
    ),
    "child has two tasks": (
        "wrong-end",
        lambda: family().one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE, "a:c-2": ended((1, 16, "succeeded"))}),
        lambda: family().one_final(**{"a": PARENT_DONE, "a:c": CHILD_DONE}),
    ),
    "no write is acknowledged": ("recovery", lambda: tried(12), lambda: tried(7)),
    "no write is acknowledged between faults": ("recovery", lambda: tried(12, (1, 4)), lambda: tried(12, (1, 8))),
    "recovery took too long": (
        "recovery",
        lambda: ran().line("recovered", 9, fault="f1", kind="kill-leader", seconds=10.5).one_final(a=DONE),
        lambda: ran().line("recovered", 9, fault="f1", kind="kill-leader", seconds=9.5).one_final(a=DONE),
    ),
    "audit is broken": (
        "replicas",
        lambda: ran().final(workflows={"W1": {"state": "succeeded", "tasks": {"a": DONE}}}, audit_verified=False),
        lambda: ran().final(workflows={"W1": {"state": "succeeded", "tasks": {"a": DONE}}}, audit_verified=None),
    ),
    "digests differ": (
        "replicas",
        lambda: ran().final(workflows={"W1": {"state": "succeeded", "tasks": {"a": DONE}}}, digests_equal=False),
        lambda: ran().final(workflows={"W1": {"state": "succeeded", "tasks": {"a": DONE}}}, ledger_ok=True),
    ),
}


def kinds(history: History, path: Path) -> dict[str, int]:
    """Judge a history, and return the kinds of its violations."""
    report = judge(history.write(path / "history.jsonl")).report()
    assert not report["undecided"]
    assert json.dumps(report)
    return report["violations_by_kind"]


@pytest.mark.parametrize("name", CASES)
def test_planted_violation_is_found(name: str, tmp_path: Path) -> None:
    kind, bad, _ = CASES[name]
    assert list(kinds(bad(), tmp_path)) == [kind]


@pytest.mark.parametrize("name", CASES)
def test_near_twin_passes(name: str, tmp_path: Path) -> None:
    _, _, good = CASES[name]
    assert kinds(good(), tmp_path) == {}


def test_every_kind_has_a_planted_history() -> None:
    assert {kind for kind, _, _ in CASES.values()} == KINDS.keys()
