"""The tables, as plain attributes. Data only: `apply.py` has the rules."""

from __future__ import annotations

import weakref

from raftflow.domain.features import LEVEL_FIRST
from raftflow.domain.limits import REQUEST_IDS_MAX
from raftflow.domain.tasks.feasibility import Shape
from raftflow.machine.tables.agenda import Agenda
from raftflow.machine.tables.agents import Agent, AgentClass
from raftflow.machine.tables.bundles import BundleTable
from raftflow.machine.tables.effects.table import EffectTable
from raftflow.machine.tables.identities.tokens import TokenTable
from raftflow.machine.tables.kinds import Learnt
from raftflow.machine.tables.requests import RequestTable
from raftflow.machine.tables.results import Claim, ResultTable
from raftflow.machine.tables.spending.rates import RateTable
from raftflow.machine.tables.steps import StepTable
from raftflow.machine.tables.timers import AgentTimers, Timers
from raftflow.machine.tables.uploads import Upload
from raftflow.machine.tables.waits.signals import SignalTable
from raftflow.machine.tables.waits.waits import WaitTable
from raftflow.machine.tables.workflows import Workflow


class State:
    """Everything that is replicated, aside from the clock and the chain."""

    def __init__(self, requests_max: int = REQUEST_IDS_MAX) -> None:
        self.workflows: dict[str, Workflow] = {}
        """In order of submission."""
        self.by_number: dict[int, Workflow] = {}
        """The same by number, in the same order."""
        self.finished: dict[str, Workflow] = {}
        """Finished ones in the order in which they finished."""
        self.agents: dict[str, Agent] = {}
        """In order of incarnation, gone ones included."""
        self.kinds: dict[AgentClass, int] = {}
        """How many agents that are up are of each kind."""
        self.kinds_learnt: dict[str, Learnt] = {}
        """By kind of task, in the order in which they were met."""
        self.shapes: weakref.WeakValueDictionary[Shape, Shape] = weakref.WeakValueDictionary()
        """One object for equal shapes."""
        self.requests = RequestTable(requests_max)
        self.results = ResultTable()
        """Results that may stand for those of equal tasks."""
        self.claims: dict[str, Claim] = {}
        """Which of equal tasks runs, and which wait for it."""
        self.timers = Timers()
        self.agent_timers = AgentTimers()
        self.live_tasks = 0
        """Tasks of unfinished workflows."""
        self.result_bytes = 0
        """Of the results of all workflows."""
        self.uploads: dict[str, Upload] = {}
        """Workflows that come in pieces, in the order in which they were begun. Users do not see them."""
        self.upload_tasks = 0
        """Tasks that they will have."""
        self.steps = StepTable()
        """Records of durable steps."""
        self.rates = RateTable()
        """Rate limits by name, in the order in which they were set."""
        self.tokens = TokenTable()
        """Who may ask, and for what."""
        self.effects = EffectTable()
        """Calls of the world outside that must not happen twice."""
        self.waits = WaitTable()
        """What tasks wait for, apart from other tasks."""
        self.signals = SignalTable()
        """Signals that were sent before a wait for them began, and the keys of all."""
        self.bundles = BundleTable()
        """Code bundles that workflows refer to."""
        self.agenda = Agenda()
        """Work that commands have begun and later commands do in pieces."""
        self.fence = 0
        """The last one given. The same holds for the numbers that follow."""
        self.incarnation = 0
        self.workflow_number = 0
        self.finished_number = 0
        self.effect_number = 0
        self.wait_number = 0
        self.signal_number = 0
        self.feature_level = LEVEL_FIRST
        """See `domain.features`."""

    @property
    def next_timer_ms(self) -> int | None:
        """When the earliest timer is due, None without one."""
        of_tasks, of_agents = self.timers.next_due_ms(self.by_number), self.agent_timers.next_due_ms()
        if of_tasks is None or of_agents is None:
            return of_agents if of_tasks is None else of_tasks
        return min(of_tasks, of_agents)

    def shape(self, shape: Shape) -> Shape:
        """Return the shared object that equals `shape`."""
        return self.shapes.setdefault(shape, shape)

    def add_kind(self, agent: Agent, count: int) -> None:
        """Count an agent that came up (1) or is no longer up (-1)."""
        kind = agent.kind()
        left = self.kinds.pop(kind, 0) + count
        if left:
            self.kinds[kind] = left
