"""Whole plans: computed before anything runs, checked, reported, drawn."""
