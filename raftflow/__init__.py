"""raftflow: a consensus-backed coordinator for workflows."""

__version__ = "0.1.0"
