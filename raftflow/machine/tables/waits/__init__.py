"""Waits and signals."""
