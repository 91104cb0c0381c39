"""The handlers of budgets and rate limits."""
