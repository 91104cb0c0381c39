"""The page of a run: one HTML file with the verdict, a timeline of faults and writes, and the figures."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from raftflow.chaos.verdict import ChaosReport

_LEFT: Final = 190
_WIDTH: Final = 1_000
_LANE: Final = 18
_CHART: Final = 70
_BUCKETS_MAX: Final = 500
_TICKS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200)

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1240px; padding: 0 1em; color: #1d2733 }
h1 { font-size: 1.5em; margin-bottom: .2em } h2 { font-size: 1.15em; margin-top: 1.6em }
.good { color: #12703f } .bad { color: #b3261e; font-weight: 600 }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums } tr + tr td { border-top: 1px solid #e3e8ee }
svg text { font: 11px system-ui, sans-serif; fill: #44515f } .scroll { overflow-x: auto }
.bar { fill: #d9822b } .bar:hover { fill: #8f4d0c } .ack { fill: #3d7fc4 } .miss { fill: #b3261e }
.grid { stroke: #e3e8ee }
.violation { stroke: #b3261e; stroke-width: 1.5 }
"""


class _Line(msgspec.Struct):
    """What the page needs of a line of the history."""

    type: str
    t: float
    event: str = ""
    id: str = ""
    kind: str = ""
    targets: list[str] = []
    detail: dict[str, Any] = {}
    op: str = ""
    f: str = ""


@dataclass(slots=True)
class FaultBar:
    """A fault on the timeline."""

    kind: str
    targets: Sequence[str]
    begin_s: float
    detail: Mapping[str, Any]
    end_s: float | None = None


@dataclass(slots=True)
class RunTimeline:
    """What the history has for the picture."""

    end_s: float = 0.0
    faults: dict[str, FaultBar] = field(default_factory=dict)
    writes: list[float] = field(default_factory=list)
    """When writes were acknowledged."""
    missed: list[float] = field(default_factory=list)
    """When writes failed or had no answer."""


def read_timeline(history: Path) -> RunTimeline:
    """Read a history. Raises `OSError`, `msgspec.DecodeError`."""
    timeline = RunTimeline()
    writes: set[str] = set()
    decoder = msgspec.json.Decoder(_Line)
    with history.open("rb") as file:
        for raw in file:
            line = decoder.decode(raw)
            timeline.end_s = max(timeline.end_s, line.t)
            if line.type == "fault":
                _note_fault(timeline, line)
            elif line.type == "invoke" and line.f not in {"read", "list", "get"}:
                writes.add(line.op)
            elif line.op in writes:
                writes.discard(line.op)
                (timeline.writes if line.type == "ok" else timeline.missed).append(line.t)
    return timeline


def _note_fault(timeline: RunTimeline, line: _Line) -> None:
    if line.event == "effect":
        timeline.faults[line.id] = FaultBar(line.kind, line.targets, line.t, line.detail)
    elif line.event in {"end", "undone"} and line.id in timeline.faults:
        timeline.faults[line.id].end_s = line.t


def write_page(report: ChaosReport, about: Mapping[str, str], path: Path) -> None:
    """Write the page. `about` says what each kind of fault is. Raises `OSError`, `msgspec.DecodeError`."""
    timeline = read_timeline(Path(report.history))
    path.write_text("\n".join(_page(report, about, timeline)) + "\n", encoding="utf-8")


def _page(report: ChaosReport, about: Mapping[str, str], timeline: RunTimeline) -> Iterator[str]:
    title = f"Chaos run, seed {report.seed}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
    found = len(report.violations)
    verdict = '<span class="good">no violation</span>'
    if found:
        verdict = f'<span class="bad">{found} violation{"s" if found > 1 else ""}</span>'
    yield (
        f"<p>{verdict}: {report.replicas} replicas, {report.agents} agents, {report.minutes:g} minutes of faults. "
        f"{sum(report.faults.values())} faults of {len(report.faults)} kinds took effect, {report.pairs} times two "
        f"at a time. {report.acknowledged} writes were acknowledged, {report.tasks} tasks submitted, "
        f"{report.attempts} attempts run; {report.operations} operations, {report.unknown} without an answer.</p>"
    )
    if report.violations:
        yield "<h2>Violations</h2><table><tr><th>at (s)</th><th>kind</th><th>what</th></tr>"
        for each in report.violations:
            at = each.get("at")
            moment = "" if at is None else f"{at:.3f}"
            yield f'<tr><td class="n">{moment}</td><td>{_text(each["kind"])}</td><td>{_text(each["text"])}</td></tr>'
        yield "</table>"
    yield "<h2>RunTimeline</h2><div class='scroll'>"
    yield from _picture(timeline, [each["at"] for each in report.violations if each.get("at") is not None])
    yield "</div><h2>Faults</h2><table><tr><th>kind</th><th>count</th><th>recovery, median (s)</th><th>max (s)</th>"
    yield "<th>what</th></tr>"
    for kind, count in report.faults.items():
        recovery = report.recovery_s.get(kind)
        times = ["", ""] if recovery is None else [f"{recovery['median']:.3f}", f"{recovery['max']:.3f}"]
        cells = "".join(f'<td class="n">{each}</td>' for each in (str(count), *times))
        yield f"<tr><td>{_text(kind)}</td>{cells}<td>{_text(about.get(kind, ''))}</td></tr>"
    yield "</table>"
    for heading, reasons in (
        ("Drawn without effect", {kind: str(count) for kind, count in report.without_effect.items()}),
        ("Impossible on this machine", report.impossible),
    ):
        if reasons:
            yield f"<h2>{heading}</h2><table>"
            for kind, reason in reasons.items():
                yield f"<tr><td>{_text(kind)}</td><td>{_text(reason)}</td></tr>"
            yield "</table>"
    yield f"<p>History: <code>{_text(report.history)}</code></p></body></html>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _picture(timeline: RunTimeline, violations: Sequence[float]) -> Iterator[str]:
    kinds = list(dict.fromkeys(fault.kind for fault in timeline.faults.values()))
    end_s = max(timeline.end_s, 1.0)
    height = _CHART + 30 + _LANE * len(kinds) + 24
    yield f'<svg width="{_LEFT + _WIDTH + 20}" height="{height}" role="img" aria-label="timeline of the run">'

    def x(at_s: float) -> float:
        return round(_LEFT + _WIDTH * at_s / end_s, 2)

    step = next((each for each in _TICKS if end_s / each <= 14), _TICKS[-1])
    for number in range(int(end_s // step) + 1):
        at = x(number * step)
        yield f'<line class="grid" x1="{at}" y1="8" x2="{at}" y2="{height - 18}"/>'
        yield f'<text x="{at}" y="{height - 4}" text-anchor="middle">{number * step} s</text>'
    yield from _rates(timeline, end_s, x)
    for lane, kind in enumerate(kinds):
        top = _CHART + 24 + lane * _LANE
        yield f'<text x="{_LEFT - 8}" y="{top + 11}" text-anchor="end">{_text(kind)}</text>'
        for fault in timeline.faults.values():
            if fault.kind == kind:
                yield _bar(fault, top, x(fault.begin_s), x(end_s if fault.end_s is None else fault.end_s))
    for at_s in violations:
        at = x(at_s)
        yield f'<line class="violation" x1="{at}" y1="8" x2="{at}" y2="{height - 18}"/>'
    yield "</svg>"


def _bar(fault: FaultBar, top: int, left: float, right: float) -> str:
    told = f"{fault.kind} on {', '.join(fault.targets)}, {fault.begin_s:.2f} s"
    told += "" if fault.end_s is None else f" to {fault.end_s:.2f} s"
    told += f": {msgspec.json.encode(fault.detail).decode()}" if fault.detail else ""
    width = max(right - left, 2.0)
    place = f'x="{left}" y="{top + 2}" width="{width:.2f}" height="{_LANE - 6}"'
    return f'<rect class="bar" {place}><title>{_text(told)}</title></rect>'


def _rates(timeline: RunTimeline, end_s: float, x: Any) -> Iterator[str]:
    """Draw acknowledged writes a second above, failed ones and those without an answer below in red."""
    size_s = max(end_s / _BUCKETS_MAX, 0.25)
    good = Counter(int(at_s / size_s) for at_s in timeline.writes)
    bad = Counter(int(at_s / size_s) for at_s in timeline.missed)
    most = max([*good.values(), *bad.values(), 1])
    base = _CHART + 8
    yield f'<text x="{_LEFT - 8}" y="20" text-anchor="end">acknowledged writes/s</text>'
    yield f'<text x="{_LEFT - 8}" y="34" text-anchor="end">up to {most / size_s:.0f}; not done: red</text>'
    for counts, style in ((good, "ack"), (bad, "miss")):
        for bucket, count in sorted(counts.items()):
            left, right = x(bucket * size_s), x((bucket + 1) * size_s)
            high = _CHART * count / most
            yield (
                f'<rect class="{style}" x="{left}" y="{base - high:.1f}" width="{max(right - left, 0.5):.2f}" '
                f'height="{high:.1f}"/>'
            )


__all__ = ["FaultBar", "RunTimeline", "read_timeline", "write_page"]
