"""The model of waits, signals and approvals."""
