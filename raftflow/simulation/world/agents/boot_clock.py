"""The boot clock of the simulated machines of agents, and what else the agent's code takes from its machine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from raftflow.agent import loop as agent_loop
from raftflow.agent.attempts import fitness as agent_fitness
from raftflow.agent.attempts import runner as agent_attempts
from raftflow.agent.attempts import usage as agent_usage
from raftflow.agent.exchange import exchange as agent_exchange
from raftflow.machine.read import inputs as machine_inputs
from raftflow.simulation.world.loop import START_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.simulation.world.loop import VirtualLoop

_BOOT_NS: Final = 10**15
_INLINE_BYTES: Final = 4
"""Results are fences, of one to four bytes. A task that needs two or three others fetches their results."""
_PIECE_BYTES: Final = 6
_PIECE_COUNT: Final = 2


def virtual_ns(loop: VirtualLoop) -> int:
    """Return the boot time clock of the simulated machines."""
    return _BOOT_NS + int((loop.time() - START_S) * 1e9)


@contextmanager
def virtual_agents(loop: VirtualLoop) -> Iterator[None]:
    """Give the agent's code the virtual clock in place of CLOCK_BOOTTIME, and small limits."""

    def now_ns() -> int:
        return virtual_ns(loop)

    with (
        patch.object(agent_loop, "now_ns", now_ns),
        patch.object(agent_exchange, "now_ns", now_ns),
        patch.object(agent_attempts, "now_ns", now_ns),
        patch.object(agent_usage, "now_ns", now_ns),
        patch.multiple(agent_fitness, now_ns=now_ns, PROBE_FIRST_S=0.2, PROBE_MAX_S=1.0),
        patch.object(agent_loop, "_version", lambda: "simulated"),
        patch.multiple(
            machine_inputs,
            INPUTS_INLINE_BYTES_MAX=_INLINE_BYTES,
            INPUTS_PIECE_BYTES_MAX=_PIECE_BYTES,
            INPUTS_PIECE_COUNT_MAX=_PIECE_COUNT,
        ),
    ):
        yield
