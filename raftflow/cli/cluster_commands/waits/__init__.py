"""Commands of signals and approvals."""
