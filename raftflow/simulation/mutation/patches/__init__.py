"""Planted faults, by the part of the code that they are in. Each patches the code under test for one run."""
