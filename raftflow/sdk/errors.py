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
