"""Budgets and rate limits as others see them."""
