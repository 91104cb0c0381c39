"""Simulated agents: the real agent (loop, exchange, lease) with programs that only take time."""
