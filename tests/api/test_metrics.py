"""Metrics: what Prometheus' own tool says of them, what they tell, and that their page names all of them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.api.figures.exposition import Exposition
from raftflow.api.figures.request_counts import BOUNDS_S, RequestCounts
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.replication.histogram import Histogram
from tests.contract import tools

WORK = {"id": "a", "command": ["true"]}


async def page_of(one: Any) -> str:
    return (await one.get("/metrics")).body.decode()


def values(page: str) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_promtool_accepts_the_metrics(trio: Any) -> None:
    promtool = tools("promtool") / "promtool"
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)
    await leader.register()
    for served in cluster.live.values():
        page = await page_of(served)
        assert "raftflow_replication_lag_entries" in page
        checked = subprocess.run(  # noqa: ASYNC221 - it takes a moment
            [promtool, "check", "metrics"], input=page.encode(), capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_every_metric_has_help_and_a_type_and_is_in_the_table(trio: Any) -> None:
    cluster = await trio()
    await cluster.leader()
    page = await page_of(cluster.followers()[0])
    helped = re.findall(r"^# HELP (\S+) \S", page, re.MULTILINE)
    typed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    assert helped == list(typed)
    told = {re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name, count=1) for name in values(page)}
    assert told <= typed.keys()
    text = (Path(raftflow.__file__).parent / "api" / "METRICS.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", text, re.MULTILINE)
    assert {name: kind for name, kind, _ in table} == typed
    labels = {name: set(re.findall(r"`(\w+)`", cell)) for name, _, cell in table}
    for name, inside in re.findall(r"^(\w+)\{(.*)\} ", page, re.MULTILINE):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert set(re.findall(r'(\w+)="', inside)) - {"le"} == labels.get(name, labels.get(family)), name


async def test_metrics_cover_process_build_disk_and_log(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    seen = values(await page_of(leader))
    build = next(name for name in seen if name.startswith("raftflow_build_info"))
    assert f'version="{raftflow.__version__}"' in build
    assert 0 < seen["process_cpu_seconds_total"] < 36_000
    assert seen["process_resident_memory_bytes"] > 10_000_000
    assert seen["process_virtual_memory_bytes"] >= seen["process_resident_memory_bytes"]
    assert abs(seen["process_open_fds"] - len(os.listdir("/proc/self/fd"))) < 10
    assert seen["process_max_fds"] >= 256
    assert time.time() - 36_000 < seen["process_start_time_seconds"] < time.time()
    assert 0 < seen["raftflow_data_free_bytes"] < seen["raftflow_data_size_bytes"]
    lags = [name for name in seen if name.startswith("raftflow_replication_lag_entries")]
    assert len(lags) == 2
    assert seen["raftflow_apply_lag_entries"] == 0


async def test_syncs_are_counted_by_those_who_make_them(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    leader.server.admission.figures.syncs = leader.fs.sync_times
    before = values(await page_of(leader))["raftflow_sync_seconds_count"]
    assert before > 0, "to be born takes some"
    await leader.submit(WORK)
    assert values(await page_of(leader))["raftflow_sync_seconds_count"] > before


async def test_requests_of_both_paths_are_counted_by_operation_and_status(one: Any) -> None:
    workflow = await one.submit(WORK)
    incarnation = await one.register()
    await one.poll(incarnation=incarnation, seq=1)
    await one.call("HEAD", "/healthz")
    for path in (f"/v1/workflows/{workflow}", "/v1/workflows/none", "/v1/workflows/other", "/nothing", "/more"):
        await one.get(path)
    await one.call("PATCH", "/healthz")
    seen = values(await page_of(one))

    def count(method: str, route: str, status: int) -> float:
        return seen[f'raftflow_request_seconds_count{{method="{method}",route="{route}",status="{status}"}}']

    assert count("POST", "/v1/workflows", 201) == 1
    assert count("POST", "/v1/agents/{id}/poll", 200) == 1
    assert count("HEAD", "/healthz", 200) == 1
    assert count("GET", "/v1/workflows/{id}", 200) == 1
    assert count("GET", "/v1/workflows/{id}", 404) == 2
    assert count("other", "other", 404) == 2
    assert count("other", "other", 405) == 1
    known = {operation.path for operation in OPERATIONS} | {"other"}
    assert {route for _, route in [operation for operation, _ in one.server.admission.figures.requests]} <= known


async def test_the_fast_path_counts_its_answers(one: Any) -> None:
    from tests.api.test_fast_path import poll, wire_to

    incarnation = await one.register()
    async with wire_to(one) as wire:
        for seq in (1, 2):
            wire.send(poll(incarnation, seq))
            assert (await wire.answer())[0] == 200
        wire.send(poll(99, 3))
        assert (await wire.answer())[0] == 409
    assert one.server.fast_path.taken == 3
    seen = {key: sum(one.counts) for key, one in one.server.admission.figures.requests.items()}
    operation = ("POST", "/v1/agents/{id}/poll")
    assert (seen[operation, 200], seen[operation, 409]) == (2, 1)


async def test_waits_at_the_shedder_are_counted(one: Any) -> None:
    from raftflow.api.admission.load_shedder import QueueClass

    shedder = one.server.admission.shedder
    before = shedder.waits
    shedder._steps_left = 0
    await shedder.enter(QueueClass.ORDINARY)
    assert shedder.waits == before + 1
    page = await page_of(one)
    assert 'raftflow_shedder_waiting{class="ordinary"} 0' in page


@pytest.mark.parametrize(("seconds", "place"), [(0.0, 0), (0.001, 0), (0.0011, 1), (10.0, 9), (11.0, 10)])
def test_a_duration_is_counted_at_its_bound(seconds: float, place: int) -> None:
    histogram = Histogram(BOUNDS_S)
    histogram.note(seconds)
    assert histogram.counts.index(1) == place
    assert histogram.sum_s == seconds


def test_labels_are_escaped_and_buckets_add_up() -> None:
    page = Exposition()
    page.many("m", "gauge", "Text", [((("a", 'x"\\\ny'),), 1)])
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.5, 9.0):
        histogram.note(seconds)
    page.histogram("h", "Text", [((("k", "v"),), histogram)])
    lines = page.encode().decode().splitlines()
    assert lines[2] == 'm{a="x\\"\\\\\\ny"} 1'
    assert lines[5:] == [
        'h_bucket{k="v",le="1.0"} 1',
        'h_bucket{k="v",le="2.0"} 2',
        'h_bucket{k="v",le="+Inf"} 3',
        'h_sum{k="v"} 11.000000',
        'h_count{k="v"} 3',
    ]


def test_counting_a_request_is_cheap() -> None:
    figures, operation = RequestCounts(), ("POST", "/v1/agents/{id}/poll")
    began_s = time.thread_time()
    for _ in range(10_000):
        figures.answered(operation, 200, 0.0)
    assert (time.thread_time() - began_s) / 10_000 < 0.000_02, "a poll takes some 0.04 ms"
