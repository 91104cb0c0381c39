"""Planted faults: each must be found."""
