"""The commands of budgets and rate limits."""
