"""The scheduler and the state machine together, on random fleets and loads with failing tasks and agents.

At every index what is allocated is no more than the capacity (all invariants are checked after every command),
nothing that is proposed from a fresh view is refused, and all that could run on some agent has run in the end.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain import commands as c
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.scheduler.place import decide
from raftflow.scheduler.policies import PLACEMENT_RULES
from raftflow.scheduler.queue.ready_queue import ReadyQueue
from raftflow.scheduler.reservations import Reservations
from raftflow.scheduler.view import PlacementView, has_room

AGENTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=4)
TASKS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 1),
        st.lists(st.integers(1, 6), max_size=2),
        st.integers(0, 3),
        st.sampled_from(["succeeded", "succeeded", "failed", "lose the agent", "stay"]),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=14,
)
ROUNDS_MAX = 120
ROUND_MS = 20_000


class Cluster:
    """Rounds of placing and ending; what ends how is drawn once for each task, and later attempts succeed."""

    def __init__(self, agents, tasks, policy: str, max_parallel: int | None) -> None:
        self.machine = Machine()
        self.policy = policy
        self.now_ms = 1_000_000
        self.lives = 0
        self.reservations = Reservations()
        self.agents = dict(zip("abcd", agents, strict=False))
        self.tasks = tasks
        for name in self.agents:
            self.register(name)
        spec = WorkflowSpec(
            name="any",
            max_parallel=max_parallel,
            on_failure="continue",
            tasks=tuple(
                TaskSpec(
                    id=f"t{number}",
                    needs=tuple(dict.fromkeys(f"t{number - back}" for back in needs if number >= back)),
                    program=CommandLine(("true",)),
                    resources={"cpu": cpu * 1_000, "gpu": gpu * 1_000},
                    exclusive=exclusive,
                    expected_ms=1_000 * length,
                    retries=9,
                    retry_delay_ms=1,
                )
                for number, (cpu, gpu, needs, length, _, exclusive) in enumerate(tasks)
            ),
        )
        self.apply(c.SubmitWorkflow(at_ms=self.now_ms, actor="client", workflow_id="wf", spec=spec))

    def apply(self, command: c.AnyCommand):
        (reply,) = self.machine.apply(self.machine.applied_index + 1, 1, c.encode_entry((command,))).replies
        assert check(self.machine) == []
        return reply

    def register(self, name: str) -> None:
        self.lives += 1
        cpu, gpu, prefetch = self.agents[name]
        capacity = {"cpu": cpu * 1_000, "gpu": gpu * 1_000}
        self.apply(
            c.RegisterAgent(
                at_ms=self.now_ms, actor=f"agent:{name}", name=name, instance=f"{name}{self.lives}",
                capacity={key: amount for key, amount in capacity.items() if amount}, prefetch=prefetch,
            )
        )  # fmt: skip

    @property
    def workflow(self):
        return self.machine.state.workflows["wf"]

    def place(self) -> None:
        """Decide until nothing more is placed."""
        while True:
            queue = ReadyQueue()
            for key in queries.ready_tasks(self.machine):
                queue.add(queries.ready_task(self.machine, *key))
            rooms = {room.name: room for room in queries.agent_rooms(self.machine)}
            budget = queries.budget(self.machine, "wf")
            budgets = {} if budget is None else {"wf": budget}
            groups = queue.groups(20, budgets)
            decision = decide(
                PlacementView(
                    agents=tuple(room for room in rooms.values() if has_room(room)),
                    full=tuple(room for room in rooms.values() if not has_room(room)),
                    groups=groups,
                    placements_max=20,
                    policy=self.policy,
                    budgets=budgets,
                    reserved=self.reservations.choose(
                        self.now_ms, rooms, lambda name: queries.holdings(self.machine, name)
                    ),
                )
            )
            self.reservations.note(self.now_ms, decision, dict.fromkeys(group.shape for group in groups))
            if not decision.placements:
                return
            placements = tuple(decision.placements)
            reply = self.apply(c.CommitPlacements(at_ms=self.now_ms, actor="leader:r1", placements=placements))
            assert all(reply.fences), "a proposal from a fresh view was refused"

    def end(self, index: int) -> None:
        """End one running attempt as its task has it."""
        running = [
            (agent, fence, workflow, task)
            for agent in self.machine.state.agents.values()
            for fence, (workflow, task) in agent.live.items()
            if task.state is TaskState.RUNNING
        ]
        if not running:
            return
        agent, fence, workflow, task = running[index % len(running)]
        fate = self.tasks[task.position][4] if task.attempts == 1 else "succeeded"
        if fate == "lose the agent":
            self.apply(
                c.RemoveAgent(
                    at_ms=self.now_ms,
                    actor="leader:r1",
                    name=agent.name,
                    incarnation=agent.incarnation,
                    reason="lost",
                )
            )
            self.register(agent.name)
        elif fate != "stay" or index % 3 == 0:
            outcome = AttemptOutcome.FAILED if fate == "failed" else AttemptOutcome.SUCCEEDED
            end = c.AttemptEnd(fence, workflow.id, task.id, outcome)
            self.apply(
                c.ReportAttempts(
                    at_ms=self.now_ms, actor=f"agent:{agent.name}", agent=agent.name, incarnation=agent.incarnation,
                    ends=(end,),
                )
            )  # fmt: skip

    def feasible(self) -> list[str]:
        """Return the tasks that could run on some agent, with all that they need."""
        able: dict[str, bool] = {}
        for task in self.workflow.tasks:
            cpu, gpu = self.tasks[task.position][:2]
            fits = any(cpu <= each[0] and gpu <= each[1] for each in self.agents.values())
            able[task.id] = fits and all(able[self.workflow.tasks[need].id] for need in task.needs)
        return [task_id for task_id, could in able.items() if could]


@pytest.mark.no_cover
@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    agents=AGENTS,
    tasks=TASKS,
    policy=st.sampled_from(sorted(PLACEMENT_RULES)),
    max_parallel=st.none() | st.integers(1, 3),
    order=st.lists(st.integers(0, 99), min_size=1, max_size=9),
)
def test_no_index_over_commits_and_all_that_is_feasible_ends(*, agents, tasks, policy, max_parallel, order):
    cluster = Cluster(agents, tasks, policy, max_parallel)
    for turn in range(ROUNDS_MAX):
        cluster.place()
        under_way = cluster.workflow.counts[TaskState.RUNNING] + cluster.workflow.counts[TaskState.QUEUED]
        assert max_parallel is None or under_way <= max_parallel
        cluster.end(order[turn % len(order)] + turn)
        cluster.now_ms += ROUND_MS
        cluster.apply(c.FireTimers(at_ms=cluster.now_ms, actor="leader:r1"))
    ended = [task.id for task in cluster.workflow.tasks if task.state is TaskState.SUCCEEDED]
    assert ended == cluster.feasible()
