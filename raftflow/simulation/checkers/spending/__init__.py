"""The model of budgets and rate limits."""
