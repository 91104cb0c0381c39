"""What programs of tasks inherit of the agent's environment: an allow-list, and never a secret of the cluster.

An agent's environment is that of a service: it may contain the cluster's token, keys of a log store, the addresses
of replicas. A task gets what programs need to find their parts and to speak the user's language. The configuration
of the agent names more (`pass_env`), and a task declares its own (`env`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

INHERITED: Final = (
    *("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"),
    *("LANG", "LANGUAGE", "LC_*"),
    *("LD_LIBRARY_PATH", "PYTHON*", "VIRTUAL_ENV", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    "ROCR_VISIBLE_DEVICES",
)
"""Inherited by every program, if the agent has them; `*` at an end stands for any rest."""

_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")
"""How a name of `pass_env` is written."""

_SECRET_ENDINGS: Final = ("TOKEN", "SECRET", "KEY")


def is_secret(variable: str) -> bool:
    """Tell whether no task may inherit a variable, whatever the configuration says: a secret of the cluster's."""
    return variable.startswith("RAFTFLOW_") and variable.endswith(_SECRET_ENDINGS)


def task_environment(environ: Mapping[str, str], passed: Iterable[str] = ()) -> dict[str, str]:
    """Return what programs inherit of the environment of their agent.

    Args:
        environ: the environment of the agent.
        passed: more names, as in `INHERITED`.
    """
    names = (*INHERITED, *passed)
    exact = {name for name in names if not name.endswith("*")}
    begins = tuple(name[:-1] for name in names if name.endswith("*"))
    return {
        name: value
        for name, value in environ.items()
        if (name in exact or name.startswith(begins)) and not is_secret(name)
    }


def pass_env_problem(names: Iterable[str]) -> str | None:
    """Say what is wrong with a `pass_env`, None if nothing is."""
    for name in names:
        if not _PATTERN.fullmatch(name):
            return f"{name!r} is not the name of a variable, or the begin of names with * after it, such as AWS_*"
        if is_secret(name):
            return f"{name} is a secret of the cluster, which no task may have"
    return None
