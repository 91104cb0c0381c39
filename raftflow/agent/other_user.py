"""An agent of root that works and runs its tasks as another user (`run_as`).

The process takes the other user as its effective one, and stays root by its real and its saved user id:

    files and folders, signals    as the other user: what a task puts in its way can do no more than the task
    its own protection            as root: a task can neither send it a signal, nor trace it, nor read its memory
    token, certificates, keys     read as root, for a moment and by one thread (`root_files`)

All processes that it starts are the other user's altogether (`child_user`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import sys
from collections.abc import Iterator
from typing import Any


def user_problem(name: str) -> str | None:
    """Say why this process cannot run tasks as a user, None if it can."""
    if os.getuid() != 0:
        return "only an agent that root starts can run tasks as another user"
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return f"there is no user {name!r} on this machine"
    return "tasks would be root's: name another user" if found.pw_uid == 0 else None


def become_user(name: str) -> str | None:
    """Work as another user from now on. Returns what that user lacks to run tasks, None if nothing.

    HOME, USER, LOGNAME and SHELL are this user's then, also for tasks. A working directory that the user cannot enter
    is left for the root directory. Raises `KeyError` for an unknown user, `OSError` if this process is not root's.
    """
    user = pwd.getpwnam(name)
    os.initgroups(name, user.pw_gid)
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    os.environ.pop("XDG_STATE_HOME", None)
    os.environ.update(HOME=user.pw_dir, USER=name, LOGNAME=name, SHELL=user.pw_shell)
    if not os.access(".", os.X_OK, effective_ids=True):
        os.chdir("/")
    if not os.access(sys.executable, os.X_OK, effective_ids=True):
        return f"{name} cannot run {sys.executable}: let this user reach and read it, and raftflow"
    return None


def child_user() -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a child that is the other user's altogether, if there is one."""
    if os.getuid() == os.geteuid():
        return {}
    return {"user": os.geteuid(), "group": os.getegid()}


@contextlib.contextmanager
def root_files() -> Iterator[None]:
    """Open files as the real user, for the time of a `with` block without `await`. Other threads do not notice."""
    if os.getuid() == os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)  # Python's functions for users change those of all threads
    libc.setfsuid(os.getuid())
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())
