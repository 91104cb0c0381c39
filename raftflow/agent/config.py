"""An agent's configuration: a TOML file, then the environment, then flags."""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from raftflow import helpers
from raftflow.agent.allow_list import EVERYTHING
from raftflow.agent.other_user import user_problem
from raftflow.agent.task_environment import pass_env_problem
from raftflow.domain import limits
from raftflow.domain.tasks.checks import label_problems, resource_problems
from raftflow.domain.tasks.resources import CPU, MEMORY, Resources, parse_amount
from raftflow.domain.values.ids import name_problem
from raftflow.logstore.stores import LogStoreError, open_store
from raftflow.private_files import PrivateFileError, check_private, read_token
from raftflow.settings import declared_settings, setting

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]

_log = logging.getLogger("raftflow.agent.config")

_MEMORY_SHARE = 0.8
"""Of the machine's memory, if the configuration names none: the rest is for the system."""

_PAIRS = {"token": "token_file", "token_file": "token"}
"""Keys of which the one takes the place of the other."""


class AgentConfigError(ValueError):
    """A setting is missing or wrong; the text names the key and where it was set."""


def _default_name() -> str:
    name = "".join(c if c.isalnum() or c in "_.-" else "-" for c in socket.gethostname())
    return name if name_problem(name) is None else "agent"


def default_start_folder() -> str:
    """Return the folder in which this agent was started, empty if it is gone."""
    try:
        return helpers.start_folder()
    except FileNotFoundError:
        return ""


def _default_python_path() -> tuple[str, ...]:
    return tuple(filter(None, [default_start_folder()]))


def default_resources() -> dict[str, float | str]:
    """Return all CPUs that this process may use and 80 % of the machine's memory, in users' units."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {CPU: len(os.sched_getaffinity(0)), MEMORY: int(memory_bytes * _MEMORY_SHARE) >> 20}


class AgentConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Everything that an agent can be told, each setting with its help. In a file: the table `[agent]`."""

    peers: Annotated[
        tuple[str, ...],
        msgspec.Meta(min_length=1, max_length=99),
        setting(
            "All replicas, in any order. The agent finds the leader among them and follows it.",
            variable="RAFTFLOW_PEERS",
        ),
    ]
    name: Annotated[
        str, setting("The name is unique in the cluster. The default is the name of the host.", default="host's name")
    ] = msgspec.field(default_factory=_default_name)
    instance: Annotated[
        str,
        msgspec.Meta(min_length=8, max_length=64),
        setting("Tells two processes of one name apart. Leave it to the agent.", default="random, one per process"),
    ] = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    resources: Annotated[
        dict[str, float | str],
        setting(
            "What tasks can use here. The default is all CPUs and 80 % of the memory. Any other name is a custom "
            "resource; a task asks for it by the same name.",
            default="all CPUs and 80 % of the memory",
        ),
    ] = msgspec.field(default_factory=default_resources)
    labels: Annotated[
        dict[str, str], msgspec.Meta(max_length=limits.LABELS_MAX), setting("Labels that tasks can ask for.")
    ] = {}
    prefetch: Annotated[
        int,
        setting(
            "Attempts that may wait here, so that a free place gets its next attempt at once.", 0, limits.PREFETCH_MAX
        ),
    ] = 16
    work_dir: Annotated[
        str,
        setting(
            "The output of attempts. The directory belongs to this agent alone.",
            default="`raftflow/agents/NAME` in the user's directory for state",
        ),
    ] = ""
    python_path: Annotated[
        tuple[str, ...],
        setting(
            "Where modules of python tasks are looked for: folders or zip files, in this order, before what is "
            "installed for the interpreter. The default is the folder in which the agent is started. Relative ones "
            "begin there.",
            variable="RAFTFLOW_PYTHON_PATH",
            default="the folder in which the agent is started",
        ),
    ] = msgspec.field(default_factory=_default_python_path)
    output_bytes_max: Annotated[
        int,
        setting(
            "Bytes that are kept of each standard stream of an attempt: half from its beginning, half from its end.",
            1_024,
            1 << 30,
        ),
    ] = 1 << 20
    inputs_bytes_max: Annotated[
        int,
        setting(
            "Bytes of inputs that one attempt may have; an attempt with more fails. They lie in the work directory "
            "while the attempt runs.",
            1,
        ),
    ] = limits.INPUTS_BYTES_MAX
    code_bytes_max: Annotated[
        int,
        setting(
            "Bytes of code bundles that are kept unpacked in the work directory; the least recently used go first. "
            "Those of attempts that run are kept beyond it.",
            0,
        ),
    ] = 1 << 30
    keep_attempts_max: Annotated[
        int,
        setting("Ended attempts whose output is kept, also over restarts of the agent; the oldest go first.", 1),
    ] = 10_000
    keep_bytes_max: Annotated[int, setting("Bytes of output of ended attempts that are kept.", 1)] = 1 << 30
    keep_age_max_s: Annotated[
        float,
        msgspec.Meta(gt=0),
        setting("How long (in seconds) output is kept after its attempt has ended.", maximum=10 * 366 * 86_400),
    ] = 7 * 86_400
    log_store: Annotated[
        str,
        setting(
            "Where output of ended attempts is kept as well: in a folder that machines share, or in S3 "
            "(s3://bucket/prefix). Replicas with the same setting read it from there when the agent is gone."
        ),
    ] = ""
    token: Annotated[
        str, setting("The cluster's token. A file that contains it must be private.", variable="RAFTFLOW_TOKEN")
    ] = ""
    token_file: Annotated[
        str, setting("A private file with the token, in place of `token`.", variable="RAFTFLOW_TOKEN_FILE")
    ] = ""
    cacert: Annotated[
        str, setting("Authority that signed the replicas' API certificates.", variable="RAFTFLOW_CACERT")
    ] = ""
    client_cert: Annotated[
        str, setting("Certificate that the agent shows to the replicas.", variable="RAFTFLOW_CLIENT_CERT")
    ] = ""
    client_key: Annotated[
        str, setting("Private key of `client_cert`, mode 0600.", variable="RAFTFLOW_CLIENT_KEY")
    ] = ""
    drain_timeout_s: Annotated[float, setting("How long running attempts may continue after SIGTERM.", 0, 86_400)] = (
        30.0
    )
    goodbye_timeout_s: Annotated[
        Seconds,
        setting("How long the agent tries to report after its last attempt had to end. Then it leaves anyway."),
    ] = 5.0
    connect_timeout_s: Annotated[Seconds, setting("How long a connection to a replica may take.")] = 1.0
    poll_timeout_s: Annotated[
        Seconds,
        setting("How long an answer may take beyond the time for which the coordinator may hold the poll."),
    ] = 3.0
    task_niceness: Annotated[
        int,
        setting(
            "On a busy machine tasks get less CPU time than programs with a smaller number, such as replicas and the "
            "agent. 0 gives them as much. Where the system refuses it, tasks run as before.",
            0,
            19,
        ),
    ] = 5
    run_as: Annotated[
        str,
        setting(
            "The user as whom an agent of root works and runs its tasks. Tasks cannot send it signals, nor read its "
            "token and its keys. `work_dir` and `log_store` belong to that user.",
            default="the user who starts the agent",
        ),
    ] = ""
    own_folder: Annotated[
        bool,
        setting(
            "Whether a task without `cwd` begins in an empty folder of its own, which is removed at its end. "
            "Otherwise it begins in the folder in which the agent was started."
        ),
    ] = False
    task_files_max: Annotated[
        int,
        setting("Files that one process of a task may have open. 0: as many as the agent's own user.", 0, 1 << 20),
    ] = 0
    task_file_mib_max: Annotated[
        int,
        setting(
            "Size (MiB) of the largest file that a task may write, the output of a python function among them. "
            "0: no limit.",
            0,
            1 << 30,
        ),
    ] = 0
    task_processes_max: Annotated[
        int,
        setting(
            "Processes and threads that the agent's user may have when a task makes another one, those of other "
            "programs of this user among them. 0: no limit. The system does not count for root.",
            0,
            1 << 22,
        ),
    ] = 0
    task_new_privileges: Annotated[
        bool,
        setting(
            "Whether tasks may get the rights of other users from programs such as sudo. Podman needs it if the "
            "agent is not root: an agent that offers containers in this way allows it by itself."
        ),
    ] = False
    allow_commands: Annotated[
        tuple[str, ...],
        msgspec.Meta(max_length=limits.LABELS_MAX),
        setting(
            "Programs that tasks may start: names that are found on the agent's PATH, or absolute paths. `*` stands "
            "for any characters but `/`, `.` and `:`, `**` for any. An interpreter among them runs anything.",
            default="everything",
        ),
    ] = EVERYTHING
    allow_callables: Annotated[
        tuple[str, ...],
        msgspec.Meta(max_length=limits.LABELS_MAX),
        setting(
            "Functions that tasks may call, as `module:function`, in the same form: `jobs:*`. With a list, tasks "
            "cannot bring code of their own (code bundles, cwd, PYTHONPATH).",
            default="everything",
        ),
    ] = EVERYTHING
    allow_images: Annotated[
        tuple[str, ...],
        msgspec.Meta(max_length=limits.LABELS_MAX),
        setting(
            "Images of containers that tasks may run, in the same form: `registry.example.org/team/**`.",
            default="everything",
        ),
    ] = EVERYTHING
    pass_env: Annotated[
        tuple[str, ...],
        msgspec.Meta(max_length=limits.LABELS_MAX),
        setting(
            "Variables of the agent's environment that tasks inherit. `AWS_*` means all that begin with AWS_. "
            "Without it they get PATH, HOME, the language, the time zone and a few more "
            "(raftflow/agent/SECURITY.md). Secrets of the cluster are never among them."
        ),
    ] = ()
    worker_calls_max: Annotated[int, setting("A python worker is replaced after that many calls.", 1)] = 10_000
    worker_rss_max_mib: Annotated[
        int, setting("A python worker that was larger than this (MiB) during a call is replaced after it.", 1)
    ] = 1_024
    worker_idle_max_s: Annotated[
        Seconds, setting("A python worker that was given no call for this time is ended.")
    ] = 60.0
    workers_idle_max: Annotated[int, setting("Python workers that wait for calls.", 0, 1_024)] = 16
    workers_idle_max_mib: Annotated[
        int,
        setting("Memory (MiB) that waiting python workers may hold together. The longest idle are ended first.", 0),
    ] = 1_024

    def capacity(self) -> Resources:
        """Return `resources` in integer units."""
        return {name: parse_amount(name, self.resources[name]) for name in sorted(self.resources)}

    def work_path(self) -> Path:
        """Return the work directory. Raises `AgentConfigError` if none is configured and there is no default."""
        return Path(self.work_dir).absolute() if self.work_dir else default_path(self.name, os.environ)


SETTINGS: Final = declared_settings(AgentConfig, "agent")
"""Every setting of an agent, by its key."""
_ENVIRONMENT: Final = {declared.variable: key for key, declared in SETTINGS.items() if declared.variable}


def default_path(name: str, env: Mapping[str, str]) -> Path:
    """Return where an agent of that name works unless it is told: below its user's directory for state.

    `$XDG_STATE_HOME/raftflow/agents/NAME` if that variable is set, `/var/lib/raftflow/agents/NAME` for root,
    `~/.local/state/raftflow/agents/NAME` for others. Raises `AgentConfigError` if there is no such directory.
    """
    state = env.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # noqa: PTH117 - a text, which the standard wants ignored if it is not absolute
        base = Path(state)
    elif os.geteuid() == 0:
        base = Path("/var/lib")
    else:
        home = env.get("HOME", "")
        if not home:
            try:
                home = pwd.getpwuid(os.geteuid()).pw_dir
            except KeyError:
                home = ""
        if not os.path.isabs(home) or home == "/" or not os.path.isdir(home):  # noqa: PTH112, PTH117
            raise AgentConfigError(
                "work_dir (default): this user has no home directory for the agent's files; "
                "give a private directory with --work-dir or work_dir"
            )
        base = Path(home).resolve() / ".local" / "state"
    return base / "raftflow" / "agents" / name


def load_config(file: Path | None, env: Mapping[str, str], flags: Mapping[str, Any]) -> AgentConfig:
    """Merge the file's `[agent]` table, the environment and flags: flag over environment over file over default.

    `flags` maps field names of `AgentConfig` to values; None means that the flag was not given. `resources` and
    `labels` are merged key by key, over the default resources too. Raises `AgentConfigError`.
    """
    settings: dict[str, Any] = {"resources": default_resources()}
    sources = dict.fromkeys(settings, "default")
    if file is not None:
        _merge(settings, sources, _read_file(file), str(file))
    if env.get("RAFTFLOW_TOKEN") and env.get("RAFTFLOW_TOKEN_FILE"):
        raise AgentConfigError("RAFTFLOW_TOKEN and RAFTFLOW_TOKEN_FILE are both set: set one of them")
    for variable, key in _ENVIRONMENT.items():
        value = env.get(variable)
        if value:
            _tell_override(settings, sources, key, value, variable)
            _merge(settings, sources, {key: value}, variable)
    _merge(settings, sources, {key: value for key, value in flags.items() if value is not None}, "flag")
    if isinstance(settings.get("peers"), str):
        settings["peers"] = [peer.strip() for peer in settings["peers"].split(",") if peer.strip()]
    if "python_path" in settings:
        settings["python_path"] = _folders(settings["python_path"])
    try:
        if settings.get("token_file"):
            # It is read again while the agent runs, which may leave the folder in which it was started.
            settings["token_file"] = str(Path(str(settings["token_file"])).absolute())
            settings["token"] = read_token(str(settings["token_file"]))
        elif settings.get("token") and file is not None and sources["token"] == str(file):
            check_private(file, "configuration file with a token")
    except PrivateFileError as error:
        source = sources.get("token_file", sources.get("token"))
        raise AgentConfigError(f"token ({source}): {error}") from error
    if not settings.get("peers"):
        raise AgentConfigError("peers: no coordinator is named; give --peers URL,URL or set RAFTFLOW_PEERS")
    try:
        config = msgspec.convert(settings, AgentConfig)
    except msgspec.ValidationError as error:
        raise AgentConfigError(_explain(str(error), sources)) from error
    _check(config, sources)
    return config


def _folders(value: Any) -> Any:
    """Return folders as absolute paths. Links are not followed: where they lead may change."""
    if isinstance(value, str):
        value = value.split(os.pathsep)
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        return value  # it is refused with the rest
    start = "".join(_default_python_path())
    return [os.path.join(start, Path(each).expanduser()) for each in value if each]  # noqa: PTH118 - a text


def _read_file(file: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AgentConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise AgentConfigError(f"{file}: not TOML: {error}") from error
    table = document.get("agent")
    if not isinstance(table, dict):
        raise AgentConfigError(f"{file}: has no table [agent]")
    unknown = sorted(set(document) - {"agent"})
    if unknown:
        raise AgentConfigError(f"{file}: unknown key {unknown[0]!r}; an agent's settings are in [agent]")
    return table


def _merge(settings: dict[str, Any], sources: dict[str, str], more: Mapping[str, Any], source: str) -> None:
    for key, value in more.items():
        old = settings.get(key)
        if key in ("resources", "labels") and isinstance(value, Mapping) and isinstance(old, dict):
            settings[key] = {**old, **value}
        else:
            other = _PAIRS.get(key, "")
            if other in more:
                raise AgentConfigError(
                    f"{key} ({source}): {key} and {other} are given in the same place: give one of them"
                )
            settings.pop(other, None)
            settings[key] = value
        sources[key] = source


def _tell_override(
    settings: Mapping[str, Any], sources: Mapping[str, str], key: str, value: str, variable: str
) -> None:
    """Log that a variable takes the place of what the file says, if that is something else. Never says what."""
    for each in (key, _PAIRS.get(key, "")):
        old = settings.get(each)
        shown = ",".join(map(str, old)) if isinstance(old, list) else old
        if old is not None and not (each == key and shown == value):
            _log.warning("environment variable %s takes the place of agent.%s in %s", variable, each, sources[each])


def _explain(message: str, sources: Mapping[str, str]) -> str:
    """Put the key and its source before msgspec's text."""
    for key, source in sources.items():
        if f"`$.{key}" in message or f"`{key}`" in message:
            return f"{key} ({source}): {message}"
    return message


def _check(config: AgentConfig, sources: Mapping[str, str]) -> None:
    def fail(key: str, why: str) -> AgentConfigError:
        return AgentConfigError(f"{key} ({sources.get(key, 'default')}): {why}")

    for peer in config.peers:
        parts = urlsplit(peer)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise fail("peers", f"{peer!r} is not a base URL such as http://host:7100")
    wrong = name_problem(config.name)
    if wrong is not None:
        raise fail("name", f"{config.name!r} {wrong}")
    for name, value in config.resources.items():
        wrong = name_problem(name)
        if wrong is not None:
            raise fail("resources", f"{name!r} {wrong}")
        try:
            parse_amount(name, value)
        except ValueError as error:
            raise fail("resources", f"{name} {error}") from error
    if too_many := resource_problems(config.capacity()):
        raise fail("resources", too_many[0])
    if wrong_labels := label_problems(config.labels):
        raise fail("labels", wrong_labels[0])
    if config.run_as and (wrong_user := user_problem(config.run_as)):
        raise fail("run_as", wrong_user)
    if wrong_names := pass_env_problem(config.pass_env):
        raise fail("pass_env", wrong_names)
    _check_places(config, fail)


def _check_places(config: AgentConfig, fail: Callable[[str, str], AgentConfigError]) -> None:
    """Check what names files, folders and stores."""
    if config.log_store:
        try:
            open_store(config.log_store)
        except LogStoreError as error:
            raise fail("log_store", str(error)) from error
    for folder in config.python_path:
        if not Path(folder).exists():
            raise fail("python_path", f"{folder} does not exist; name folders with modules of python tasks")
    if config.client_key and not config.client_cert:
        raise fail("client_key", "needs client_cert as well")
    for key in ("cacert", "client_cert", "client_key"):
        path = getattr(config, key)
        if path and not Path(path).is_file():
            raise fail(key, f"{path} is not a file")
    if config.client_key:
        try:
            check_private(config.client_key, "key file")
        except PrivateFileError as error:
            raise fail("client_key", str(error)) from error
