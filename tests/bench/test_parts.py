"""Benchmarks of single parts, as small as they can be."""

from __future__ import annotations

import json
from pathlib import Path

from raftflow.bench import main


def test_commit(tmp_path: Path) -> None:
    result = main.run("commit", runs=1, data_dir=tmp_path, seconds=0.1)
    rates = {"per_s", "per_s_4", "per_s_16", "per_s_64", "per_s_256"}
    assert set(result["median"]) == {"ms_median", "ms_p99", "ms_median_4096", "ms_median_32768", *rates}
    assert all(value > 0 for value in result["median"].values())
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []
