"""Signals and approvals, as the API shows them."""
