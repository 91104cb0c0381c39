"""Workflows and tasks: their shape, states, resources and checks."""
