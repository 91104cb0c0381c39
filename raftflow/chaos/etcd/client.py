"""A client of etcd's HTTP gateway: the three calls that a register needs."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any


class EtcdUnreachableError(Exception):
    """The member gave no usable answer: what was asked may have been done."""


class EtcdRefusedError(EtcdUnreachableError):
    """The connection was refused: what was asked was certainly not done."""


class EtcdClient:
    """One connection to one member."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def write(self, key: str, value: int) -> None:
        """Put a value. Raises `EtcdUnreachableError`."""
        self.call("/v3/kv/put", {"key": _encoded(key), "value": _encoded(value)})

    def get(self, key: str, *, serializable: bool = False) -> int | None:
        """Return a value; a serializable read answers from the member alone. Raises `EtcdUnreachableError`."""
        answer = self.call("/v3/kv/range", {"key": _encoded(key), "serializable": serializable})
        found = answer.get("kvs", [])
        return int(base64.b64decode(found[0]["value"])) if found else None

    def compare_and_set(self, key: str, expected: int, value: int) -> bool:
        """Put a value if another one is there; tell whether it was. Raises `EtcdUnreachableError`."""
        put = {"key": _encoded(key), "value": _encoded(value)}
        compare = {"key": _encoded(key), "target": "VALUE", "result": "EQUAL", "value": _encoded(expected)}
        answer = self.call("/v3/kv/txn", {"compare": [compare], "success": [{"requestPut": put}]})
        return answer.get("succeeded") is True

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer. Raises `EtcdUnreachableError`."""
        try:
            try:
                self._connection.connect()
            except ConnectionRefusedError as error:
                raise EtcdRefusedError(str(error)) from error
            self._connection.request("POST", path, json.dumps(body))
            response = self._connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EtcdUnreachableError(f"{type(error).__name__}: {error}") from error
        finally:
            self._connection.close()
        if response.status != http.client.OK or not isinstance(answer, dict):
            raise EtcdUnreachableError(f"status {response.status}: {answer!r:.200}")
        return answer


def _encoded(value: str | int) -> str:
    return base64.b64encode(str(value).encode()).decode()
