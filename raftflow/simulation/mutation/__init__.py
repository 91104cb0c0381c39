"""Mutation testing: each planted fault must be detected."""
