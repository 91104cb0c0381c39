"""A process that compares one payload with one JSON Schema, within bounds of time and memory, and ends.

For schemas of which nobody can tell beforehand what they cost (`schema_cost`). Started isolated (`raftflow.helpers`).

    request = the length of the schema (4 bytes, big endian), the schema, the payload; no payload: look at the schema
    answer  = why not, as text; empty if it fits
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Final

from raftflow.coordinator.calls.schemas import schema_fault, schema_problem

LENGTH_BYTES: Final = 4
CPU_S: Final = 1
"""CPU time of the whole process, its start included."""
MEMORY_BYTES: Final = 512 * 2**20
NICE: Final = 5


def main() -> None:
    """Answer the request on standard input."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = sys.stdin.buffer.read()
    end = LENGTH_BYTES + int.from_bytes(request[:LENGTH_BYTES], "big")
    schema, payload = request[LENGTH_BYTES:end], request[end:]
    told = schema_fault(schema, payload) if payload else schema_problem(schema)
    sys.stdout.buffer.write((told or "").encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
