"""Budgets and rate limits, as the API shows them."""
