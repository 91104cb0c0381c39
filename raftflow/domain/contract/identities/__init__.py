"""Tokens, as the API shows them, and what each role may do."""
