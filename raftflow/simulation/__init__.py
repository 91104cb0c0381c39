"""Whole clusters of the real code on a virtual clock, a simulated network and simulated disks: see README.md."""
