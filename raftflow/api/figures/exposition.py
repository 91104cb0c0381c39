"""Prometheus' text format for metrics, version 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raftflow.replication.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Kind = Literal["counter", "gauge"]
Labels = tuple[tuple[str, object], ...]


class Exposition:
    """Collects families of metrics with their help and type."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def one(self, name: str, kind: Kind, text: str, value: float) -> None:
        """Add a metric with one value."""
        self.many(name, kind, text, [((), value)])

    def many(self, name: str, kind: Kind, text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Add a metric with a value for each set of labels."""
        self._begin(name, kind, text)
        self._lines += [f"{name}{_braces(labels)} {value}" for labels, value in samples]

    def histogram(self, name: str, text: str, histograms: Iterable[tuple[Labels, Histogram]]) -> None:
        """Add a histogram for each set of labels."""
        self._begin(name, "histogram", text)
        for labels, one in histograms:
            total = 0
            for bound, count in zip((*one.bounds_s, "+Inf"), one.counts, strict=True):
                total += count
                self._lines.append(f"{name}_bucket{_braces((*labels, ('le', bound)))} {total}")
            self._lines.append(f"{name}_sum{_braces(labels)} {one.sum_s:.6f}")
            self._lines.append(f"{name}_count{_braces(labels)} {total}")

    def encode(self) -> bytes:
        """Return the page."""
        return "\n".join(self._lines).encode() + b"\n"

    def _begin(self, name: str, kind: str, text: str) -> None:
        self._lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in labels)
    return f"{{{inside}}}"
