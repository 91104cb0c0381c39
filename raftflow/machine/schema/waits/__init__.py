"""The tables of waits and signals."""
