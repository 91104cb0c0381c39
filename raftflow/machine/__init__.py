"""The replicated state machine. Pure: no I/O, no clock, no randomness."""
