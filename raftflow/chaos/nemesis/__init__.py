"""The nemesis: which faults, when, how they are shown to have taken effect, and how they are undone."""
