"""A run: members, clients, faults, a history, and the verdict of the checker."""

from __future__ import annotations

import collections
import contextlib
import json
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raftflow import helpers
from raftflow.chaos.etcd.load import RegisterLoad
from raftflow.chaos.etcd.members import MEMBERS, EtcdFailedError, EtcdMembers
from raftflow.chaos.history import FORMAT, HistoryWriter

if TYPE_CHECKING:
    from collections.abc import Callable

RECOVERY_S: Final = 30.0
KINDS: Final = (
    "kill-member",
    "kill-leader",
    "kill-majority",
    "kill-all",
    "pause-member",
    "pause-leader",
    "pause-majority",
)
_HOLD_S: Final = (0.2, 1.5)
_BETWEEN_S: Final = (0.2, 0.8)
_MAJORITY: Final = MEMBERS // 2 + 1


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """What a run is asked for."""

    directory: Path
    seconds: float = 60.0
    seed: int = 1
    serializable: bool = False
    """Reads ask one member alone: they are stale at times, and the checker must find that."""


def run_etcd(options: EtcdOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Run and check.

    Returns what `raftflow chaos run` prints, as far as etcd has it.

    Raises:
        EtcdMissingError: there is no etcd here.
        EtcdFailedError: the members do not come back.
        OSError: the directory cannot be written.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    path = options.directory / "history.jsonl"
    with HistoryWriter(path) as history, contextlib.closing(EtcdMembers(options.directory)) as members:
        history.write(
            "header",
            version=FORMAT,
            seed=options.seed,
            replicas=MEMBERS,
            agents=0,
            system="etcd",
            bounds={"recovery_s": RECOVERY_S, "overlap": "never"},
            workload={"serializable": options.serializable},
        )
        members.start_all()
        load = RegisterLoad(members, history, options.seed, serializable=options.serializable)
        load.start()
        try:
            counts = EtcdFaults(members, history, options.seed, say).run(options.seconds)
        finally:
            load.stop()
        history.write("end")
    verdict = _judged(path)
    return {
        "seed": options.seed,
        "faults": dict(sorted(counts.items())),
        "acknowledged": history.acknowledged,
        "operations": verdict["operations"],
        "unknown": verdict["unknown"],
        "violations": verdict["violations"],
        "undecided": verdict["undecided"],
        "recovery_s": verdict["recovery_s"],
        "history": str(path),
    }


def _judged(path: Path) -> dict[str, Any]:
    command = helpers.command("raftflow.chaos.checker", str(path), "-o", "json")
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if not done.stdout:
        raise EtcdFailedError(f"the checker gave no verdict: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class EtcdFaults:
    """Kills and pauses members, one fault after the other."""

    def __init__(self, members: EtcdMembers, history: HistoryWriter, seed: int, say: Callable[[str], None]) -> None:
        self._members = members
        self._history = history
        self._chance = random.Random(f"{seed}/faults")  # noqa: S311 - a seed gives the same faults again
        self._say = say
        self._deck: list[str] = []
        self._counts: collections.Counter[str] = collections.Counter()

    def run(self, seconds: float) -> collections.Counter[str]:
        """Inject faults for so long; returns how many of each kind took effect. Raises `EtcdFailedError`."""
        until_s = time.monotonic() + seconds
        if self._history.wait_acknowledged(0.0, RECOVERY_S) is None:
            raise EtcdFailedError("the members acknowledged nothing")
        while time.monotonic() < until_s:
            time.sleep(self._chance.uniform(*_BETWEEN_S))
            if not self._deck:
                self._deck = list(KINDS)
                self._chance.shuffle(self._deck)
            self._inject(self._deck.pop())
        return self._counts

    def _targets(self, kind: str) -> list[str]:
        names = self._chance.sample(self._members.names, MEMBERS)
        if kind.endswith("leader"):
            leader = self._members.leader()
            return [] if leader is None else [leader]
        return names[: {"member": 1, "majority": _MAJORITY, "all": MEMBERS}[kind.partition("-")[2]]]

    def _inject(self, kind: str) -> None:
        targets = self._targets(kind)
        if not targets:
            return
        about: dict[str, Any] = {"id": f"f{self._counts.total() + 1}", "kind": kind, "targets": targets}
        is_kill = kind.startswith("kill")
        self._history.write("fault", event="begin", **about)
        for name in targets:
            (self._members.kill if is_kill else self._members.pause)(name)
        effect_s = self._history.write("fault", event="effect", **about)
        self._counts[kind] += 1
        self._say(f"{effect_s:7.1f} s  {kind} on {', '.join(targets)}")
        time.sleep(self._chance.uniform(*_HOLD_S))
        self._history.write("fault", event="end", **about)
        for name in targets:
            (self._members.start if is_kill else self._members.resume)(name)
        undone_s = self._history.write("fault", event="undone", **about)
        since_s = effect_s if len(targets) < _MAJORITY else undone_s
        found_s = self._history.wait_acknowledged(since_s, RECOVERY_S)
        if found_s is None:
            raise EtcdFailedError(f"no write was acknowledged {RECOVERY_S:g} s after {kind}")
        self._history.write("recovered", fault=about["id"], kind=kind, seconds=round(found_s - since_s, 4))
        self._members.wait_ready()
