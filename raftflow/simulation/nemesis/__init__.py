"""Faults: which, when, and the scenarios that take time."""
