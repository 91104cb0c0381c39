"""Workflows in Python: functions as tasks, documents made of them, and what a task knows of its attempt.

Nothing here talks to a cluster: `raftflow.client` sends what is made here. Python workers import this package, so
it imports little.
"""
