"""Tokens: their rows."""
