"""Waits, signals and approvals: how they begin and how they end."""
