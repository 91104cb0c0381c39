"""Recorded workflows on virtual agents."""
