"""`raftflow help`: topics that concern many commands, and the help of every command."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import click

from raftflow.cli.local_commands.policies import policy_rows
from raftflow.cli.terminal.exits import MEANING
from raftflow.cli.terminal.failure_pages import page_names, page_text, page_titles
from raftflow.cli.terminal.options import CONNECTION_OPTIONS
from raftflow.cli.terminal.output import echo

_WIDTH_MAX = 96

# Paragraphs are wrapped to the terminal; those behind a line with \b are printed as they are.
_CONNECTING = """
Every command that talks to a cluster finds it in one of these places. The first that names a setting counts.

\b
  1. an option, before the noun or after the verb
  2. an environment variable
  3. the [client] table of the TOML file that RAFTFLOW_CONFIG names

\b
Options:
{options}

A local cluster (`raftflow cluster up --data-dir DIR`) needs --data-dir DIR alone: the directory knows its addresses
and its token.

A cluster of several machines, in the environment:

\b
  export RAFTFLOW_PEERS=http://m1:7001,http://m2:7001,http://m3:7001
  export RAFTFLOW_TOKEN=...

or in a file, with RAFTFLOW_CONFIG=client.toml in the environment:

\b
  [client]
  peers = ["https://m1:7001", "https://m2:7001", "https://m3:7001"]
  token = "..."
  cacert = "ca.pem"          # files are looked for beside this one
  request_timeout = "10s"

Name all replicas: any of them answers, also while others are off. When none answers in time, the exit code is 3, and
the message says for each address what happened.
"""
_EXIT_CODES = """
A command ends with one of these codes:

\b
{codes}

A failure is one message on standard error that begins with `raftflow:`. With -o json or -o jsonl it is one JSON
object on the last line of standard error instead:

\b
  {{"error": {{"kind": "refused", "exit_code": 4, "message": "..."}}}}

`kind` is the word above. `problem` has the type and the status of a coordinator's refusal, `problems` the faults of a
document, each with `path`, `message` and `line`. `idempotency_key` is there when nobody knows whether a submission
arrived: with it the command is safe to repeat.
"""
_OUTPUT = """
Results go to standard output, all else to standard error.

\b
  -o table   for people
  -o json    for programs: one JSON value, with everything the cluster knows
  -o jsonl   one JSON value per line: for `head`, `jq` and long listings

Tables have relative times, and the last line of an error. A table fits the terminal, or the number in COLUMNS where
that is set; what is cut ends in dots, and a line on standard error says so. Into a pipe or a file nothing is cut.

Characters that would steer a terminal are escaped in tables and messages, as in \\x1b. JSON is in UTF-8; where the
terminal has another character set, it is in ASCII with \\u escapes.

`raftflow workflow submit` prints the id as soon as the cluster has taken the workflow, before it waits for it. When
standard output takes no more, the id is on standard error and the exit code is 141.
"""
_DOCUMENT = """
A workflow document in TOML; YAML and JSON have the same keys:

\b
  name = "nightly"
  priority = 50                       # 0 to 100, higher goes first
  on_failure = "stop"                 # or "continue"

\b
  [defaults]                          # for tasks that do not say otherwise
  retries = 3

\b
  [[tasks]]
  id = "fetch"
  command = ["python3", "fetch.py"]   # a list: no shell reads it
  timeout = "5m"

\b
  [[tasks]]
  id = "train"
  needs = ["fetch"]                   # these must succeed first
  python = "package.module:function"  # instead of a command: a call
  kwargs = {{ data = {{ "$result" = "fetch" }} }}
  resources = {{ cpu = 2, memory = "512MiB", gpu = 1 }}

`raftflow workflow validate FILE` names every fault with its line. `raftflow schema workflow` prints the JSON Schema
for editors. `raftflow workflow plan FILE` shows where the tasks would run.
"""
_POLICIES = """
A policy says how tasks get their agents. The coordinator uses {default}. `raftflow workflow plan --policy` takes any
of them. `raftflow simulate trace --policy` takes those that can place ready tasks.

\b
{policies}
"""
_FAILURES = """
Each failure mode has a page: what you see, what raftflow does by itself, what you do. `raftflow cluster doctor` names
the page with each finding. `raftflow help NAME` prints one:

\b
{pages}
"""
_ENVIRONMENT = """
Commands read:

\b
{variables}

A task finds in its environment RAFTFLOW_WORKFLOW, RAFTFLOW_TASK, RAFTFLOW_ATTEMPT, RAFTFLOW_FENCE (a number that
grows over all attempts), RAFTFLOW_RESULT (a file: the JSON that the task writes there is its result) and
RAFTFLOW_INPUTS (a file with the results of the tasks in `needs`),
RAFTFLOW_CODE (the folder of the workflow's code, if it was submitted with some).
"""
_VARIABLES = (
    ("RAFTFLOW_PEERS", "the replicas: `raftflow help connecting`"),
    ("RAFTFLOW_TOKEN", "the cluster's token"),
    ("RAFTFLOW_CACERT", "the authority of the replicas' certificates"),
    ("RAFTFLOW_CLIENT_CERT", "the client's own certificate, where the cluster asks for one"),
    ("RAFTFLOW_CLIENT_KEY", "its private key"),
    ("RAFTFLOW_REQUEST_TIMEOUT", "how long a call is retried before it fails, such as 10s"),
    ("RAFTFLOW_CONFIG", "a TOML file with the table [client], [agent] or those of a replica"),
    ("RAFTFLOW_TRACEBACK", "1: a fault in raftflow itself shows its traceback"),
    ("COLUMNS", "the width of tables and help texts, in place of the terminal's"),
)


def _connecting() -> str:
    rows = [(f"{option.opts[0]} {option.metavar}", option.help or "") for option in CONNECTION_OPTIONS]
    return _CONNECTING.format(options=_rows(rows))


def _exit_codes() -> str:
    return _EXIT_CODES.format(codes=_rows((f"{code:>3}  {word}", about) for code, (word, about) in MEANING.items()))


def _policies() -> str:
    from raftflow.scheduler.policies import DEFAULT_POLICY  # noqa: PLC0415 - heavy

    return _POLICIES.format(default=DEFAULT_POLICY, policies=_rows(policy_rows()))


def _failures() -> str:
    return _FAILURES.format(pages=_rows(page_titles()))


TOPICS: dict[str, tuple[str, Callable[[], str]]] = {
    "connecting": ("How a command finds the cluster: options, environment, file.", _connecting),
    "exit-codes": ("What a command's exit code means, and errors as JSON.", _exit_codes),
    "output": ("Tables, JSON, and what goes where.", _OUTPUT.format),
    "document": ("A workflow document, with the keys that most of them have.", _DOCUMENT.format),
    "policies": ("How tasks are placed, in plans and on the agents.", _policies),
    "failures": ("What can fail, and what to do: a page for each failure mode.", _failures),
    "environment": (
        "Environment variables of commands and tasks.",
        lambda: _ENVIRONMENT.format(variables=_rows(_VARIABLES)),
    ),
}


def _width() -> int:
    return max(40, min(shutil.get_terminal_size().columns, _WIDTH_MAX))


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    """Return names with what they are about beside them."""
    formatter = click.HelpFormatter(width=_width())
    with formatter.indentation():
        formatter.write_dl(list(rows))
    return formatter.getvalue().rstrip("\n")


def _complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    root = ctx.find_root().command
    names = [*TOPICS, *page_names(), *(root.list_commands(ctx) if isinstance(root, click.Group) else ())]
    return [name for name in names if name.startswith(incomplete)]


@click.command("help")
@click.argument("words", metavar="[TOPIC | COMMAND...]", nargs=-1, shell_complete=_complete)
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Explain a topic or a command. Without one, list both."""
    root = ctx.find_root()
    if len(words) == 1 and words[0] in TOPICS:
        echo(click.wrap_text(TOPICS[words[0]][1]().strip("\n"), _width(), preserve_paragraphs=True))
        return
    if len(words) == 1 and words[0] in page_names():
        echo(page_text(words[0]))
        return
    command, context = root.command, root
    for word in words:
        following = command.get_command(context, word) if isinstance(command, click.Group) else None
        if following is None:
            raise click.UsageError(f"{_nothing(command, context, word)} Topics: {', '.join(TOPICS)}.")
        command, context = following, click.Context(following, info_name=word, parent=context)
    echo(command.get_help(context))
    if not words:
        echo("\nTopics, for `raftflow help TOPIC`:")
        echo(_rows((name, about) for name, (about, _) in TOPICS.items()))


def _nothing(command: click.Command, context: click.Context, word: str) -> str:
    hint = getattr(command, "hint", None)
    told = f"no topic and no command is called {word!r}."
    return told if hint is None else f"{told} {hint(context, word)}"
