"""Chaos: real faults on real processes, a recorded history, and a verdict by a separate checker."""
