"""Checks of values inside commands: limits, ranges, forms. The graph itself is checked in `workflow.check_graph`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raftflow.domain import limits
from raftflow.domain.tasks.budgets import Budget, budget_problems
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.resources import DEFAULT_DEMAND, MEMORY
from raftflow.domain.tasks.workflow import GraphProblem, TaskSpec
from raftflow.domain.values.code_bundle import is_digest
from raftflow.domain.values.exact import judge_text
from raftflow.domain.values.ids import name_problem
from raftflow.domain.values.results import result_problem, step_name_problem

_Wrong = Callable[[str, str], None]
"""Adds a fault: `wrong(field, message)`."""


def check_workflow_values(
    name: str,
    priority: int,
    max_parallel: int | None = None,
    code: str = "",
    budgets: tuple[Budget, ...] = (),
) -> list[GraphProblem]:
    """List what is wrong with a workflow's own values."""
    problems = [GraphProblem("budgets", message) for message in budget_problems(budgets)]
    if code and not is_digest(code):
        problems.append(GraphProblem("code", f"{code[:80]!r} is not the digest of a code bundle"))
    wrong = name_problem(name)
    if wrong is not None:
        problems.append(GraphProblem("name", f"{name[:80]!r} {wrong}"))
    if not 0 <= priority <= limits.PRIORITY_MAX:
        problems.append(GraphProblem("priority", f"must be 0 to {limits.PRIORITY_MAX}"))
    if max_parallel is not None and not 1 <= max_parallel <= limits.TASKS_PER_WORKFLOW_MAX:
        problems.append(GraphProblem("max_parallel", f"must be 1 to {limits.TASKS_PER_WORKFLOW_MAX}"))
    return problems


def check_task_values(task: TaskSpec, path: str) -> list[GraphProblem]:
    """List what is wrong with a task's values (its id and needs aside); `path` is how the document names it."""
    problems: list[GraphProblem] = []

    def wrong(field: str, message: str) -> None:
        problems.append(GraphProblem(f"{path}.{field}", message))

    for field, message in task.program.faults():
        wrong(field, message)
    if type(task.program) is TaskWait and (task.cache is not None or task.backup):
        wrong("wait", "a task that waits is neither cached nor has backup attempts")
    for key, value in task.env.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            wrong("env", f"{key[:80]!r} cannot be an environment variable")
    if task.cwd is not None and (not task.cwd or "\0" in task.cwd):
        wrong("cwd", "must be a path")
    size = payload_bytes(task)
    if size > limits.SPEC_BYTES_MAX:
        wrong(
            "command", f"command, arguments and environment take {size} bytes, the limit is {limits.SPEC_BYTES_MAX}"
        )
    _check_numbers(task, wrong)
    if task.resources != DEFAULT_DEMAND:
        for message in resource_problems(task.resources):
            wrong("resources", message)
    for message in label_problems(task.labels):
        wrong("labels", message)
    if task.rates:
        for message in rate_problems(task.rates):
            wrong("rates", message)
    if task.kind and (bad := name_problem(task.kind)) is not None:
        wrong("kind", f"{task.kind[:80]!r} {bad}")
    return problems


def resource_problems(resources: Mapping[str, int]) -> list[str]:
    """Say what is wrong with amounts of resources in integer units."""
    if len(resources) > limits.RESOURCES_PER_TASK_MAX:
        return [f"{len(resources)} resources, the limit is {limits.RESOURCES_PER_TASK_MAX}"]
    problems = []
    for name, amount in resources.items():
        bad = name_problem(name)
        if bad is not None:
            problems.append(f"{name[:80]!r} {bad}")
        if not 0 <= amount <= limits.RESOURCE_UNITS_MAX:
            problems.append(f"{name[:80]!r} must be 0 to {limits.RESOURCE_UNITS_MAX} units")
    return problems


def rate_problems(rates: Mapping[str, int]) -> list[str]:
    """Say what is wrong with the units that a task takes of rate limits."""
    if len(rates) > limits.RATES_PER_TASK_MAX:
        return [f"{len(rates)} rates, the limit is {limits.RATES_PER_TASK_MAX}"]
    problems = []
    for name, count in rates.items():
        bad = name_problem(name, chars_max=limits.RATE_NAME_CHARS_MAX)
        if bad is not None:
            problems.append(f"{name[:80]!r} {bad}")
        if not 1 <= count <= limits.RATE_AMOUNT_MAX:
            problems.append(f"{name[:80]!r} must be 1 to {limits.RATE_AMOUNT_MAX}")
    return problems


def label_problems(labels: Mapping[str, str]) -> list[str]:
    """Say what is wrong with labels."""
    if len(labels) > limits.LABELS_MAX:
        return [f"{len(labels)} labels, the limit is {limits.LABELS_MAX}"]
    problems = []
    for key, value in labels.items():
        bad = name_problem(key)
        if bad is not None:
            problems.append(f"{key[:80]!r} {bad}")
        if judge_text(value) is not None:
            problems.append(f"the value of {key[:80]!r} {judge_text(value)}")
        if len(value) > limits.LABEL_CHARS_MAX:
            problems.append(f"the value of {key[:80]!r} is longer than {limits.LABEL_CHARS_MAX} characters")
    return problems


def step_problem(name: str, occurrence: int, function: str, result: bytes) -> str | None:
    """Say why a step cannot be recorded, or None if it can."""
    wrong = step_name_problem(name)
    if wrong is not None:
        return f"the name of a step {wrong}"
    if not 1 <= occurrence <= limits.STEPS_PER_TASK_MAX:
        return f"occurrence {occurrence} of a step: it is a number from 1 to {limits.STEPS_PER_TASK_MAX}"
    if len(function) > limits.FUNCTION_CHARS_MAX:
        return f"the name of a step's function has at most {limits.FUNCTION_CHARS_MAX} characters"
    return "a step needs a result, which may be null" if not result else result_problem(result)


def _check_numbers(task: TaskSpec, wrong: _Wrong) -> None:
    if not 0 <= task.retries <= limits.RETRIES_MAX:
        wrong("retries", f"must be 0 to {limits.RETRIES_MAX}")
    _check_duration("retry_delay", task.retry_delay_ms, 0, wrong)
    _check_duration("retry_delay_max", task.retry_delay_max_ms, 0, wrong)
    _check_duration("grace", task.grace_ms, 0, wrong)
    if task.timeout_ms is not None:
        _check_duration("timeout", task.timeout_ms, 1, wrong)
    if task.expected_ms is not None:
        _check_duration("expected", task.expected_ms, 0, wrong)
    if task.memory_max_mib is not None:
        wanted_mib = task.resources.get(MEMORY, 0)
        if not wanted_mib <= task.memory_max_mib <= limits.RESOURCE_UNITS_MAX:
            wrong("memory_max", f"must be at least the demand, {wanted_mib} MiB")


def _check_duration(field: str, value_ms: int, least_ms: int, wrong: _Wrong) -> None:
    if not least_ms <= value_ms <= limits.DURATION_MS_MAX:
        wrong(field, f"must be {least_ms} to {limits.DURATION_MS_MAX} ms")


def payload_bytes(task: TaskSpec) -> int:
    """Return about how many bytes the task carries to the agent."""
    size = task.program.size_bytes() + len(task.cwd or "")
    if task.env:
        size += sum(len(key.encode()) + len(value.encode()) for key, value in task.env.items())
    return size
