"""An agent's name, drain and place in the list, on a cluster of real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from raftflow.local.cluster import LocalCluster

SLEEPS = [{"id": f"t{n}", "command": ["sleep", "1"]} for n in range(30)]


def test_drains_last_names_are_unique_and_urgent_work_goes_first(
    online: Callable[..., LocalCluster], eventually: Callable[..., Any], tmp_path: Any
) -> None:
    cluster = online(agents=1, lease_ms=2_000)
    name = cluster.agent_names[0]
    with cluster.client(timeout_s=60.0) as client:
        # What is more urgent does not wait behind what is prefetched: for one running task at most.
        slow = client.submit({"name": "slow", "tasks": SLEEPS}).id
        eventually(lambda: client.agent(name).queued > 5, what="a full queue")
        urgent = client.submit({"name": "urgent", "priority": 100, "tasks": [{"id": "t", "command": ["true"]}]}).id
        assert client.wait(urgent, timeout_s=60.0).state == "succeeded"
        ended = client.workflow(slow).tasks.succeeded
        running = client.agent(name).resources["cpu"]
        assert ended <= 4 * running, f"{ended} of the less urgent tasks went first"
        client.cancel(slow)

        # A drain outlives a kill, a restart and a failover.
        client.drain(name, 0.001)
        cluster.kill(name)
        eventually(lambda: client.agent(name).state == "lost", what="the loss")
        cluster.kill(cluster.wait_leader())
        cluster.start_agent(name)
        eventually(lambda: client.agent(name).state == "draining", what="the return")

        # A second agent under the name is refused, and nothing is held against the first.
        incarnation = client.agent(name).incarnation
        second = subprocess.Popen(
            [sys.executable, "-m", "raftflow", "agent", "run", "--name", name, "--peers", ",".join(cluster.urls),
             "--work-dir", str(tmp_path / "second")],
            env={"PATH": "/usr/bin:/bin", **({"RAFTFLOW_TOKEN": cluster.token} if cluster.token else {})},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            assert second.stderr is not None
            assert any("Give this one a name of its own" in line for line in second.stderr)
        finally:
            second.kill()
            second.wait()
        view = client.agent(name)
        assert (view.state, view.incarnation) == ("draining", incarnation)
        assert client.resume_agent(name).state in {"up", "returned"}

        # One that is gone for good is forgotten.
        cluster.kill(name)
        eventually(lambda: client.agent(name).state == "lost", what="the loss")
        client.forget_agent(name)
        assert client.agents() == []
