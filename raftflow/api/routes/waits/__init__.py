"""Routes of signals and approvals."""
