"""The rules of budgets."""
