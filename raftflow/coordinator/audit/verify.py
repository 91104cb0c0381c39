"""Checking one replica's audit file: every checksum, every link of the chain, and its end against the machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raftflow.coordinator.audit.frames import GAP, AuditError, Frame, decode_gap, record_of
from raftflow.domain.contract.views import AuditCheck
from raftflow.machine.rules.audit_chain import verify_chain

if TYPE_CHECKING:
    from raftflow.coordinator.audit.audit_file import AuditFile
    from raftflow.coordinator.audit.segments import Anchor
    from raftflow.machine.machine import Machine

PROBLEMS_MAX = 100
GAPS_MAX = 100
"""So many chains before gaps are told."""
_TRIES = 3
_SLICE = 200
"""Records checked before the event loop gets its turn: about two milliseconds."""


class _ChainCheck:
    """What was found so far."""

    def __init__(self, anchor: Anchor) -> None:
        self.chain = anchor.chain
        self.records = 0
        self.first_index = 0
        self.last_index = anchor.index
        self.gaps: list[list[int]] = []
        self.before_gaps: list[tuple[int, str]] = []
        self.problems: list[str] = []

    def take(self, frames: list[Frame], until_index: int) -> None:
        """Check frames that follow on what came before."""
        batch: list[Frame] = []
        for frame in frames:
            if frame.index > until_index:
                continue
            if frame.kind == GAP:
                self._take_records(batch)
                batch = []
                gap = decode_gap(frame)
                if gap.first != self.last_index + 1:
                    self._problem(
                        f"the gap from {gap.first} to {gap.last} does not follow on index {self.last_index}"
                    )
                self.gaps.append([gap.first, gap.last])
                if self.last_index:
                    self.before_gaps.append((self.last_index, self.chain.hex()))
                self.chain, self.last_index = gap.chain, gap.last
            else:
                batch.append(frame)
        self._take_records(batch)

    def _take_records(self, frames: list[Frame]) -> None:
        if not frames:
            return
        try:
            records = [record_of(frame) for frame in frames]
        except ValueError as error:
            self._problem(f"a record at or after index {frames[0].index} cannot be read: {error}")
            return
        for frame, record in zip(frames, records, strict=True):
            if frame.index != record.index:
                self._problem(f"the frame of index {frame.index} holds the record of index {record.index}")
        if records[0].index < self.last_index:
            self._problem(f"index {records[0].index} comes after index {self.last_index}")
        self.chain, problems = verify_chain(records, self.chain)
        for problem in problems:
            self._problem(problem)
        self.records += len(records)
        self.first_index = self.first_index or records[0].index
        self.last_index = records[-1].index

    def _problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)


async def verify_audit(audit: AuditFile, replica: str, machine: Machine) -> AuditCheck:
    """Check everything up to what is applied now, slice by slice, so that the replica goes on serving."""
    for _ in range(_TRIES):
        anchor = audit.anchor
        found = await _verify_once(audit, replica, machine)
        if audit.anchor is anchor:
            break  # or its oldest part was dropped while it was read
    return found


async def _verify_once(audit: AuditFile, replica: str, machine: Machine) -> AuditCheck:
    anchor = audit.anchor
    until_index, expected = machine.applied_index, machine.chain
    check = _ChainCheck(anchor)
    for path in await audit.segments():
        try:
            frames = await audit.frames_of(path)
        except (AuditError, OSError) as error:
            check.problems.append(str(error))
            continue
        for start in range(0, len(frames), _SLICE):
            check.take(frames[start : start + _SLICE], until_index)
            await asyncio.sleep(0)
    if not check.problems and check.chain != expected:
        check.problems.append(
            f"the audit ends with chain {check.chain.hex()} at index {check.last_index}, the state machine stands at "
            f"{expected.hex()}: records are missing at the end"
        )
    return AuditCheck(
        ok=not check.problems,
        replica=replica,
        records=check.records,
        first_index=check.first_index,
        last_index=check.last_index,
        chain=check.chain.hex(),
        anchor_index=anchor.index,
        before_gaps=check.before_gaps[-GAPS_MAX:],
        gaps=check.gaps,
        problems=check.problems,
    )
