"""Placement as pure functions of an immutable view."""
