"""Verbs of effects."""
