"""Documents of other systems: how to detect them, and which fields of a workflow document correspond.

Users try the documents that they have. A list of a hundred unknown keys would not help them. So the most frequent
kinds are detected, and the answer names the fields that correspond.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from raftflow.domain.contract.views import FieldProblem
from raftflow.formats.faults import DocumentError

_HEAD_CHARS = 64 * 1024
"""Only this much of a text is searched."""
_SHELL = 'command = ["sh", "-c", "..."]'
_DOCKER = 'command = ["docker", "run", "--rm", IMAGE, ...]'


class ForeignFormat(NamedTuple):
    """A kind of document that other systems read."""

    name: str
    advice: str


_ARGO = ForeignFormat(
    "an Argo Workflows document",
    "each task of a `dag` template becomes a task here: `name` -> `id`, `dependencies` or `depends` -> `needs`, the "
    f"`container` of its template -> {_DOCKER}, or its `command` and `args` as one list; `resources.requests` -> "
    "`resources`, `retryStrategy.limit` -> `retries`, `activeDeadlineSeconds` -> `timeout`; in `steps`, what is "
    "in "
    "one list is in parallel, and needs all of the list before",
)
_KUBERNETES = ForeignFormat(
    "a Kubernetes object",
    f"each container that ends becomes a task: `name` -> `id`, `command` and `args` -> `command`, or {_DOCKER}; "
    "`resources.requests` -> `resources`, `backoffLimit` -> `retries`, `activeDeadlineSeconds` -> `timeout`",
)
_TEKTON = ForeignFormat(
    "a Tekton pipeline",
    f"each entry of `tasks` becomes a task: `name` -> `id`, `runAfter` -> `needs`, its steps' `script` -> {_SHELL}",
)
_NOMAD = ForeignFormat(
    "a Nomad job",
    "each task of a group becomes a task here: its name -> `id`, `config.command` and `config.args` -> one `command` "
    "list, `env` -> `env`, `resources.cpu` (MHz) -> `resources.cpu` (cores), `resources.memory` (MB) -> "
    '`resources.memory = "256MiB"`, `restart.attempts` -> `retries`, `constraint` -> `constraints.labels`; a '
    "prestart "
    "task is one that the others have in `needs`. Services, which never end, do not belong here",
)
_ACTIONS = ForeignFormat(
    "a GitHub Actions workflow",
    f"each job becomes a task: its key in `jobs` -> `id`, `needs` -> `needs`, the `run` lines of its steps -> "
    f"{_SHELL}, "
    '`env` -> `env`, `timeout-minutes: 5` -> `timeout = "5m"`, `runs-on` -> `constraints.labels`; a matrix is one '
    "task for each combination, and `uses` steps have to be written out as programs",
)
_GITLAB = ForeignFormat(
    "a GitLab CI pipeline",
    f"each job becomes a task: its key -> `id`, `needs` -> `needs` (else all jobs of the stage before), `script` -> "
    f"{_SHELL}, `variables` -> `env`, `retry` -> `retries`, `timeout` -> `timeout`",
)
_PEGASUS = ForeignFormat(
    "a Pegasus workflow",
    "each job becomes a task: `id` -> `id`, `name` with `arguments` -> one `command` list (transformations are "
    "programs with their path), `jobDependencies`: each `id` is needed by its `children`, so it is in the "
    "`needs` "
    "of those; a recorded run can be converted with wfcommons to WfFormat 1.5, which raftflow reads as it is",
)
_DAX = ForeignFormat(
    "a Pegasus DAX (XML)",
    "each `<job>` becomes a task: `id` -> `id`, `name` with `<argument>` -> one `command` list, `<child ref>` with "
    "its "
    "`<parent ref>` -> `needs`; a recorded run can be converted with wfcommons to WfFormat 1.5, which raftflow reads "
    "as it is",
)
_COMPOSE = ForeignFormat(
    "a docker compose file",
    f"raftflow runs what ends, so each service that is a job becomes a task: its key -> `id`, `depends_on` -> "
    f"`needs`, "
    f"`image` with `command` -> {_DOCKER}, `environment` -> `env`, `working_dir` -> `cwd`, `deploy.resources` -> "
    "`resources`",
)
_CWL = ForeignFormat(
    "a CWL (Common Workflow Language) document",
    "each step becomes a task: its key -> `id`, `baseCommand` with `arguments` and inputs -> one `command` list, "
    "every "
    "step whose output it reads in `in: source` -> `needs`, `ResourceRequirement` `coresMin` and `ramMin` -> "
    "`resources`; files pass through a folder that the agents share",
)
_STEP_FUNCTIONS = ForeignFormat(
    "an AWS Step Functions state machine",
    "each `Task` state becomes a task: its key -> `id`, the states before it in `Next` -> `needs`, "
    "`Retry.MaxAttempts` "
    "-> `retries`, `TimeoutSeconds` -> `timeout`; `Choice` has no counterpart",
)
_TASKFILE = ForeignFormat(
    "a Taskfile",
    f"`tasks` is a list here: the key of each -> `id`, `deps` -> `needs`, `cmds` -> {_SHELL}, `env` -> `env`",
)
_HYPERQUEUE = ForeignFormat(
    "a HyperQueue job definition",
    "`[[task]]` is `[[tasks]]` here, `id` is a string, `deps` -> `needs`, `command` -> `command`, `[[task.request]]` "
    "`resources = { cpus = 2 }` -> `resources = { cpu = 2 }`, `time_limit` -> `timeout`",
)
_SNAKEMAKE = ForeignFormat(
    "a Snakemake file",
    f"each rule and wildcard becomes a task: `shell` -> {_SHELL}, the rules that make its `input` -> `needs`, "
    "`threads` -> `resources.cpu`; `snakemake --dag` prints the graph",
)
_NEXTFLOW = ForeignFormat(
    "a Nextflow script",
    f"each process becomes a task: its `script` -> {_SHELL}, the processes that fill its input channels -> `needs`, "
    "`cpus` and `memory` -> `resources`, `maxRetries` -> `retries`; a run recorded with a trace can be converted "
    "with "
    "wfcommons to WfFormat 1.5, which raftflow reads as it is",
)
_WDL = ForeignFormat(
    "a WDL workflow",
    f"each `call` becomes a task: its name -> `id`, the calls whose outputs it reads -> `needs`, `command` -> "
    f"{_SHELL}, "
    "`runtime` -> `resources`",
)
_SLURM = ForeignFormat(
    "a Slurm batch script",
    'it is a program: name it in a task, `command = ["bash", "job.sh"]`; `--cpus-per-task` -> `resources.cpu`, '
    "`--mem` "
    "-> `resources.memory`, `--time` -> `timeout`, `--dependency=afterok` -> `needs`",
)
_SCRIPT = ForeignFormat(
    "a program",
    'raftflow runs programs by a document that names them: `[[tasks]]`, `id = "run"`, `command = ["./FILE"]`',
)
_PYTHON = ForeignFormat(
    "a Python program",
    'name its function in a task, `python = "module:function"`, or build the workflow in Python with '
    "`raftflow.client.Workflow` and submit it with `raftflow.client.Client`; operators of an Airflow DAG become "
    "tasks, "
    '`a >> b` is `needs = ["a"]` of b',
)


def _has_any(value: object, *keys: str) -> bool:
    """Tell whether one of the tables inside a table or list has one of the keys."""
    rows = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(row, dict) and any(key in row for key in keys) for row in rows)


def _api(document: Mapping[str, Any], prefix: str) -> bool:
    version = document.get("apiVersion")
    return isinstance(version, str) and version.startswith(prefix) and "kind" in document


def _is_nomad(document: Mapping[str, Any]) -> bool:
    job = document.get("Job", document)
    if isinstance(job, dict) and isinstance(job.get("TaskGroups"), list):
        return True
    return _has_any(document.get("job"), "group", "datacenters", "type")


_TABLES: tuple[tuple[ForeignFormat, Callable[[Mapping[str, Any]], bool]], ...] = (
    (_ARGO, lambda d: _api(d, "argoproj.io/")),
    (_TEKTON, lambda d: _api(d, "tekton.dev/")),
    (_KUBERNETES, lambda d: _api(d, "")),
    (_NOMAD, _is_nomad),
    (_CWL, lambda d: "cwlVersion" in d),
    (_PEGASUS, lambda d: "pegasus" in d or "x-pegasus" in d or ("jobs" in d and "jobDependencies" in d)),
    (_ACTIONS, lambda d: _has_any(d.get("jobs"), "runs-on", "steps", "uses")),
    (
        _COMPOSE,
        lambda d: _has_any(d.get("services"), "image", "build", "command", "depends_on", "ports", "environment"),
    ),
    (_STEP_FUNCTIONS, lambda d: "StartAt" in d and "States" in d),
    (
        _TASKFILE,
        lambda d: isinstance(d.get("tasks"), dict) and ("version" in d or _has_any(d["tasks"], "cmds", "deps")),
    ),
    (_HYPERQUEUE, lambda d: isinstance(d.get("task"), list) and _has_any(d["task"], "command")),
    (_SNAKEMAKE, lambda d: any(isinstance(key, str) and key.startswith(("rule ", "checkpoint ")) for key in d)),
    (_GITLAB, lambda d: _has_any(d, "script", "stage")),
)
# No pattern may try the same characters in two ways: a short text could keep it busy for ever.
_TEXTS: tuple[tuple[ForeignFormat, re.Pattern[str]], ...] = (
    (_DAX, re.compile(r"\A\s*(?:<\?xml(?:(?!\?>).)*\?>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<adag\b", re.DOTALL)),
    (_NOMAD, re.compile(r'^[^\S\n]*job\s+"[^"\n]+"\s*\{', re.MULTILINE)),
    (_SLURM, re.compile(r"\A#!.*\n(?:.*\n)*?#SBATCH\s")),
    (_SNAKEMAKE, re.compile(r"^(?:rule|checkpoint)\s+\w+\s*:\s*$", re.MULTILINE)),
    (_WDL, re.compile(r"\A(?:[^\S\n]*(?:#.*)?\n)*version\s+(?:1\.\d|draft-\d|development)\s*$", re.MULTILINE)),
    (_NEXTFLOW, re.compile(r"^[^\S\n]*(?:process\s+\w+|workflow(?:\s+\w+)?)\s*\{", re.MULTILINE)),
    (
        _PYTHON,
        re.compile(r"\A#!.*\bpython|^(?:from\s+[\w.]+\s+import\s|import\s+[\w.]+\s*$)", re.MULTILINE),
    ),
    (_SCRIPT, re.compile(r"\A(?:#!|\x7fELF)")),
)


def kind_of(document: object) -> ForeignFormat | None:
    """Return the other system of a parsed document, None if it may be a workflow document."""
    if not isinstance(document, dict) or isinstance(document.get("tasks"), list):
        return None
    return next((kind for kind, looks in _TABLES if looks(document)), None)


def kind_of_text(text: str) -> ForeignFormat | None:
    """Return the other system of a text that is not JSON, TOML or YAML, None if it is not known."""
    head = text[:_HEAD_CHARS].removeprefix("\ufeff")
    return next((kind for kind, mark in _TEXTS if mark.search(head)), None)


def fault_of(kind: ForeignFormat) -> FieldProblem:
    """Return the message for a document of another system."""
    return FieldProblem(
        "",
        f"this is {kind.name}, not a raftflow document. To run it here: {kind.advice}. "
        "`raftflow help document` shows a whole document",
    )


def refuse(kind: ForeignFormat | None) -> None:
    """Raise `DocumentError` if a document is of another system."""
    if kind is not None:
        raise DocumentError([fault_of(kind)])
