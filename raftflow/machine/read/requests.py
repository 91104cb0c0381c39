"""How requests are recognised when they are repeated."""

from raftflow.machine.tables.requests import fingerprint_of

__all__ = ["fingerprint_of"]
