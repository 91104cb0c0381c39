"""The base of all errors that users of raftflow meet, and the error of a mistake in the calling program."""

from __future__ import annotations


class ClientError(Exception):
    """Base of everything that the client and the builders raise.

    >>> issubclass(raftflow.TaskFailed, raftflow.ClientError)
    True
    """


class UsageError(ClientError, ValueError):
    """A mistake of the caller: no peers, an invalid address, a function that agents cannot import.

    >>> client.run(lambda: 1)
    Traceback (most recent call last):
    raftflow.sdk.errors.UsageError: a lambda has no name, ...
    """


class TaskParked(BaseException):
    """The task waits: its function ends here, and runs again from its beginning when what it waits for has happened.

    It waits for children, a signal or a person, or until a budget is raised. It is not an `Exception`, so
    `except Exception` lets it pass.
    Code in `finally` and `with` runs.

    >>> issubclass(raftflow.TaskParked, Exception)
    False
    """


class WaitTimeout(ClientError):  # noqa: N818 - reads as what happened
    """What was waited for did not come in time: the end of a workflow, which continues, a signal, or a decision.

    >>> client.start(time.sleep, 1).result(timeout=0.1)
    Traceback (most recent call last):
    raftflow.sdk.errors.WaitTimeout: ... has not ended within 0.1 s; it is running
    """
