"""Tokens, as those who check them and administrators see them."""
