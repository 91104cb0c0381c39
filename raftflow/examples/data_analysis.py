"""Data analysis: files of measurements are made, checked, joined with a table of stations, and summed up by region.

    python -m raftflow.examples.data_analysis /shared/stations --days 30

The agents and this program must see the same folder. Every task writes its file under another name and renames it, so
a task that runs twice leaves the same file.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import raftflow

STATIONS = 12
REGIONS = ("north", "east", "south", "west")
HOURS = 24
PLAUSIBLE = (-60.0, 60.0)
"""Degrees; what lies outside is the fault of a sensor."""

Summary: TypeAlias = dict[str, dict[str, float]]
"""Count, sum, least and greatest temperature of each region."""


def write(path: Path, text: str) -> str:
    """Write a file whole or not at all, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
    return str(path)


def as_csv(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def read_csv(path: str) -> Iterator[list[str]]:
    """Return the rows of a file."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file)


def make_stations(folder: str, seed: int) -> str:
    """Write the table of stations: name, region, and the error of its thermometer."""
    draw = random.Random(seed)
    rows = [(f"s{n}", REGIONS[n % len(REGIONS)], round(draw.uniform(-1, 1), 2)) for n in range(STATIONS)]
    return write(Path(folder) / "stations.csv", as_csv(rows))


@raftflow.task(retries=3)
def make_day(day: dict[str, Any]) -> str:
    """Write the measurements of a day. One in twenty is missing or nonsense."""
    draw = random.Random(f"{day['seed']}-{day['number']}")
    rows: list[tuple[object, ...]] = []
    for station in range(STATIONS):
        for hour in range(HOURS):
            value = round(15 + 10 * draw.random() + station / 4, 2)
            rows.append((f"s{station}", hour, draw.choice(("", "nan", "999.9")) if draw.random() < 0.05 else value))
    return write(Path(day["folder"]) / f"day-{day['number']:03}.csv", as_csv(rows))


@raftflow.task(retries=3)
def summarize_day(day: dict[str, str]) -> dict[str, Any]:
    """Drop invalid values, correct the rest by the table of stations, and sum it up by region."""
    table = {name: (region, float(error)) for name, region, error in read_csv(day["stations"])}
    regions: Summary = {}
    dropped = 0
    for station, _hour, value in read_csv(day["measurements"]):
        if not value or not PLAUSIBLE[0] <= float(value) <= PLAUSIBLE[1]:
            dropped += 1
            continue
        region, error = table[station]
        add(regions, region, round(float(value) - error, 2))
    return {"regions": regions, "dropped": dropped}


def add(regions: Summary, region: str, value: float) -> None:
    """Count one value of a region."""
    merge(regions, {region: {"count": 1, "sum": value, "least": value, "greatest": value}})


def merge(regions: Summary, more: Summary) -> None:
    """Add one summary to another."""
    for name, found in more.items():
        known = regions.setdefault(
            name, {"count": 0, "sum": 0.0, "least": found["least"], "greatest": found["greatest"]}
        )
        known["count"] += found["count"]
        known["sum"] = round(known["sum"] + found["sum"], 2)
        known["least"] = min(known["least"], found["least"])
        known["greatest"] = max(known["greatest"], found["greatest"])


def report_on(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Join the summaries of all days."""
    regions: Summary = {}
    dropped = 0
    for part in parts:
        merge(regions, part["regions"])
        dropped += part["dropped"]
    means = {name: round(found["sum"] / found["count"], 3) for name, found in sorted(regions.items())}
    return {"mean": means, "warmest": max(means, key=lambda name: means[name]), "dropped": dropped}


def analyze(
    folder: str,
    days: int,
    seed: int,
    step: Callable[..., Any],
    run_all: Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]],
) -> dict[str, Any]:
    """Do the analysis. `step` and `run_all` say how functions run: on a cluster, or one after the other here."""
    stations = step("stations", make_stations, folder, seed)
    files = run_all(make_day, [{"folder": folder, "number": number, "seed": seed} for number in range(days)])
    parts = run_all(summarize_day, [{"measurements": file, "stations": stations} for file in files])
    report = report_on(parts)
    step("report", write, Path(folder) / "report.json", json.dumps(report))
    return report


@raftflow.task(retries=3)
def main(ctx: raftflow.Context, folder: str, days: int, seed: int = 1) -> dict[str, Any]:
    """Do the analysis with a task for each file. This task holds no place at an agent while those run."""
    return analyze(folder, days, seed, ctx.step, ctx.map)


def expected(folder: str, days: int, seed: int = 1) -> dict[str, Any]:
    """Do the same in this process."""
    return analyze(
        folder,
        days,
        seed,
        lambda _name, function, *args: function(*args),
        lambda function, items: [function(item) for item in items],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--days", type=int, default=30)
    given = parser.parse_args()
    with raftflow.Client() as client:
        print(json.dumps(client.run(main, str(Path(given.folder).absolute()), given.days), indent=2))
