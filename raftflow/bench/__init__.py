"""Benchmarks that users can run: `raftflow bench NAME`."""
