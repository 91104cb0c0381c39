"""A history of a run in which nothing has happened yet."""

from __future__ import annotations

from contextlib import closing

import pytest

from raftflow.simulation.checkers.history import RunHistory
from raftflow.simulation.world.loop import VirtualLoop
from raftflow.simulation.world.trace import Trace
from tests.simulation.histories import make_log


@pytest.fixture
def history():
    with closing(VirtualLoop()) as loop:
        history = RunHistory(Trace(loop))
        history.members.founded(("a", "b", "c"))
        for leader in "abc":  # everybody for everybody: `test_member_checks.py` looks at elections
            for voter in "abc":
                history.members.voted(voter, make_log([]), leader, 1)
        yield history
