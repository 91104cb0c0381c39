"""Clients of registers: they write, read and compare-and-set, and record everything."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from typing import TYPE_CHECKING, Any, Final

from raftflow.chaos.etcd.client import EtcdClient, EtcdRefusedError, EtcdUnreachableError

if TYPE_CHECKING:
    from raftflow.chaos.etcd.members import EtcdMembers
    from raftflow.chaos.history import HistoryWriter

CLIENTS: Final = 6
TIMEOUT_S: Final = 1.0
_KEYS: Final = 3
_VALUES_PER_KEY: Final = 300
"""Then a new key follows, so that operations without answers do not add up."""
_PAUSE_S: Final = 0.01


class RegisterLoad:
    """Threads of clients on a few keys."""

    def __init__(self, members: EtcdMembers, history: HistoryWriter, seed: int, *, serializable: bool) -> None:
        self._members = members
        self._history = history
        self._serializable = serializable
        self._values = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"client-{number}", random.Random(f"{seed}/{number}")))  # noqa: S311
            for number in range(CLIENTS)
        ]

    def start(self) -> None:
        """Start all clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client finish its operation."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, process: str, chance: random.Random) -> None:
        seen: dict[str, int] = {}
        while not self._stop.wait(_PAUSE_S * chance.random()):
            value = next(self._values)
            key = f"k{value // _VALUES_PER_KEY}-{chance.randrange(_KEYS)}"
            drawn = chance.random()
            if drawn < 0.35:
                function, asked = "write", {"key": key, "value": value}
            elif drawn < 0.55 and key in seen:
                function, asked = "cas", {"key": key, "from": seen[key], "to": value}
            else:
                function, asked = "get", {"key": key}
            answer = self._operation(process, function, asked, chance.choice(self._members.names))
            if answer is not None:
                seen = {key: answer}

    def _operation(self, process: str, function: str, asked: dict[str, Any], member: str) -> int | None:
        """Do one operation; returns the value that the key then had, if that is known."""
        operation = self._history.invoke(process, function, asked, is_write=function != "get")
        with contextlib.closing(EtcdClient(self._members.ports[member], TIMEOUT_S)) as client:
            try:
                value = self._call(client, function, asked)
            except EtcdRefusedError as error:
                self._history.fail(operation, str(error))
                return None
            except EtcdUnreachableError as error:
                self._history.unknown(operation, str(error))
                return None
        if function == "cas" and value is None:
            self._history.fail(operation, "the comparison failed")
            return None
        self._history.ok(operation, {"key": asked["key"], "value": value})
        return value

    def _call(self, client: EtcdClient, function: str, asked: dict[str, Any]) -> int | None:
        key = asked["key"]
        if function == "get":
            return client.get(key, serializable=self._serializable)
        if function == "cas":
            return asked["to"] if client.compare_and_set(key, asked["from"], asked["to"]) else None
        client.write(key, asked["value"])
        return int(asked["value"])
