"""Runs attempts: their folders, inputs, use of resources, and the fitness of the agent to run them."""
