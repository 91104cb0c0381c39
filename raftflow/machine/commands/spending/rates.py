"""Rate limits: set and removed by people, and taken from by running attempts.

Attempts whose tasks have `rates` take when they are placed (`placements.py`). A running attempt takes here. What it
has taken is the record of a durable step, written by the command that takes it: so no later attempt takes it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.events import RateLimitChanged
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done, RatesTaken, RateVerdict
from raftflow.domain.tasks.checks import step_problem
from raftflow.domain.values.ids import name_problem
from raftflow.domain.values.rates import UNIT_MS, show_rate
from raftflow.machine.commands.steps import add_record, find_agent, limit_passed, mismatch, row_of, taken_by_another
from raftflow.machine.tables.spending.rates import RateBucket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raftflow.domain.commands import RateToTake, RemoveRateLimit, SetRateLimit, TakeRates
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.spending.rates import RateTable
    from raftflow.machine.tables.tasks import Profile

RATE_FUNCTION = "raftflow:rate"
"""What the records of taken units name as their function."""
WARNINGS_MAX = 20

_TAKEN, _KNOWN = RateVerdict("taken"), RateVerdict("known")


def set_limit(step: ApplyContext, command: SetRateLimit) -> Done | Rejection:
    """Set or change a rate limit."""
    table, name = step.state.rates, command.name
    wrong = name_problem(name, chars_max=limits.RATE_NAME_CHARS_MAX)
    if wrong is not None:
        return Rejection(RejectionCode.INVALID, f"the name of a rate limit {wrong}")
    most = limits.RATE_AMOUNT_MAX
    if command.period_ms not in UNIT_MS.values() or not (1 <= command.amount <= most and 1 <= command.burst <= most):
        return Rejection(
            RejectionCode.INVALID,
            f"a rate is 1 to {most} in a second, a minute, an hour or a day, with a burst of 1 to {most}",
        )
    known = table.get(name)
    if known is None:
        table.forget_full(step.clock_ms)
        known = table.bring_back(name)
        if known is None and (full := _table_problem(table)) is not None:
            return full
    elif (known.amount, known.period_ms, known.burst) == (command.amount, command.period_ms, command.burst):
        return Done(changed=False)
    if known is None:
        parts = command.burst * command.period_ms
        table.add(RateBucket(name, command.amount, command.period_ms, command.burst, parts, step.clock_ms))
    else:
        known.change(command.amount, command.period_ms, command.burst, step.clock_ms)
    step.notes.append(f"{name}: {show_rate(command.amount, command.period_ms)}, burst {command.burst}")
    step.events.append(RateLimitChanged(name))
    return Done()


def _table_problem(table: RateTable) -> Rejection | None:
    """Refuse one more limit if there are too many."""
    count, removed = len(table.present), len(table.removed)
    if count + removed < limits.RATE_LIMITS_MAX:
        return None
    told = f"{count} rate limits are set, which is the most: remove one with `raftflow limit remove NAME`"
    if removed:
        told = (
            f"{count} rate limits are set, and {removed} were removed while their buckets were not full; the most is "
            f"{limits.RATE_LIMITS_MAX}: wait until those would be full, or remove others"
        )
    return Rejection(RejectionCode.LIMIT, told, limit=limits.RATE_LIMITS_MAX)


def remove_limit(step: ApplyContext, command: RemoveRateLimit) -> Done | Rejection:
    """Remove a rate limit. Its bucket is kept until it is full: a limit that is set again gives nothing twice."""
    if not step.state.rates.remove(command.name, step.clock_ms):
        return Rejection(RejectionCode.NOT_FOUND, f"there is no rate limit {command.name[:80]!r}")
    step.events.append(RateLimitChanged(command.name))
    return Done()


def take_rates(step: ApplyContext, command: TakeRates) -> RatesTaken | Rejection:
    """Take units for the attempts of an agent, in order."""
    agent = find_agent(step, command.agent, command.incarnation)
    if isinstance(agent, Rejection):
        return agent
    if len(command.takes) > limits.RATE_TAKES_MAX:
        return Rejection(
            RejectionCode.LIMIT, f"more than {limits.RATE_TAKES_MAX} in one command", limit=limits.RATE_TAKES_MAX
        )
    return RatesTaken(tuple([_take_units(step, agent, each) for each in command.takes]))


def _take_units(step: ApplyContext, agent: Agent, request: RateToTake) -> RateVerdict:
    """Take units for one attempt, unless its task has taken them already."""
    found = agent.live.get(request.fence)
    if found is None:
        return RateVerdict("stale", f"attempt {request.fence} is over: it takes nothing any more")
    result = b"%d" % request.count
    problem = step_problem(request.name, request.occurrence, RATE_FUNCTION, result)
    if problem is not None:
        return RateVerdict("invalid", problem)
    workflow, task = found
    known = None if workflow.steps is None else workflow.steps.find(task.position, request.name, request.occurrence)
    if known is not None:
        return _KNOWN if known.function == RATE_FUNCTION else RateVerdict("mismatch", mismatch(known, RATE_FUNCTION))
    if (taken := taken_by_another(workflow, task, request, RATE_FUNCTION)) is not None:
        return RateVerdict("mismatch", taken)
    limit = step.state.rates.get(request.limit)
    problem = count_problem(limit, request.limit, request.count)
    if limit is None or problem is not None:
        return RateVerdict("invalid", problem or "")
    if wait_ms := limit.wait_ms(request.count, step.clock_ms):
        return RateVerdict("wait", wait_ms=wait_ms)
    row = row_of(step, workflow, task, request, RATE_FUNCTION, result)
    passed = limit_passed(step, workflow, task, row.size_bytes)
    if passed is not None:
        return RateVerdict("limit", passed)
    limit.take(request.count, step.clock_ms)
    add_record(step, workflow, task, row)
    return _TAKEN


def count_problem(limit: RateBucket | None, name: str, count: int) -> str | None:
    """Say why so many units can never be taken of a rate limit as it is, None if they can."""
    if limit is None:
        return f"there is no rate limit {name[:80]!r}: set it with `raftflow limit set {name[:80]} --rate 100/min`"
    if not 1 <= count <= limit.burst:
        return (
            f"{count} units of rate limit {name!r} are not between 1 and its burst, {limit.burst}: take less, or "
            f"raise it with `raftflow limit set {name} --burst N`"
        )
    return None


def rate_warnings(table: RateTable, profiles: Iterable[Profile]) -> list[str]:
    """Say which tasks take of rate limits that are not set, or more than they ever have."""
    warnings: dict[str, None] = {}
    for profile in profiles:
        for name, count in profile.rates:
            problem = count_problem(table.get(name), name, count)
            if problem is not None:
                warnings[f"rates: {problem}; until then tasks that take from it wait"] = None
        if len(warnings) >= WARNINGS_MAX:
            break
    return list(warnings)
