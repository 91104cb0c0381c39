"""The examples in the docstrings of all public names work."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

NAMES = sorted(raftflow._MODULES)
OPTIONS = ClusterOptions(agents=1)


@pytest.fixture
def names(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the examples may use without saying where it comes from."""
    monkeypatch.setenv("RAFTFLOW_PEERS", ",".join(cluster.urls))
    if cluster.token is not None:
        monkeypatch.setenv("RAFTFLOW_TOKEN", cluster.token)
    with raftflow.Client() as client:
        yield {
            "__name__": "program",
            "raftflow": raftflow,
            "client": client,
            "asyncio": asyncio,
            "math": math,
            "time": time,
        }


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_that_works(names: dict[str, Any], name: str) -> None:
    thing = getattr(raftflow, name)
    described = thing if inspect.isclass(thing) or inspect.isfunction(thing) else type(thing)
    file = Path(inspect.getsourcefile(described) or "")
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", names, name, str(file), None)
    assert example.examples, f"the docstring of raftflow.{name} has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example, out=told.append)
    assert not runner.failures, "".join(told)


@pytest.mark.parametrize("method", ["approval", "effect", "rate", "spend", "wait"])
def test_what_a_task_asks_for_has_an_example_that_works(method: str) -> None:
    """Outside of a cluster, as a user tries it."""
    names = {"raftflow": raftflow, "ctx": raftflow.Context("wf-1", "demo", attempt=1, fence=7)}
    text = inspect.getdoc(getattr(raftflow.Context, method)) or ""
    example = doctest.DocTestParser().get_doctest(text, names, method, None, None)
    assert example.examples, f"the docstring of Context.{method} has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example, out=told.append)
    assert not runner.failures, "".join(told)


def test_all_public_names_are_declared_for_type_checkers() -> None:
    declared = Path(raftflow.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert {line.split()[-1] for line in declared.splitlines() if line.startswith("from")} == set(NAMES)
