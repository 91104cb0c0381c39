"""The history: its lines in order, operations, requests and workflows, bounds and faults."""
